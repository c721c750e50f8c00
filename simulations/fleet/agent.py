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
LARGE = 60_000  # characters
SMALL_LARGE = 2_000  # where the bounds are small
_SIMPLE = ("state", "orders", "notes", "plans")
_MERGED = {
    *DECLARED["memories"]["fields"],
    *DECLARED[TALLIES]["fields"],
    "n",
}  # a put leaves alone what it does not name
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
    then a text of so many characters, of which a few make a record too large.
    """

    def __init__(self, name: str, dice: Random, keys: int, prefix: str, *, large: int = 0) -> None:
        self.name = name
        self.large = large
        self._dice = dice
        self._keys = keys
        self._prefix = prefix
        self._count = 0

    def draw(self, edge: Edge) -> list[Change]:
        """The next write: one change, or a batch of up to five."""
        if self._dice.random() < 0.05 and TALLIES in edge.log.schemas:
            return [self._count_up() for _ in range(self._dice.randrange(2, 4))]
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
            key = self.key(RIVAL)
            return Change(Asked(Kind.PUT, (RIVAL, key), {}), "put", (key, {"n": dice.randrange(100)}))
        if roll < 0.3:
            return self._put()
        name = "memories" if roll < 0.8 or "state" not in edge.log.schemas else dice.choice(_SIMPLE)
        if name not in edge.log.schemas:
            return self._put()
        key = self.key(name)
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
        field = "ideas" if self.large and dice.random() < 0.5 else dice.choice(("best", "least", "ideas"))
        value: Any = self._text() if field == "ideas" else dice.randrange(100)
        if field == "ideas" and self.large and dice.random() < 0.6:
            value += "x" * self.large * dice.randrange(1, 4)
        return Change(Asked(Kind.PATCH, (name, key), {}), "patch", (key, {field: value}))

    def _count_up(self) -> Change:
        key, by = self._tallied(), self._dice.randrange(1, 10)
        return Change(Asked(Kind.INCREMENT, (TALLIES, key), None, amount=by), "increment", (key, "count", by))

    def _tallied(self) -> str:
        return f"{self._prefix}{TALLIES[0]}{self._dice.choice((0, 0, 1))}"

    def _tally(self) -> Change:
        if self._dice.random() < 0.7:
            return self._count_up()
        key = self._tallied()
        self._count += 1
        top = self._dice.randrange(1000)
        return Change(Asked(Kind.PATCH, (TALLIES, key), {}, amount=top), "patch", (key, {"top": top}))

    def _put(self, name: str = "", key: str = "") -> Change:
        dice = self._dice
        name = name or ("memories" if dice.random() < 0.6 else dice.choice(_SIMPLE))
        key = key or self.key(name)
        fields: dict[str, Any] = {"text": self._text(), "step": self._count}
        asked = dict(fields)
        if name == "memories":
            fields["embedding"] = [dice.random() for _ in range(4)]
            if dice.random() < 0.5:
                fields |= {"visits": dice.randrange(3), "tags": [dice.choice("abc")], "best": dice.randrange(100)}
        return Change(Asked(Kind.PUT, (name, key), asked), "put", (key, fields))

    def key(self, name: str) -> str:
        """One of the records that everybody fights about."""
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
    seen: dict[Place, dict[str, Any]] = {}
    for change in changes:
        if change.place not in seen:
            image = before.get(change.place)
            seen[change.place] = dict((None if image is None else image_values(image)) or {})
        if change.call == "increment":
            _, field, by = change.arguments
            seen[change.place][field] = seen[change.place].get(field, 0) + by
    for change in changes:
        name, key = change.place
        wrong = _wrong(change, edge.collection(name).get(key), seen[change.place])
        if wrong:
            return f"{name}/{key} {wrong} after {change.call} {change.arguments[1:]}"
    return ""


def _wrong(change: Change, record: Mapping[str, Any] | None, counted: Mapping[str, Any]) -> str:
    if change.asked.kind == Kind.DELETE:
        return "" if record is None else f"is there: {record}"
    if record is None:
        return "is not there"
    for field, value in (change.asked.fields or {}).items():
        if record.get(field) != value:
            return f"has {field}={record.get(field)!r}, not {value!r},"
    if change.call == "put":
        return _wrong_put(change.arguments[1], record)
    if change.call == "patch":
        [(field, value)] = change.arguments[1].items()
        return _wrong_patch(field, value, record)
    _, field, value = change.arguments
    shown = record.get(field)
    if change.call == "increment":
        return "" if shown == counted[field] else f"has {field}={shown!r}, not {counted[field]!r},"
    return "" if (value in (shown or [])) == (change.call == "add") else f"has {field}={shown!r}"


def _wrong_put(told: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    more = sorted(record.keys() - told.keys() - _MERGED)
    if more:
        return f"still has {more}"
    for field in sorted(told.keys() & {"visits", "tags"}):
        if record.get(field) != told[field]:
            return f"has {field}={record.get(field)!r}"
    return ""


def _wrong_patch(field: str, value: Any, record: Mapping[str, Any]) -> str:
    shown = record.get(field)
    if field == "ideas":
        return "" if shown == [value] else f"has {len(shown or [])} ideas, though the writer saw all others,"
    if field == "least":
        return "" if shown is not None and shown <= value else f"has {field}={shown!r}"
    if field in ("best", "top"):
        return "" if shown is not None and shown >= value else f"has {field}={shown!r}"
    return ""
