"""LanceTables: the device's collections as LanceDB tables, to be searched, scanned and analysed.

``<dir>/lance/<collection>.lance`` is a plain LanceDB table (``tables_schema`` says its columns), derived from the
record images in the delta log and kept behind it by ``flush``. Only the modules named ``edge.storage.tables*`` import
lancedb and pyarrow, and only when they are first used: it takes 1.5 s and 130 MB.

What always holds:

* a search sees every acknowledged write. Vector search scores up to 2,000 records that are not in the table yet by
  itself (``overlay``), and flushes first when there are more; text, scan and to_arrow flush first, which takes
  tens of milliseconds for a few hundred records;
* ``position`` is the log position up to which every table is durable; the log must not be trimmed beyond it, or
  the tables are rebuilt;
* a table that does not check out (``tables_table``), or fails in use because it is damaged, is rebuilt from the images
  and the search repeated.

One lock owns writing, compacting, indexing and opening; Lance's part of a search runs beside it. One process owns the
directory: a LanceDB handle goes stale when another process writes, so others may read the tables but must not write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from edge.storage.filters import Filter
from edge.storage.overlay import LogTrimmed, Overlay, changes_after
from edge.storage.search import Candidates, Scored
from edge.storage.tables_ann import AnnIndexes
from edge.storage.tables_connect import connect
from edge.storage.tables_errors import Unreadable, reading
from edge.storage.tables_near import NearSearch
from edge.storage.tables_schema import KEY
from edge.storage.tables_search import TableSearch
from edge.storage.tables_table import ROWS_PER_BATCH, LanceTable
from edge.storage.vectors import Query
from sync.errors import SchemaMismatch, StorageError, UnknownCollection
from sync.images import image_values
from sync.schema import CollectionSchema

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from lancedb.table import Table

    from edge.storage.delta_log import DeltaLog

CHECKPOINT = "lance"
OVERLAY_ROWS_MAX = 2000
# When a table is worth compacting: each flush leaves a fragment, a version and about 11 KB behind.
FRAGMENTS_MAX = 24
VERSIONS_MAX = 48
UNINDEXED_MAX = 5000
_HARD = 4  # times these bounds, a flush compacts by itself

T = TypeVar("T")


class LanceTables:
    """The tables in ``directory/lance``, behind ``log``. Thread-safe. Nothing is opened before it is used."""

    def __init__(self, directory: Path | str, log: DeltaLog) -> None:
        self._folder = Path(directory) / "lance"
        self._log = log
        self._lock = RLock()
        self._tables: dict[str, LanceTable] = {}
        self._overlays: dict[str, tuple[int, Overlay]] = {}  # with the position that they lie over
        self._db: DBConnection | None = None
        self.near = NearSearch(AnnIndexes(directory, log, connect), log, self._serve, self._beside)

    @property
    def position(self) -> int:
        """The log position up to which all tables are on disk."""
        note = self._log.checkpoint(CHECKPOINT)
        return int(note["position"]) if note else 0

    @property
    def rebuilds(self) -> dict[str, list[str]]:
        """For each collection whose table did not check out since this was opened: why it was rebuilt."""
        return {name: list(table.rebuilds) for name, table in self._tables.items() if table.rebuilds}

    # -- keeping up -------------------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Bring every table up to where the log is now, durably: whoever goes on writing does not keep this from
        returning. Returns how many changes were taken in. Raises StorageError.

        Records that changed several times are written once a round; a round is one ``merge_insert`` (and one delete)
        for each collection that changed, of at most 1,024 changes together.
        """
        taken = 0
        with self._lock:
            if self._log.checkpoint(CHECKPOINT) is None or self.position > self._log.position:
                self._build_all("")
            position, until = self.position, self._log.position
            while position < until:
                try:
                    page = changes_after(self._log, position, ROWS_PER_BATCH)
                except LogTrimmed:
                    position = self._build_all("the log was trimmed beyond it")
                    continue
                if not page:
                    break
                changed: dict[str, dict[str, int]] = {}
                for at, collection, key in page:
                    if not collection.startswith("_"):
                        changed.setdefault(collection, {})[key] = at
                for collection, keys in changed.items():
                    table = self._table(collection)
                    if table.position < page[-1][0]:
                        table.write(keys)
                    self._compact_if(table, _HARD)
                position = page[-1][0]
                self._log.set_checkpoint(CHECKPOINT, {"position": position})
                taken += len(page)
            return taken

    def maintain(self, *, force: bool = False) -> list[str]:
        """Compact the table that needs it most, if one does: merge small files, index new text, remove old versions.

        One table a call, so that writers and the flush never wait long; call it again while it returns something.
        Returns what was done. ``force`` compacts every table. Raises StorageError.
        """
        with self._lock:
            tables = [self._table(name) for name in sorted(self._log.schemas) if self._exists(name)]
            if force:
                return [done for table in tables for done in self._compact(table)]
            needy = sorted(tables, key=_need, reverse=True)
            return self._compact(needy[0]) if needy and _need(needy[0]) >= 1 else []

    def rest(self) -> None:
        """Nothing is being written: compact what has grown by half, before ``maintain`` would. Raises StorageError."""
        with self._lock:
            for name in sorted(self._log.schemas):
                if self._exists(name) and (table := self._table(name)).is_loose:
                    self._compact(table)

    def verify(self) -> list[str]:
        """Hash every file, then hold every row against its record image; rebuild what is wrong.

        Returns what was wrong, one line a table. Reads everything: about a second for 20,000 records with vectors.
        """
        found: list[str] = []
        with self._lock:
            for name in sorted(self._log.schemas):
                if name.startswith("_") or not self._exists(name):
                    continue
                before = len(self._tables[name].rebuilds) if name in self._tables else 0
                table = self._table(name)
                problems = table.rebuilds[before:] or table.check_files()
                if problems and len(table.rebuilds) == before:
                    table.rebuild(problems[0])
                self.flush()
                problems = problems or table.compare()
                if problems and len(table.rebuilds) == before:
                    table.rebuild(problems[0])
                if problems:
                    found.append(f"table of {name!r}: {problems[0]} ({len(problems)} in all); rebuilt")
        return found + self.near.verify()

    def rebuild(self, collection: str) -> None:
        """Write the collection's table anew from the record images."""
        with self._lock:
            self._table(collection).rebuild("")

    def close(self) -> None:
        """Let go of everything. What is not flushed is in the log, and flushed the next time."""
        self.near.ann.close()
        with self._lock:
            self._tables.clear()
            self._overlays.clear()
            self._db = None

    # -- searching --------------------------------------------------------------------------------------------------

    def search_vector(
        self,
        collection: str,
        query: bytes,
        k: int,
        where: Filter | None = None,
        candidates: Candidates | None = None,
        least: float = float("-inf"),
    ) -> list[Scored]:
        """The exact best ``k`` by the schema's metric, of those that score at least ``least``; ``query`` as
        ``sync.schema.pack_vector`` packs it. With ``candidates``, of those.

        Sees every acknowledged write without a flush while at most 2,000 records are dirty. Raises SchemaMismatch for
        a collection without vectors, InvalidValue for a query of zeros under cosine, StorageError.
        """
        schema = self._schema(collection)
        if schema.vector is None:
            raise SchemaMismatch(f"collection {collection!r} has no vector field", hint="declare vector=(field, dim)")

        prepared = Query(schema.vector, query)
        may = candidates or Candidates(self._log, collection, where)

        def search(table: LanceTable) -> list[Scored]:
            tier, found, stale = self._beside(table, prepared, k, may)
            return tier.vector(prepared, k, found, stale, least=least)

        return self._serve(collection, search)

    def _beside(
        self, table: LanceTable, prepared: Query, k: int, candidates: Candidates
    ) -> tuple[TableSearch, list[Scored], frozenset[str]]:
        """What searches the table, the best of what is not in it yet, and which of its keys are stale."""
        with self._lock:
            overlay = self._overlay(table)
            tier = TableSearch(candidates, table.schema, table.columns, table.handle)
            return tier, tier.overlay(prepared, k, overlay), frozenset(overlay.slots)

    def search_text(
        self, collection: str, text: str, k: int, where: Filter | None = None, candidates: Candidates | None = None
    ) -> list[Scored]:
        """The best ``k`` by BM25 over the schema's text fields; with ``candidates``, of those. Flushes first.

        Raises SchemaMismatch for a collection without text fields, StorageError.
        """
        schema = self._schema(collection)
        if not schema.text:
            raise SchemaMismatch(f"collection {collection!r} has no text fields", hint="declare text=[field, …]")
        self.flush()
        may = candidates or Candidates(self._log, collection, where)
        return self._serve(
            collection, lambda table: TableSearch(may, schema, table.columns, table.handle).text(text, k)
        )

    def scan(
        self, collection: str, where: Filter | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, fields) of the records that match, in order of key, the filter pushed down. Flushes first."""
        schema = self._schema(collection)
        self.flush()
        may = Candidates(self._log, collection, where)
        keys = self._serve(collection, lambda table: TableSearch(may, schema, table.columns, table.handle).keys())
        return self._records(collection, keys, where, limit)

    def narrowed(self, candidates: Candidates) -> frozenset[str] | None:
        """The keys of all records that may pass the filter; None if no part of it can be pushed down. Flushes first.
        Raises StorageError.
        """
        collection = candidates.collection
        self._schema(collection)
        self.flush()
        return self._serve(
            collection, lambda table: TableSearch(candidates, table.schema, table.columns, table.handle).narrowed()
        )

    def _records(
        self, collection: str, keys: list[str], where: Filter | None, limit: int | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left = len(keys) if limit is None else limit
        for start in range(0, len(keys), ROWS_PER_BATCH):
            page = keys[start : start + ROWS_PER_BATCH]
            images = self._log.images(collection, page)
            for key in page:
                values = image_values(images[key]) if key in images else None
                if values is not None and (where is None or where.matches(values)):
                    if left <= 0:
                        return
                    left -= 1
                    yield key, values

    def to_arrow(self, collection: str) -> pa.Table:
        """Every acknowledged record, in order of key; ``tables_schema`` says the columns. Flushes first."""
        self._schema(collection)
        self.flush()
        return self._serve(collection, lambda table: table.handle.to_arrow().sort_by(KEY))

    def lance(self, collection: str) -> Table:
        """The collection's LanceDB table, for reading, as of now. It does not follow later writes, and refuses its own.

        Compaction removes old versions: ask anew before each piece of work.
        """
        self._schema(collection)
        self.flush()
        with self._lock:
            table = self._table(collection)
            handle = self._connect(fresh=False).open_table(collection)
            handle.checkout(table.handle.version)
            return handle

    # -- the tables -------------------------------------------------------------------------------------------------

    def _schema(self, collection: str) -> CollectionSchema:
        schema = self._log.schemas.get(collection)
        if schema is None:
            raise UnknownCollection(
                f"collection {collection!r} has not been declared", hint="edge.collection(name) declares it"
            )
        return schema

    def _table(self, collection: str) -> LanceTable:
        """The open table, under the current schema."""
        schema = self._log.schemas.get(collection) or CollectionSchema(collection)
        table = self._tables.get(collection)
        if table is None:
            folder = self._folder / f"{collection}.lance"
            table = self._tables[collection] = LanceTable(
                folder, self._log, schema, self._connect, partial(self._dirty, collection)
            )
        table.open(schema)
        return table

    def _exists(self, collection: str) -> bool:
        return not collection.startswith("_") and self._log.checkpoint(f"lance:{collection}") is not None

    def _serve(self, collection: str, work: Callable[[LanceTable], T]) -> T:
        """Run a read; once more if files went meanwhile (Lance may then find less, and not say so) or are damaged."""
        with self._lock:
            table = self._table(collection)
            generation = table.generation
        first: Unreadable | None = None
        try:
            with reading():
                found = work(table)
            if table.generation == generation:
                return found
        except Unreadable as error:
            first = error
        with self._lock:
            table = self._table(collection)
            if table.generation == generation:
                if not (problems := table.check_files()):
                    raise StorageError(f"reading the table of {collection!r}: {first}") from first
                table.rebuild(problems[0])
            try:
                with reading():
                    return work(table)
            except Unreadable as error:
                raise StorageError(f"reading the table of {collection!r}: {error}") from error

    def _build_all(self, reason: str) -> int:
        """Bring all tables up to the log by writing them from the images. Returns the position they then have."""
        position = self._log.position
        for name in sorted(self._log.schemas):
            if not name.startswith("_"):
                table = self._table(name)
                if table.position < position:
                    table.rebuild(reason)
        self._log.set_checkpoint(CHECKPOINT, {"position": position})
        return position

    def _overlay(self, table: LanceTable) -> Overlay:
        """What the table does not have yet; flushes first if that is much."""
        try:
            overlay = self._caught_up(table)
            if len(overlay.slots) <= OVERLAY_ROWS_MAX:
                return overlay
        except LogTrimmed:
            del self._overlays[table.name]
        self.flush()
        return self._caught_up(table)

    def _caught_up(self, table: LanceTable) -> Overlay:
        assert table.schema.vector is not None
        base = max(self.position, table.position)
        held = self._overlays.get(table.name)
        if held is None or held[0] != base:
            held = self._overlays[table.name] = (base, Overlay(self._log, table.name, table.schema.vector, base))
        held[1].refresh()
        return held[1]

    def _dirty(self, collection: str) -> frozenset[str]:
        changed: set[str] = set()
        position = self.position
        while page := self._log.changes(position, ROWS_PER_BATCH):
            changed.update(key for _, name, key in page if name == collection)
            position = page[-1][0]
        return frozenset(changed)

    # -- compacting, connecting -------------------------------------------------------------------------------------

    def _compact_if(self, table: LanceTable, times: int) -> None:
        if len(table.files) > times * FRAGMENTS_MAX and _need(table) >= times:
            self._compact(table)

    def _compact(self, table: LanceTable) -> list[str]:
        before = table.size()
        problems = table.compact()
        if problems:
            table.rebuild(problems[0])
        after = table.size()
        return [f"{table.name}: fragments, versions, unindexed rows {before} -> {after}"]

    def _connect(self, fresh: bool) -> DBConnection:
        """A connection; ``fresh``: with empty caches."""
        if self._db is None or fresh:
            self._db = connect(self._folder)
        return self._db


def _need(table: LanceTable) -> float:
    """How urgently a table wants compacting; 1 is the time for it."""
    fragments, versions, unindexed = table.size()
    return max(fragments / FRAGMENTS_MAX, versions / VERSIONS_MAX, unindexed / UNINDEXED_MAX)
