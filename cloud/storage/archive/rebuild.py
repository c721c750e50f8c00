"""Filling a new store quickly: records and feed rows, by the batch.

What always holds: the rows are those that ``cloud.storage.fold`` makes of the operations, in order of their
positions. For speed, rows that were written stay at hand, so that a key is looked up in the store only if it may
be there and is not at hand; with a bound on what is held, in rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import msgpack

from cloud.ports import Store, Transaction
from cloud.rows import FeedRow, RecordRow, record_row
from cloud.storage.fold import fold_row, is_plain_write
from sync.operations import Operation

HELD_ROWS_MAX = 100_000
FLUSH_OPERATIONS = 20_000

Place = tuple[str, str]
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Rebuilder:
    """``load`` a snapshot's rows, then ``fold`` the feed, then ``finish``."""

    def __init__(self, store: Store, fleet: bytes) -> None:
        self._store = store
        self._fleet = fleet
        self._rows: dict[Place, RecordRow] = {}
        self._all_here = True  # nothing in the store that is not in _rows
        self._fresh: list[RecordRow] = []  # new since the last flush, in the order of their writes
        self._changed: set[Place] = set()  # written again since then
        self._feed: list[FeedRow] = []
        self._operations = 0

    def load(self, rows: Sequence[RecordRow]) -> None:
        """Rows as they are to be."""
        with self._store.writing(durable=False) as tx:
            tx.put_records(self._fleet, rows)
        if len(self._rows) + len(rows) <= HELD_ROWS_MAX and self._all_here:
            self._rows.update(((row.collection, row.key), row) for row in rows)
        else:
            self._rows.clear()
            self._all_here = False

    def fold(self, first: int, operations: Sequence[Operation], row: FeedRow) -> None:
        """Operations at the positions from ``first``, and the row of the feed that carries them."""
        if not self._all_here:
            self._fetch(operations)
        if not self._fold_fresh(first, operations):
            rows, changed = self._rows, self._changed
            for position, operation in enumerate(operations, first):
                place = (operation.shape.collection, operation.key)
                folded = fold_row(rows.get(place), operation, position)
                if folded is not None:
                    rows[place] = folded
                    changed.add(place)
        self._feed.append(row)
        self._operations += len(operations)
        if self._operations >= FLUSH_OPERATIONS:
            self.finish()

    def _fold_fresh(self, first: int, operations: Sequence[Operation]) -> bool:
        """The commonest segment, first writes of plain records of one shape: what ``fold_row`` does, by the column.

        False, and nothing done, if it is any other.
        """
        shape = operations[0].shape
        if not is_plain_write(operations[0]):
            return False
        collection, names = shape.collection, shape.names
        keys = [operation.key for operation in operations if operation.shape is shape]
        places = [(collection, key) for key in keys]
        if len(places) != len(operations) or len(set(keys)) != len(keys) or not self._rows.keys().isdisjoint(places):
            return False
        images = [
            _pack([ts, replica, dict(zip(names, values, strict=True))])
            for replica, _, ts, _, _, _, values in operations
        ]
        positions = range(first, first + len(keys))
        nothing = repeat(b"")
        made = list(map(record_row, zip(repeat(collection), keys, images, positions, nothing, nothing, strict=False)))
        self._rows.update(zip(places, made, strict=True))
        self._fresh += made
        return True

    def finish(self) -> None:
        """Write what has gathered."""
        with self._store.writing(durable=False) as tx:
            self._flush(tx)

    def _flush(self, tx: Transaction) -> None:
        self._fresh.sort()  # by collection and key: the index is filled page by page
        tx.put_records(self._fleet, self._fresh)
        tx.put_records(self._fleet, [self._rows[place] for place in sorted(self._changed)])
        tx.append_feed(self._fleet, self._feed)
        self._fresh, self._changed, self._feed, self._operations = [], set(), [], 0
        if len(self._rows) > HELD_ROWS_MAX:
            self._rows.clear()
            self._all_here = False

    def _fetch(self, operations: Sequence[Operation]) -> None:
        missing: dict[str, list[str]] = {}
        for operation in operations:
            if (operation.shape.collection, operation.key) not in self._rows:
                missing.setdefault(operation.shape.collection, []).append(operation.key)
        with self._store.reading() as view:
            for collection, keys in missing.items():
                found = view.lookup(self._fleet, collection, keys)
                self._rows.update(((collection, key), row) for key, row in found.items())
