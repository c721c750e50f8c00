"""What agents do to a store: bursts of memories, checkpoints of state, counters, sets, deletes, and a hot key.

Every text carries a canary, so that whoever finds it in clear on the wire or in the archive knows that it leaked.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

from edge.node import Edge
from simulations.fleet.oracle import Asked, Place
from sync.images import image_values
from sync.operations import Kind

CANARY = "canary-7f3a"
# collection -> its declaration. Each decides conflicts by another rule.
TALLIES = "tallies"  # only ever counted up, so that what they come to is known from outside
DECLARED: dict[str, dict[str, Any]] = {
    TALLIES: {"fields": {"count": "counter", "top": "max"}},
    "memories": {
        "fields": {"visits": "counter", "tags": "set", "best": "max", "least": "min", "ideas": "keep-all"},
        "vector": ("embedding", 4),
    },
    "state": {"conflict": "priority"},
    "orders": {"conflict": "manual"},
    "notes": {"conflict": "resolver:join"},
    "plans": {"conflict": "resolver:broken"},
}
# A later version of one of them: a field more, and texts to search.
CHANGED = {"memories": {**DECLARED["memories"], "text": ["text"]}}
# Declared by every device in its own way; the fleet can keep one.
RIVAL = "rivals"
RIVALS: list[dict[str, Any]] = [{"fields": {"n": rule}} for rule in ("counter", "max", "keep-all")]
LARGE = "x" * 60_000
_SIMPLE = ("state", "orders", "notes", "plans")
_LWW = ("text", "mood", "step")


class Change(NamedTuple):
    """One write, as it will be asked for."""

    asked: Asked
    call: str
    arguments: tuple[Any, ...]

    @property
    def place(self) -> Place:
        return self.asked.place


class Agent:
    """Draws changes; ``keys`` is how many records there are to fight about, ``prefix`` names them. ``large``: now and
    then a text of which a few make a record too large.
    """

    def __init__(self, name: str, dice: Random, keys: int, prefix: str, *, large: bool) -> None:
        self.name = name
        self.large = large
        self._dice = dice
        self._keys = keys
        self._prefix = prefix
        self._count = 0

    def draw(self, edge: Edge) -> list[Change]:
        """The next write: one change, or a batch of up to five."""
        if self._dice.random() < 0.15:
            places: dict[Place, Change] = {}
            for _ in range(self._dice.randrange(2, 6)):
                change = self._put()
                places[change.place] = change
            return list(places.values())
        return [self._one(edge)]

    def clear(self, edge: Edge) -> list[Change]:
        """Delete a record, if there is one."""
        name = self._dice.choice(("memories", *_SIMPLE))
        if name not in edge.log.schemas:
            return []
        keys = [key for key, _ in edge.collection(name).scan()]
        if not keys:
            return []
        key = self._dice.choice(keys)
        return [Change(Asked(Kind.DELETE, (name, key), None), "delete", (key,))]

    def _one(self, edge: Edge) -> Change:
        dice = self._dice
        roll = dice.random()
        if dice.random() < 0.15 and TALLIES in edge.log.schemas:
            return self._tally()
        if RIVAL in edge.log.schemas and dice.random() < 0.2:
            key = self._key(RIVAL)
            return Change(Asked(Kind.PUT, (RIVAL, key), {}), "put", (key, {"n": dice.randrange(100)}))
        if roll < 0.3:
            return self._put()
        name = "memories" if roll < 0.8 or "state" not in edge.log.schemas else dice.choice(_SIMPLE)
        if name not in edge.log.schemas:
            return self._put()
        key = self._key(name)
        if edge.collection(name).get(key) is None:
            return self._put(name, key)
        if dice.random() < 0.12:
            return Change(Asked(Kind.DELETE, (name, key), None), "delete", (key,))
        if name != "memories" or dice.random() < 0.4:
            field = dice.choice(_LWW)
            value = None if dice.random() < 0.1 else self._text()
            return Change(Asked(Kind.PATCH, (name, key), {field: value}), "patch", (key, {field: value}))
        return self._merged(name, key)

    def _merged(self, name: str, key: str) -> Change:
        dice = self._dice
        kind = dice.randrange(5)
        if kind == 0:
            return Change(Asked(Kind.INCREMENT, (name, key), None), "increment", (key, "visits", dice.randrange(-2, 6)))
        if kind == 1:
            return Change(Asked(Kind.ADD, (name, key), None), "add", (key, "tags", dice.choice("abcdef")))
        if kind == 2:
            return Change(Asked(Kind.REMOVE, (name, key), None), "remove", (key, "tags", dice.choice("abcdef")))
        field = dice.choice(("best", "least", "ideas"))
        value: Any = self._text() if field == "ideas" else dice.randrange(100)
        if field == "ideas" and self.large and dice.random() < 0.3:
            value += LARGE * dice.randrange(1, 4)
        return Change(Asked(Kind.PATCH, (name, key), {}), "patch", (key, {field: value}))

    def _tally(self) -> Change:
        key = f"{self._prefix}{TALLIES[0]}{self._dice.choice((0, 0, 1))}"
        if self._dice.random() < 0.7:
            by = self._dice.randrange(1, 10)
            asked = Asked(Kind.INCREMENT, (TALLIES, key), None, amount=by)
            return Change(asked, "increment", (key, "count", by))
        self._count += 1
        top = self._dice.randrange(1000)
        return Change(Asked(Kind.PATCH, (TALLIES, key), {}, amount=top), "patch", (key, {"top": top}))

    def _put(self, name: str = "", key: str = "") -> Change:
        dice = self._dice
        name = name or ("memories" if dice.random() < 0.6 else dice.choice(_SIMPLE))
        key = key or self._key(name)
        fields: dict[str, Any] = {"text": self._text(), "step": self._count}
        asked = dict(fields)
        if name == "memories":
            fields["embedding"] = [dice.random() for _ in range(4)]
            if dice.random() < 0.5:
                fields |= {"visits": dice.randrange(3), "tags": [dice.choice("abc")], "best": dice.randrange(100)}
        return Change(Asked(Kind.PUT, (name, key), asked), "put", (key, fields))

    def _key(self, name: str) -> str:
        if name == "state" and self._dice.random() < 0.7:
            return f"{self._prefix}hot"
        return f"{self._prefix}{name[0]}{self._dice.randrange(self._keys)}"

    def _text(self) -> str:
        self._count += 1
        return f"{CANARY} {self.name} {self._count}"


def carry_out(edge: Edge, changes: list[Change]) -> None:
    """Write them, several as one batch. Raises what the store raises."""
    if len(changes) == 1:
        _call(edge, changes[0])
        return
    with edge.batch():
        for change in changes:
            _call(edge, change)


def _call(edge: Edge, change: Change) -> None:
    collection = edge.collection(change.place[0])
    more = {"upsert": True} if change.place[0] == TALLIES else {}
    getattr(collection, change.call)(*change.arguments, **more)


def read_back(edge: Edge, changes: list[Change], before: Mapping[Place, bytes | None]) -> str:
    """What a reader of this store should see after these writes and does not, or ""."""
    for change in changes:
        name, key = change.place
        record = edge.collection(name).get(key)
        image = before.get(change.place)
        wrong = _wrong(change, record, (None if image is None else image_values(image)) or {})
        if wrong:
            return f"{name}/{key} {wrong} after {change.call} {change.arguments[1:]}"
    return ""


def _wrong(change: Change, record: Mapping[str, Any] | None, before: Mapping[str, Any]) -> str:
    if change.asked.kind == Kind.DELETE:
        return "" if record is None else f"is there: {record}"
    if record is None:
        return "is not there"
    for field, value in (change.asked.fields or {}).items():
        if record.get(field) != value:
            return f"has {field}={record.get(field)!r}, not {value!r},"
    if change.call in ("increment", "add", "remove"):
        _, field, value = change.arguments
        shown = record.get(field)
        if change.call == "increment" and shown != before.get(field, 0) + value:
            return f"has {field}={shown!r} where {before.get(field, 0)!r} was,"
        if change.call != "increment" and (value in (shown or [])) != (change.call == "add"):
            return f"has {field}={shown!r}"
    if change.call == "patch":
        [(field, value)] = change.arguments[1].items()
        shown = record.get(field)
        if field in ("best", "top") and not shown >= value:
            return f"has {field}={shown!r}"
        if field == "least" and not shown <= value:
            return f"has {field}={shown!r}"
        if field == "ideas" and shown != [value]:
            return f"has {len(shown or [])} ideas, though the writer saw all others,"
    return ""
