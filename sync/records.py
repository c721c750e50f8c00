"""Records and ``merge``: the one place where values meet, on devices and in the cloud alike.

Theory, so that nobody has to reconstruct it from the code. A record is a set of *slots*, each a last-writer register
ordered by stamp, and a *floor*, the largest stamp at which the record was deleted:

* a last-writer field is one slot;
* counter, max and min have one slot for each replica that contributed. A replica's contributions are made one after the
  other and each contains the one before (a counter's is its running total, a maximum's the largest value it knew), so
  its latest one says all;
* keep-all has one slot for each replica: its value, or the mark that somebody who had seen it replaced it;
* a set has one slot for each (element, replica): added, or removed by somebody who had seen that addition. An addition
  that the remover had not seen survives: add wins.

Slots at or below the floor are dropped. A record is alive if it was written after its floor. Joining registers by
maximum, and floors by maximum, is commutative, associative and idempotent, and dropping by the floor commutes with
both, because each register keeps exactly its largest stamp. So the order of arrival never matters; ``tests/sync`` checks
that over random histories, and that equal states have equal bytes.

After a delete, a concurrent edit with a later stamp leaves a record with only the edited fields. The cloud sees that
(``cloud.stream.conflicts``) and puts the rest back with an operation of its own, if the collection's rule lets the edit win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgpack

from sync.errors import Malformed
from sync.operations import Kind, Operation, Shape
from sync.schema import element_order
from sync.stamps import NEVER, Stamp

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_REMOVED, _LIVE = 0, 1


class Record:
    """The state of one record. ``lww``: name → (ts, replica, value). ``slots``: (name, rule letter) → a dict of slots.

    ``ts``/``replica`` is the stamp of the newest write that was not a delete, (0, b"") if there is none above the floor.
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

    def values(self) -> dict[str, Any]:
        """What a reader sees: fields in order of name, absent ones omitted. Sets and siblings come as sorted lists."""
        out = {name: slot[2] for name, slot in self.lww.items() if slot[2] is not None}
        for (name, rule), slots in self.slots.items():
            value = _SHOWN[rule](slots)
            if value is not None:
                out[name] = value
        return dict(sorted(out.items()))

    # -- the canonical bytes: equal states have equal bytes ------------------------------------------------------

    def encode(self) -> bytes:
        """``[ts, replica, {name: value}, {name: [ts, replica, value]}, slots, floor ts, floor replica]``, empty tail cut.

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
            slots = [
                [name, rule, _flatten(rule, self.slots[name, rule])] for name, rule in sorted(self.slots)
            ]
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
                    record.slots[name, rule] = _unflatten(rule, flat)
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
            return self._raise_floor(Stamp(*stamp))
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
        changed = self._raise_floor(other.floor)
        floor = self.floor
        if (other.ts, other.replica) > floor:
            changed |= self._touch((other.ts, other.replica))
        for name, (ts, replica, value) in other.lww.items():
            if (ts, replica) > floor:
                changed |= self._set_lww(name, (ts, replica), value)
        for (name, rule), slots in other.slots.items():
            mine = self.slots.setdefault((name, rule), {})
            for slot, entry in slots.items():
                if _above(floor, slot, entry):
                    changed |= _advance(mine, slot, entry)
            if not mine:
                del self.slots[name, rule]
        return changed

    def _touch(self, stamp: tuple[int, bytes]) -> bool:
        if stamp > (self.ts, self.replica):
            self.ts, self.replica = stamp
            return True
        return False

    def _raise_floor(self, stamp: Stamp) -> bool:
        if stamp <= self.floor:
            return False
        self.floor = stamp
        if (self.ts, self.replica) <= stamp:
            self.ts, self.replica = NEVER
        self.lww = {name: slot for name, slot in self.lww.items() if slot[:2] > stamp}
        for key in list(self.slots):
            kept = {slot: entry for slot, entry in self.slots[key].items() if _above(stamp, slot, entry)}
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
                changed |= _advance(slots, (element, replica), (ts, _LIVE))
            for element, tags in removed:
                for tag_replica, tag_ts in tags:
                    if (tag_ts, tag_replica) > self.floor:
                        changed |= _advance(slots, (element, tag_replica), (tag_ts, _REMOVED))
        elif rule == "k":
            changed |= _advance(slots, replica, (ts, _LIVE, value[0]))
            for tag_replica, tag_ts in value[1]:
                if (tag_ts, tag_replica) > self.floor:
                    changed |= _advance(slots, tag_replica, (tag_ts, _REMOVED, None))
        else:
            changed |= _advance(slots, replica, (ts, _LIVE, value))
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
    if (
        image is None
        and shape.kind != Kind.DELETE
        and shape.kind != Kind.IMAGE
        and shape.rules.count("l") == len(shape.rules)
    ):
        return fresh_image(operation)
    record = Record() if image is None else Record.decode(image)
    record.apply(operation)
    return record.encode()


def fresh_image(operation: Operation) -> bytes:
    """The bytes of a record that holds this operation and nothing else; only last-writer fields."""
    return _pack(
        [operation.ts, operation.replica, dict(zip(operation.shape.names, operation.values, strict=True))]
    )


def state_operation(
    collection: str, key: str, image: bytes, shape_of: Callable[[str, tuple[str, ...]], Shape]
) -> Operation:
    """The whole record as one operation that reproduces it when merged: a plain PUT where one write made all of it (so
    that it travels in columns), an IMAGE otherwise. ``seq`` is 0; ``shape_of(collection, names)`` interns PUT shapes."""
    state = msgpack.unpackb(image, raw=False, strict_map_key=True)
    if len(state) == 3 and state[0]:
        ts, replica, values = state
        return Operation(replica, 0, ts, 0, shape_of(collection, tuple(values)), key, tuple(values.values()))
    record = Record.decode(image)
    stamp = record.stamp
    return Operation(stamp.replica, 0, stamp.ts, 0, Shape(Kind.IMAGE, collection), key, (image,))


# -- what a writer puts into an operation, given what it sees -----------------------------------------------------


def compose(
    record: Record | None,
    values: Mapping[str, Any],
    rule_letter: Callable[[str], str],
    replica: bytes,
    *,
    replace: bool,
) -> tuple[tuple[str, ...], str, tuple[Any, ...]]:
    """``(names, rules, values)`` of a PUT (``replace``) or PATCH that makes the record show ``values``.

    A PUT sets the last-writer fields that it does not name to None; it leaves merged fields that it does not name as
    they are. A counter is moved to the value, a set to exactly these elements, max and min take the value as one more
    contribution, keep-all replaces the siblings that this writer sees.
    """
    wanted = dict(values)
    if replace and record is not None and record.alive:
        for name, slot in record.lww.items():
            if slot[2] is not None:
                wanted.setdefault(name, None)
    names = tuple(sorted(wanted))
    rules = "".join(map(rule_letter, names))
    out: list[Any] = []
    for name, rule in zip(names, rules, strict=True):
        slots = record.slots.get((name, rule), {}) if record is not None else {}
        out.append(_COMPOSE[rule](slots, wanted[name], replica) if rule != "l" else wanted[name])
    return names, rules, tuple(out)


def compose_increment(record: Record | None, name: str, by: float, replica: bytes) -> int | float:
    """This replica's new running total of a counter field."""
    slots = record.slots.get((name, "c"), {}) if record is not None else {}
    held = slots.get(replica)
    return by + (held[2] if held else 0)


