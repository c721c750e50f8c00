"""One collection's Lance table on disk: opened, checked, written, compacted, and rebuilt when it does not check out.

LanceDB fsyncs nothing, and believes what it finds: after a power cut a newest manifest of zeros opens as an empty
table, a missing one as the previous version, and flipped bits as other data. So the table carries a *checkpoint* in the
delta log, ``{version, position, rows, columns, settling, files}``, where ``files`` is the manifest (``durable``) of
every file that was there, noted after all of them were fsynced.

What always holds:

* what is served is version ``version`` of the checkpoint, or a successor that this process wrote;
* ``open`` removes whatever the checkpoint does not name (newer versions, half-written files, Lance's version hint),
  then checks the sizes of all files, the digests of all manifests and of up to 64 MiB of data, that the noted version
  opens, and that it has the noted number of rows. ``check_files`` hashes everything, ``compare`` holds every row
  against its record image. What fails is rebuilt from the images;
* a crash anywhere leaves a checkpoint that describes what is there, or a table that ``open`` rebuilds.

One process owns the directory: a handle goes stale when another writes. The caller (``tables``) holds the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.storage.durable import Files, damage, fsync_path, list_files, remove_files, remove_tree, seal
from edge.storage.tables_errors import Unreadable, changing, reading
from edge.storage.tables_schema import (
    EXTRA,
    KEY,
    MISFIT,
    POSITION,
    Column,
    Row,
    arrow_schema,
    column_name,
    columns_of,
    record_batch,
)
from sync.images import image_values
from sync.schema import CollectionSchema

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from lancedb.table import Table

    from edge.storage.delta_log import DeltaLog

Dirty = Callable[[], frozenset[str]]

HINT = "_versions/latest_version_hint.json"
OPEN_CHECK_BYTES_MAX = 64 << 20
ROWS_PER_BATCH = 1024
# Lance scans 8,192 rows at a time: pages that were written in smaller pieces cost a vector search a fifth.
SCAN_ROWS = 8 * ROWS_PER_BATCH
SCAN_BYTES_MAX = 32 << 20
SAMPLE_ROWS = 64
_LOOSE, _LOOSE_BYTES_MIN = 1.5, 1 << 20
_NO_VECTOR = "null"  # to lancedb a record without a vector is a bad vector, unless it is told otherwise
_FOREVER = timedelta(days=36_500)
_AT_ONCE = timedelta(milliseconds=1)  # 0 makes lancedb warn of concurrent readers of old versions, which we do not have


class LanceTable:
    """``connect`` gives a LanceDB connection to ``folder.parent``; with True, one with empty caches.

    ``dirty`` names the keys that have changed since the tables were last flushed.
    """

    def __init__(
        self,
        folder: Path,
        log: DeltaLog,
        schema: CollectionSchema,
        connect: Callable[[bool], DBConnection],
        dirty: Dirty,
    ) -> None:
        self.name = schema.name
        self.schema = schema
        self.columns: tuple[Column, ...] = columns_of(schema)
        self.position = 0
        self.generation = 0  # grows whenever files that a reader may hold are removed
        self.rebuilds: list[str] = []  # why, for each time the table was rebuilt because it did not check out
        self._note_name = f"lance:{schema.name}"
        self._folder = folder
        self._log = log
        self._connect = connect
        self._dirty = dirty
        self._handle: Table | None = None
        self._files: Files = {}
        self._rows = 0
        self._tight_bytes = 0

    @property
    def handle(self) -> Table:
        """Raises Unreadable while another thread writes the table anew."""
        if self._handle is None:
            raise Unreadable(f"the table of {self.name!r} is being written anew")
        return self._handle

    @property
    def files(self) -> Files:
        """The manifest of the table's files as of the checkpoint."""
        return self._files

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self._files.values())

    @property
    def is_loose(self) -> bool:
        """Whether it takes half as much again as when it was last opened, compacted or rebuilt."""
        return self.bytes > max(_LOOSE * self._tight_bytes, self._tight_bytes + _LOOSE_BYTES_MIN)

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self, schema: CollectionSchema) -> None:
        """Be ready to serve under ``schema``: open, check, and rebuild if need be. Cheap when it is open already."""
        if self._handle is not None and schema is self.schema:
            return
        changed = columns_of(schema) != self.columns or schema.text != self.schema.text
        self.schema, self.columns = schema, columns_of(schema)
        if self._handle is not None:
            if changed:
                self.rebuild("")
            return
        note = self._log.checkpoint(self._note_name)
        if note is None:
            self.rebuild("")
        elif (problem := self._adopt(note)) is not None:
            self.rebuild(problem)

    def _adopt(self, note: Mapping[str, Any]) -> str | None:
        """Open the version that the checkpoint names. Returns what is wrong; "" if only the schema has changed."""
        if "files" not in note:
            return "a rebuild was interrupted"
        if note["position"] > self._log.position:
            return "the table is newer than the log: the store was rolled back"
        if note["columns"] != self._signature():
            return ""
        try:
            with reading():
                return self._load(note)
        except Unreadable as error:
            return str(error)
        except BaseException:
            self.reset()
            raise

    def _load(self, note: Mapping[str, Any]) -> str | None:
        files: Files = {name: (size, digest) for name, (size, digest) in note["files"].items()}
        present = list_files(self._folder)
        remove_files(self._folder, [name for name in present if name not in files])
        if note["settling"]:  # old versions were being removed: those of their files that are gone, are gone
            files = {name: files[name] for name in files if name in present}
        problems = damage(self._folder, files, hash_bytes_max=OPEN_CHECK_BYTES_MAX, first=_is_manifest)
        if problems:
            return problems[0]
        self._handle = self._connect(self.generation > 0).open_table(self.name)
        self._files = files
        self._rows, self.position = note["rows"], note["position"]
        self._tight_bytes = self.bytes
        if self._handle.version != note["version"]:
            return f"version {note['version']} was noted, version {self._handle.version} opens"
        if (rows := self._handle.count_rows()) != self._rows:
            return f"{rows} rows instead of {self._rows}"
        if note["settling"]:
            problems = self.compare()
            if problems:
                return problems[0]
            self._commit(self.position)
        return None

    def _signature(self) -> list[Any]:
        """What the table's layout depends on; two schemas with equal signatures have equal tables."""
        return [[list(column) for column in self.columns], list(self.schema.text)]

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, changes: Mapping[str, int]) -> None:
        """Bring the rows of these keys (to the log position of their change) up to date with their images, durably.

        Raises StorageError; the table is then as of its last checkpoint.
        """
        images = self._log.images(self.name, list(changes))
        rows: list[Row] = []
        gone: list[str] = []
        for key, position in changes.items():
            values = image_values(images[key]) if key in images else None
            if values is None:
                gone.append(key)
            else:
                rows.append((key, position, values))
        with changing(f"writing the table of {self.name!r}", self.reset):
            if rows:
                merge = self.handle.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
                merge.execute(record_batch(self.columns, rows), on_bad_vectors=_NO_VECTOR)
            if gone:
                from lancedb.expr import col, lit

                self.handle.delete(col(KEY).isin([lit(key) for key in gone]))
            self._commit(max(self.position, *changes.values()))

    def _commit(self, position: int, *, settling: bool = False, removed: bool = False) -> None:
        """Make all that Lance has written durable, and note it. Unless old versions were ``removed``, a file that was
        noted and is gone is damage, which the note must not forget: raises Unreadable.
        """
        if not settling:
            files = seal(self._folder, self._files, ignored=(HINT,))
            if not removed and (lost := sorted(self._files.keys() - files.keys())):
                raise Unreadable(f"{lost[0]} is missing")
            self._files = files
            self._rows = self.handle.count_rows()
        self.position = position
        note = {
            "version": self.handle.version,
            "position": position,
            "rows": self._rows,
            "columns": self._signature(),
            "settling": settling,
            "files": self._files,
        }
        self._log.set_checkpoint(self._note_name, note)

    def reset(self) -> None:
        """Let go of the handle; the next ``open`` returns to the checkpoint."""
        self._handle = None
        self.generation += 1

    # -- rebuilding ---------------------------------------------------------------------------------------------------

    def rebuild(self, reason: str) -> None:
        """Write the table anew from the record images. ``reason`` is kept if it says that something was wrong."""
        if reason:
            self.rebuilds.append(reason)
        self.reset()
        position = self._log.position
        self._log.set_checkpoint(self._note_name, {"position": 0})
        with changing(f"rebuilding the table of {self.name!r}", self.reset):
            remove_tree(self._folder)
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._create(position)
            self._files = {}
            self._index_text()
            self._commit(position)
            self._tight_bytes = self.bytes
            fsync_path(self._folder.parent.parent)

    def _create(self, position: int) -> Table:
        import pyarrow as pa

        schema = arrow_schema(self.columns)
        db = self._connect(True)
        pages = self._pages(position)
        first = next(pages, None)
        if first is None:
            return db.create_table(self.name, schema=schema)

        def batches() -> Iterator[pa.RecordBatch]:
            yield first
            yield from pages

        rows = pa.RecordBatchReader.from_batches(schema, batches())
        return db.create_table(self.name, data=rows, on_bad_vectors=_NO_VECTOR)

    def _pages(self, position: int) -> Iterator[pa.RecordBatch]:
        """All records as rows, in pieces of Lance's own size, or of 32 MiB if that is less."""
        import pyarrow as pa

        after = ""
        held: list[pa.RecordBatch] = []
        while images := self._log.scan(self.name, after=after, limit=ROWS_PER_BATCH):
            after = images[-1][0]
            rows = [(key, position, image_values(image) or {}) for key, image in images]
            held.append(record_batch(self.columns, rows))
            if len(held) * ROWS_PER_BATCH >= SCAN_ROWS or sum(batch.nbytes for batch in held) >= SCAN_BYTES_MAX:
                yield from pa.Table.from_batches(held).combine_chunks().to_batches()
                held = []
        if held:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()

    def _index_text(self) -> None:
        from lancedb.index import FTS

        for field in self.schema.text:
            self.handle.create_index(column_name(field), config=FTS())

    # -- checking -----------------------------------------------------------------------------------------------------

    def check_files(self) -> list[str]:
        """Hash every file of the checkpoint. Returns what is wrong."""
        return damage(self._folder, self._files, first=_is_manifest)

    def compare(self) -> list[str]:
        """Compare every row with its record's image, and every living record with the rows. Returns what is wrong.

        Records that have changed since the table was written prove nothing.
        """
        seen: set[str] = set()
        suspects: dict[str, str] = {}
        try:
            for batch in self._batches():
                keys = batch.column(KEY).to_pylist()
                for key in keys:
                    if key in seen:
                        suspects[key] = "has two rows"
                    seen.add(key)
                suspects.update(self._differing(keys, batch))
        except Unreadable as error:
            return [f"cannot be read: {error}"]
        after = ""
        while page := self._log.scan(self.name, after=after, limit=ROWS_PER_BATCH):
            after = page[-1][0]
            suspects.update({key: "has no row" for key, _ in page if key not in seen})
        return _unexcused(suspects, self._dirty)

    def sample(self) -> list[str]:
        """Compare some rows, evenly spread over the table, with their images. Returns what is wrong."""
        places = list(range(0, self._rows, max(1, self._rows // SAMPLE_ROWS)))
        wrong: dict[str, str] = {}
        try:
            for batch in self._batches(places):
                wrong.update(self._differing(batch.column(KEY).to_pylist(), batch))
        except Unreadable as error:
            return [f"cannot be read: {error}"]
        return _unexcused(wrong, self._dirty)

    def _batches(self, places: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows, or those at ``places``, with all columns in their order. Raises Unreadable."""
        names = [KEY, POSITION, *(column.name for column in self.columns), EXTRA, MISFIT]
        with reading():
            if places is None:
                yield from self.handle.search().select(names).to_batches(ROWS_PER_BATCH)
            elif places:
                yield from self.handle.take_offsets(places).select(names).to_arrow().to_batches()

    def _differing(self, keys: Sequence[str], stored: pa.RecordBatch) -> dict[str, str]:
        """Those of the rows that are not what their records' images say."""
        images = self._log.images(self.name, [key for key in keys if key is not None])
        values = [image_values(images[key]) if key in images else None for key in keys]
        wrong = {key: "is dead, and has a row" for key, value in zip(keys, values, strict=True) if value is None}
        positions = stored.column(POSITION).to_pylist()
        rows = [(key, at or 0, value or {}) for key, at, value in zip(keys, positions, values, strict=True)]
        expected = record_batch(self.columns, rows)
        for name in stored.schema.names:
            mine, theirs = expected.column(name), stored.column(name)
            if not mine.equals(theirs):
                for place, key in enumerate(keys):
                    if not mine.slice(place, 1).equals(theirs.slice(place, 1)):
                        wrong.setdefault(key, f"differs in column {name!r}")
        return wrong

    # -- care ---------------------------------------------------------------------------------------------------------

    def size(self) -> tuple[int, int, int]:
        """(fragments, versions, rows that no text index covers): what ``compact`` reduces."""
        stats: Any = self.handle.stats()  # a dict, whatever its annotation says
        fragments = int(stats["fragment_stats"]["num_fragments"])
        versions = sum(1 for name in self._files if _is_manifest(name))
        return fragments, versions, self.unindexed()

    def unindexed(self) -> int:
        """Rows that the text indexes do not cover yet; they are searched one by one."""
        stats = [self.handle.index_stats(f"{column_name(field)}_idx") for field in self.schema.text]
        return max((found.num_unindexed_rows for found in stats if found is not None), default=0)

    def compact(self) -> list[str]:
        """Merge small files, bring the text indexes up to date, and remove old versions. Returns what is then wrong.

        In two steps, each noted: the checkpointed version stays on disk until its successor is durable and noted.
        """
        with changing(f"compacting the table of {self.name!r}", self.reset):
            self.handle.optimize(cleanup_older_than=_FOREVER)
            self._commit(self.position)
            self._commit(self.position, settling=True)
            self.generation += 1
            self.handle.optimize(cleanup_older_than=_AT_ONCE, delete_unverified=True)
            self._commit(self.position, removed=True)
            self._tight_bytes = self.bytes
        return self.sample()


def _unexcused(wrong: Mapping[str, str], dirty: Dirty) -> list[str]:
    """Asks for the dirty keys after the comparison, so that what changed during it is among them."""
    excused = dirty() if wrong else frozenset()
    return [f"record {key!r} {what}" for key, what in wrong.items() if key not in excused]


def _is_manifest(name: str) -> bool:
    return name.startswith("_versions/")
