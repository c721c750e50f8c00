"""Pages of the feed, sealed by the cloud, for one device at a time.

What always holds: a page holds only operations after the cursor that was asked for, in their order, none
that the asking replica pushed itself (but for state), and its cursor is the last position it covers. It makes
progress: the cursor grows if there is anything after it, even if all of that was the asker's own or filtered
away. It stays within the limits, except that one operation always fits.

A push that is large and wanted whole is passed through as it was packed by the device that made it; one that is wholly
out of scope is passed over, unread: its row says which collections it writes to. Runs
of small ones are unpacked, joined and packed again: a segment costs some 280 bytes, many one-operation
pushes must not cost that each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import compress
from threading import Lock
from typing import NamedTuple

import msgpack

from cloud.ports import Reading
from cloud.rows import FeedRow, Head
from cloud.stream.scopes import Filter
from sync.keys import DeviceKey, KeyRing
from sync.limits import SEGMENT_OPENED_BYTES_MAX, SEGMENT_SEALED_BYTES_MAX
from sync.operations import Operation
from sync.scope import Coverage
from sync.segment import FLAG_FEED, GENESIS, Packed, is_sealable, pack_split, seal_packed, unpack

JOIN_BELOW = 128
PAGE_BYTES_MAX = 3 << 20
_ROWS_PER_READ = 500
_ROWS_PER_PAGE_MAX = 5_000
_PASSED_BYTES_MAX = 16 << 20  # that are read for a page and are out of scope, packed
# Packed, a run that is joined stays far below what a sealed segment may hold.
_RUN_BYTES_MAX = SEGMENT_SEALED_BYTES_MAX // 2
_RUN_PLAIN_MAX = SEGMENT_OPENED_BYTES_MAX // 2


class Sealer(NamedTuple):
    """Seals what the cloud says to the devices of one fleet in one incarnation."""

    fleet: bytes
    incarnation: bytes
    replica: bytes
    ring: KeyRing
    key: DeviceKey

    def seal(self, packed: Packed, flags: int, first: int, clear: bytes = b"") -> bytes:
        sealed = seal_packed(
            packed,
            fleet=self.fleet,
            stream=self.incarnation,
            replica=self.replica,
            first_seq=first,
            previous=GENESIS,
            ring=self.ring,
            signer=self.key,
            flags=flags,
            clear=clear,
        )
        return sealed.data


class Page(NamedTuple):
    segments: list[bytes]
    cursor: int


class RowCache:
    """Operations of feed rows, unpacked, the most recently used; bounded by their packed-out bytes.
    Thread-safe.
    """

    def __init__(self, plain_bytes_max: int = 16 << 20) -> None:
        self._most = plain_bytes_max
        self._size = 0
        self._rows: OrderedDict[tuple[bytes, int], tuple[int, list[Operation]]] = OrderedDict()
        self._lock = Lock()

    def operations(self, incarnation: bytes, row: FeedRow) -> list[Operation]:
        """Not to be changed. Raises Malformed if the store's bytes are damaged."""
        place = (incarnation, row.first)
        with self._lock:
            found = self._rows.get(place)
            if found is not None:
                self._rows.move_to_end(place)
                return found[1]
        operations = unpack(row.packed, row.plain_length)
        self.put(incarnation, row, operations)
        return operations

    def put(self, incarnation: bytes, row: FeedRow, operations: list[Operation]) -> None:
        place = (incarnation, row.first)
        with self._lock:
            if place in self._rows or row.plain_length > self._most:
                return
            self._rows[place] = (row.plain_length, operations)
            self._size += row.plain_length
            while self._size > self._most:
                _, (size, _) = self._rows.popitem(last=False)
                self._size -= size


