"""A search by an approximate index (``tables_ann``), made whole: what the index does not know is searched exactly.

What always holds: scores are those of the exact tier; a record that changed after the index was made is found as by an
exact search; and if fewer candidates are left than recall was measured with (because they have changed, are gone, or do
not pass the filter), the search is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from edge.storage.search import Candidates, Scored
from edge.storage.tables_ann import K_MAX, AnnIndex, AnnIndexes
from edge.storage.tables_ann_build import FAR, digest_of
from edge.storage.tables_errors import Unreadable
from edge.storage.tables_schema import POSITION
from edge.storage.vectors import Query, row_of

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.tables_search import TableSearch
    from edge.storage.tables_table import LanceTable
    from sync.schema import CollectionSchema

Beside = tuple["TableSearch", list[Scored], frozenset[str]]


class NearSearch:
    """Of the tables of one store. ``serve`` runs a read of a table, ``beside`` prepares its search."""

    def __init__(
        self,
        ann: AnnIndexes,
        log: DeltaLog,
        serve: Callable[[str, Callable[[LanceTable], Any]], Any],
        beside: Callable[[LanceTable, Query, int, Candidates], Beside],
    ) -> None:
        self.ann = ann
        self._log = log
        self._serve = serve
        self._beside = beside
        self._newer_rows: dict[str, tuple[tuple[int, int, int], int]] = {}

    def search(
        self, schema: CollectionSchema, query: bytes, k: int, candidates: Candidates
    ) -> tuple[list[Scored], str] | None:
        """The best ``k``, and what the index says of itself. None if there is no index, or this search is not for it:
        search exactly. Raises as ``LanceTables.search_vector``.
        """
        assert schema.vector is not None
        index = self.ann.of(schema) if k <= K_MAX else None
        if index is None:
            return None
        prepared = Query(schema.vector, query)

        def work(table: LanceTable) -> list[Scored] | None:
            tier, found, stale = self._beside(table, prepared, k, candidates)
            newer = self._newer(table, index.position)
            if newer > index.rows // 2:
                return None  # such as when the table was rebuilt, and all of its rows have a new position
            if newer:
                found = tier.vector(prepared, k, found, stale, after=index.position)
            try:
                return near(index, prepared, k, candidates, found, stale)
            except Unreadable as error:
                if self.ann.of(schema) is index:  # else another has taken its place meanwhile
                    self.ann.drop(schema.name, str(error))
                return None

        hits = self._serve(schema.name, work)
        return None if hits is None else (hits, index.says)

    def attend(self, collection: str, *, wanted: bool) -> None:
        """Have the index made where it is ``wanted`` and missing or out of date, in a thread of its own; delete one
        that is not wanted. Raises StorageError.
        """
        if wanted:
            schema, count = self._log.schemas[collection], self._log.count(collection)
            self.ann.attend(schema, count, lambda at: self._serve(collection, lambda table: self._newer(table, at)))
        elif self._log.checkpoint(f"ann:{collection}") is not None:
            self.ann.drop(collection)

    def verify(self) -> list[str]:
        """Hash every index; one that is wrong is dropped. Returns what was wrong."""
        found = []
        for name, schema in sorted(self._log.schemas.items()):
            if schema.vector is not None:
                found += [f"index of {name!r}: {problem}; dropped" for problem in self.ann.verify(schema)[:1]]
        return found

    def _newer(self, table: LanceTable, position: int) -> int:
        """How many of its rows changed after a position; counted once for each state of the table."""
        state = (table.position, table.generation, position)
        held = self._newer_rows.get(table.name)
        if held is None or held[0] != state:
            count = table.handle.count_rows(f"{POSITION} > {position:d}") if table.position > position else 0
            held = self._newer_rows[table.name] = (state, count)
        return held[1]


def near(
    index: AnnIndex, prepared: Query, k: int, may: Candidates, known: Sequence[Scored], stale: Collection[str]
) -> list[Scored] | None:
    """The best ``k`` of the index's candidates and of what is ``known`` from beside it, which the ``stale`` keys are in
    if they are found at all. None: search exactly. Raises Unreadable (of the index).
    """
    import numpy as np

    wanted, most = index.setting.factor * k, index.setting.fetch(FAR)
    fetch = index.setting.fetch(k)
    seen: set[str] = set()
    valid = 0
    hits = {hit.key: hit for hit in known}
    while True:
        found = index.candidates(prepared.row, fetch)
        new = {key: digest for key, digest in found if key not in seen}
        seen.update(new)
        rows, keys = [], []
        for key, fields in may.of([key for key in new if key not in stale]).items():
            stored = fields.get(prepared.spec.field)
            row = row_of(prepared.spec, stored)
            if row is not None and stored is not None and digest_of(stored) == new[key]:
                rows.append(row)
                keys.append(key)
        if rows:
            scores = prepared.exact(np.stack(rows)).tolist()
            hits.update((key, Scored(key, score)) for key, score in zip(keys, scores, strict=True))
        valid += len(rows)
        if valid >= wanted:
            return sorted(hits.values(), key=lambda hit: (-hit.score, hit.key))[:k]
        if fetch >= most or len(found) < fetch:
            return None
        fetch = min(4 * fetch, most)
