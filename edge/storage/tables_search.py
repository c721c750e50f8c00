"""Searches of one Lance table: vector, text, keys by filter. Lance contributes candidates; the log has the last word.

What always holds: a filter's predicate is evaluated on the fields in the record images, and vector scores are computed
from them, by the same function as in the exact tier. So a damaged row can hide a record until ``verify``, but cannot
put one into a result where its vector does not belong, or show it with a wrong score.

Ties are broken by key: a search goes on fetching until the last candidate is worse than the k-th hit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from edge.storage.overlay import Overlay
from edge.storage.search import Candidates, Scored
from edge.storage.tables_filters import expression, narrowing
from edge.storage.tables_schema import KEY, POSITION, column_name
from edge.storage.vectors import Query, lengths_of, ranking, row_of

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

    from edge.storage.tables_schema import Column
    from edge.storage.vectors import Floats, Places
    from sync.schema import CollectionSchema

FETCH_MARGIN = 6
FETCH_GROWTH = 4
TEXT_FETCH_MAX = 10_000
_KEYS_PER_BATCH = 1000
_NOT = float("-inf")


class TableSearch:
    """The searches of the table behind ``handle``, whose layout is ``columns``, for some of the ``candidates``."""

    def __init__(
        self, candidates: Candidates, schema: CollectionSchema, columns: Sequence[Column], handle: Table
    ) -> None:
        self.candidates = candidates
        self._schema = schema
        self._columns = columns
        self._handle = handle

    def vector(
        self,
        prepared: Query,
        k: int,
        found: Sequence[Scored],
        stale: Collection[str],
        *,
        least: float = _NOT,
        after: int = -1,
    ) -> list[Scored]:
        """The best ``k`` of Lance's rows, but for the ``stale`` keys, and of what was ``found`` outside the table; none
        that scores below ``least``. ``after``: only of rows that changed after this position.
        """
        spec = prepared.spec
        query = self._query().nearest_to(prepared.row).column(column_name(spec.field)).distance_type(spec.metric)
        query = self._narrowed(query, after).select([KEY, "_distance"])
        exact: dict[str, float] = {}
        longest = 0.0
        fetch = k + FETCH_MARGIN
        while True:
            rows = _run(query.limit(fetch))
            keys = rows[KEY].to_pylist()
            fresh = [key for key in keys if key not in exact and key not in stale]
            scores, length = self._scores(prepared, fresh)
            exact.update(scores)
            longest = max(longest, length)
            hits = _best([*found, *(Scored(key, exact[key]) for key in keys if exact.get(key, _NOT) > _NOT)], k)
            hits = [hit for hit in hits if hit.score >= least]
            if rows.num_rows < fetch:
                return hits
            beyond = _at_most(prepared, max(rows["_distance"].to_pylist()), longest)
            if beyond < least or (len(hits) == k and hits[-1].score > beyond):
                return hits
            fetch *= FETCH_GROWTH

    def text(self, text: str, k: int) -> list[Scored]:
        """The best ``k`` by BM25 over the schema's text fields: a record's score is that of its best field.

        The words of ``text`` are words: quotes, operators and the like mean nothing. Lance evaluates a filter on every
        row before it looks for words (17 ms for a memory's, at 100,000 rows, where the words take 4). So it is given
        none at first, and what it ranks first is asked whether it passes; only if far too few do, it is given one.
        """
        from lancedb import query as kinds

        queries: Any = kinds  # its annotations ask for every argument that has a default
        fields = [column_name(field) for field in self._schema.text]
        match = queries.MatchQuery(text, fields[0]) if len(fields) == 1 else queries.MultiMatchQuery(text, fields)
        query = self._query().nearest_to_text(match).select([KEY, "_score"])
        narrower = narrowing(self.candidates.where, self._columns)
        fetch = k + FETCH_MARGIN
        while True:
            rows = _run(query.limit(fetch))
            ranked = list(map(Scored, rows[KEY].to_pylist(), rows["_score"].to_pylist()))
            hits = self._first(ranked, k)
            if len(hits) == k and (hits[-1].score > min(hit.score for hit in ranked) or fetch >= TEXT_FETCH_MAX):
                return hits
            if rows.num_rows < fetch:
                return hits
            if len(hits) == k:  # only the order of those that score the same is open
                fetch *= FETCH_GROWTH * FETCH_GROWTH
                if fetch > TEXT_FETCH_MAX and (left := list(narrower)):
                    query = query.where(left[-1])
                continue
            fetch *= FETCH_GROWTH
            if len(hits) * FETCH_GROWTH < k or fetch > TEXT_FETCH_MAX:
                pushed = next(narrower, None)
                if pushed is not None:
                    query, fetch = query.where(pushed), k + FETCH_MARGIN

    def _first(self, ranked: Sequence[Scored], k: int) -> list[Scored]:
        """The best ``k`` of the candidates among the ``ranked``; those behind them are not looked at."""
        hits: list[Scored] = []
        ranked = _best(ranked, len(ranked))
        for at in range(0, len(ranked), k + FETCH_MARGIN):
            page = ranked[at : at + k + FETCH_MARGIN]
            passing = self.candidates.of([hit.key for hit in page])
            hits += [hit for hit in page if hit.key in passing]
            if len(hits) >= k:
                break
        return hits[:k]

    def keys(self) -> list[str]:
        """The keys of all rows that may match, in order."""
        found: list[str] = []
        for batch in self._narrowed(self._handle.search()).select([KEY]).to_batches(_KEYS_PER_BATCH):
            found += batch.column(KEY).to_pylist()
        return sorted(found)

    def narrowed(self) -> frozenset[str] | None:
        """The keys of all rows that pass what is asked plainly; None if nothing is."""
        pushed = next(narrowing(self.candidates.where, self._columns), None)
        if pushed is None:
            return None
        return frozenset(_run(self._query().where(pushed).select([KEY]))[KEY].to_pylist())

    def _query(self) -> Any:
        """A query in lancedb's asynchronous interface: the synchronous one on top of it asks the table for its schema
        three times a search, which is two of twenty milliseconds. The table behind both is the same.
        """
        handle: Any = self._handle
        return handle._table.query()  # noqa: SLF001

    def _narrowed(self, query: Any, after: int = -1) -> Any:
        pushed = expression(self.candidates.where, self._columns)
        if after >= 0:
            from lancedb.expr import col, lit

            newer = col(POSITION) > lit(after)
            pushed = newer if pushed is None else pushed & newer
        return query if pushed is None else query.where(pushed)

    def _scores(self, query: Query, keys: Sequence[str]) -> tuple[dict[str, float], float]:
        """Exact scores, -inf for a record that is gone, has no vector or does not pass; and the longest length."""
        import numpy as np

        scores = dict.fromkeys(keys, _NOT)
        rows: list[Floats] = []
        scored: list[str] = []
        for key, fields in self.candidates.of(keys).items():
            row = row_of(query.spec, fields.get(query.spec.field))
            if row is not None:
                rows.append(row)
                scored.append(key)
        if not rows:
            return scores, 0.0
        stacked = np.stack(rows)
        lengths = lengths_of(query.spec, stacked)
        scores.update(zip(scored, query.exact(stacked).tolist(), strict=True))
        return scores, 1.0 if lengths is None else float(lengths.max())

    def overlay(self, query: Query, k: int, overlay: Overlay) -> list[Scored]:
        """The best ``k`` of the records that changed since the table was written."""
        import numpy as np

        rows, lengths = overlay.rows, overlay.lengths
        dead = np.array(overlay.dead(), dtype=np.intp)

        def rows_at(places: Places) -> Floats:
            return rows[places]

        found: list[Scored] = []
        bound = query.error_bound(lengths)
        for places, exact in ranking(query, query.approximate(rows, lengths), bound, dead, rows_at, k):
            keys = [overlay.keys[place] for place in places.tolist()]
            passing = frozenset(keys) if self.candidates.where is None else self.candidates.of(keys)
            for key, score in zip(keys, exact.tolist(), strict=True):
                if key in passing:
                    found.append(Scored(key, score))
            if len(found) >= k:
                break
        return found


def _run(query: Any) -> pa.Table:
    """Execute an asynchronous query in lancedb's own event loop, which its synchronous interface uses too."""
    from lancedb.background_loop import LOOP

    loop: Any = LOOP
    return loop.run(query.to_arrow())


def _at_most(query: Query, distance: float, longest: float) -> float:
    """What a row that Lance puts behind ``distance`` can score at most, given that Lance computes in float32.

    Exact for cosine and l2 (whose error is relative to the distance itself). A dot product's error grows with the
    row's length, of which only those that were fetched are known: ``longest``. Lance subtracts it from 1: of one that
    is next to nothing, nothing is left.
    """
    relative = 2 * (query.spec.dimensions + 16) * 2.0**-24
    lost = 2 * (query.spec.dimensions + 16) * 2.0**-126  # of products next to nothing (``Query.error_bound``)
    if query.spec.metric == "l2":
        return lost - distance * (1.0 - relative)
    return 1.0 - distance + relative * longest * query.length + 2.0**-23


def _best(hits: Sequence[Scored], k: int) -> list[Scored]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.key))[:k]
