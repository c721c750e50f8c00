"""LogCore: the state of the delta log, and the transactions that change it: local writes, and remote operations.

This is the half of ``DeltaLog`` that every write goes through; ``delta_log`` adds what is asked of the log besides.

What always holds:

* one writing connection, used by one thread at a time; memory changes only after the commit (``_follow``);
* ``seq`` is dense from 1 within a replica, ``position`` dense over all changes, and both grow together;
* timestamps never run back: the last one is in the log's last operation, or in ``meta`` when something else moved it;
* an error leaves the store as it was before the call.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import apsw

from edge.storage.erasures import ERASURES, Erasures
from edge.storage.group_commit import GroupCommit, Job
from edge.storage.kept_back import Kept
from edge.storage.log_reader import LogReader
from edge.storage.log_rows import ROWS_MAX
from edge.storage.log_schema import translate, unpacked_note
from edge.storage.log_writer import LogWriter, Within
from edge.storage.own_slots import Run
from edge.storage.renaming import RENAMED, taken_back, unpacked
from edge.storage.shapes import ShapeCache
from edge.storage.transaction import Transaction, Write
from edge.storage.write_checks import PackedPut, plain_put
from sync.errors import Malformed, SchemaMismatch, StorageError, UnknownCollection
from sync.images import image_values
from sync.limits import FUTURE_MS_MAX
from sync.operations import Kind, Operation
from sync.places import Whole
from sync.ports import Clock, RandomSource
from sync.restamp import heard_in
from sync.schema import COLLECTIONS, CollectionSchema
from sync.stamps import HybridClock

_META = "SELECT name, value FROM meta WHERE name NOT LIKE 'checkpoint.%'"
_DECLARED = "edge.collection(name) declares it"
_PUT = int(Kind.PUT)  # comparing with the member of an IntEnum costs four times as much


class LogCore:
    """``listeners`` are called after every commit, in the committing thread: let them be brief."""

    def __init__(self, db: apsw.Connection, path: str, *, clock: Clock, random: RandomSource, vfs: str | None) -> None:
        self.path, self.vfs = path, vfs
        self.listeners: list[Callable[[], None]] = []
        self.schemas: dict[str, CollectionSchema] = {}
        self.schema_problems: dict[str, str] = {}
        self.erasures = Erasures()
        self.admits: Callable[[Sequence[Write]], Sequence[Write]] | None = None  # the policy's; may raise NotAllowed
        self.kept = Kept()  # what the policy keeps on this device
        self.clock = HybridClock(clock)
        self._wall = clock
        self._random = random
        self.run = Run(random)
        self._declaring = allocate_lock()
        self.head_seq = self.rescoped = 0  # the latter: how often another policy came to hold
        self.took_back = False  # whether the last page had consequences that only state can carry (``renaming``)
        self.position = 0  # written last: up to here, all that readers may look for is there
        self._settled = False  # whether memory is known to say what the disk says
        self._expect_new = True
        self._group = GroupCommit(self._commit_one, self._commit_all)
        self.shapes = ShapeCache()
        self.numbers: dict[str, int] = {}
        self._plain: dict[str, int] = {}  # the id of collections that have it and whose fields are all last-writer
        self._plain_schemas: dict[str, CollectionSchema] = {}
        self.writer, self.reader = self._hands(db)
        self._settle()

    def _hands(self, db: apsw.Connection) -> tuple[LogWriter, LogReader]:
        writer = LogWriter(db, self.path)
        return writer, LogReader(self.path, self.vfs, self.numbers, writer.overlay, self.shapes)

    def _settle(self) -> None:
        """Read from the disk where the log stands: at the start, and after a commit of which nobody knows whether
        it was (a failed disk, an interrupt between the commit and what follows it in memory). Raises StorageError.
        """
        try:
            self._read_where_it_stands()
        except apsw.Error as error:
            raise translate(error, self.path) from error

    def _read_where_it_stands(self) -> None:
        writer, db = self.writer, self.writer.db
        meta = {name: unpacked_note(self.path, name, value) for name, value in db.execute(_META)}
        self.replica: bytes = meta["replica"]
        self.numbers.update(db.execute("SELECT name, id FROM collections"))
        noted, position, ts = meta.get("head", (0, 0, 0))
        seq = noted
        last = db.execute("SELECT seq, position, ts FROM operations ORDER BY seq DESC LIMIT 1").fetchone()
        if last is not None:
            # What was noted after the last operation knows better: the clock may have come down since (``log_clock``).
            seq, position, ts = last[0], max(last[1], position), max(last[2], ts) if last[0] > noted else ts
        marked = db.execute("SELECT max(position) FROM marks").get
        self.cursor: int = meta.get("cursor", 0)
        self.acked_seq, self.acked_segment = meta.get("acked", (0, b""))
        self.baseline: bytes | None = meta.get("baseline")
        self.renamed = unpacked(meta.get(RENAMED))
        clock = self.clock
        clock.observe(ts)
        clock.offset_ms, clock.ahead = meta.get("offset_ms", 0), bool(meta.get("drifts"))
        clock.beyond, clock.shifted = meta.get("beyond", 0), meta.get("shifted", 0)
        self._shift = clock.shifted
        clock.keep_pace()
        self.heard: int = meta.get("heard", 0)
        folded = meta.get("folded", 0)
        if folded != writer.folded_seq:
            writer.overlay.clear()  # the table has it
            writer.folded_seq = folded
        writer.evicted.learn(db)
        if folded < seq:
            self._replay()
        for name, image in self.reader.all_images(db, COLLECTIONS).items():
            self._learn_schema(name, image)
        self.erasures.learn(self.reader.all_images(db, ERASURES).items())
        self.head_seq, self.position = seq, max(position, marked or 0)
        writer.changed = dict.fromkeys(self.numbers.values(), self.position)  # any of them may have been
        self._settled = True  # last: whatever interrupts this, it is done again

    def _replay(self) -> None:
        """Merge the operations again whose images were still in memory when the store was last left."""
        operations = self.reader.operations_after(self.writer.db, self.replica, self.writer.folded_seq)
        transaction = self._begun()
        transaction.prefetch((operation.shape.collection, operation.key) for operation in operations)
        transaction.replay(operations)
        self.writer.adopt(transaction)

    # -- writing ------------------------------------------------------------------------------------------------------

    def submit(self, writes: Sequence[Write]) -> int:
        """Make these writes durable, all or nothing, sharing the commit with whoever writes at the same time. Returns
        the seq of the last that is sent; they have consecutive ones. Raises UnknownCollection, NotFound, StaleWrite,
        TooLarge, InvalidValue, SchemaMismatch, Erased, NotAllowed or StorageError.
        """
        if not writes:
            return self.head_seq
        if self.admits is not None:
            writes = self.admits(writes)
        schemas = self.schemas
        for write in writes:
            if write[1] not in schemas and write[1] != COLLECTIONS:
                raise UnknownCollection(f"collection {write[1]!r} has not been declared", hint=_DECLARED)
        return int(self._group.run(writes))

    def _commit_one(self, writes: Sequence[Write]) -> int:
        """A group of one, with a short cut for the commonest: one put of a record that is probably new, as the last
        one was.
        """
        _, collection, key, _, _, schema, put, new = writes[0]
        if put is not None and (new or self._expect_new) and len(writes) == 1:
            writer, ref = self.writer, put[0]
            with writer.lock:  # in which no other policy comes to hold
                writer.check_open()
                if self.erasures.at:
                    self.erasures.check(writes)
                as_checked = self._plain_schemas.get(collection) is schema and not self.kept.bounds(collection, key)
                if self._settled and as_checked and ref not in writer.overlay and writer.has_room():
                    seq, position, ts = self.head_seq + 1, self.position + 1, self.clock.now()
                    row, image = plain_put(seq, position, ts, self.cursor, put, self.replica)
                    self._settled = False
                    self._expect_new = writer.commit_new_one(row, ref, image)
                    if self._expect_new:
                        self.head_seq, self.position = seq, position
                        self._settled = True
                        self._notify()
                        return seq
                    self._settled = True
        job = Job(writes)
        self._commit_all((job,))
        if job.error is not None:
            raise job.error
        return int(job.result)

    def _commit_all(self, jobs: Sequence[Job]) -> None:
        """One transaction for all these jobs; a job whose writes cannot be composed fails by itself."""
        with self.writer.lock:
            # Here, where no erasure can be learned of between this and the commit.
            if not (jobs := self.erasures.admitted(jobs) if self.erasures.at else jobs):
                return
            kept = self.kept.concerns(jobs)
            puts = [put for job in jobs if len(job.writes) == 1 and (put := job.writes[0][6]) is not None]
            if kept or len(puts) < len(jobs) or not self._commit_puts(jobs, puts):
                as_new = not kept and self._expect_new and not self.writer.evicted.collections
                as_new = as_new and {write[0] for job in jobs for write in job.writes} == {_PUT}
                if not (as_new and self._commit_as_new(jobs)):
                    self._commit_jobs(jobs)
        self._notify()

    def _commit_puts(self, jobs: Sequence[Job], puts: Sequence[PackedPut]) -> bool:
        """The same short cut for a group of them. False, with nothing done, if it cannot be taken."""
        writer, count = self.writer, len(puts)
        writer.check_open()
        refs = {put[0] for put in puts}
        if not (
            self._settled
            and self._expect_new
            and count == len(refs)
            and count <= ROWS_MAX
            and writer.has_room(count)
            and writer.overlay.keys().isdisjoint(refs)
            and all(self._plain_schemas.get(job.writes[0][1]) is job.writes[0][5] for job in jobs)
        ):
            return False
        seen, replica = self.cursor, self.replica
        seq, position, ts = self.head_seq, self.position, self.clock.take(count) - 1
        rows, images = [], {}
        for number, (job, put) in enumerate(zip(jobs, puts, strict=True), 1):
            row, images[put[0]] = plain_put(seq + number, position + number, ts + number, seen, put, replica)
            rows.append(row)
            job.result = seq + number
        self._settled = False
        self._expect_new = writer.commit_new(rows, images)
        if self._expect_new:
            self.head_seq, self.position = seq + count, position + count
        self._settled = True
        return self._expect_new

    def _commit_as_new(self, jobs: Sequence[Job]) -> bool:
        """Composed as if the records were new, which saves reading them; SQLite then checks that they are. False, with
        nothing done, if one is not.
        """
        writer = self.writer
        writer.check_open()
        transaction = self._transaction()
        transaction.local_each(jobs)
        rows = transaction.operations
        if not writer.overlay.keys().isdisjoint(transaction.touched):
            return False
        if not rows:
            return True
        if len(rows) <= ROWS_MAX and writer.has_room(len(rows)) and not transaction.new_collections:
            self._settled = False
            self._expect_new = writer.commit_new(rows, transaction.touched)
            return self._follow(transaction, self._expect_new)
        try:
            writer.begin()
            self._expect_new = self._finish(transaction, {}, assumed_new=True)
            return self._expect_new
        finally:
            writer.abandon()  # nothing, after a commit

    def _commit_jobs(self, jobs: Sequence[Job]) -> None:
        """Composed with the records as they are."""
        writer = self.writer
        try:
            writer.begin()
            transaction = self._transaction()
            transaction.prefetch([(write[1], write[2]) for job in jobs for write in job.writes])
            self._expect_new = not transaction.held
            transaction.local_each(jobs)
            if transaction.kept:
                head = (transaction.seq, transaction.position, self.clock.last)
                self._finish(transaction, {"head": head}, fold=True)
            elif transaction.operations:
                self._finish(transaction, {})
        finally:
            writer.abandon()  # nothing, after a commit

    def apply(
        self,
        operations: Sequence[Operation],
        *,
        cursor: int | None = None,
        baseline: bytes | None = None,
        within: Within = dict,
        whole: Whole | None = None,
    ) -> int | None:
        """Merge remote operations and store the feed position they reach, in one transaction. Returns records changed.
        ``baseline`` is the token of a baseline page; it is forgotten when a cursor comes without one. ``within`` says,
        under the lock, which notes are stored with it. None, and nothing done, if it says None. ``whole``: as of
        ``Transaction.remote``.
        """
        writer = self.writer
        with writer.lock:
            self.ensure_settled()
            if (further := within()) is None:
                return None
            operations, notes = taken_back(self.renamed, operations)
            notes.update(further)
            newest, beyond = heard_in(operations, self.clock.reading(FUTURE_MS_MAX))
            admitted, denied = self.erasures.sorted(operations)
            try:
                writer.begin()
                transaction = self._transaction()
                asked = (*whole.none, *whole.denied) if whole is not None else ()
                transaction.prefetch([*((operation[4][1], operation[5]) for operation in admitted), *denied, *asked])
                changed = transaction.remote(admitted, whole)
                if newest > self.heard:
                    notes["heard"] = newest
                if beyond > self.clock.beyond:
                    notes["beyond"] = beyond
                if denied:
                    self.clock.observe(newest)
                    transaction.delete(denied)
                if newest > self.clock.last or changed or denied:
                    notes["head"] = (transaction.seq, transaction.position, max(newest, self.clock.last))
                if cursor is not None:
                    notes["cursor"] = cursor
                if cursor is not None or baseline is not None:
                    notes["baseline"] = baseline
                self._finish(transaction, notes, fold=True)
            finally:
                writer.abandon()  # nothing, after a commit
            self.clock.observe(newest)
            self.clock.beyond, self.heard = max(self.clock.beyond, beyond), max(self.heard, newest)
            self.cursor = self.cursor if cursor is None else cursor
            self.baseline = notes.get("baseline", self.baseline)
            self.renamed = unpacked(notes[RENAMED]) if RENAMED in notes else self.renamed
            self.took_back = "repair" in notes
        self._notify()
        return changed

    def ensure_settled(self) -> None:
        """After a commit of which nobody knows whether it was, look. The caller holds the lock. Raises StorageError."""
        if not self._settled:
            self._settle()

    def _transaction(self) -> Transaction:
        self.ensure_settled()
        return self._begun()

    def _begun(self) -> Transaction:
        """From where memory says that the log stands."""
        return Transaction(self)

    def _finish(
        self, transaction: Transaction, notes: Mapping[str, Any], *, fold: bool = False, assumed_new: bool = False
    ) -> bool:
        """Commit. False, with nothing done, if the transaction ``assumed_new`` records and one is not."""
        self._settled = False
        return self._follow(transaction, self.writer.commit(transaction, notes, fold=fold, assumed_new=assumed_new))

    def _follow(self, transaction: Transaction, done: bool) -> bool:
        """Let memory follow the disk. The only place where it does, but for the short cut of one put.

        ``position`` last: a projection in another thread takes it to mean that all before it can be read.
        """
        if done:
            if transaction.new_collections:
                self.numbers.update(transaction.new_collections)
                self._note_plain()
            for name, image in transaction.touched_in(COLLECTIONS):
                self._learn_schema(name, image)
            self.erasures.learn(transaction.touched_in(ERASURES))
            self.kept.follow(transaction)
            if transaction.stubs.back:
                self._note_plain()
            self.head_seq, self.position = transaction.seq, transaction.position
        self._settled = True
        return done

    def _learn_schema(self, name: str, image: bytes) -> None:
        """One that cannot be read (from a newer or faulty peer) shows in ``schema_problems``; the old one serves."""
        try:
            values = image_values(image)
            if values is None:
                self.schemas.pop(name, None)
            else:
                schema = CollectionSchema.from_document(name, values.get("spec"))
                if self.schemas.get(name) != schema:  # writes know by the object what they were checked by
                    self.schemas[name] = schema
            self.schema_problems.pop(name, None)
        except (SchemaMismatch, Malformed) as error:
            self.schema_problems[name] = str(error)
        self._note_plain()

    def _note_plain(self) -> None:
        """Short cuts are for collections without stubs."""
        numbers = {name: at for name, at in self.numbers.items() if at not in self.writer.evicted.collections}
        self._plain = {name: numbers[name] for name, it in self.schemas.items() if name in numbers and it.all_lww()}
        self._plain_schemas = {name: self.schemas[name] for name in self._plain}

    def _notify(self) -> None:
        if self.clock.shifted != self._shift:
            self._shift = self.clock.shifted
            with suppress(StorageError), self.writer.lock:  # the next process goes on by it; the write itself is done
                self.writer.note(offset_ms=self.clock.offset_ms, shifted=self._shift)
        for listener in self.listeners:
            listener()

    def fold(self) -> None:
        """Write the images that are only in memory to their table."""
        with self.writer.lock:
            if self.writer.overlay:
                try:
                    self.writer.begin()
                    self._finish(self._transaction(), {}, fold=True)
                finally:
                    self.writer.abandon()  # nothing, after a commit
