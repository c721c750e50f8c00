"""Operations → the cloud's record rows. Merging itself is ``sync.records``; this keeps the books beside
the image.

A row remembers, beside the image, at which feed position each field got the value it has, and what the
record looked like before it was deleted. Both are what ``cloud.stream.conflicts`` asks for.

What always holds: a row is a function of the row before, the operation and its position, and of nothing
else. So replaying the feed (``cloud.storage.archive``, restore) makes the same rows that ingest made.

The *grave* is the last living image before a delete. A write whose author had seen the delete (or was its
author) is a new life, and closes the grave. A write whose author had not is an edit of the old record, and
leaves it open: whether the record then comes back is for ``cloud.stream.conflicts`` to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from cloud.rows import RecordRow
from sync.errors import TooLarge
from sync.limits import OPERATION_BYTES_MAX
from sync.operations import Kind, Operation
from sync.records import Record, fresh_image
from sync.stamps import NEVER, device_of

FLOOR = ""
ENTRIES_MAX = 400_000
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Held:
    """A record opened for merging. ``position`` is that of the last operation that changed it (0: never
    heard of).
    """

    __slots__ = ("_positions", "changed", "grave", "position", "record", "size", "was_alive")

    def __init__(self, row: RecordRow | None) -> None:
        self.changed = False
        self.size = 0
        self.grave = b""
        self.position = 0
        self.record = Record()
        self._positions: dict[str, int] = {}
        if row is not None:
            self.record = Record.decode(row.image)
            self.size = len(row.image)
            self.position = row.position
            self.grave = row.grave
            if row.field_positions:
                self._positions = msgpack.unpackb(row.field_positions)
        self.was_alive = self.record.alive

    def position_of(self, field: str) -> int:
        """The feed position at which this field (``FLOOR``: the delete) got what it holds."""
        return self._positions.get(field, self.position)

    def apply(self, operation: Operation, position: int) -> bool:
        """Merge, and note what changed. Returns whether anything did."""
        record, shape = self.record, operation.shape
        whole = shape.kind in (Kind.DELETE, Kind.IMAGE)
        floor = record.floor
        was = record.encode() if whole and record.alive else b""
        before = _slots(record, _names(record) if whole else shape.names)
        if not record.apply(operation):
            return False
        if shape.kind == Kind.DELETE or (record.floor != floor and not record.alive):
            self.grave = was or self.grave
        elif record.alive and (operation.seq == 0 or shape.kind == Kind.IMAGE or self._knew(operation)):
            self.grave = b""
        names = _names(record)
        after = _slots(record, names if whole else shape.names)
        last = self.position
        self._positions = {
            name: position if name in after and after[name] != before.get(name) else self._positions.get(name, last)
            for name in names
        }
        self.position = position
        self.changed = True
        return True

    def row(self, collection: str, key: str) -> RecordRow:
        older = {name: at for name, at in sorted(self._positions.items()) if at != self.position}
        packed = _pack(older) if older else b""
        return RecordRow(collection, key, self.record.encode(), self.position, packed, self.grave)

    def _knew(self, operation: Operation) -> bool:
        """Whether the writer had seen the delete below everything that the record holds, or made it
        himself.
        """
        floor = self.record.floor
        return operation.seen >= self.position_of(FLOOR) or device_of(floor.replica) == device_of(operation.replica)


class Room:
    """Whether records have room for what is written, in one transaction. A record that is not plain travels whole, as
    one operation, so it must not grow beyond the bound of one, whoever writes to it.

    Sizes are estimated from above; where that is not enough the outcome is encoded, which costs with every field and
    slot: ``ENTRIES_MAX`` of them take some ten seconds, and then what may be too large is.
    """

    def __init__(self, entries: int = ENTRIES_MAX) -> None:
        self._left = entries

    def check(self, held: Held, operation: Operation) -> None:
        """Ask before each ``apply``. Raises TooLarge."""
        packed = len(msgpack.packb(operation.values, default=list))
        if held.size + packed <= OPERATION_BYTES_MAX:
            held.size += packed + 64 * len(operation.shape.names)
            return
        self._left -= len(held.record.lww) + sum(map(len, held.record.slots.values()))
        if self._left < 0:
            raise TooLarge("too many writes at once to records that are nearly as large as they may be")
        encoded = held.record.encode()
        trial = Record.decode(encoded)
        trial.apply(operation)
        held.size = len(trial.encode())
        if held.size > OPERATION_BYTES_MAX:
            held.size = len(encoded)
            raise TooLarge(f"the record would be over {OPERATION_BYTES_MAX} bytes")


def fold_row(row: RecordRow | None, operation: Operation, position: int) -> RecordRow | None:
    """The row after this operation at this position; None if it changed nothing."""
    if row is None and is_plain_write(operation):
        return RecordRow(operation.shape.collection, operation.key, fresh_image(operation), position)
    held = Held(row)
    if not held.apply(operation, position):
        return None
    return held.row(operation.shape.collection, operation.key)


def fold_all(
    rows: dict[tuple[str, str], RecordRow], operations: Iterable[tuple[int, Operation]]
) -> set[tuple[str, str]]:
    """Fold ``(position, operation)`` pairs, in order, into the rows by (collection, key); which ones
    changed.
    """
    changed: set[tuple[str, str]] = set()
    for position, operation in operations:
        place = (operation.shape.collection, operation.key)
        row = fold_row(rows.get(place), operation, position)
        if row is not None:
            rows[place] = row
            changed.add(place)
    return changed


def is_plain_write(operation: Operation) -> bool:
    """Whether this operation alone makes a plain record (``sync.images``)."""
    shape = operation.shape
    return shape.kind not in (Kind.DELETE, Kind.IMAGE) and shape.rules.count("l") == len(shape.rules)


def _names(record: Record) -> dict[str, None]:
    """The fields, and the delete, each once and in an order that does not change from one process to the next."""
    names = dict.fromkeys(record.lww)
    names.update((name, None) for name, _ in record.slots)
    if record.floor != NEVER:
        names[FLOOR] = None
    return names


def _slots(record: Record, names: Iterable[str]) -> dict[str, Any]:
    """What each of these fields holds, comparable later."""
    out: dict[str, Any] = {name: record.lww.get(name) for name in names}
    for (name, rule), slots in record.slots.items():
        if name in out:
            out[name] = (out[name], rule, dict(slots))
    if FLOOR in out:
        out[FLOOR] = record.floor
    return out