def compose_add(elements: list[Any]) -> list[Any]:
    return [elements, []]


def compose_remove(record: Record | None, name: str, elements: list[Any]) -> list[Any]:
    """Removal of what this writer sees of the elements; what it has not seen stays."""
    slots = record.slots.get((name, "s"), {}) if record is not None else {}
    return [[], _observed(slots, set(elements))]


def _compose_counter(slots: dict[Any, Any], value: Any, replica: bytes) -> Any:
    own = slots[replica][2] if replica in slots else 0
    return own + value - (_shown_sum(slots) or 0)


def _compose_set(slots: dict[Any, Any], value: list[Any], replica: bytes) -> list[Any]:
    gone = {element for element, _ in slots} - set(value)
    return [value, _observed(slots, gone)]


def _compose_keep_all(slots: dict[Any, Any], value: Any, replica: bytes) -> list[Any]:
    return [
        value,
        [[other, entry[0]] for other, entry in sorted(slots.items()) if entry[1] and other != replica],
    ]


def _compose_max(slots: dict[Any, Any], value: Any, replica: bytes) -> Any:
    return max([value, *(entry[2] for entry in slots.values())])


def _compose_min(slots: dict[Any, Any], value: Any, replica: bytes) -> Any:
    return min([value, *(entry[2] for entry in slots.values())])


