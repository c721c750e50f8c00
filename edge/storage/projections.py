"""What is searched: chooses the tier that answers, and keeps the projections alive behind the delta log.

Two tiers, both derived from the log and rebuildable from its images. *exact*: all vectors of a collection in one
matrix, scanned whole; serves vector search while they fit the memory budget, and never imports lancedb. *lance*:
LanceDB tables; they serve text, and vectors above the budget. Hybrid search asks both. A search sees every acknowledged
write in both.

What always holds: nothing here is touched by open, put or get. The background thread (``care``) starts with the first
use of the lance tier, or by ``start``; what goes wrong in it stops nobody, shows in ``status`` and is tried again. The
log is never trimmed beyond what a projection still has to read from it.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sync.errors import AgentDBError, StorageError
from sync.schema import CollectionSchema, pack_vector

if TYPE_CHECKING:
    from edge.storage.care import Care
    from edge.storage.delta_log import DeltaLog
    from edge.storage.exact import ExactIndex
    from edge.storage.filters import Filter
    from edge.storage.search import Candidates, Scored
    from edge.storage.tables import LanceTables

FLOAT_BYTES = 4
ANN_ROWS_MIN = 100_000
ANN_BYTES_MAX = 1 << 30
_ANN_MAKING = 2  # times the vectors' own size: 290 MB at 100,000 x 384
_ANN_KEEP = 0.8  # of as many rows as it is made from: an index is not made and deleted in turn
TRIM_ROWS = 1_000  # fewer are not worth the commits of a trim
_BEHIND_MAX = 4_096  # changes that a matrix may be behind while there is much to write
_EXACT, _LANCE = "exact", "lance"
_ASIDE_BYTES_MIN = 4 << 20  # of vectors: from here on a hybrid search scans them while the text is searched

Nearest = tuple[list["Scored"], str, str]  # and the tier, and why it answered


class Found(NamedTuple):
    """(key, score) best first, the fields of those that live still, the tier that answered, and why it did."""

    hits: list[Scored]
    fields: Mapping[str, dict[str, Any]]
    tier: str
    why: str


class Projections:
    """``directory`` holds ``lance/``, ``exact/`` and ``ann/``. ``exact_bytes_max`` is the budget of one collection's
    matrix; ``ann_rows_min`` from how many records on an approximate index is made of what is beyond it, if that takes
    no more than ``ann_bytes_max`` in memory; ``besides`` is what else is to be done in a round of care.
    """

    def __init__(
        self,
        log: DeltaLog,
        directory: str,
        *,
        exact_bytes_max: int,
        flush_interval_ms: int,
        ann_rows_min: int = ANN_ROWS_MIN,
        ann_bytes_max: int = ANN_BYTES_MAX,
        besides: Callable[[], None] = lambda: None,
    ) -> None:
        self._besides = besides
        self._log = log
        self._directory = directory
        self._exact_bytes_max = exact_bytes_max
        self._flush_interval_ms = flush_interval_ms
        self._ann_rows_min = ann_rows_min
        self._ann_bytes_max = ann_bytes_max
        self._lock = allocate_lock()
        self._counts: dict[str, tuple[int, int]] = {}  # collection -> (log position, records then)
        self._exact: dict[str, ExactIndex] = {}
        self._tables: LanceTables | None = None
        self._care: Care | None = None
        self._closed = False
        self._trimmed = 0
        self._tidied = -1

    # -- searching ----------------------------------------------------------------------------------------------------

    def search(
        self,
        schema: CollectionSchema,
        text: str | None,
        vector: Any,
        k: int,
        expression: Mapping[str, Any] | None,
        mode: str | None,
    ) -> Found:
        """Raises InvalidValue, SchemaMismatch, InvalidFilter, StorageError."""
        from edge.storage.search import Candidates, at_once, depth_for, fuse, mode_of

        mode = mode_of(schema, text, vector, mode)
        candidates = Candidates(self._log, schema.name, self._filter(schema, expression))
        query = b""
        if mode != "text":
            assert schema.vector is not None
            query = pack_vector(vector, schema.vector.dimensions, schema.vector.field)
        if mode == "vector":
            hits, tier, why = self._nearest(schema, query, k, candidates)
            return _found(hits, candidates, tier, why)
        assert text is not None
        why = f"BM25 over {', '.join(schema.text)}"
        if mode == "text":
            return _found(
                self.tables().search_text(schema.name, text, k, candidates=candidates), candidates, _LANCE, why
            )
        assert schema.vector is not None
        depth = depth_for(k)

        def nearest() -> Nearest:
            return self._nearest(schema, query, depth, candidates)

        def by_text() -> list[Scored]:
            return self.tables().search_text(schema.name, text, depth, candidates=candidates)

        if self._matrix_bytes(schema) < _ASIDE_BYTES_MIN:
            ranked, (hits, tier, _) = by_text(), nearest()
        else:
            ranked, (hits, tier, _) = at_once(by_text, nearest)
        why += f" and the vectors of {schema.vector.field} in the {tier} tier, fused by reciprocal rank"
        return _found(fuse([hits, ranked], k), candidates, _LANCE, why)

    def _nearest(self, schema: CollectionSchema, query: bytes, k: int, candidates: Candidates) -> Nearest:
        size = self._matrix_bytes(schema)
        why = f"the vectors take {size} bytes, the budget is {self._exact_bytes_max}"
        if size <= self._exact_bytes_max:
            return self._scanned(schema, query, k, candidates), _EXACT, why
        tables = self.tables()
        near = tables.near.search(schema, query, k, candidates)
        if near is not None:
            return near[0], _LANCE, f"{why}; {near[1]}"
        return tables.search_vector(schema.name, query, k, candidates=candidates), _LANCE, why

    def _scanned(
        self, schema: CollectionSchema, query: bytes, k: int, candidates: Candidates, least: float = float("-inf")
    ) -> list[Scored]:
        """The exact tier needs no table, but one that is open can say where few records pass."""
        passing = None if candidates.where is None else candidates.of
        narrowed = None if passing is None or self._tables is None else partial(self._tables.narrowed, candidates)
        return self.exact(schema).search(query, k, passing, least, narrowed)

    def within(
        self, schema: CollectionSchema, vector: Any, least: float, k: int, expression: Mapping[str, Any] | None
    ) -> Found:
        """The best ``k`` by vector of those that score at least ``least``: always exact. Raises as ``search``."""
        from edge.storage.search import Candidates, mode_of

        mode_of(schema, None, vector, "vector")
        candidates = Candidates(self._log, schema.name, self._filter(schema, expression))
        assert schema.vector is not None
        query = pack_vector(vector, schema.vector.dimensions, schema.vector.field)
        if self._matrix_bytes(schema) <= self._exact_bytes_max:
            return _found(self._scanned(schema, query, k, candidates, least), candidates, _EXACT, "")
        hits = self.tables().search_vector(schema.name, query, k, candidates=candidates, least=least)
        return _found(hits, candidates, _LANCE, "")

    def matcher(
        self, schema: CollectionSchema, expression: Mapping[str, Any] | None
    ) -> Callable[[Mapping[str, Any]], bool] | None:
        """A filter as a function of a record's fields; None if it lets everything pass. Raises InvalidFilter."""
        where = self._filter(schema, expression)
        return None if where is None else where.matches

    def _filter(self, schema: CollectionSchema, expression: Mapping[str, Any] | None) -> Filter | None:
        if expression is None:
            return None
        from edge.storage.filters import parse

        return parse(expression, schema)

    def _matrix_bytes(self, schema: CollectionSchema) -> int:
        """What the collection's vectors take, to about 1 %: counting costs a millisecond at 20,000 records, so it is
        done anew only when as many changes as a hundredth of the records have been made.
        """
        assert schema.vector is not None
        position = self._log.position
        at, count = self._counts.get(schema.name, (0, 0))
        if not at <= position <= at + count // 100:
            at, count = self._counts[schema.name] = (position, self._log.count(schema.name))
        return count * schema.vector.dimensions * FLOAT_BYTES

    # -- the tiers ----------------------------------------------------------------------------------------------------

    def exact(self, schema: CollectionSchema) -> ExactIndex:
        """The exact tier of a collection, opened with its first use."""
        with self._lock:
            self._check_open()
            found = self._exact.get(schema.name)
            if found is None or found.spec != schema.vector:
                if found is not None:
                    found.retire()
                found = self._exact[schema.name] = self._new_index(schema)
            return found

    def _new_index(self, schema: CollectionSchema) -> ExactIndex:
        from edge.storage.exact import ExactIndex

        return ExactIndex(self._directory, self._log, schema)

    def tables(self) -> LanceTables:
        """The Lance tier, opened with its first use, and from then on kept up to date in the background."""
        with self._lock:
            self._check_open()
            if self._tables is None:
                self._tables = self._new_tables()
            tables = self._tables
        self.start()
        return tables

    def _new_tables(self) -> LanceTables:
        from edge.storage.tables import LanceTables

        return LanceTables(self._directory, self._log)

    def lance(self, name: str) -> Any:
        return self.tables().lance(name)

    def to_arrow(self, name: str) -> Any:
        return self.tables().to_arrow(name)

    def position(self) -> int:
        """Up to here the log has been read by every projection that exists."""
        log = self._log
        notes = [self._noted(_LANCE), *(self._noted(f"{_EXACT}:{name}") for name in list(log.schemas))]
        return min([log.position, *(int(note["position"]) for note in notes if note is not None)])

    def _noted(self, name: str) -> Mapping[str, Any] | None:
        """The checkpoint of one of the store's projections."""
        return self._log.checkpoint(name)

    # -- care ---------------------------------------------------------------------------------------------------------

    def start(self, *, with_tables: bool = False) -> None:
        """Start the background thread, unless it runs. It keeps the Lance tables up to date if they are in use, or if
        ``with_tables`` asks for them (which imports lancedb: 1.5 s and 130 MB, in that thread), and trims the log.
        """
        with self._lock:
            self._check_open()
            if self._care is None:
                from edge.storage.care import Care

                self._care = Care(self._log, self.attend, self._flush_interval_ms)
        if with_tables:
            self.tables()

    def maintain(self) -> None:
        """Rounds of care, now, until there is nothing left to do. Raises StorageError."""
        self.start(with_tables=self._log.checkpoint(_LANCE) is not None)
        if (care := self._care) is not None:  # else it was closed meanwhile
            care.now()

    def attend(self) -> None:
        """One round of care. What is to be done besides may fail: it holds up nothing else."""
        try:
            self._besides()
        finally:
            tables = self._tables
            if tables is not None:
                idle = self._log.position == self._tidied
                tables.flush()
                while tables.maintain():
                    pass
                self._attend_indexes(tables)
                if idle:
                    tables.rest()
            self.tidy()

    def tidy(self) -> None:
        """Bring the matrices up to the log where they would keep it from being trimmed, trim it, and give the space
        back; more of it when nothing was written since the last time. Raises StorageError.
        """
        position = self._log.position
        idle, self._tidied = position == self._tidied, position
        for name, schema in sorted(self._log.schemas.items()):
            note = self._log.checkpoint(f"{_EXACT}:{name}") if schema.vector is not None else None
            if note is not None and position - int(note["position"]) >= TRIM_ROWS:
                self.exact(schema).keep_up(TRIM_ROWS if idle else _BEHIND_MAX)
        self._log.void(idle=idle)
        self.trim(TRIM_ROWS)
        self._log.reclaim(idle=idle)

    def _attend_indexes(self, tables: LanceTables) -> None:
        """An approximate index, where LanceDB serves the vectors of many records."""
        for name, schema in list(self._log.schemas.items()):
            if schema.vector is None or self._log.checkpoint(f"{_LANCE}:{name}") is None:
                continue
            size = self._matrix_bytes(schema)
            fits = self._exact_bytes_max < size <= self._ann_bytes_max // _ANN_MAKING
            has = self._log.checkpoint(f"ann:{name}") is not None
            least = self._ann_rows_min * (_ANN_KEEP if has else 1.0)
            tables.near.attend(name, wanted=fits and self._counts[name][1] >= least)

    def vector_status(self, schema: CollectionSchema) -> dict[str, Any]:
        """Plain values: how many records, which tier answers and why, what was measured of an approximate index."""
        from edge.storage.vector_status import status_of

        size = self._matrix_bytes(schema)
        return status_of(
            count=self._log.count(schema.name),
            size=size,
            budget=self._exact_bytes_max,
            index=None if size <= self._exact_bytes_max else self.tables().near.ann.status(schema.name),
            rows_min=self._ann_rows_min,
            making=(_ANN_MAKING * size, self._ann_bytes_max),
        )

    def trim(self, least: int = 1) -> int:
        """Drop what nobody needs of the log, if that is ``least`` rows more than the last time. Returns how many."""
        position = self.position()
        reached = self._log.acked_seq + position
        if 0 <= reached - self._trimmed < least:
            return 0
        self._trimmed = reached
        return self._log.trim(position)

    def renew(self, names: Iterable[str]) -> None:
        """Write what is derived of these collections anew, so that nothing is left of what they do not have any more.
        Raises StorageError.
        """
        for name in names:
            schema = self._log.schemas[name]
            if schema.vector is not None and self._log.checkpoint(f"{_EXACT}:{name}") is not None:
                self.exact(schema).rebuild()
            else:
                self._discard(_EXACT, name)
            if self._log.checkpoint(f"{_LANCE}:{name}") is not None:
                self.tables().rebuild(name)
            else:
                self._discard(_LANCE, f"{name}.lance")
            if self._tables is not None:
                self._tables.near.ann.forget(name)
            else:
                if self._log.checkpoint(f"ann:{name}") is not None:
                    self._log.meta_set(f"checkpoint.ann:{name}", None)
                self._discard("ann", name)

    def _discard(self, *names: str) -> None:
        """What no note of the log describes."""
        from pathlib import Path

        from edge.storage.durable import remove_tree

        remove_tree(Path(self._directory, *names))

    def verify(self) -> list[str]:
        """Check every projection that exists against the records; what fails is rebuilt. Returns what was wrong."""
        problems: list[str] = []
        for name, schema in sorted(self._log.schemas.items()):
            if schema.vector is not None and self._noted(f"{_EXACT}:{name}") is not None:
                problems += [f"vectors of {name!r}: {problem}; rebuilt" for problem in self.exact(schema).verify()]
        if self._noted(_LANCE) is not None:
            problems += self.tables().verify()
        return problems

    def status(self) -> dict[str, Any]:
        """Plain values: where each projection stands, how far behind that is, and what last went wrong."""
        log = self._log
        out: dict[str, Any] = {}
        for name in [_LANCE, *(f"{_EXACT}:{name}" for name in sorted(log.schemas))]:
            note = self._noted(name)
            if note is not None:
                out[name] = {"position": int(note["position"]), "lag": max(0, log.position - int(note["position"]))}
        care = self._care
        return {"tiers": out, "running": care is not None and care.running, "problem": care.problem if care else ""}

    def close(self) -> None:
        """Stop the thread, let go of the files. Idempotent."""
        with self._lock:
            self._closed = True
            care, self._care = self._care, None
        if care is not None:
            care.stop()
        problem: AgentDBError | None = None
        for index in self._exact.values():
            try:
                index.close()  # folds what it has in memory: a full disk must not keep the others from closing
            except AgentDBError as error:
                problem = error
        self._exact.clear()
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        if problem is not None:
            raise problem

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self._directory} is closed", hint="open the store again")


def _found(hits: list[Scored], candidates: Candidates, tier: str, why: str) -> Found:
    return Found(hits, candidates.of([hit.key for hit in hits]), tier, why)