class PageBuilder:
    """One page. ``replica`` asks; ``cursor`` is where it is."""

    def __init__(
        self,
        sealer: Sealer,
        cache: RowCache,
        replica: bytes,
        cursor: int,
        max_operations: int,
        max_bytes: int,
        scope: Filter | None = None,
    ) -> None:
        self._sealer = sealer
        self._cache = cache
        self._replica = replica
        self._cursor = cursor
        self._operations_left = max(1, max_operations)
        self._bytes_left = max(1, min(max_bytes, PAGE_BYTES_MAX))
        self._scope = scope
        self._segments: list[bytes] = []
        self._run: list[Operation] = []
        self._positions: list[int] = []
        self._run_bytes = 0
        self._run_plain = 0
        self._passed_bytes = 0

    def build(self, view: Reading, head: Head) -> Page:
        scanned = 0
        while self._cursor < head.position and scanned < _ROWS_PER_PAGE_MAX:
            rows = view.feed(self._sealer.fleet, self._cursor, _ROWS_PER_READ, max(self._bytes_left, 1 << 16))
            scanned += len(rows)
            if not rows or not all(self._take(row) for row in rows):
                break
        self._end_run()
        return Page(self._segments, self._cursor)

    def _take(self, row: FeedRow) -> bool:
        """False when the page is full."""
        if row.replica == self._replica and not row.state:  # state may be a clone's, which leaves no trace in the chain
            self._cursor = row.last
            return True
        covered = self._covered(row)
        if covered is Coverage.NONE:
            self._cursor = row.last
            self._passed_bytes += len(row.packed)
            return self._passed_bytes < _PASSED_BYTES_MAX
        count = row.last - self._cursor if row.first <= self._cursor else row.last - row.first + 1
        size = len(row.packed) * count // (row.last - row.first + 1)
        whole = count <= self._operations_left and size <= self._bytes_left
        if not whole and self._started:
            return False
        if whole and row.first > self._cursor and covered is Coverage.ALL and count >= JOIN_BELOW:
            return self._pass_through(row)
        operations = self._cache.operations(self._sealer.incarnation, row)[-count:]
        if not whole:
            fitting = min(self._operations_left, max(1, count * self._bytes_left // max(1, size)))
            operations = operations[:fitting]
        scope = None if covered is Coverage.ALL else self._scope
        return self._join(operations, row.last - count + 1, size, row.plain_length, scope) and whole

    def _covered(self, row: FeedRow) -> Coverage:
        """How much of a row is in scope, as far as that can be told without unpacking it."""
        scope = self._scope
        if scope is None:
            return Coverage.ALL
        told = [scope.covers(name) for name in row.collections]
        return told[0] if told and told.count(told[0]) == len(told) else Coverage.SOME

    @property
    def _started(self) -> bool:
        return bool(self._segments or self._run)

    def _pass_through(self, row: FeedRow) -> bool:
        self._end_run()
        packed = Packed(row.packed, row.plain_length, row.last - row.first + 1, row.min_ts, row.max_ts)
        if is_sealable(packed):
            self._segments.append(self._seal(packed, row.first, row.last))
        else:  # it just fitted its own segment; the clear meta is one too many
            operations = self._cache.operations(self._sealer.incarnation, row)
            self._seal_run(operations, range(row.first, row.last + 1), row.last)
        self._operations_left -= packed.count
        self._bytes_left -= len(packed.data)
        self._cursor = row.last
        return True

    def _join(self, operations: list[Operation], first: int, size: int, plain: int, scope: Filter | None) -> bool:
        """Into the run of small ones. Its operations need not be dense: what is filtered away is covered,
        not sent.
        """
        if self._run and (self._run_bytes + size > _RUN_BYTES_MAX or self._run_plain + plain > _RUN_PLAIN_MAX):
            self._end_run()
        self._operations_left -= len(operations)
        self._bytes_left -= size
        last = first + len(operations) - 1
        positions: Sequence[int] = range(first, last + 1)
        if scope is not None:
            wanted = [scope.has(operation.shape.collection, operation.key) for operation in operations]
            operations = list(compress(operations, wanted))
            positions = list(compress(positions, wanted))
        if operations and not self._run:
            self._run_bytes = self._run_plain = 0
        self._run += operations
        self._positions += positions
        self._run_bytes += size
        self._run_plain += plain
        self._cursor = last
        return self._operations_left > 0 and self._bytes_left > 0

    def _end_run(self) -> None:
        if self._run:
            run, self._run = self._run, []
            positions, self._positions = self._positions, []
            self._seal_run(run, positions, self._cursor)

    def _seal_run(self, run: list[Operation], positions: Sequence[int], last: int) -> None:
        """In pieces, if one segment cannot hold it: each covers from its first operation to before the next
        one's, the last one to ``last``.
        """
        start = 0
        for packed in pack_split(run):
            end = start + packed.count
            through = positions[end] - 1 if end < len(run) else last
            self._segments.append(self._seal(packed, positions[start], through))
            start = end

    def _seal(self, packed: Packed, first: int, last: int) -> bytes:
        return self._sealer.seal(packed, FLAG_FEED, first, msgpack.packb([last]))
