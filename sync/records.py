"""Records and ``merge``: the one place where values meet, on devices and in the cloud alike.

Theory, so that nobody has to reconstruct it from the code. A record is a set of *slots*, each a last-writer register
ordered by stamp, and a *floor*, the largest stamp at which the record was deleted:

* a last-writer field is one slot;
* counter, max and min have one slot for each replica that contributed. A replica's contributions are made one after the
  other and each contains the one before (a counter's is its running total, a maximum's the largest value it knew), so
  its latest one says all. Under ids that no store writes under is what a copied store contributed (``sync.moving``);
* keep-all has one slot for each replica: its value, or the mark that somebody who had seen it replaced it;
* a set has one slot for each (element, replica): added, or removed by somebody who had seen that addition. An addition
  that the remover had not seen survives: add wins.

Slots at or below the floor are dropped. A record is alive if it was written after its floor. Joining registers by
maximum, and floors by maximum, is commutative, associative and idempotent, and dropping by the floor commutes with
both, because each register keeps exactly its largest stamp. So the order of arrival never matters; ``tests/sync``
checks that over random histories, and that equal states have equal bytes.

After a delete, a concurrent edit with a later stamp leaves a record with only the edited fields. The cloud sees that
(``cloud.stream.conflicts``) and puts the rest back with an operation of its own, if the collection's rule lets the edit
win.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from sync.compose import compose, compose_add, compose_increment, compose_remove
from sync.errors import Malformed
from sync.operations import Kind, Operation, Shape
from sync.slots import LIVE, REMOVED, SHOWN, advance, flatten, is_above, unflatten
from sync.stamps import NEVER, Stamp

_pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Record:
    """The state of one record. ``lww``: name → (ts, replica, value). ``slots``: (name, rule letter) → a dict of slots.

    ``ts``/``replica`` is the stamp of the newest write that was not a delete, (0, b"") if there is none above the
    floor.
    """

    __slots__ = ("floor", "lww", "replica", "slots", "ts")

    def __init__(self) -> None:
        self.ts = 0
        self.replica = b""
        self.floor: Stamp = NEVER
        self.lww: dict[str, tuple[int, bytes, Any]] = {}
        self.slots: dict[tuple[str, str], dict[Any, Any]] = {}

    @property
    def alive(self) -> bool:
        return self.ts > 0

    @property
    def stamp(self) -> Stamp:
        """The stamp of the newest operation, deletes included."""
        return max(Stamp(self.ts, self.replica), self.floor)

    @property
    def newest_ts(self) -> int:
        """The largest timestamp in it."""
        stamps = [self.ts, self.floor.ts, *(slot[0] for slot in self.lww.values())]
        stamps += [entry[0] for slots in self.slots.values() for entry in slots.values()]
        return max(stamps)

    def stands_above(self, operation: Operation) -> bool:
        """Whether this record's delete undoes a write of the operation, or a part of it."""
        if self.floor == NEVER or operation.shape.kind == Kind.DELETE:
            return False
        if operation.shape.kind != Kind.IMAGE:
            return (operation.ts, operation.replica) <= self.floor
        other = Record.decode(operation.values[0])
        written = len(other.lww) + sum(map(len, other.slots.values()))
        other.floor = NEVER
        other.raise_floor(self.floor)
        return written > len(other.lww) + sum(map(len, other.slots.values()))

    def values(self) -> dict[str, Any]:
        """What a reader sees: fields in order of name, absent ones omitted. Sets and siblings come as sorted lists."""
        out = {name: slot[2] for name, slot in self.lww.items() if slot[2] is not None}
        for name, rule in sorted(self.slots):
            value = SHOWN[rule](self.slots[name, rule])
            if value is not None:
                out[name] = value
        return dict(sorted(out.items()))

    def shown_by(self) -> dict[str, str]:
        """The rule letter by which each field of ``values()`` is held. A field that was declared, or declared anew,
        after it was written may be held by another rule than the collection's.
        """
        out = {name: "l" for name, slot in self.lww.items() if slot[2] is not None}
        shown = ((name, rule) for name, rule in sorted(self.slots) if SHOWN[rule](self.slots[name, rule]) is not None)
        return out | dict(shown)

    # -- the canonical bytes: equal states have equal bytes ------------------------------------------------------

    def encode(self) -> bytes:
        """``[ts, replica, {name: value}, {name: [ts, replica, value]}, slots, floor ts, floor replica]``, empty tail
        cut.

        The third item holds the last-writer fields stamped with the record's own stamp, the fourth the older ones.
        """
        stamp = (self.ts, self.replica)
        fresh: dict[str, Any] = {}
        older: dict[str, Any] = {}
        for name in sorted(self.lww):
            slot = self.lww[name]
            if slot[:2] == stamp:
                fresh[name] = slot[2]
            else:
                older[name] = slot
        state: list[Any] = [self.ts, self.replica, fresh]
        if older or self.slots or self.floor != NEVER:
            slots = [[name, rule, flatten(rule, self.slots[name, rule])] for name, rule in sorted(self.slots)]
            state += [older, slots, *self.floor]
        return _pack(state)

    @staticmethod
    def decode(image: bytes) -> Record:
        """Raises Malformed if the bytes are not an encoded record."""
        try:
            state = msgpack.unpackb(image, raw=False, strict_map_key=True, max_ext_len=0)
            record = Record()
            ts, replica, fresh = state[:3]
            record.ts, record.replica = ts, replica
            record.lww = {name: (ts, replica, value) for name, value in fresh.items()}
            if len(state) > 3:
                _, _, _, older, slots, floor_ts, floor_replica = state
                for name, (field_ts, field_replica, value) in older.items():
                    record.lww[name] = (field_ts, field_replica, value)
                for name, rule, flat in slots:
                    record.slots[name, rule] = unflatten(rule, flat)
                if floor_ts:
                    record.floor = Stamp(floor_ts, floor_replica)
            return record
        except (ValueError, TypeError, AttributeError, KeyError, msgpack.exceptions.UnpackException) as error:
            raise Malformed(f"not a record image: {error}") from error

    # -- merging ------------------------------------------------------------------------------------------------

    def apply(self, operation: Operation) -> bool:
        """Fold one operation in. Returns whether anything changed."""
        kind, _, names, rules = operation.shape
        stamp = (operation.ts, operation.replica)
        if kind == Kind.DELETE:
            return self.raise_floor(Stamp(*stamp))
        if kind == Kind.IMAGE:
            return self.join(Record.decode(operation.values[0]))
        if stamp <= self.floor:
            return False
        changed = self._touch(stamp)
        for name, rule, value in zip(names, rules, operation.values, strict=True):
            changed |= self._set_field(name, rule, stamp, value)
        return changed

    def join(self, other: Record) -> bool:
        """Fold another replica's state of the same record in. Returns whether anything changed."""
        changed = self.raise_floor(other.floor)
        floor = self.floor
        if (other.ts, other.replica) > floor:
            changed |= self._touch((other.ts, other.replica))
        for name, (ts, replica, value) in other.lww.items():
            if (ts, replica) > floor:
                changed |= self._set_lww(name, (ts, replica), value)
        for (name, rule), slots in other.slots.items():
            mine = self.slots.setdefault((name, rule), {})
            for slot, entry in slots.items():
                if is_above(floor, slot, entry):
                    changed |= advance(mine, slot, entry)
            if not mine:
                del self.slots[name, rule]
        return changed

    def _touch(self, stamp: tuple[int, bytes]) -> bool:
        if stamp > (self.ts, self.replica):
            self.ts, self.replica = stamp
            return True
        return False

    def raise_floor(self, stamp: Stamp) -> bool:
        """Delete what is not newer than this stamp. Returns whether anything changed."""
        if stamp <= self.floor:
            return False
        self.floor = stamp
        if (self.ts, self.replica) <= stamp:
            self.ts, self.replica = NEVER
        self.lww = {name: slot for name, slot in self.lww.items() if slot[:2] > stamp}
        for key in list(self.slots):
            kept = {slot: entry for slot, entry in self.slots[key].items() if is_above(stamp, slot, entry)}
            if kept:
                self.slots[key] = kept
            else:
                del self.slots[key]
        return True

    def _set_lww(self, name: str, stamp: tuple[int, bytes], value: Any) -> bool:
        held = self.lww.get(name)
        if held is not None and (held[:2] > stamp or (held[:2] == stamp and _pack(held[2]) >= _pack(value))):
            return False
        self.lww[name] = (*stamp, value)
        return True

    def _set_field(self, name: str, rule: str, stamp: tuple[int, bytes], value: Any) -> bool:
        if rule == "l":
            return self._set_lww(name, stamp, value)
        ts, replica = stamp
        slots = self.slots.setdefault((name, rule), {})
        changed = False
        if rule == "s":
            added, removed = value
            for element in added:
                changed |= advance(slots, (element, replica), (ts, LIVE))
            for element, tags in removed:
                for tag_replica, tag_ts in tags:
                    if (tag_ts, tag_replica) > self.floor:
                        changed |= advance(slots, (element, tag_replica), (tag_ts, REMOVED))
        elif rule == "k":
            changed |= advance(slots, replica, (ts, LIVE, value[0]))
            for tag_replica, tag_ts in value[1]:
                if (tag_ts, tag_replica) > self.floor:
                    changed |= advance(slots, tag_replica, (tag_ts, REMOVED, None))
        else:
            changed |= advance(slots, replica, (ts, LIVE, value))
        if not slots:
            del self.slots[name, rule]
        return changed


