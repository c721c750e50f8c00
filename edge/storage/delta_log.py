"""DeltaLog: the device's truth, ``<dir>/log.db``: operations in their order, and the record images they fold into.

A write is one transaction that appends its operation; the record's image follows in memory and, some writes later,
in its table (``log_writer``). By its position in the log the record is known to be dirty for the projections.
``submit`` returns after the commit is on disk.

What always holds is said in ``log_core``, which has the writing; here is what is asked of a log besides: opening
it, the link's notes, reading, care. It leaves to others: composing and merging (``transaction``, ``sync.records``),
committing (``log_writer``), reading (``log_reader``), care (``log_care``), who may open the store (``edge.node``
holds the lock).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import apsw

from edge.storage import kept_back, renaming
from edge.storage.evicted import with_stubs
from edge.storage.log_core import LogCore
from edge.storage.log_reader import DeadLetter, pack_operation
from edge.storage.log_schema import close, connect, index_anew, translate, unpacked_note
from edge.storage.log_writer import Transact
from edge.storage.transaction import Write
from edge.storage.write_checks import pack_put
from sync.errors import CorruptStore, StorageError
from sync.images import image_values
from sync.operations import Kind, Operation, Shape
from sync.ports import Clock, RandomSource
from sync.schema import COLLECTIONS, CollectionSchema, check_successor
from sync.stamps import device_of, incarnation_of, replica_id

if TYPE_CHECKING:
    from sync.messages import Refusal

_INCARNATION_STEP = 1 << 20
_CLOSE_FOLD_RECORDS = 64  # fewer are merged again at the next start, in less time than a commit takes now


class DeltaLog(LogCore):
    """Build it with ``open``. Safe to use from several threads. ``read_only``: this is a ``log_follower.Follower``."""

    read_only = False

    @staticmethod
    def open(
        path: str,
        *,
        clock: Clock,
        random: RandomSource,
        device: bytes | Callable[[], bytes] | None = None,
        vfs: str | None = None,
        durability: str = "full",
    ) -> DeltaLog:
        """Open the log at ``path``, or create it if ``device`` is given: the id (12 bytes), which must also match
        that of an existing log, or a function that makes it, called only if there is none.

        ``durability="relaxed"`` gives up the fsync: a crash of the machine may lose the last writes, never their
        order. Raises StorageError and its kinds, UnsupportedVersion.
        """
        db = connect(path, vfs=vfs, durability=durability, create=device)
        try:
            index_anew(db)
            log = DeltaLog(db, path, clock=clock, random=random, vfs=vfs)
            if isinstance(device, bytes) and device != device_of(log.replica):
                raise CorruptStore(
                    f"{path} belongs to device {device_of(log.replica).hex()}, the keys to {device.hex()}",
                    hint="put back the keys directory that was created with this store",
                )
            if db.execute("SELECT 1 FROM meta WHERE name = 'copied'").get:
                log.new_incarnation()
            return log
        except apsw.Error as error:
            close(db)
            raise translate(error, path) from error
        except BaseException:
            close(db)
            raise

    def close(self) -> None:
        """Idempotent. What was acknowledged is on disk whether or not this is called."""
        with self.writer.lock:
            if len(self.writer.overlay) > _CLOSE_FOLD_RECORDS:
                with suppress(StorageError):  # nothing is lost: the images are made again at the next start
                    self.fold()
            self.reader.close()
            self.writer.close()

    def check_writable(self) -> None:
        """Raises ReadOnly if this was opened for reading."""

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

    def put_of(
        self, collection: str, key: str, payload: Mapping[str, Any], schema: CollectionSchema, new: bool = False
    ) -> Write:
        """A PUT of what the schema has normalised, as ready as it can be made. Raises InvalidValue, TooLarge."""
        plain = self._plain.get(collection)
        put = pack_put((plain, key), payload, self.shapes) if plain else None
        return Write(Kind.PUT, collection, key, payload, False, schema, put, new)

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
        """Keep what a session learned, in one transaction: what is acknowledged and refused, where the feed is read
        from next, and small notes of the link's own (``meta``).
        """
        writer = self.writer
        with writer.lock, writer.transact() as db:
            if acked is not None and acked[0] > self.acked_seq:
                taken = self._taken_ts(acked[0], {refusal.seq for refusal in refusals})
                writer.put_meta("acked_ts", max(taken, self.meta_get("acked_ts") or 0))
            for refusal in refusals:
                for refused in self.reader.pending(self.replica, refusal.seq - 1, 1, 0):
                    if refused.seq != refusal.seq:
                        continue  # it is not in the log any more
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

    def _taken_ts(self, until_seq: int, refused: set[int]) -> int:
        """The largest timestamp of ours that the cloud took after what was acknowledged before."""
        rows = self.writer.db.execute(
            "SELECT seq, ts FROM operations WHERE seq > ? AND seq <= ? ORDER BY seq DESC", (self.acked_seq, until_seq)
        )
        return next((ts for seq, ts in rows if seq not in refused), 0)

    def learn_time(self, time_ms: int) -> None:
        """The cloud's clock says ``time_ms`` (milliseconds since 1970) now. Raises StorageError."""
        from edge.storage import log_clock

        log_clock.learn(self, time_ms, self._wall.wall_ms())

    def mend_stamps(self, *, as_state: bool = False) -> None:
        """Correct what was stamped by a wrong clock (``log_clock``), once the cloud's clock is known. Only while
        nothing that was sent may still be taken, or before the whole store is pushed ``as_state``. Raises StorageError.
        """
        from edge.storage import log_clock

        log_clock.mend(self, as_state=as_state)

    def new_incarnation(self) -> bytes:
        """Begin a new replica id: this store is a copy, or was rolled back. The images stay, but for contributions
        that the cloud had not acknowledged (``renaming``); the old log's operations become marks, and seqs begin again
        at 1. Returns the id.

        The step is random, so that two copies of one store do not become the same replica.
        """
        step = 1 + int(self._random.uniform() * _INCARNATION_STEP)
        writer = self.writer
        with writer.lock:
            self.ensure_settled()
            self.fold()
            self._settled = False
            self.run.begin()
            replica = replica_id(device_of(self.replica), incarnation_of(self.replica) + step)
            with writer.transact() as db:
                renaming.rename(self, db)
                db.execute("INSERT INTO marks SELECT position, collection, key FROM operations")
                db.execute("DELETE FROM operations")
                db.execute("DELETE FROM meta WHERE name = 'copied'")
                writer.put_meta("replica", replica)
                writer.put_meta("head", (0, self.position, self.clock.last))
                writer.put_meta("folded", 0)
                # What the cloud holds is to be learned anew, and it has to be given this store's state (link_state).
                writer.put_meta("acked", (0, b""))
                writer.put_meta("sent", [])
                writer.put_meta("repair", True)
                writer.put_meta("acked_ts", 0)
                writer.put_meta("told_ts", 0)
                # What the old name wrote is another's now: nothing that the new one writes may come below it.
                writer.put_meta("heard", max(self.heard, self.clock.last))
                writer.put_meta("rewritten", 0)
                writer.put_meta("drifts", [])
            self._settle()
        return replica

    def begin_run(self) -> None:
        """What is contributed from now on is of another run (``own_slots``). The caller holds the lock."""
        self.run.begin()

    def settle_again(self, last: int) -> None:
        """Everything may have changed below, the clock came down to ``last`` among it. The caller holds the lock."""
        self._settled = False
        self.clock.last = last
        self._settle()
        self._notify()

    def sweep(self, stable: int, until: int) -> int:
        """Forget deletes that the whole fleet has read (``log_sweep``). Returns how many. Raises StorageError."""
        from edge.storage import log_sweep

        return log_sweep.sweep(self, stable, until)

    # -- notes --------------------------------------------------------------------------------------------------------

    def meta_get(self, name: str) -> Any:
        """A small value stored with ``meta_set``, or None. Raises CorruptStore (it is none), StorageError."""
        value = self.reader.one("SELECT value FROM meta WHERE name = ?", name)
        return None if value is None else unpacked_note(self.path, name, value)

    def meta_set(self, name: str, value: Any) -> None:
        with self.writer.lock, self.writer.transact():
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

    def values(self, collection: str, key: str) -> dict[str, Any] | None:
        """The fields of a living record, as they are stored; None for any other."""
        image = self.reader.image(collection, key)
        return None if image is None else image_values(image)

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, bytes]:
        return self.reader.images(collection, keys)

    def scan(self, collection: str, *, after: str = "", prefix: str = "", limit: int = 1000) -> list[tuple[str, bytes]]:
        """(key, image) of living records in order of key (UTF-8 bytes), beginning after ``after``."""
        return self.reader.scan(collection, after, prefix, limit)

    def count(self, collection: str) -> int:
        """How many records live."""
        return self.reader.count(collection)

    def changed_at(self, collection: str) -> int:
        """The position of the last change of one of its records, or a later one."""
        return self.writer.changed.get(self.numbers.get(collection, 0), 0)

    def pending(self, after_seq: int, max_operations: int, max_bytes: int) -> list[Operation]:
        """Local operations after ``after_seq`` in order; at least one if there is one, else within both bounds."""
        return self.reader.pending(self.replica, after_seq, max_operations, max_bytes)

    def changes(self, after_position: int, limit: int) -> list[tuple[int, str, str]]:
        """(position, collection, key) of changes after a position, oldest first, local and remote."""
        return self.reader.changes(after_position, limit, self.position)

    def dead_letters(self) -> list[DeadLetter]:
        return self.reader.dead_letters()

    def state_operations(self, after: tuple[str, str] | None, limit: int) -> list[Operation]:
        """The whole store as state, tombstones too, in order of (collection, key) after ``after``. What is kept back is
        left out (``kept_back``), and contributions that are not acknowledged (``renaming``).
        """
        self.fold()
        while rows := self.state_rows(after, limit):
            if told := renaming.without_pending(self, kept_back.as_before(self, rows)):
                return kept_back.as_state(self, told)
            after = rows[-1][:2]
        return []

    def state_rows(self, after: tuple[str, str] | None, limit: int) -> list[renaming.Row]:
        """(collection, key, image), of what is in its table."""
        return with_stubs(self, after, self.reader.state(after, limit), limit)

    def state_shape(self, collection: str, names: tuple[str, ...]) -> Shape:
        return self.shapes.plain(collection, names)

    # -- care (log_care does the work) --------------------------------------------------------------------------------

    def collection_id(self, name: str) -> int:
        """Of a collection that has operations. For this package only."""
        return self.numbers[name]

    def collection_ids(self) -> dict[str, int]:
        """Of all collections that have operations. For this package only."""
        return dict(self.numbers)

    def transact(self) -> Transact:
        """A transaction: ``with log.writer.lock, log.transact() as db``. For this package only."""
        return self.writer.transact()

    def trim(self, position: int) -> int:
        """Drop log rows up to ``position`` that the cloud has acknowledged. Returns how many; record images stay."""
        from edge.storage import log_care

        return log_care.trim(self, position)

    def void(self, *, idle: bool = False) -> int:
        """Empty unsent operations that later ones have made void (``log_void``). Returns how many. Raises
        StorageError.
        """
        from edge.storage import log_void

        return log_void.void(self, idle=idle)

    def reclaim(self, *, idle: bool = False) -> int:
        """Give back the space of what was dropped (``log_vacuum``). Returns how many pages. Raises StorageError."""
        from edge.storage import log_vacuum

        return log_vacuum.reclaim(self, idle=idle)

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

    def all_records(self) -> Iterator[tuple[str, str, int, bytes]]:
        """(collection, key, living, image) of one consistent state, tombstones (``living`` below 1) too."""
        self.fold()
        return self.reader.walk(
            "SELECT c.name, r.key, r.living, r.image "
            "FROM collections c JOIN records r ON r.collection = c.id ORDER BY c.name, r.key"
        )

    def size_bytes(self) -> int:
        """What the database takes on the disk, its write-ahead log included."""
        pages, page_bytes = self.reader.one("SELECT page_count, page_size FROM pragma_page_count, pragma_page_size")
        wal = self.path + "-wal"
        return int(pages * page_bytes) + (os.path.getsize(wal) if os.path.exists(wal) else 0)
