"""Random histories of a few replicas that write one record and now and then hear from each other.

What every operation says is composed by ``sync.records.compose*`` from what its writer had seen, so tags, totals and
seen maxima are those of real writers. A *program* is a byte string, four bytes a step: cheap to draw (5,000 a law must
fit in seconds) and shrunk well, since a shorter program is a shorter history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sync.operations import Kind, Operation, Shape
from sync.records import Record, compose, compose_add, compose_increment, compose_remove
from sync.stamps import Stamp

LETTERS = {"lww": "l", "counter": "c", "max": "x", "min": "n", "set": "s", "keep-all": "k"}
FIELDS = "clxnsk"
RULES = (*LETTERS, "mixed")
BASE_TS = 1_700_000_000_000 << 16
_LWW_VALUES = (None, True, False, 0, 1, 1.0, -0.0, "", "b", b"b", [1], {"a": None})


class Event(NamedTuple):
    """An operation, what its caller asked for, and the operations (by place in the history) that its writer had
    seen.
    """

    operation: Operation
    asked: Any
    seen: frozenset[int]

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.operation.ts, self.operation.replica)


class Replica:
    """One writer: its clock, which may be ahead or behind, and what it has heard of, in order of arrival."""

    def __init__(self, number: int, skew: int) -> None:
        self.id = bytes([number]) * 16
        self.skew = skew
        self.last = 0
        self.seq = 0
        self.record = Record()
        self.heard: dict[int, Operation] = {}

    def hear(self, place: int, operation: Operation) -> None:
        if place not in self.heard:
            self.heard[place] = operation
            self.last = max(self.last, operation.ts)
            self.record.apply(operation)


def letter_of(rule: str) -> Callable[[str], str]:
    """Rule letters as a schema gives them: field ``f`` merges by ``rule``, or, mixed, each field by its own letter."""
    return (lambda name: name) if rule == "mixed" else (lambda name: LETTERS[rule])


def play(program: bytes, rule: str, replicas: int = 3) -> list[Event]:
    """The events of a program, in order of happening (never in order of stamp: clocks are skewed)."""
    letter = letter_of(rule)
    everyone = [Replica(number + 1, number * 7 % 5 * 64) for number in range(replicas)]  # 64: a step; equal ts happen
    history: list[Event] = []
    for step in range(0, len(program) - 3, 4):
        who, what, x, y = program[step : step + 4]
        writer = everyone[who % replicas]
        if what < 80:
            _listen(writer, everyone[(who + 1 + x % (replicas - 1)) % replicas], y)
            continue
        writer.last = max(writer.last + 1, BASE_TS + step * 16 + writer.skew)
        composed = _write(writer, letter, what, x, y)
        if composed is None:
            continue
        shape, values, asked = composed
        writer.seq += 1
        operation = Operation(writer.id, writer.seq, writer.last, 0, shape, "key", values)
        history.append(Event(operation, asked, frozenset(writer.heard)))
        writer.hear(len(history) - 1, operation)
    return history


def _listen(listener: Replica, speaker: Replica, amount: int) -> None:
    """Hear the first of what the speaker has heard: whoever hears a prefix hears causes before their effects."""
    for place, operation in list(speaker.heard.items())[: 1 + amount % 16]:
        listener.hear(place, operation)


def _write(writer: Replica, letter: Callable[[str], str], what: int, x: int, y: int) -> Any:
    record = writer.record
    if what < 104:
        return (Shape(Kind.DELETE, "things"), (), None) if record.alive else None
    name = FIELDS[x % (2 if letter("c") == letter("l") else 6)]  # few fields, so that writes meet
    rule = letter(name)
    if rule == "c" and what % 4:
        by = (y - 128) / 10 if y % 8 == 0 else y % 7 - 3
        return Shape(Kind.INCREMENT, "things", (name,), rule), (compose_increment(record, name, by, writer.id),), by
    if rule == "s" and what % 4 == 1:
        elements = elements_of(y)
        return Shape(Kind.ADD, "things", (name,), rule), (compose_add(elements),), elements
    if rule == "s" and what % 4 == 2:
        elements = elements_of(y)
        return Shape(Kind.REMOVE, "things", (name,), rule), (compose_remove(record, name, elements),), elements
    asked = {} if what == 255 else {name: value_of(rule, y)}
    replace = what % 8 == 0
    names, rules, values = compose(record, asked, letter, writer.id, replace=replace)
    return Shape(Kind.PUT if replace else Kind.PATCH, "things", names, rules), values, asked


def value_of(rule: str, y: int) -> Any:
    """A value that a caller may give to a field of that rule."""
    if rule == "l":
        return _LWW_VALUES[y % len(_LWW_VALUES)]
    if rule == "s":
        return elements_of(y)
    if rule == "k":
        return _LWW_VALUES[1 + y % (len(_LWW_VALUES) - 1)]
    return y % 11 if y % 4 else y % 11 / 1.0


def elements_of(y: int) -> list[Any]:
    """A subset of five elements, integers and strings, in canonical order."""
    return [element for bit, element in enumerate((0, 1, "", "1", "b")) if y >> bit & 1]


def fold(operations: Sequence[Operation]) -> Record:
    """All of them, in the given order, into nothing."""
    record = Record()
    for operation in operations:
        record.apply(operation)
    return record