class Merged(NamedTuple):
    """The outcome of a merge: the new record, and whether the operation changed it."""

    record: Record
    changed: bool


def merge(record: Record | None, operation: Operation) -> Merged:
    """The record after ``operation``; ``record`` itself is not touched. None stands for a record never heard of."""
    copy = Record() if record is None else Record.decode(record.encode())
    changed = copy.apply(operation)
    return Merged(copy, changed)


def fold(image: bytes | None, operation: Operation) -> bytes:
    """The same over encoded records, with a short cut for the commonest case, the first write of a plain record."""
    shape = operation.shape
    if image is None and shape.kind not in (Kind.DELETE, Kind.IMAGE) and shape.rules.count("l") == len(shape.rules):
        return fresh_image(operation)
    record = Record() if image is None else Record.decode(image)
    record.apply(operation)
    return record.encode()


def fresh_image(operation: Operation) -> bytes:
    """The bytes of a record that holds this operation and nothing else; only last-writer fields."""
    return _pack([operation.ts, operation.replica, dict(zip(operation.shape.names, operation.values, strict=True))])


def state_operation(
    collection: str, key: str, image: bytes, shape_of: Callable[[str, tuple[str, ...]], Shape]
) -> Operation:
    """The whole record as one operation that reproduces it when merged.

    A plain PUT where one write made all of it (so that it travels in columns), an IMAGE otherwise. ``seq`` is 0, the
    stamp the record's newest; ``shape_of(collection, names)`` interns PUT shapes.
    """
    state = msgpack.unpackb(image, raw=False, strict_map_key=True)
    if len(state) == 3 and state[0]:
        ts, replica, values = state
        return Operation(replica, 0, ts, 0, shape_of(collection, tuple(values)), key, tuple(values.values()))
    record = Record.decode(image)
    stamp = record.stamp
    return Operation(stamp.replica, 0, stamp.ts, 0, Shape(Kind.IMAGE, collection), key, (image,))


__all__ = [
    "Merged",
    "Record",
    "compose",
    "compose_add",
    "compose_increment",
    "compose_remove",
    "fold",
    "fresh_image",
    "merge",
    "state_operation",
]
