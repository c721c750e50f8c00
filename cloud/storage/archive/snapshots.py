"""Snapshots: all records of a fleet as of one feed position, as state segments in parts of a few megabytes.

A part is a concatenation of segments with FLAG_STATE, each preceded by its length as a big-endian u32, chained by
``previous`` from the first of the first part to the last of the last: the form in which a device takes a baseline.
What the cloud keeps beside an image (feed positions, the grave) is in the part's side object, msgpack
``[[[position, field positions, grave], …], [[collection, key, image, position, field positions, grave], …]]``:
first for each record of the segments in order, then whole records whose images exceed the bound of an operation
and so fit in no segment.

What always holds: records come in order of (collection, key), tombstones included; the digest is that of the
living.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from cloud.ports import Reading
from cloud.rows import RecordRow
from cloud.storage.archive.batches import Sealer
from cloud.storage.archive.errors import naming
from cloud.storage.archive.manifest import PartRef, Snapshot
from cloud.storage.archive.reader import ArchiveReader
from sync.digest import StateDigest
from sync.errors import BrokenChain, Malformed
from sync.limits import OPERATION_BYTES_MAX
from sync.messages import UNDECODABLE
from sync.operations import Kind, Operation, Shape
from sync.records import fresh_image, state_operation
from sync.segment import FLAG_STATE, GENESIS, SegmentHeader, open_segment, pack_split

PART_BYTES = 8 << 20
_SEGMENT_RECORDS_MAX = 10_000
_SEGMENT_IMAGE_BYTES_MAX = 2 << 20
# An operation's values are a little smaller than the image they come from, never larger.
_IMAGE_BYTES_MAX = OPERATION_BYTES_MAX - 1024
_READ_BYTES_MAX = 16 << 20
_LENGTH = struct.Struct(">I")

Beside = tuple[int, bytes, bytes]
Loose = tuple[str, str, bytes, int, bytes, bytes]
_side_decoder = msgspec.msgpack.Decoder(tuple[list[Beside], list[Loose]])


class Part(NamedTuple):
    """A part of a snapshot before it is in the archive. ``loose`` and ``beside`` are packed in ``side``."""

    data: bytes
    side: bytes
    records: int
    last_id: bytes


class Totals:
    """What is known at the end of a snapshot."""

    def __init__(self) -> None:
        self.records = 0
        self.digest = StateDigest()


def snapshot_parts(view: Reading, sealer: Sealer, totals: Totals) -> Iterator[Part]:
    """The parts, one at a time, reading records by pages; ``totals`` is filled on the way."""
    builder = _Builder(sealer)
    after: tuple[str, str] | None = None
    while rows := view.records(sealer.fleet, after, _SEGMENT_RECORDS_MAX, _READ_BYTES_MAX):
        totals.digest.add_all(row[:3] for row in rows)
        for row in rows:
            builder.add(row)
            if builder.size >= PART_BYTES:
                yield builder.finish()
        totals.records += len(rows)
        after = (rows[-1].collection, rows[-1].key)
    if builder.records:
        yield builder.finish()


class _Builder:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._previous = GENESIS
        self._shapes: dict[tuple[str, tuple[str, ...]], Shape] = {}
        self._pending: list[Operation] = []
        self._pending_bytes = 0
        self._clear()

    def _clear(self) -> None:
        self._chunks: list[bytes] = []
        self._beside: list[Beside] = []
        self._loose: list[Loose] = []
        self.size = 0
        self.records = 0

    def add(self, row: RecordRow) -> None:
        self.records += 1
        if len(row.image) > _IMAGE_BYTES_MAX:
            self._loose.append((row.collection, row.key, row.image, row.position, row.field_positions, row.grave))
            self.size += len(row.image)
            return
        if (
            self._pending_bytes + len(row.image) > _SEGMENT_IMAGE_BYTES_MAX
            or len(self._pending) >= _SEGMENT_RECORDS_MAX
        ):
            self._flush()
        self._pending.append(state_operation(row.collection, row.key, row.image, self._shape))
        self._pending_bytes += len(row.image)
        self._beside.append((row.position, row.field_positions, row.grave))
        self.size += len(row.grave)

    def finish(self) -> Part:
        self._flush()
        side = msgspec.msgpack.encode((self._beside, self._loose))
        part = Part(b"".join(self._chunks), side, self.records, self._previous)
        self._clear()
        return part

    def _flush(self) -> None:
        if self._pending:
            for packed in pack_split(self._pending):
                sealed = self._sealer.seal(packed, first=0, previous=self._previous, flags=FLAG_STATE)
                self._previous = sealed.id
                self._chunks += (_LENGTH.pack(len(sealed.data)), sealed.data)
                self.size += len(sealed.data)
            self._pending, self._pending_bytes = [], 0

    def _shape(self, collection: str, names: tuple[str, ...]) -> Shape:
        shape = self._shapes.get((collection, names))
        if shape is None:
            shape = self._shapes[collection, names] = Shape(Kind.PUT, collection, names, "l" * len(names))
        return shape


def read_snapshot(
    reader: ArchiveReader,
    snapshot: Snapshot,
    progress: Callable[[int, int], None] | None = None,
    *,
    compare: bool = True,
) -> Iterator[list[RecordRow]]:
    """The records, a part at a time, everything verified; after the last, the state digest too, unless the caller
    is going to ``compare`` it. Raises a DataError.
    """
    digest = StateDigest()
    done, previous, place = 0, GENESIS, ("", "")
    for part, data in reader.fetch_all((part.object, part) for part in snapshot.parts):
        side = reader.open_meta(part.side.name, reader.fetch(part.side))
        with naming(part.object.name):
            rows, previous = _open_part(reader, part, data, side, previous)
            for row in rows:
                if (row.collection, row.key) <= place:
                    raise Malformed("the records are not in order")
                place = (row.collection, row.key)
            if compare:
                digest.add_all(row[:3] for row in rows)
        done += len(rows)
        yield rows
        if progress is not None:
            progress(done, snapshot.records)
    where = snapshot.parts[0].object.name if snapshot.parts else "the snapshot"
    if done != snapshot.records:
        raise BrokenChain(f"{where}: the snapshot has {done} records, the manifest says {snapshot.records}")
    if compare and (digest.records, digest.hexdigest()) != (snapshot.living, snapshot.digest.hex()):
        raise BrokenChain(f"{where}: the snapshot's state digest is not the manifest's")


def _open_part(
    reader: ArchiveReader, part: PartRef, data: bytes, side: bytes, previous: bytes
) -> tuple[list[RecordRow], bytes]:
    operations: list[Operation] = []
    for segment in _split(data):
        opened = open_segment(segment, identity=reader.identity, ring=reader.ring, check=_check(reader.fleet, previous))
        operations += opened.operations
        previous = opened.id
    try:
        beside, loose = _side_decoder.decode(side)
    except UNDECODABLE as error:
        raise Malformed(f"{part.side.name}: not the side of a snapshot: {error}") from error
    if len(beside) != len(operations) or len(operations) + len(loose) != part.records or previous != part.last_id:
        raise BrokenChain("the part and its side object do not belong together")
    rows = [
        RecordRow(
            operation.shape.collection,
            operation.key,
            operation.values[0] if operation.shape.kind == Kind.IMAGE else fresh_image(operation),
            *extra,
        )
        for operation, extra in zip(operations, beside, strict=True)
    ]
    if loose:
        rows = sorted(
            [*rows, *(RecordRow(*row) for row in loose)], key=lambda row: (row.collection.encode(), row.key.encode())
        )
    return rows, previous


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        if start + _LENGTH.size > len(data):
            raise Malformed("a part that ends in the middle of a length")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if not length or start + length > len(data):
            raise Malformed("a part that ends in the middle of a segment")
        yield data[start : start + length]
        start += length


def _check(fleet: bytes, previous: bytes) -> Callable[[SegmentHeader], None]:
    def check(header: SegmentHeader) -> None:
        if header.fleet != fleet or header.stream != fleet or header.flags != FLAG_STATE:
            raise BrokenChain("it is not state of this fleet")
        if header.previous != previous:
            raise BrokenChain("its segments do not follow each other")

    return check


def state_digest(view: Reading, fleet: bytes) -> StateDigest:
    """Of a whole store: reads every record."""
    digest = StateDigest()
    after: tuple[str, str] | None = None
    while rows := view.records(fleet, after, 10_000, _READ_BYTES_MAX):
        digest.add_all(row[:3] for row in rows)
        after = (rows[-1].collection, rows[-1].key)
    return digest
