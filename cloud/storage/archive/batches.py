"""Feed rows → archive segments. Large rows pass through as they are; small neighbours are packed into one.

What always holds: the segments cover the rows' positions in order and without a gap, each within the bounds of
a segment, each continuing the id of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cloud.rows import FeedRow
from cloud.storage.archive.manifest import RowRef
from sync.errors import TooLarge
from sync.keys import DeviceKey, KeyRing
from sync.operations import Operation
from sync.segment import FLAG_FEED, Packed, Sealed, pack, seal_packed, unpack
from sync.stamps import replica_id

PASS_BYTES_MIN = 64 << 10
JOINED_BYTES_MAX = 512 << 10
JOINED_PLAIN_BYTES_MAX = 4 << 20
JOINED_OPERATIONS_MAX = 10_000


class Sealer(NamedTuple):
    """Who seals the segments of one fleet's archive."""

    fleet: bytes
    ring: KeyRing
    signer: DeviceKey
    generation: int

    @property
    def replica(self) -> bytes:
        return replica_id(self.signer.device_id, self.generation)

    def seal(self, packed: Packed, *, first: int, previous: bytes, flags: int) -> Sealed:
        return seal_packed(
            packed,
            fleet=self.fleet,
            stream=self.fleet,
            replica=self.replica,
            first_seq=first,
            previous=previous,
            ring=self.ring,
            signer=self.signer,
            flags=flags,
        )


class FeedSegment(NamedTuple):
    """A sealed segment, and the rows in it."""

    sealed: Sealed
    rows: list[RowRef]


def feed_segments(rows: Sequence[FeedRow], sealer: Sealer, previous: bytes) -> Iterator[FeedSegment]:
    """Raises Malformed if a row's columns are not what they should be."""
    for group in _groups(rows):
        packed = _whole(group[0]) if len(group) == 1 else pack(_operations(group))
        refs = [RowRef(row.first, row.last, row.replica, row.state, row.at_ms, row.segment) for row in group]
        for segment in _sealed(packed, refs, sealer, previous):
            previous = segment.sealed.id
            yield segment


def _groups(rows: Sequence[FeedRow]) -> Iterator[list[FeedRow]]:
    """Runs of neighbours that go into one segment: alike in ``state``, and small together."""
    group: list[FeedRow] = []
    size = plain = operations = 0
    for row in rows:
        count = row.last - row.first + 1
        large = len(row.packed) >= PASS_BYTES_MIN
        fits = (
            group
            and not large
            and row.state == group[-1].state
            and size + len(row.packed) <= JOINED_BYTES_MAX
            and plain + row.plain_length <= JOINED_PLAIN_BYTES_MAX
            and operations + count <= JOINED_OPERATIONS_MAX
        )
        if group and not fits:
            yield group
            group, size, plain, operations = [], 0, 0, 0
        group.append(row)
        size, plain, operations = size + len(row.packed), plain + row.plain_length, operations + count
        if large:
            yield group
            group, size, plain, operations = [], 0, 0, 0
    if group:
        yield group


def _sealed(packed: Packed, refs: list[RowRef], sealer: Sealer, previous: bytes) -> Iterator[FeedSegment]:
    """One segment, or several where one would be too large (a row may be as large as a segment, and then some)."""
    first = refs[0].first
    try:
        yield FeedSegment(sealer.seal(packed, first=first, previous=previous, flags=FLAG_FEED), refs)
        return
    except TooLarge:
        if packed.count == 1:
            raise
    operations = unpack(packed.data, packed.plain_length)
    half = len(operations) // 2
    halves = (
        (operations[:half], _slice(refs, first, first + half - 1)),
        (operations[half:], _slice(refs, first + half, refs[-1].last)),
    )
    for part, inside in halves:
        for segment in _sealed(pack(part), inside, sealer, previous):
            previous = segment.sealed.id
            yield segment


def _slice(refs: list[RowRef], first: int, last: int) -> list[RowRef]:
    """The rows within these positions; one that is cut keeps its segment's id only where it ends."""
    return [
        RowRef(
            max(ref.first, first),
            min(ref.last, last),
            ref.replica,
            ref.state,
            ref.at_ms,
            ref.segment if ref.last <= last else b"",
        )
        for ref in refs
        if ref.first <= last and ref.last >= first
    ]


def _whole(row: FeedRow) -> Packed:
    return Packed(row.packed, row.plain_length, row.last - row.first + 1, row.min_ts, row.max_ts)


def _operations(rows: Sequence[FeedRow]) -> list[Operation]:
    return [operation for row in rows for operation in unpack(row.packed, row.plain_length)]
