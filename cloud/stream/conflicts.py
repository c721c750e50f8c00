"""Conflicts: two writes to one record, neither of whose writers had seen the other. Found by ``seen``,
recorded for good.

Merging has always decided already, the same way everywhere, by stamp. This notices *that* it had to
decide, records both sides, and lets the collection's rule (``cloud.stream.rules``) say otherwise by an
operation of the cloud's own replica, which reaches everybody by the feed, the two writers included.

What counts as a conflict, for an operation with ``seen`` S from device D:

* a last-writer field that another device gave another value at a feed position > S;
* a delete, if another device wrote any field at a position > S (**delete/update**, field "");
* a write, if another device deleted the record at a position > S (the same).

What always holds: only D's last word counts. If a later operation of the same push wrote the field again,
it is the later one that conflicts, or, if its writer had seen the other side by then, none: the conflict
is recorded as settled by it. Counters, sets, maxima, minima and keep-all fields do not conflict: they
merge.

**Bringing a record back.** Where an edit wins over a concurrent delete, merging leaves only the edited
fields. The rest comes back from the grave (``cloud.storage.fold``) by one PATCH of the cloud's. It is
stamped right after the delete, not now: a third device's concurrent edit of an old field must win over the
old value. Of several keep-all siblings one comes back. A counter comes back with its sum; a device that
increments it later without having seen the delete brings its old total along once more. Each value comes
back by the rule by which it was held, whatever the collection's rule for the field is by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cloud.rows import Claim, Conflict, DeviceRow
from cloud.storage.fold import FLOOR, Held
from sync.operations import Kind, Operation, Shape
from sync.records import Record, compose
from sync.schema import CollectionSchema
from sync.stamps import NEVER, Stamp, device_of

CLOUD_NAME = "cloud"
OVERTAKEN = "settled by a later write whose writer had seen the other"


class Fleet(NamedTuple):
    """What judging needs to know of the fleet. ``resolved_at``: the conflict that the cloud resolved at a
    position.
    """

    cloud: bytes
    devices: Mapping[bytes, DeviceRow]
    resolved_at: Callable[[int], Conflict | None]

    def name(self, replica: bytes) -> str:
        device = device_of(replica)
        if device == device_of(self.cloud):
            return CLOUD_NAME
        row = self.devices.get(device)
        return row.name if row else device.hex()


class Answer(NamedTuple):
    """An operation that the cloud should write. ``ts`` 0: stamped now."""

    shape: Shape
    values: tuple[Any, ...]
    ts: int = 0


class Open:
    """A conflict found in a push, until the push is over. ``held_position``: what a writer must have seen
    to have seen ``held``. ``edited``: where ``held`` is a delete, the record as if it had not happened,
    with D's edits.
    """

    __slots__ = ("came", "edited", "field", "held", "held_position", "overtaken", "position")

    def __init__(self, field: str, held: Claim, held_position: int, came: Claim, position: int) -> None:
        self.field = field
        self.held = held
        self.held_position = held_position
        self.came = came
        self.position = position
        self.edited: Record | None = None
        self.overtaken = False

    @property
    def came_wins(self) -> bool:
        """By stamp: what merging has decided."""
        return (self.came.ts, self.came.replica) > (self.held.ts, self.held.replica)

    @property
    def edit_wins(self) -> bool:
        """Of delete against update."""
        return self.came_wins != self.came.delete


class Contest:
    """One record during one push: every operation passes through ``write``; ``found`` is what it came to."""

    def __init__(self, held: Held, fleet: Callable[[], Fleet], cloud: bytes) -> None:
        self.held = held
        self.found: list[Open] = []
        self._standing: dict[str, Open] = {}  # those of ``found`` that are not overtaken: one of a field at most
        self._fleet = fleet
        self._cloud = cloud

    def write(self, operation: Operation, seen: int, position: int) -> None:
        """``seen`` is the operation's, as far as it can be believed."""
        if self._standing:
            self._overtake(operation, seen)
        if self.held.position > seen:
            self._compare(operation, seen, position)
        self.held.apply(operation, position)

    # -- finding --------------------------------------------------------------------------------------------------

    def _compare(self, operation: Operation, seen: int, position: int) -> None:
        device = device_of(operation.replica)
        if operation.shape.kind == Kind.DELETE:
            came = self._claim(operation, None)._replace(delete=True)
            earlier = self._open(FLOOR)
            if earlier is not None:
                earlier.came = came
                return
            unseen = self._unseen(device, seen)
            if unseen is not None:
                self._note(Open(FLOOR, *unseen, came, position))
            return
        record = self.held.record
        floor = record.floor
        restored = None
        if floor != NEVER and self.held.position_of(FLOOR) > seen and device_of(floor.replica) != device:
            restored = (floor.ts + 1, self._cloud)
            self._against_delete(operation, floor, position)
            if (operation.ts, operation.replica) <= floor:
                return
        for name, rule, value in zip(operation.shape.names, operation.shape.rules, operation.values, strict=True):
            slot = record.lww.get(name) if rule == "l" else None
            if slot is None or device_of(slot[1]) == device or self.held.position_of(name) <= seen:
                continue
            if same(slot[2], value) or slot[:2] == restored or self._open(name) is not None:
                continue
            held = Claim(slot[1], 0, slot[0], self._fleet().name(slot[1]), slot[2])
            at = self.held.position_of(name)
            self._note(Open(name, held, at, self._claim(operation, value), position))

    def _against_delete(self, operation: Operation, floor: Stamp, position: int) -> None:
        found = self._open(FLOOR)
        if found is None:
            held = Claim(floor.replica, 0, floor.ts, self._fleet().name(floor.replica), None, delete=True)
            at = self.held.position_of(FLOOR)
            found = Open(FLOOR, held, at, self._claim(operation, {}), position)
            self._note(found)
        edited = found.edited = found.edited or before_delete(self.held)
        edited.apply(operation)
        values = edited.values()
        fields = {*found.came.value, *operation.shape.names}
        found.came = self._claim(operation, {name: values.get(name) for name in sorted(fields)})

    def _unseen(self, device: bytes, seen: int) -> tuple[Claim, int] | None:
        """What others wrote after ``seen``: the newest stamp of it, the values of all of it; and the
        newest's position.
        """
        record, position_of = self.held.record, self.held.position_of
        written = [(Stamp(*slot[:2]), name) for name, slot in record.lww.items()]
        written += [(_newest(rule, slots), name) for (name, rule), slots in record.slots.items()]
        unseen = [
            (stamp, name) for stamp, name in written if position_of(name) > seen and device_of(stamp.replica) != device
        ]
        if not record.alive or not unseen:
            return None
        newest, field = max(unseen)
        values = record.values()
        shown = {name: values.get(name) for _, name in sorted(unseen, key=lambda pair: pair[1])}
        claim = Claim(newest.replica, 0, newest.ts, self._fleet().name(newest.replica), shown)
        return claim, position_of(field)

    def _overtake(self, operation: Operation, seen: int) -> None:
        """D's earlier operations were not his last word, if this one says something about the same."""
        deletes = operation.shape.kind == Kind.DELETE
        about = self._standing if deletes else {FLOOR, *operation.shape.names} & self._standing.keys()
        fields = operation.fields
        for found in [self._standing[field] for field in sorted(about)]:
            if found.field == FLOOR:
                found.overtaken = found.came.delete != deletes or (not deletes and seen >= found.held_position)
            elif deletes:
                found.overtaken = True
            else:
                value = fields[found.field]
                found.came = self._claim(operation, value)
                found.overtaken = seen >= found.held_position or same(found.held.value, value)
            if found.overtaken:
                del self._standing[found.field]

    def _note(self, found: Open) -> None:
        self.found.append(found)
        self._standing[found.field] = found

    def _open(self, field: str) -> Open | None:
        return self._standing.get(field)

    def _claim(self, operation: Operation, value: Any) -> Claim:
        return Claim(operation.replica, operation.seq, operation.ts, self._fleet().name(operation.replica), value)


