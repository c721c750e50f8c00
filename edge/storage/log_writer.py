"""The one writing connection of the delta log, the right to use it, and the images that are not in their table yet.

A put is durable when its operation is in the log; its record's image can wait. So a commit appends operations only,
one page at its end, and the images they lead to stay in ``overlay`` until enough of them have come together to be
written at once, with the commit that makes them too many. After a crash the operations after ``folded_seq`` are
merged again (``DeltaLog`` does it when it opens); merging is idempotent, so it does not matter which of them were
in already. Measured: 1 page instead of 3 for a put, and a key that is written over and over costs its table
nothing.

What always holds: memory changes only after the commit; an error rolls back and leaves everything as it was; one
thread writes at a time. Readers look into ``overlay`` before the table; entries enter it after their commit, and
leave it only after the commit that wrote them to the table.
"""

from __future__ import annotations

import os
from _thread import RLock
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import apsw
import msgpack

from edge.storage.evicted import Evicted, Stub
from edge.storage.kept_back import keep
from edge.storage.log_rows import chunks, insert, new_operations, select_held
from edge.storage.log_schema import close, translate
from edge.storage.transaction import Held, OperationRow, Ref, Transaction
from sync.errors import StorageError

# What may be in memory only, and so has to be merged again after a crash: records, operations, bytes of operations.
FOLD_RECORDS_MAX = 4096
FOLD_OPERATIONS_MAX = 4096
FOLD_BYTES_MAX = 4 << 20
_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_OPERATION = "INSERT INTO operations VALUES "
_NEW_OPERATION = new_operations(1)
_MARK = "INSERT INTO marks VALUES "
_RECORD_NEW = "INSERT INTO records (collection, key, living, image) VALUES "
_RECORD_SET = "UPDATE records SET living = ?, image = ? WHERE id = ?"

Within = Callable[[], dict[str, Any] | None]  # notes to store with a transaction; None: it is not to be