_COMPOSE: dict[str, Callable[[dict[Any, Any], Any, bytes], Any]] = {
    "c": _compose_counter,
    "s": _compose_set,
    "k": _compose_keep_all,
    "x": _compose_max,
    "n": _compose_min,
}


def _observed(slots: dict[Any, Any], elements: set[Any]) -> list[Any]:
    tags: dict[Any, list[Any]] = {}
    for (element, replica), (ts, live) in sorted(slots.items(), key=_slot_order):
        if live and element in elements:
            tags.setdefault(element, []).append([replica, ts])
    return [[element, seen] for element, seen in tags.items()]


# -- slots --------------------------------------------------------------------------------------------------------


def _advance(slots: dict[Any, Any], slot: Any, entry: tuple[Any, ...]) -> bool:
    """Keep the larger of two entries of one slot: by timestamp; a removal of exactly that write beats it; then bytes."""
    held = slots.get(slot)
    if held is not None:
        if held[0] != entry[0]:
            if held[0] > entry[0]:
                return False
        elif held[1] != entry[1]:
            if held[1] < entry[1]:
                return False
        elif held == entry or _pack(held[2:]) >= _pack(entry[2:]):
            return False
    slots[slot] = entry
    return True


def _above(floor: Stamp, slot: Any, entry: tuple[Any, ...]) -> bool:
    replica = slot[1] if type(slot) is tuple else slot
    return (entry[0], replica) > floor


def _slot_order(item: tuple[Any, Any]) -> tuple[Any, ...]:
    slot = item[0]
    return (*element_order(slot[0]), slot[1]) if type(slot) is tuple else (slot,)


def _flatten(rule: str, slots: dict[Any, Any]) -> list[Any]:
    ordered = sorted(slots.items(), key=_slot_order)
    if rule == "s":
        return [[element, replica, *entry] for (element, replica), entry in ordered]
    return [[replica, *entry] for replica, entry in ordered]


def _unflatten(rule: str, flat: list[Any]) -> dict[Any, Any]:
    if rule == "s":
        return {(element, replica): (ts, live) for element, replica, ts, live in flat}
    return {replica: (ts, live, value) for replica, ts, live, value in flat}


def _shown_sum(slots: dict[Any, Any]) -> Any:
    return sum(entry[2] for _, entry in sorted(slots.items())) if slots else None


def _shown_max(slots: dict[Any, Any]) -> Any:
    return max((entry[2] for entry in slots.values()), default=None)


def _shown_min(slots: dict[Any, Any]) -> Any:
    return min((entry[2] for entry in slots.values()), default=None)


def _shown_set(slots: dict[Any, Any]) -> list[Any]:
    return sorted({element for (element, _), entry in slots.items() if entry[1]}, key=element_order)


def _shown_siblings(slots: dict[Any, Any]) -> list[Any] | None:
    live = sorted((entry[0], replica, entry[2]) for replica, entry in slots.items() if entry[1])
    return [value for _, _, value in live] or None


_SHOWN: Mapping[str, Callable[[dict[Any, Any]], Any]] = {
    "c": _shown_sum,
    "x": _shown_max,
    "n": _shown_min,
    "s": _shown_set,
    "k": _shown_siblings,
}
