"""DeltaLog: the device's truth, ``<dir>/log.db``: operations in their order, and the record images they fold into.

A write is one transaction that appends its operation; the record's image follows in memory and, some writes later, in its
table (``log_writer``). By its position in the log the record is known to be dirty for the projections. ``submit`` returns
after the commit is on disk.

What always holds:

* one writing connection, used by one thread at a time; memory changes only after the commit;
* ``seq`` is dense from 1 within a replica, ``position`` dense over all changes, and both grow together;
* timestamps never run back: the last one is in the log's last operation, or in ``meta`` when something else moved it;
* an error leaves the store as it was before the call.

It leaves to others: composing and merging (``transaction``, ``sync.records``), committing (``log_writer``), reading
(``log_reader``), care (``log_care``), who may open the store (``edge.node`` holds the lock), and what is searched.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import msgpack

from edge.storage.group_commit import GroupCommit, Job
from edge.storage.log_reader import DeadLetter, LogReader, pack_operation
from edge.storage.log_schema import connect, translate
from edge.storage.log_writer import LogWriter, Transact
from edge.storage.transaction import ShapeCache, Transaction, Write, plain_put
from sync.errors import AgentDBError, CorruptStore, SchemaMismatch, UnknownCollection
from sync.images import image_values
from sync.operations import Kind, Operation, Shape
from sync.ports import Clock, RandomSource
from sync.records import state_operation
from sync.schema import COLLECTIONS, CollectionSchema, check_successor
from sync.stamps import HybridClock, device_of, incarnation_of, replica_id

if TYPE_CHECKING:
    from sync.messages import Refusal

_PUT = int(Kind.PUT)  # comparing with the member of an IntEnum costs four times as much
_INCARNATION_STEP = 1 << 20
_CLOSE_FOLD_RECORDS = 64  # fewer are merged again at the next start, in less time than a commit takes now


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
        self.vfs = vfs
        self.listeners: list[Callable[[], None]] = []
        self.schemas: dict[str, CollectionSchema] = {}
        self.schema_problems: dict[str, str] = {}
        self._wall = clock
        self._random = random
        self._declaring = allocate_lock()
        self._expect_new = True
        self._group = GroupCommit(self._commit_one, self._commit_all)
        self._shapes = ShapeCache()
        self._collections: dict[str, int] = {}
        self._plain: dict[str, int] = {}  # the id of collections that have it and whose fields are all last-writer
        self.writer = LogWriter(db, path)
        self.reader = LogReader(path, vfs, self._collections, self.writer.overlay, self._shapes)
        self._load(db, device)

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

    def _load(self, db: apsw.Connection, device: bytes | None) -> None:
        meta = {name: msgpack.unpackb(value) for name, value in db.execute("SELECT name, value FROM meta")}
        if "replica" not in meta:
            if device is None:
                raise CorruptStore(f"{self.path} has no replica id", hint="restore a snapshot, or join again")
            meta["replica"] = replica_id(device, 1)
            with self.writer.transact():
                self.writer.put_meta("replica", meta["replica"])
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
        self.writer.folded_seq = meta.get("folded", 0)
        if self.writer.folded_seq < seq:
            self._replay()
        for name, image in self.reader.all_images(db, COLLECTIONS).items():
            self._learn_schema(name, image)
        if meta.get("copied"):
            self.new_incarnation()

    def _replay(self) -> None:
        """Merge the operations again whose images were still in memory when the store was last left."""
        operations = self.reader.operations_after(self.writer.db, self.replica, self.writer.folded_seq)
        transaction = self._transaction()
        transaction.prefetch((operation.shape.collection, operation.key) for operation in operations)
        transaction.replay(operations)
        self.writer.adopt(transaction)

    def close(self) -> None:
        """Idempotent. What was acknowledged is on disk whether or not this is called."""
        with self.writer.lock:
            if len(self.writer.overlay) > _CLOSE_FOLD_RECORDS:
                self.fold()
            self.reader.close()
            self.writer.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def submit(self, writes: Sequence[Write]) -> int:
        """Make these writes durable, all or nothing, sharing the commit with whoever writes at the same time. Returns the
        seq of the last of them; they have consecutive ones.

        Raises UnknownCollection, NotFound, TooLarge, InvalidValue, SchemaMismatch (nothing changed), or StorageError.
        """
        if not writes:
            return self.head_seq
        schemas = self.schemas
        for write in writes:
            if write[1] not in schemas and write[1] != COLLECTIONS:
                raise UnknownCollection(
                    f"collection {write[1]!r} has not been declared", hint="edge.collection(name) declares it"
                )
        last: int = self._group.run(writes)
        return last

    def _commit_one(self, writes: Sequence[Write]) -> int:
        """The short cut for one put of a record that is probably new, as the last one was; else a group of one."""
        kind, collection, key, payload, _ = writes[0]
        plain = self._plain.get(collection)
        if plain and kind == _PUT and payload is not None and len(writes) == 1 and self._expect_new:
            writer = self.writer
            with writer.lock:
                writer.check_open()
                ref = (plain, key)
                if ref not in writer.overlay and writer.has_room():
                    seq, position, ts = self.head_seq + 1, self.position + 1, self.clock.now()
                    row, image = plain_put(
                        seq, position, ts, self.cursor, ref, payload, self._shapes, self.replica
                    )
                    self._expect_new = writer.commit_new(row, ref, image)
                    if self._expect_new:
                        self.head_seq, self.position = seq, position
                        self._notify()
                        return seq
        job = Job(writes)
        self._commit_all((job,))
        if job.error is not None:
            raise job.error
        last: int = job.result
        return last

    def _commit_all(self, jobs: Sequence[Job]) -> None:
        """One transaction for all these jobs; a job whose writes cannot be composed fails by itself."""
        with self.writer.lock:
            puts = self._expect_new and all([write[0] == _PUT for job in jobs for write in job.writes])
            if not (puts and self._commit_jobs(jobs, assume_new=True)):
                self._commit_jobs(jobs, assume_new=False)
        self._notify()

    def _commit_jobs(self, jobs: Sequence[Job], *, assume_new: bool) -> bool:
        """Composed with the records as they are; or, to save the reading, as if they were new, which SQLite then checks."""
        writer = self.writer
        writer.begin()
        try:
            transaction = self._transaction()
            if not assume_new:
                transaction.prefetch([(write[1], write[2]) for job in jobs for write in job.writes])
                self._expect_new = not transaction.held
            for job in jobs:
                job.error = None
                try:
                    job.result = transaction.local(job.writes)
                except AgentDBError as error:
                    job.error = error
            if assume_new and not writer.overlay.keys().isdisjoint(transaction.touched):
                return False
            if transaction.operations:
                if not writer.commit(transaction, {}, fold=False, assumed_new=assume_new):
                    return False
                self._take_over(transaction)
            return True
        finally:
            writer.abandon()  # nothing, after a commit

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
        writer = self.writer
        with writer.lock:
            writer.begin()
            try:
                transaction = self._transaction()
                transaction.prefetch([(operation[4][1], operation[5]) for operation in operations])
                changed = transaction.remote(operations)
                newest = max((operation[2] for operation in operations), default=0)
                notes: dict[str, Any] = {}
                if newest > self.clock.last or changed:
                    notes["head"] = (self.head_seq, transaction.position, max(newest, self.clock.last))
                if cursor is not None:
                    notes["cursor"] = cursor
                if cursor is not None or baseline is not None:
                    notes["baseline"] = baseline
                self._finish(transaction, notes, fold=True)
            finally:
                writer.abandon()  # nothing, after a commit
            self.clock.observe(newest)
            self.cursor = self.cursor if cursor is None else cursor
            self.baseline = notes.get("baseline", self.baseline)
        self._notify()
        return changed

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
            fetch=self.writer.fetch,
        )

    def _finish(self, transaction: Transaction, notes: Mapping[str, Any], *, fold: bool = False) -> None:
        self.writer.commit(transaction, notes, fold=fold)
        self._take_over(transaction)

    def _take_over(self, transaction: Transaction) -> None:
        """What was committed is true now. The only place where memory follows the disk."""
        self.head_seq, self.position = transaction.seq, transaction.position
        if transaction.new_collections:
            self._collections.update(transaction.new_collections)
            self._note_plain()
        for name, image in transaction.declared():
            self._learn_schema(name, image)

    def _learn_schema(self, name: str, image: bytes) -> None:
        """A schema that cannot be read (from a newer or faulty peer) shows in ``schema_problems``; the old one serves."""
        values = image_values(image)
        try:
            if values is None:
                self.schemas.pop(name, None)
            else:
                self.schemas[name] = CollectionSchema.from_document(name, values.get("spec"))
            self.schema_problems.pop(name, None)
        except SchemaMismatch as error:
            self.schema_problems[name] = str(error)
        self._note_plain()

    def _note_plain(self) -> None:
        numbers = self._collections
        self._plain = {name: numbers[name] for name, it in self.schemas.items() if name in numbers and it.all_lww()}

    def _notify(self) -> None:
        for listener in self.listeners:
            listener()

    # -- the link to the cloud ----------------------------------------------------------------------------------------

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
        writer = self.writer
        with writer.transact() as db:
            for refusal in refusals:
                for refused in self.reader.pending(self.replica, refusal.seq - 1, 1, 0):
                    db.execute(
                        "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                        (refused.seq, refused.replica, refused.shape.collection, refused.key, refusal.code,
                         refusal.reason, self._wall.wall_ms(), pack_operation(refused)),
                    )  # fmt: skip
            if acked is not None:
                writer.put_meta("acked", acked)
            if cursor is not None:
                writer.put_meta("cursor", cursor)
            for name, value in (notes or {}).items():
                writer.put_meta(name, value)
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
        writer = self.writer
        with writer.lock:
            self.fold()
            replica = replica_id(device_of(self.replica), incarnation_of(self.replica) + step)
            with writer.transact() as db:
                db.execute("INSERT INTO marks SELECT position, collection, key FROM operations")
                db.execute("DELETE FROM operations")
                db.execute("DELETE FROM meta WHERE name = 'copied'")
                writer.put_meta("replica", replica)
                writer.put_meta("head", (0, self.position, self.clock.last))
                writer.put_meta("folded", 0)
                # What the cloud holds is to be learned anew, and it has to be given this store's state (link_state).
                writer.put_meta("acked", (0, b""))
                writer.put_meta("sent", (0, b""))
                writer.put_meta("repair", True)
            writer.folded_seq = 0
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
        with self.writer.transact():
            self.writer.put_meta(name, value)

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
        self.fold()
        rows = self.reader.state(after, limit)
        return [state_operation(collection, key, image, self._state_shape) for collection, key, image in rows]

    def _state_shape(self, collection: str, names: tuple[str, ...]) -> Shape:
        return self._shapes.plain(collection, names)

    # -- care (log_care does the work) --------------------------------------------------------------------------------

    def transact(self) -> Transact:
        """The right to write, and a transaction: ``with log.transact() as db``. For this package only."""
        return self.writer.transact()

    def fold(self) -> None:
        """Write the images that are only in memory to their table."""
        with self.writer.lock:
            if self.writer.overlay:
                self.writer.begin()
                self._finish(self._transaction(), {}, fold=True)

    def trim(self, position: int) -> int:
        """Drop log rows up to ``position`` that the cloud has acknowledged. Returns how many; record images stay."""
        from edge.storage import log_care

        return log_care.trim(self, position)

    def snapshot(self, target: str) -> None:
        """A consistent copy of the database at ``target``, which must not exist. Opened, it is a new replica."""
        from edge.storage import log_care

        log_care.snapshot(self, target)

    def verify(self) -> list[str]:
        """What is wrong with the store, in sentences; empty if nothing is."""
        from edge.storage import log_care

        return log_care.verify(self)

    def digest(self) -> str:
        """The state digest (``sync.digest``) over every living record: equal on replicas that hold the same state."""
        from edge.storage import log_care

        return log_care.digest(self)

    def size_bytes(self) -> int:
        """What the database takes on the disk, its write-ahead log included."""
        pages, page_bytes = self.reader.one("SELECT page_count, page_size FROM pragma_page_count, pragma_page_size")
        wal = self.path + "-wal"
        return int(pages * page_bytes) + (os.path.getsize(wal) if os.path.exists(wal) else 0)
