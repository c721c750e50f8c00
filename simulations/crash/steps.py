"""What the crash tests do to a store, step by step, and what must be in it after each: pure data, no store.

A step is done by one acknowledged call. ``after(n)`` is the state after n steps, which a store must be in when n
steps were acknowledged; or in ``after(n + 1)``, if one was under way.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

COLLECTION = "notes"
DIMENSIONS = 4
DECLARATION: dict[str, Any] = {
    "fields": {"n": "counter", "tags": "set"},
    "vector": ("v", DIMENSIONS),
    "text": ["body"],
}
WORDS = ("pump", "valve", "rotor", "gauge")
State = dict[str, dict[str, Any]]


RECORDS = frozenset({"put", "patch", "increment", "delete", "batch"})


class Step(NamedTuple):
    """``kind``: those of ``RECORDS`` change records; anything else is done to the store."""

    kind: str
    key: str = ""
    number: int = 0


def note(number: int) -> dict[str, Any]:
    return {
        "body": f"the {WORDS[number % 4]} number {number} " + "x" * (number * 37 % 400),
        "v": [float((number * (axis + 3)) % 11) - 5.0 for axis in range(DIMENSIONS)],
    }


def batch(number: int) -> list[tuple[str, dict[str, Any]]]:
    return [(f"b{place}", note(number + place)) for place in range(8)]


def change(state: State, step: Step) -> State:
    """What the step makes of a state. A counter survives a put, and not a delete."""
    kind, key, number = step
    new = dict(state)
    if kind == "put":
        new[key] = _put(state.get(key), note(number))
    elif kind == "patch":
        new[key] = {**state[key], "body": note(number)["body"]}
    elif kind == "increment":
        new[key] = {**state[key], "n": state[key].get("n", 0) + number}
    elif kind == "delete":
        del new[key]
    elif kind == "batch":
        for place, fields in batch(number):
            new[place] = _put(state.get(place), fields)
    return new


def _put(held: dict[str, Any] | None, fields: dict[str, Any]) -> dict[str, Any]:
    return {**({"n": held["n"]} if held is not None and "n" in held else {}), **fields}


def writes(first: int, count: int) -> list[Step]:
    """Changes of every kind on a few keys."""
    steps: list[Step] = []
    for number in range(first, first + count):
        key = f"k{number % 5}"
        steps.append(Step("put", key, number))
        if number % 3 == 0:
            steps += [Step("increment", key, number), Step("patch", key, number + 1)]
        if number % 4 == 1:
            steps.append(Step("delete", key))
        if number % 5 == 2:
            steps.append(Step("batch", "", number))
    return steps


DEVICE: tuple[Step, ...] = (
    Step("open"),
    *writes(0, 5),
    Step("search"),
    Step("flush"),
    Step("join"),
    *writes(5, 3),
    Step("sync"),
    Step("flush"),
    *writes(8, 2),
    Step("snapshot"),
    Step("close"),
    Step("open"),
    *writes(10, 3),
    Step("sync"),
    Step("trim"),
    Step("search"),
    Step("maintain"),
    *writes(13, 2),
    Step("close"),
)
CLOUD: tuple[Step, ...] = (
    Step("init"),
    Step("open"),
    Step("join"),
    *writes(0, 3),
    Step("archive"),
    *writes(3, 2),
    Step("epoch"),
    *writes(5, 3),
    Step("archive"),
    Step("second"),
    *writes(8, 2),
    Step("snapshot"),
    Step("close"),
    Step("open"),
    *writes(10, 2),
    Step("archive"),
    *writes(12, 1),
    Step("archive"),
    Step("close"),
)


@cache
def states(steps: tuple[Step, ...]) -> tuple[State, ...]:
    """The states before the first step and after each."""
    found: list[State] = [{}]
    for step in steps:
        found.append(change(found[-1], step))
    return tuple(found)
