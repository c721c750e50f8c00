"""SqliteStore: ``cloud.ports.Store`` in one SQLite file, without any setup.

One writing connection behind a lock (SQLite has one writer at a time anyway, and a lock queues more fairly
than its busy handler) and a pool of reading ones. WAL: readers and the writer do not wait for each other.
Other processes, the command line for one, may use the same file at the same time.

What always holds: a ``writing()`` block that ended is on the disk (``synchronous=FULL``, unless it asked
for less), and one that raised has changed nothing. The statements are in ``sqlite_reading`` and
``sqlite_writing``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Full, LifoQueue
from threading import Lock

import apsw

from cloud.ports import Reading, Transaction
from cloud.rows import Head
from cloud.storage.sqlite_reading import SqliteReading
from cloud.storage.sqlite_schema import connect, translate
from cloud.storage.sqlite_writing import SqliteTransaction
from sync.errors import AgentDBError, StorageError
from sync.images import is_alive

READERS_IDLE_MAX = 8
_PROBLEMS_MAX = 100


class SqliteStore:
    """Build it with ``open``."""

    def __init__(self, path: str, db: apsw.Connection, vfs: str | None) -> None:
        self.path = path
        self._db = db
        self._vfs = vfs
        self._writer = Lock()
        self._synchronous = "full"
        self._readers: LifoQueue[apsw.Connection] = LifoQueue(READERS_IDLE_MAX)
        self._closed = False

    @staticmethod
    def open(path: str | Path, *, vfs: str | None = None) -> SqliteStore:
        """Open the file, or create it in a directory that exists. Raises StorageError and its kinds."""
        name = os.fspath(path)
        return SqliteStore(name, connect(name, vfs=vfs), vfs)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        db = self._reader()
        try:
            db.execute("BEGIN")
            yield SqliteReading(db)
            db.execute("COMMIT")
        except apsw.Error as error:
            raise translate(error, self.path) from error
        finally:
            self._return(db)

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Transaction]:
        with self._writer:
            self._check_open()
            db = self._db
            try:
                self._set_synchronous("full" if durable else "normal")
                db.execute("BEGIN IMMEDIATE")
                yield SqliteTransaction(db)
                db.execute("COMMIT")
            except apsw.Error as error:
                self._rollback()
                raise translate(error, self.path) from error
            except BaseException:
                self._rollback()
                raise

    def is_empty(self) -> bool:
        with self.reading() as view:
            return not view.fleets()

    def verify(self) -> list[str]:
        """SQLite's own check, then what we promise of every fleet: a dense feed, decodable images, true
        counts.
        """
        db = self._reader()
        problems: list[str] = []
        try:
            db.execute("BEGIN")
            problems += [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            view = SqliteReading(db)
            for fleet in view.fleets():
                head = view.head(fleet.fleet)
                problems += _check_feed(db, fleet.fleet, head)
                problems += _check_records(db, fleet.fleet, head)
            db.execute("COMMIT")
        except apsw.Error as error:
            problems.append(str(translate(error, self.path)))
        except AgentDBError as error:
            problems.append(error.message)
        finally:
            self._return(db)
        return problems[:_PROBLEMS_MAX]

    def close(self) -> None:
        """Waits for a writer; reading blocks that are open close their own connection when they end."""
        with self._writer:
            if self._closed:
                return
            self._closed = True
            while True:
                try:
                    self._readers.get_nowait().close()
                except Empty:
                    break
            self._db.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self.path} was closed")

    def _reader(self) -> apsw.Connection:
        self._check_open()
        try:
            return self._readers.get_nowait()
        except Empty:
            return connect(self.path, vfs=self._vfs, read_only=True)

    def _return(self, db: apsw.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if self._closed:
            db.close()
            return
        try:
            self._readers.put_nowait(db)
        except Full:
            db.close()

    def _set_synchronous(self, mode: str) -> None:
        if mode != self._synchronous:
            self._db.pragma("synchronous", mode)
            self._synchronous = mode

    def _rollback(self) -> None:
        # Some errors (a full disk) have made SQLite roll back by itself.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _check_feed(db: apsw.Connection, fleet: bytes, head: Head) -> list[str]:
    expected = head.trimmed + 1
    for first, last in db.execute("SELECT first, last FROM feed WHERE fleet = ? ORDER BY last", (fleet,)):
        if first != expected:
            return [f"fleet {fleet.hex()}: the feed has {first} where {expected} should follow"]
        expected = last + 1
    if expected != head.position + 1:
        return [f"fleet {fleet.hex()}: the feed ends at {expected - 1}, its head is {head.position}"]
    return []


def _check_records(db: apsw.Connection, fleet: bytes, head: Head) -> list[str]:
    problems = []
    living = 0
    rows = db.execute("SELECT collection, key, image, position FROM records WHERE fleet = ?", (fleet,))
    for collection, key, image, position in rows:
        try:
            living += is_alive(image)
        except AgentDBError as error:
            problems.append(f"fleet {fleet.hex()}: {collection}/{key}: {error.message}")
        if position > head.position:
            problems.append(f"fleet {fleet.hex()}: {collection}/{key} is ahead of the feed")
    if not problems and living != head.living:
        problems.append(f"fleet {fleet.hex()}: {living} living records, the head says {head.living}")
    return problems