# -- what to write ------------------------------------------------------------------------------------------------


def set_field(collection: str, field: str, value: Any) -> Answer:
    """One last-writer field."""
    return Answer(Shape(Kind.PATCH, collection, (field,), "l"), (value,))


def delete(collection: str) -> Answer:
    return Answer(Shape(Kind.DELETE, collection), ())


def show(
    schema: CollectionSchema,
    record: Record,
    values: Mapping[str, Any],
    cloud: bytes,
    letter: Callable[[str], str] | None = None,
) -> Answer | None:
    """A PUT after which the record shows exactly these (normalised) values; None if it does already. ``letter`` says
    by which rule each is written, if not by the schema's. Raises InvalidValue or TooLarge.
    """
    if record.alive and record.values() == {name: v for name, v in values.items() if v is not None}:
        return None
    names, rules, composed = compose(record, values, letter or schema.rule_letter, cloud, replace=True)
    return Answer(Shape(Kind.PUT, schema.name, names, rules), composed)


def before_delete(held: Held) -> Record:
    """The record as if it had not been deleted; an empty one if it never was alive, or began a new life."""
    return Record.decode(held.grave) if held.grave else Record()


def bring_back(schema: CollectionSchema, held: Held, edited: Record | None, cloud: bytes) -> Answer | None:
    """What the record had before its delete and has not now; None if that is nothing. Raises InvalidValue."""
    record = held.record
    if not held.grave:
        return None
    before = edited or before_delete(held)
    rules = before.shown_by()
    shown = record.values()
    missing = {}
    for name, value in before.values().items():
        rule = rules[name]
        if name in record.lww or same(shown.get(name), value) or (rule in "lk" and name in shown):
            continue
        missing[name] = value[-1] if rule == "k" else value
    if not missing:
        return None
    names, letters, values = compose(record, missing, rules.__getitem__, cloud, replace=False)
    return Answer(Shape(Kind.PATCH, schema.name, names, letters), values, record.floor.ts + 1)


def same(left: Any, right: Any) -> bool:
    """Equal, and of one type: 1 is not True."""
    return type(left) is type(right) and bool(left == right)


def _newest(rule: str, slots: Mapping[Any, Any]) -> Stamp:
    stamps = (Stamp(entry[0], slot[1] if rule == "s" else slot) for slot, entry in slots.items())
    return max(stamps, default=NEVER)
