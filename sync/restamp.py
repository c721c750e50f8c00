"""Other timestamps for operations that nobody else has heard of, once the error of their writer's clock is known.

A timestamp lies in its operation, in the record images that the operation was merged into, and in later operations of
the same writer that name it: a removal names the additions that it removes, a keep-all value those that it replaces.

What always holds: ``plan`` keeps the order of the operations, so a counter's later total stays the later one, and
moves none above those that are fixed already or below what its writer may have seen. ADR 10 says why it moves what it
moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sync.operations import Operation
from sync.records import Record
from sync.slots import Slots
from sync.stamps import COUNTER_BITS, NEVER, Stamp

_INEXACT = 1_000 << COUNTER_BITS


class Bounds(NamedTuple):
    """Timestamps. ``now`` is the corrected clock, ``limit`` the largest that the cloud takes. ``fixed`` is the
    writer's largest that the cloud holds, ``heard`` the largest of anybody else's that it knew, ``known`` when it last
    knew the time.
    """

    now: int
    limit: int
    fixed: int
    heard: int
    known: int


class Drift(NamedTuple):
    """The clock turned out to be wrong by so much; it stamped the operations after one timestamp, up to another."""

    ms: int
    after: int
    until: int


def plan(stamps: Sequence[int], drifts: Sequence[Drift], bounds: Bounds) -> dict[int, int]:
    """Old timestamp → new one, of those that change. ``stamps`` are those of one writer in order, ``drifts`` as they
    were learned.
    """
    wanted = [_corrected(ts, drifts, bounds) for ts in stamps]
    following = bounds.now
    for place in range(len(wanted) - 1, -1, -1):  # what is only known to be wrong was before what came after it
        following = min(following, wanted[place] or following - 1)
        wanted[place] = wanted[place] or following
    moved: dict[int, int] = {}
    last = 0
    for ts, new in zip(stamps, wanted, strict=True):
        last = max(new, last + 1, max(bounds.fixed, bounds.heard) + 1 if new != ts else 0)
        if last != ts:
            moved[ts] = last
    return moved


def _corrected(ts: int, drifts: Sequence[Drift], bounds: Bounds) -> int:
    """What the timestamp should have been; 0 if it is only known that this one is too large."""
    if ts <= bounds.fixed:
        return ts
    drift = next((drift for drift in drifts if ts <= drift.until), None)
    if drift is not None and ts > drift.after:
        corrected = ts + drift.ms * (1 << COUNTER_BITS)
        if bounds.known <= corrected <= bounds.now + _INEXACT:
            return min(corrected, bounds.now)
    return ts if ts <= bounds.limit else 0


def heard_in(operations: Sequence[Operation], limit: int) -> tuple[int, int]:
    """The largest timestamp in them that a clock may follow, up to ``limit``, and the largest that it must not: one
    wrong clock would set all others.
    """
    newest = max((operation[2] for operation in operations), default=0)
    if newest <= limit:
        return newest, 0
    return max((operation[2] for operation in operations if operation[2] <= limit), default=0), newest


def restamp(operation: Operation, moved: Mapping[int, int]) -> Operation:
    """The operation with the new timestamps, its own and those that it names of its replica's."""
    shape, replica = operation.shape, operation.replica
    values = operation.values
    if "s" in shape.rules or "k" in shape.rules:
        values = tuple(_renamed(rule, value, replica, moved) for rule, value in zip(shape.rules, values, strict=True))
    return operation._replace(ts=moved.get(operation.ts, operation.ts), values=values)


def restamp_image(image: bytes, replica: bytes, moved: Mapping[int, int]) -> bytes:
    """The record's image with the new timestamps of one replica. What the wrong ones had displaced is not in it."""
    record = Record.decode(image)

    def new(ts: int, writer: bytes) -> int:
        return moved.get(ts, ts) if writer == replica else ts

    record.ts = new(record.ts, record.replica)
    floor = Stamp(new(*record.floor), record.floor.replica)
    record.lww = {name: (new(ts, by), by, value) for name, (ts, by, value) in record.lww.items()}
    record.slots = {(name, rule): _slots(rule, slots, new) for (name, rule), slots in record.slots.items()}
    entries = [slot[:2] for slot in record.lww.values()]
    for (_, rule), slots in record.slots.items():
        entries += [(entry[0], slot[1] if rule == "s" else slot) for slot, entry in slots.items()]
    record.ts, record.replica = max([(record.ts, record.replica), *entries])  # another's may be above what has moved
    record.floor = NEVER
    record.raise_floor(floor)  # it, or what it stood below, has moved
    return record.encode()


def _slots(rule: str, slots: Slots, new: Any) -> Slots:
    return {slot: (new(entry[0], slot[1] if rule == "s" else slot), *entry[1:]) for slot, entry in slots.items()}


def _renamed(rule: str, value: Any, replica: bytes, moved: Mapping[int, int]) -> Any:
    if rule == "s":
        added, removed = value
        return [added, [[element, _tags(tags, replica, moved)] for element, tags in removed]]
    if rule == "k":
        return [value[0], _tags(value[1], replica, moved)]
    return value


def _tags(tags: Sequence[Any], replica: bytes, moved: Mapping[int, int]) -> list[Any]:
    return [[writer, moved.get(ts, ts) if writer == replica else ts] for writer, ts in tags]
