"""Feed rows → archive segments. Large rows pass through as they are; small neighbours are packed into one.

What always holds: the segments cover the rows' positions in order and without a gap, each within the bounds of
a segment, each continuing the id of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cloud.rows import FeedRow
from cloud.storage.archive.manifest import RowRef
from sync.keys import DeviceKey, KeyRing
from sync.segment import FLAG_FEED, Packed, Sealed, is_sealable, pack_split, seal_packed, unpack
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
        refs = [RowRef(row.first, row.last, row.replica, row.state, row.at_ms, row.segment) for row in group]
        first = group[0].first
        for packed in _pieces(group):
            last = first + packed.count - 1
            sealed = sealer.seal(packed, first=first, previous=previous, flags=FLAG_FEED)
            yield FeedSegment(sealed, _slice(refs, first, last))
            previous, first = sealed.id, last + 1


def _pieces(group: Sequence[FeedRow]) -> Iterator[Packed]:
    """One, or several where one would be over a bound: a row may just have fitted its own segment, and small rows
    together may hold more lists and maps than a segment may.
    """
    if len(group) == 1:
        row = group[0]
        packed = Packed(row.packed, row.plain_length, row.last - row.first + 1, row.min_ts, row.max_ts)
        if is_sealable(packed):
            yield packed
            return
    yield from pack_split([operation for row in group for operation in unpack(row.packed, row.plain_length)])


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
