"""Contributions that move to another name: when a store learns that it is a copy, and so does not own its slots alone.

A counter, a maximum and a minimum have one slot for each replica, and of two entries of one slot the later one stands.
That is right as long as one store writes under a name. Two that do (a copied directory, a store that was put back to an
older state) replace each other's totals. The one that learns of it takes a new name, and what it contributed and the
cloud had not acknowledged leaves the shared slot (ADR 12):

* the slot goes back to what it was before these contributions;
* they become slots of their own, one for each *run*. A run is what one process wrote between opening the store and
  closing it. Of two stores that both hold a part of one run, one holds the beginning of what the other holds: a run was
  written by one process, and what a copy wrote later is another run. So of two entries of a run's slot the later one
  contains the other, as of any slot, and copies of copies may all move the same run;
* what the other store, which kept the name, pushes of a counter's contributions although they were moved (they were in
  the log when it was copied) is taken back, in one more slot of the run: a negative total, of which the same holds.

What always holds: a record shows the same before and after ``move``, but for rounding, and for what a delete took back
that came between. Everything here is a function of its arguments: stores that move the same write the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sync.limits import INT_MAX
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from sync.slots import LIVE
from sync.stamps import device_of, incarnation_of, replica_id

MOVED_RULES = frozenset("cxn")
RUN_BITS = 30
RUNS_MAX = 64
_MOVED, _TAKEN_BACK = 0, 1
_KEPT = 0x2AAAAAAA  # another run's id than that of what is moved
_FLOAT_MAX = 1e308


class Contribution(NamedTuple):
    """What one operation put into its writer's slot of one field: ``value`` at ``ts``, where ``before`` was (ts and
    value, or nothing). Before it, its run had ``added`` so much to the counter.
    """

    seq: int
    ts: int
    name: str
    rule: str
    value: Any
    before: tuple[int, Any] | None
    run: int
    added: Any


class Moved(NamedTuple):
    """A contribution to a counter that was moved; ``total`` is all that its run has added to the field, this
    included.
    """

    seq: int
    ts: int
    collection: str
    key: str
    name: str
    value: Any
    run: int
    total: Any


def move(record: Record, replica: bytes, place: tuple[str, str], contributions: Sequence[Contribution]) -> list[Moved]:
    """Move what ``replica`` contributed to this record, in the order of its log. Returns what of it are counters'.

    A total that no value can hold is not moved: it stays under the old name.
    """
    fields = _by_field(contributions)
    moved: list[Moved] = []
    for field in sorted(fields):
        moved += _move_field(record, replica, place, field, fields[field])
    return moved


def set_back(record: Record, replica: bytes, contributions: Sequence[Contribution]) -> None:
    """Make ``replica``'s slots what they were before these contributions, the last ones of its log, in their order."""
    for field, its_own in _by_field(contributions).items():
        held = record.slots.get(field, {}).get(replica)
        if held is not None and any((it.ts, replica) > record.floor for it in its_own):
            _set_back(record, replica, field, its_own, held)


def take_back(noted: dict[bytes, list[Moved]], operations: Sequence[Operation]) -> list[Operation]:
    """What has to be merged besides ``operations`` from the feed, because they bring contributions under an old name
    (the keys of ``noted``) that were moved. Takes out of ``noted`` what is settled by them.
    """
    places = {(moved.collection, moved.key) for entries in noted.values() for moved in entries}
    out: list[Operation] = []
    for operation in operations:
        if operation.shape.kind == Kind.IMAGE:
            if (operation.shape.collection, operation.key) in places:
                out += _take_back_state(noted, operation)
        elif operation.seq and operation.replica in noted:
            out += _take_back_logged(noted, operation)
    return out


def _move_field(
    record: Record, replica: bytes, place: tuple[str, str], field: tuple[str, str], contributions: list[Contribution]
) -> list[Moved]:
    rule = field[1]
    held = record.slots.get(field, {}).get(replica)
    living = [it for it in contributions if (it.ts, replica) > record.floor]
    if held is None or not living:
        return []
    slot_of = _slots_of(living)
    totals, moved = _counted(living, slot_of, place) if rule == "c" else _latest(living, slot_of)
    if totals is None:
        return []
    _set_back(record, replica, field, contributions, held)
    for run, (ts, value) in totals.items():
        record.apply(_contributing(_slot_id(replica, run, _MOVED), ts, place, field, value))
    first = living[0]
    if first.before is not None and first.added:  # the cloud has the beginning of this run, under the old name
        slot = _slot_id(replica, slot_of[first.run], _TAKEN_BACK)
        record.apply(_contributing(slot, first.before[0], place, field, -first.added))
    return moved


def _by_field(contributions: Sequence[Contribution]) -> dict[tuple[str, str], list[Contribution]]:
    fields: dict[tuple[str, str], list[Contribution]] = {}
    for contribution in contributions:
        fields.setdefault((contribution.name, contribution.rule), []).append(contribution)
    return fields


def _set_back(
    record: Record,
    replica: bytes,
    field: tuple[str, str],
    contributions: Sequence[Contribution],
    held: tuple[int, int, Any],
) -> None:
    own = {it.ts for it in contributions}
    standing = [it.before for it in contributions if it.before is not None] + [(held[0], held[2])]
    standing = [(ts, value) for ts, value in standing if ts not in own and (ts, replica) > record.floor]
    slots = record.slots[field]
    del slots[replica]
    if standing:
        ts, value = max(standing, key=lambda entry: entry[0])
        slots[replica] = (ts, LIVE, value)
    if not slots:
        del record.slots[field]


