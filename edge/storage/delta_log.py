"""DeltaLog: the device's truth, ``<dir>/log.db``: operations in their order, and the record images they fold into.

A write is one transaction: the operation is appended, merged into its record's image, and by its position in the log the
record is known to be dirty for the projections. ``submit`` returns after the commit is on disk.

What always holds:

* one writing connection, used by one thread at a time (``_write``); memory changes only after the commit;
* ``seq`` is dense from 1 within a replica, ``position`` dense over all changes, and both grow together;
* timestamps never run back: the last one is in the log's last operation, or in ``meta`` when something else moved it;
* an error leaves the store as it was before the call.

It leaves to others: composing and merging (``transaction``, ``sync.records``), reading (``log_reader``), care
(``log_care``: trim, snapshot, verify), who may open the store (``edge.node`` holds the lock), and the search projections.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import msgpack

from edge.storage import log_care
from edge.storage.group_commit import GroupCommit, Job
from edge.storage.log_reader import DeadLetter, LogReader, fetch_held, pack_operation
from edge.storage.log_schema import connect, translate
from edge.storage.transaction import Held, Ref, ShapeCache, Transaction, Write
from sync.errors import AgentDBError, CorruptStore, SchemaMismatch, StorageError, UnknownCollection
from sync.images import image_values
from sync.operations import Kind, Operation
from sync.ports import Clock, RandomSource
from sync.records import state_operation
from sync.schema import COLLECTIONS, CollectionSchema, check_successor
from sync.stamps import HybridClock, device_of, incarnation_of, replica_id

if TYPE_CHECKING:
    from sync.messages import Refusal

_INCARNATION_STEP = 1 << 20
_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_OPERATION = "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_RECORD_NEW = "INSERT INTO records (collection, key, living, image) VALUES (?, ?, ?, ?)"
_RECORD_SET = "UPDATE records SET living = ?, image = ? WHERE id = ?"


class DeltaLog:
    """Build it with ``open``. ``listeners`` are called after every commit, in the committing thread: let them be brief."""

    def __init__(
        self,
        db: apsw.Connection,
        path: str,
        *,
        clock: Clock,
        random: RandomSource,
        device: bytes | None,
        vfs: str | None,
    ) -> None:
        self.path = path
        self.listeners: list[Callable[[], None]] = []
        self.schemas: dict[str, CollectionSchema] = {}
        self.schema_problems: dict[str, str] = {}
        self._db = db
        self.vfs = vfs
        self._wall = clock
        self._random = random
        self._write = allocate_lock()
        self._declaring = allocate_lock()
        self._group = GroupCommit(self._commit)
        self._shapes = ShapeCache()
        self._collections: dict[str, int] = {}
        self._closed = False
        self.reader = LogReader(path, vfs, self._collections, self._shapes)
        self._load(device)

    @staticmethod
    def open(
        path: str,
        *,
        clock: Clock,
        random: RandomSource,
        device: bytes | None = None,
        vfs: str | None = None,
        durability: str = "full",
    ) -> DeltaLog:
        """Open or create the log at ``path``; ``device`` (12 bytes) is needed to create, and must match if given.

        ``durability="relaxed"`` gives up the fsync: a crash of the machine may lose the last writes, never their order.
        Raises StorageError and its kinds, UnsupportedVersion.
        """
        db = connect(path, vfs=vfs, durability=durability, create=device is not None)
        try:
            return DeltaLog(db, path, clock=clock, random=random, device=device, vfs=vfs)
        except apsw.Error as error:
            db.close(True)
            raise translate(error, path) from error
        except BaseException:
            db.close(True)
            raise

    def _load(self, device: bytes | None) -> None:
        db = self._db
        meta = {name: msgpack.unpackb(value) for name, value in db.execute("SELECT name, value FROM meta")}
        if "replica" not in meta:
            if device is None:
                raise CorruptStore(f"{self.path} has no replica id", hint="restore a snapshot, or join again")
            meta["replica"] = replica_id(device, 1)
            with db:
                self.put_meta("replica", meta["replica"])
        self.replica: bytes = meta["replica"]
        if device is not None and device != device_of(self.replica):
            raise CorruptStore(
                f"{self.path} belongs to device {device_of(self.replica).hex()}, the keys to {device.hex()}",
                hint="put back the keys directory that was created with this store",
            )
        self._collections.update(db.execute("SELECT name, id FROM collections"))
        seq, position, ts = meta.get("head", (0, 0, 0))
        last = db.execute("SELECT seq, position, ts FROM operations ORDER BY seq DESC LIMIT 1").fetchone()
        if last is not None:
            seq, position, ts = last[0], max(last[1], position), max(last[2], ts)
        marked = db.execute("SELECT max(position) FROM marks").get
        self.head_seq: int = seq
        self.position: int = max(position, marked or 0)
        self.cursor: int = meta.get("cursor", 0)
        self.acked_seq, self.acked_segment = meta.get("acked", (0, b""))
        self.baseline: bytes | None = meta.get("baseline")
        self.clock = HybridClock(self._wall, ts, meta.get("offset_ms", 0))
        if (declared := self._collections.get(COLLECTIONS)) is not None:
            for name, image in db.execute("SELECT key, image FROM records WHERE collection = ?", (declared,)):
                self._learn_schema(name, image)
        if meta.get("copied"):
            self.new_incarnation()

    def close(self) -> None:
        with self._write:
            if not self._closed:
                self._closed = True
                self.reader.close()
                self._db.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def submit(self, writes: Sequence[Write]) -> list[Operation]:
        """Make these writes durable, all or nothing, sharing the commit with whoever writes at the same time.

        Raises UnknownCollection, NotFound, TooLarge, InvalidValue, SchemaMismatch (nothing changed), or StorageError.
        """
        for write in writes:
            if write[1] not in self.schemas and write[1] != COLLECTIONS:
                raise UnknownCollection(
                    f"collection {write[1]!r} has not been declared", hint="edge.collection(name) declares it"
                )
        done: list[Operation] = self._group.run(writes) if writes else []
        return done

    def declare(self, schema: CollectionSchema) -> None:
        """Make a collection known to the fleet; nothing happens if it already is, with this schema.

        Raises SchemaMismatch if data under the known schema could not be merged under this one.
        """
        with self._declaring:
            known = self.schemas.get(schema.name)
            if known is not None:
                if known.to_document() == schema.to_document():
                    return
                check_successor(known, schema)
            self.submit([Write(Kind.PUT, COLLECTIONS, schema.name, {"spec": schema.to_document()})])

    def apply(
        self, operations: Sequence[Operation], *, cursor: int | None = None, baseline: bytes | None = None
    ) -> int:
        """Merge remote operations and store the feed position they reach, in one transaction. Returns records changed.

        ``baseline`` is the token of a baseline page; it is forgotten when a cursor comes without one.
        """
        with self._write:
            self._check_open()
            transaction = self._transaction()
            transaction.prefetch((operation.shape.collection, operation.key) for operation in operations)
            changed = transaction.remote(operations)
            newest = max((operation.ts for operation in operations), default=0)
            notes: dict[str, Any] = {}
            if newest > self.clock.last or changed:
                notes["head"] = (self.head_seq, transaction.position, max(newest, self.clock.last))
            if cursor is not None:
                notes["cursor"] = cursor
            if cursor is not None or baseline is not None:
                notes["baseline"] = baseline
            self._write_out(transaction, notes)
            self.clock.observe(newest)
            self.cursor = self.cursor if cursor is None else cursor
            self.baseline = notes.get("baseline", self.baseline)
        self._notify()
        return changed

    def acknowledge(self, seq: int, segment_id: bytes, refusals: Sequence[Refusal] = ()) -> None:
        """Note durably that the cloud holds this replica's operations up to ``seq``; keep those it refused, and why."""
        self.note_link(acked=(seq, segment_id), refusals=refusals)

    def note_link(
        self,
        *,
        acked: tuple[int, bytes] | None = None,
        refusals: Sequence[Refusal] = (),
        cursor: int | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep what a session learned, in one transaction: what is acknowledged and refused, where the feed is read from
        next, and small notes of the link's own (``meta``).
        """
        with self.transact() as db:
            for refusal in refusals:
                for row in self.reader.pending(self.replica, refusal.seq - 1, 1, 0):
                    db.execute(
                        "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                        (row.seq, row.replica, row.shape.collection, row.key, refusal.code, refusal.reason,
                         self._wall.wall_ms(), pack_operation(row)),
                    )  # fmt: skip
            if acked is not None:
                self.put_meta("acked", acked)
            if cursor is not None:
                self.put_meta("cursor", cursor)
            for name, value in (notes or {}).items():
                self.put_meta(name, value)
        if acked is not None:
            self.acked_seq, self.acked_segment = acked
        if cursor is not None:
            self.cursor = cursor

    def new_incarnation(self) -> bytes:
        """Begin a new replica id: this store is a copy, or was rolled back. The images stay, the old log's operations
        become marks, and seqs begin again at 1. Returns the id.

        The step is random, so that two copies of one store do not become the same replica.
        """
        step = 1 + int(self._random.uniform() * _INCARNATION_STEP)
        replica = replica_id(device_of(self.replica), incarnation_of(self.replica) + step)
        with self.transact() as db:
            db.execute("INSERT INTO marks SELECT position, collection, key FROM operations")
            db.execute("DELETE FROM operations")
            db.execute("DELETE FROM meta WHERE name = 'copied'")
            self.put_meta("head", (0, self.position, self.clock.last))
            self.put_meta("acked", (0, b""))
            self.put_meta("sent", (0, b""))
            self.put_meta("repair", True)  # the cloud has to be given this store's state (``edge.storage.link_state``)
            self.put_meta("replica", replica)
        self.replica, self.head_seq, self.acked_seq, self.acked_segment = replica, 0, 0, b""
        return replica

    def set_offset_ms(self, offset_ms: int) -> None:
        """Keep what the cloud said of this device's clock: its error in milliseconds, added to the wall clock."""
        self.meta_set("offset_ms", offset_ms)
        self.clock.offset_ms = offset_ms

    # -- notes --------------------------------------------------------------------------------------------------------

    def meta_get(self, name: str) -> Any:
        """A small value stored with ``meta_set``, or None."""
        value = self.reader.one("SELECT value FROM meta WHERE name = ?", name)
        return None if value is None else msgpack.unpackb(value)

    def meta_set(self, name: str, value: Any) -> None:
        with self.transact():
            self.put_meta(name, value)

    def checkpoint(self, name: str) -> dict[str, Any] | None:
        """The durable note of a projection, or None."""
        note: dict[str, Any] | None = self.meta_get("checkpoint." + name)
        return note

    def set_checkpoint(self, name: str, note: Mapping[str, Any]) -> None:
        self.meta_set("checkpoint." + name, dict(note))

    # -- reading ------------------------------------------------------------------------------------------------------

    def image(self, collection: str, key: str) -> bytes | None:
        """The record's image, tombstones included; None for a record never heard of."""
        return self.reader.image(collection, key)

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, bytes]:
        return self.reader.images(collection, keys)

    def scan(self, collection: str, *, after: str = "", prefix: str = "", limit: int = 1000) -> list[tuple[str, bytes]]:
        """(key, image) of living records in order of key (UTF-8 bytes), beginning after ``after``."""
        return self.reader.scan(collection, after, prefix, limit)

    def count(self, collection: str) -> int:
        """How many records live."""
        return self.reader.count(collection)

    def pending(self, after_seq: int, max_operations: int, max_bytes: int) -> list[Operation]:
        """Local operations after ``after_seq`` in order; at least one if there is one, else within both bounds."""
        return self.reader.pending(self.replica, after_seq, max_operations, max_bytes)

    def changes(self, after_position: int, limit: int) -> list[tuple[int, str, str]]:
        """(position, collection, key) of changes after a position, oldest first, local and remote."""
        return self.reader.changes(after_position, limit)

    def dead_letters(self) -> list[DeadLetter]:
        return self.reader.dead_letters()

    def state_operations(self, after: tuple[str, str] | None, limit: int) -> list[Operation]:
        """The whole store as state, tombstones too, in order of (collection, key) after ``after``."""
        out: list[Operation] = []
        start, after_key = after or ("", "")
        for name in sorted(self._collections):
            if name < start or len(out) >= limit:
                continue
            rows = self.reader.all(
                "SELECT key, image FROM records WHERE collection = ? AND key > ? ORDER BY key LIMIT ?",
                *(self._collections[name], after_key if name == start else "", limit - len(out)),
            )
            out += [state_operation(name, key, image, self._state_shape) for key, image in rows]
        return out

    def _state_shape(self, collection: str, names: tuple[str, ...]) -> Any:
        return self._shapes.plain(Kind.PUT, collection, names)[0]

    # -- care (log_care does the work) --------------------------------------------------------------------------------

    def trim(self, position: int) -> int:
        """Drop log rows up to ``position`` that the cloud has acknowledged. Returns how many; record images stay."""
        return log_care.trim(self, position)

    def snapshot(self, target: str) -> None:
        """A consistent copy of the database at ``target``, which must not exist. Opened, it is a new replica."""
        log_care.snapshot(self, target)

    def verify(self) -> list[str]:
        """What is wrong with the store, in sentences; empty if nothing is."""
        return log_care.verify(self)

    def digest(self) -> str:
        """The state digest (``sync.digest``) over every living record: equal on replicas that hold the same state."""
        return log_care.digest(self)

    def size_bytes(self) -> int:
        """What the database takes on the disk, its write-ahead log included."""
        pages, page_bytes = self.reader.one("SELECT page_count, page_size FROM pragma_page_count, pragma_page_size")
        wal = self.path + "-wal"
        return int(pages * page_bytes) + (os.path.getsize(wal) if os.path.exists(wal) else 0)

    # -- inside -------------------------------------------------------------------------------------------------------

    def transact(self) -> Transact:
        """The right to write, and a transaction: ``with log.transact() as db``. For this package only."""
        return Transact(self)

    def put_meta(self, name: str, value: Any) -> None:
        """Within a transaction. For this package only."""
        self._db.execute(_META, (name, msgpack.packb(value)))

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self.path} is closed", hint="open the store again")

    def _transaction(self) -> Transaction:
        return Transaction(
            replica=self.replica,
            clock=self.clock,
            seq=self.head_seq,
            position=self.position,
            seen=self.cursor,
            schemas=self.schemas,
            collections=self._collections,
            shapes=self._shapes,
            fetch=self._fetch,
        )

    def _fetch(self, refs: Sequence[Ref]) -> Mapping[Ref, Held]:
        try:
            return fetch_held(self._db, refs)
        except apsw.Error as error:
            raise translate(error, self.path) from error

    def _commit(self, jobs: list[Job]) -> None:
        """One transaction for all these jobs; a job whose writes cannot be composed fails by itself."""
        with self._write:
            self._check_open()
            transaction = self._transaction()
            transaction.prefetch([(write[1], write[2]) for job in jobs for write in job.writes])
            for job in jobs:
                try:
                    job.result = transaction.local(job.writes)
                except AgentDBError as error:
                    job.error = error
            if transaction.operations:
                self._write_out(transaction, {})
        self._notify()

    def _write_out(self, transaction: Transaction, notes: Mapping[str, Any]) -> None:
        """Commit the transaction's rows, then take over what it knows. The only place where both happen."""
        db = self._db
        inserts, updates = transaction.record_rows()
        try:
            db.execute("BEGIN IMMEDIATE")
            for name, number in transaction.new_collections.items():
                db.execute("INSERT INTO collections VALUES (?, ?)", (number, name))
            _insert(db, _OPERATION, transaction.operations)
            _insert(db, "INSERT INTO marks VALUES (?, ?, ?)", transaction.marks)
            _insert(db, _RECORD_NEW, inserts)
            _insert(db, _RECORD_SET, updates)
            for name, value in notes.items():
                self.put_meta(name, value)
            db.execute("COMMIT")
        except BaseException as error:
            roll_back(db)
            if isinstance(error, (apsw.Error, OSError)):
                raise translate(error, self.path) from error
            raise
        self.head_seq, self.position = transaction.seq, transaction.position
        self._collections.update(transaction.new_collections)
        for name, image in transaction.declared.items():
            self._learn_schema(name, image)

    def _learn_schema(self, name: str, image: bytes) -> None:
        """A schema that cannot be read (from a newer or faulty peer) is shown in ``schema_problems``; the old one serves."""
        values = image_values(image)
        try:
            if values is None:
                self.schemas.pop(name, None)
            else:
                self.schemas[name] = CollectionSchema.from_document(name, values.get("spec"))
            self.schema_problems.pop(name, None)
        except SchemaMismatch as error:
            self.schema_problems[name] = str(error)

    def _notify(self) -> None:
        for listener in self.listeners:
            listener()


class Transact:
    """Holds the write lock and a transaction; commits on success, rolls back and translates on an error."""

    def __init__(self, log: DeltaLog) -> None:
        self._log = log

    def __enter__(self) -> apsw.Connection:
        log = self._log
        log._write.acquire()
        try:
            log._check_open()
            log._db.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            log._write.release()
            if isinstance(error, apsw.Error):
                raise translate(error, log.path) from error
            raise
        return log._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        log = self._log
        try:
            if error is None:
                log._db.execute("COMMIT")
            else:
                roll_back(log._db)
                if isinstance(error, (apsw.Error, OSError)):
                    raise translate(error, log.path) from error
        except apsw.Error as failed:
            roll_back(log._db)
            raise translate(failed, log.path) from failed
        finally:
            log._write.release()


def roll_back(db: apsw.Connection) -> None:
    """End the transaction, if SQLite has not done so itself (it does on a full disk and on I/O errors)."""
    if db.in_transaction:
        db.execute("ROLLBACK")


def _insert(db: apsw.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        db.executemany(sql, rows)