class LogWriter:
    """``lock`` is held by whoever writes. ``overlay`` maps a record to what it is and what the table knows of it;
    ``evicted`` knows whose records are not here.
    """

    def __init__(self, db: apsw.Connection, path: str) -> None:
        self.db = db
        self.cursor = db.cursor()  # for what each write does: one that is kept costs a third of a new one
        self.path = path
        self.lock = RLock()
        self.overlay: dict[Ref, Held] = {}
        self.changed: dict[int, int] = {}  # collection id -> position of its last change, once that can be read
        self.evicted = Evicted()
        self.folded_seq = 0
        self._unfolded_bytes = 0
        self._process = os.getpid()
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            close(self.db)

    def check_open(self) -> None:
        """Before every transaction; the caller holds ``lock``. Raises StorageError."""
        if self._closed:
            raise StorageError(f"{self.path} is closed", hint="open the store again")
        if os.getpid() != self._process:
            raise StorageError(
                f"{self.path} was opened by process {self._process}, of which this is a fork",
                hint="open the store after forking; SQLite cannot be shared across a fork",
            )
        # A signal handler may have raised between BEGIN and whoever would have rolled back: what came next would be
        # acknowledged as a part of a transaction that nobody commits.
        if self.db.in_transaction:
            roll_back(self.db)

    def fetch(self, refs: Sequence[Ref]) -> dict[Ref, Held]:
        """What is known of those records that exist. Raises StorageError."""
        overlay = self.overlay
        found: dict[Ref, Held] = {}
        wanted: Sequence[Ref] = refs
        if overlay:
            found = {ref: overlay[ref] for ref in refs if ref in overlay}
            wanted = [ref for ref in refs if ref not in found]
        try:
            for collection, key, rowid, image, living in select_held(self.db, wanted):
                found[collection, key] = (rowid, image, living)
        except apsw.Error as error:
            raise translate(error, self.path) from error
        return found

    def stubs(self, refs: Sequence[Ref]) -> dict[Ref, Stub]:
        """Of those whose records have left. Raises StorageError."""
        try:
            return self.evicted.among(self.db, refs)
        except apsw.Error as error:
            raise translate(error, self.path) from error

    def begin(self) -> None:
        """Begin a transaction; the caller holds ``lock``, and calls ``commit`` or ``abandon``. Raises StorageError."""
        self.check_open()
        try:
            self.db.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise translate(error, self.path) from error

    def abandon(self) -> None:
        roll_back(self.db)

    def commit(
        self, transaction: Transaction, notes: Mapping[str, Any], *, fold: bool, assumed_new: bool = False
    ) -> bool:
        """Write the transaction's rows and commit. With ``fold``, or when too many have gathered, the images go to
        their table as well.

        False, and rolled back, if the transaction was composed as if its records were new (``assumed_new``) and one
        is not.
        """
        size = self._unfolded_bytes + sum([len(row[8]) for row in transaction.operations])
        stubs = transaction.stubs
        # With what moves between the table and the stubs: no replay depends on a row that has gone.
        fold = fold or stubs.moved or self._is_full(transaction, size)
        db = self.db
        try:
            for name, number in transaction.new_collections.items():
                db.execute("INSERT INTO collections VALUES (?, ?)", (number, name))
            if not self._append(transaction.operations, assumed_new=assumed_new and not fold):
                roll_back(db)
                return False
            insert(db, _MARK, transaction.marks)
            keep(db, transaction)
            if fold:
                inserts, updates = transaction.record_rows(self.overlay)
                insert(db, _RECORD_NEW, inserts)
                if updates:
                    db.executemany(_RECORD_SET, updates)
                self.put_meta("folded", transaction.seq)
            self.evicted.store(db, stubs)
            for name, value in notes.items():
                self.put_meta(name, value)
            db.execute("COMMIT")
            self.evicted.stored(db, stubs)
        except apsw.ConstraintError as error:
            roll_back(db)
            if assumed_new:
                return False
            raise translate(error, self.path) from error
        except (apsw.Error, OSError) as error:
            roll_back(db)
            raise translate(error, self.path) from error
        if fold:
            self.overlay.clear()
            self.folded_seq = transaction.seq
            self._unfolded_bytes = 0
        else:
            self.overlay.update(transaction.changed())
            self._unfolded_bytes = size
        self.changed.update({collection: transaction.position for collection, _ in transaction.touched})
        return True

    def commit_new(self, rows: Sequence[OperationRow], images: Mapping[Ref, bytes]) -> bool:
        """The whole of a transaction that was composed as if its records were new, in one statement that also
        checks that they are. False, with nothing done, if one is not. ``rows`` are at most ``ROWS_MAX``, and there
        is room for them.

        Begin, query, insert and commit are four round trips into SQLite and two through its file locks.
        """
        try:
            done = self._insert_new(rows)
        except (apsw.Error, OSError) as error:
            roll_back(self.db)
            raise translate(error, self.path) from error
        if done:
            self.overlay.update({ref: (None, image, 0) for ref, image in images.items()})
            self.changed.update({collection: rows[-1][1] for collection, _ in images})
            self._unfolded_bytes += sum([len(row[8]) for row in rows])
        return done

    def commit_new_one(self, row: OperationRow, ref: Ref, image: bytes) -> bool:
        """``commit_new`` for a single row: what nearly every write is."""
        try:
            self.cursor.execute(_NEW_OPERATION, row)
        except (apsw.Error, OSError) as error:
            roll_back(self.db)
            raise translate(error, self.path) from error
        if self.db.changes() != 1:
            return False
        self.overlay[ref] = (None, image, 0)
        self.changed[ref[0]] = row[1]
        self._unfolded_bytes += len(row[8])
        return True

    def _append(self, operations: Sequence[OperationRow], *, assumed_new: bool) -> bool:
        if assumed_new:
            return all(self._insert_new(rows) for rows in chunks(operations))
        insert(self.db, _OPERATION, operations)
        return True

    def _insert_new(self, rows: Sequence[OperationRow]) -> bool:
        self.cursor.execute(new_operations(len(rows)), tuple(chain.from_iterable(rows)))
        return self.db.changes() == len(rows)

    def has_room(self, rows: int = 1) -> bool:
        """Whether so many more writes, of any size, may stay in memory only."""
        return len(self.overlay) + rows <= FOLD_RECORDS_MAX and self._unfolded_bytes < FOLD_BYTES_MAX

    def _is_full(self, transaction: Transaction, size: int) -> bool:
        return (
            len(self.overlay) + len(transaction.touched) > FOLD_RECORDS_MAX
            or transaction.seq - self.folded_seq > FOLD_OPERATIONS_MAX
            or size > FOLD_BYTES_MAX
        )

    def adopt(self, transaction: Transaction) -> None:
        """Take what a replay found into the overlay: it is in the log already."""
        self.overlay.update(transaction.changed())
        self._unfolded_bytes += sum(map(len, transaction.touched.values()))

    def put_meta(self, name: str, value: Any) -> None:
        """Store a small value; within a transaction."""
        self.db.execute(_META, (name, msgpack.packb(value)))

    def note(self, **values: Any) -> None:
        """Store small values in a transaction of their own; the caller holds ``lock``. Raises StorageError."""
        with self.transact():
            for name, value in values.items():
                self.put_meta(name, value)

    def transact(self) -> Transact:
        """``with writer.lock, writer.transact() as db``: a transaction that commits at the end, or rolls back."""
        return Transact(self)


class Transact:
    """A transaction; commits on success, rolls back and translates on an error. The caller holds the write lock, by a
    ``with`` of its own: taken in here, a signal handler that raises could leave it taken for good.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def __enter__(self) -> apsw.Connection:
        writer = self._writer
        try:
            writer.begin()
        except BaseException:
            roll_back(writer.db)
            raise
        return writer.db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        writer = self._writer
        try:
            if error is None:
                writer.db.execute("COMMIT")
            else:
                roll_back(writer.db)
                if isinstance(error, (apsw.Error, OSError)):
                    raise translate(error, writer.path) from error
        except (apsw.Error, OSError) as failed:
            roll_back(writer.db)
            raise translate(failed, writer.path) from failed


def roll_back(db: apsw.Connection) -> None:
    """End the transaction, if SQLite has not done so itself (it does on a full disk and on I/O errors)."""
    with suppress(apsw.ConnectionClosedError):
        if db.in_transaction:
            db.execute("ROLLBACK")