def _counted(
    living: Sequence[Contribution], slot_of: dict[int, int], place: tuple[str, str]
) -> tuple[dict[int, tuple[int, Any]] | None, list[Moved]]:
    """What each run has added since it began, and when last; and each step of it. None if a slot could not hold it, or
    its negative.
    """
    totals: dict[int, tuple[int, Any]] = {}
    moved: list[Moved] = []
    last: dict[int, Any] = {}
    for it in living:
        slot = slot_of[it.run]
        added = it.added + it.value - (0 if it.before is None else it.before[1])
        total = totals.get(slot, (0, 0))[1] - last.get(it.run, 0) + added
        if not is_in_range(total):
            return None, []
        last[it.run] = added
        totals[slot] = (it.ts, total)
        moved.append(Moved(it.seq, it.ts, *place, it.name, it.value, slot, total))
    return totals, moved


def _latest(living: Sequence[Contribution], slot_of: dict[int, int]) -> tuple[dict[int, tuple[int, Any]], list[Moved]]:
    return {slot_of[it.run]: (it.ts, it.value) for it in living}, []


def _slots_of(living: Sequence[Contribution]) -> dict[int, int]:
    """A slot for each run, but a store that is opened for each write has as many runs as writes: the oldest ones of
    more than ``RUNS_MAX`` share one.
    """
    runs = list(dict.fromkeys(it.run for it in living))
    oldest = runs[: 1 - RUNS_MAX] if len(runs) > RUNS_MAX else []
    return {run: run for run in runs} | dict.fromkeys(oldest, runs[len(oldest) - 1])


def is_in_range(total: Any) -> bool:
    """Whether a slot can hold it, and its negative."""
    return bool(abs(total) <= (INT_MAX if type(total) is int else _FLOAT_MAX))


def _take_back_logged(noted: dict[bytes, list[Moved]], operation: Operation) -> list[Operation]:
    """An operation of a log. Logs that share it share all before it; those that have another in its place share
    nothing from there on.
    """
    entries = noted[operation.replica]
    same = [moved for moved in entries if moved.seq == operation.seq]
    if not same:
        return []
    place = (operation.shape.collection, operation.key)
    told = operation.fields
    if not all(
        (moved.ts, moved.collection, moved.key, moved.value) == (operation.ts, *place, told.get(moved.name))
        for moved in same
    ):
        _settle(noted, operation.replica, [moved for moved in entries if moved.seq < operation.seq])
        return []
    _settle(noted, operation.replica, [moved for moved in entries if moved.seq > operation.seq])
    return _negated(operation.replica, [moved for moved in entries if moved.seq <= operation.seq])


def _take_back_state(noted: dict[bytes, list[Moved]], operation: Operation) -> list[Operation]:
    """A record as state: what an old name's slot holds in it contains all of this field's contributions before."""
    record = Record.decode(operation.values[0])
    out: list[Operation] = []
    for replica in list(noted):
        here = [it for it in noted[replica] if (it.collection, it.key) == (operation.shape.collection, operation.key)]
        last: dict[str, int] = {}
        for moved in here:
            entry = record.slots.get((moved.name, "c"), {}).get(replica)
            if entry is not None and (entry[0], entry[2]) == (moved.ts, moved.value):
                last[moved.name] = moved.seq
        met = {moved for moved in here if moved.seq <= last.get(moved.name, 0)}
        if met:
            out += _negated(replica, [moved for moved in here if moved in met])
            _settle(noted, replica, [moved for moved in noted[replica] if moved not in met])
    return out


def _settle(noted: dict[bytes, list[Moved]], replica: bytes, left: list[Moved]) -> None:
    noted[replica] = left
    if not left:
        del noted[replica]


def _negated(replica: bytes, met: Sequence[Moved]) -> list[Operation]:
    """One operation for each run and field: what it has added up to the last of these, negative."""
    last = {(moved.collection, moved.key, moved.name, moved.run): moved for moved in met}
    return [
        _contributing(_slot_id(replica, it.run, _TAKEN_BACK), it.ts, (it.collection, it.key), (it.name, "c"), -it.total)
        for it in last.values()
    ]


def _contributing(slot: bytes, ts: int, place: tuple[str, str], field: tuple[str, str], value: Any) -> Operation:
    collection, key = place
    return Operation(slot, 0, ts, 0, Shape(Kind.PATCH, collection, field[:1], field[1]), key, (value,))


def kept_writer(replica: bytes, run: int, image: bytes | None) -> bytes:
    """Under which id a write contributes that is kept back (ADR 24): it is in no log, so nothing of it could be moved.
    So it gets the slot of its run at once, next to the one that is for what is moved.

    A record that has very many of these shares one for all further runs of this name of the store's.
    """
    own = _slot_id(replica, run ^ _KEPT, _MOVED)
    held: set[bytes] = set()
    for (_, rule), slots in Record.decode(image).slots.items() if image is not None else ():
        if rule in MOVED_RULES:
            held.update(slot for slot in slots if slot[:12] == own[:12] and slot[12] & 0x80)
    if own in held or len(held) < RUNS_MAX:
        return own
    return _slot_id(replica, incarnation_of(replica) % (1 << RUN_BITS) ^ _KEPT, _MOVED)


def _slot_id(replica: bytes, run: int, side: int) -> bytes:
    """A replica id that no store ever writes under: incarnations stay below the upper half of their 32 bits."""
    return replica_id(device_of(replica), 1 << 31 | run << 1 | side)
