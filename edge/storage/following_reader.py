"""Reading a delta log that another process may be writing: SQLite opened for reading, and one snapshot for each call.

Whatever is read in one call is read from one state of the store (``within``): a read transaction begins, and if the
database has changed since the last one (``PRAGMA data_version``), ``settle`` is called in it, before anything is read.
So a call sees every commit that was acknowledged before it began, and no half of one.

SQLite needs a writable directory for the shared memory (``-shm``) that says where its write-ahead log ends. Where it
has none (a read-only disk), the file is *still*: it is read as it is, under no locks, and opened anew when its size or
times say that it is another.

What always holds: nothing here changes the database; closing makes no checkpoint; a transaction is as long as a call.
"""

from __future__ import annotations

import os
from _thread import RLock
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

import apsw

from edge.storage import page_checksums
from edge.storage.log_reader import DeadLetter, LogReader
from edge.storage.log_schema import check_format, close, translate
from edge.storage.log_writer import roll_back
from edge.storage.shapes import ShapeCache
from edge.storage.transaction import Held, Ref
from sync.errors import NotFound, StorageError
from sync.operations import Operation

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]
_BUSY_MS = 5_000  # a writer that closes, or recovers what a killed one left, keeps readers out for a moment
_OPENS_MAX = 3


def connect_reading(path: str, *, vfs: str | None = None) -> tuple[apsw.Connection, Stamp | None]:
    """A connection that only reads; and what the files looked like, if they are read as still ones.

    Raises NotFound (no store, or one that is still being made), CorruptStore, UnsupportedVersion, StorageError.
    """
    for left in reversed(range(_OPENS_MAX)):
        try:
            return _connected(path, vfs)
        except (apsw.Error, OSError) as error:
            # A writer that closes or opens at this moment removes and makes the files beside the log.
            if not left or not isinstance(error, (apsw.CantOpenError, apsw.ReadOnlyError, apsw.BusyError)):
                raise translate(error, path) from error
    raise AssertionError("the last attempt returns or raises")


def _connected(path: str, vfs: str | None) -> tuple[apsw.Connection, Stamp | None]:
    if not os.path.exists(path):
        raise NotFound(
            f"there is no store at {os.path.dirname(path)}", hint=f"agentdb-edge init {os.path.dirname(path)}"
        )
    name = vfs or page_checksums.checksum_vfs()
    try:
        return _checked(_opened(path, "", name), path), None
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        if os.access(os.path.dirname(path), os.W_OK):
            raise
    stamp = stamp_of(path)
    if stamp[1][1]:  # without shared memory; this VFS has no checksums, which are checked where the log is written
        db = _opened(path, "", "unix-none")
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
    else:
        db = _opened(path, "?immutable=1", name)
    return _checked(db, path), stamp


def _opened(path: str, options: str, vfs: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    db = apsw.Connection(f"file:{quote(path)}{options}", flags=flags, vfs=vfs)
    db.set_busy_timeout(_BUSY_MS)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return db


def _checked(db: apsw.Connection, path: str) -> apsw.Connection:
    try:
        db.execute("PRAGMA query_only=1")
        db.execute("PRAGMA cache_size=-8000")
        if db.execute("PRAGMA application_id").get == 0 and db.execute("SELECT count(*) FROM sqlite_schema").get == 0:
            raise NotFound(f"the store at {os.path.dirname(path)} is still being made", hint="open it again")
        check_format(db, path)
    except BaseException:
        close(db)
        raise
    return db


def stamp_of(path: str) -> Stamp:
    """Inode, size and time of the database and of its write-ahead log."""
    found = []
    for name in (path, path + "-wal"):
        try:
            stat = os.stat(name)
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append((0, 0, 0))
    return tuple(found)


class FollowingReader(LogReader):
    """``replaced`` is told of the connection at the start and whenever it is another; ``settle`` is called in a
    transaction in which something is new.
    """

    def __init__(
        self,
        path: str,
        vfs: str | None,
        collections: Mapping[str, int],
        overlay: Mapping[Ref, Held],
        shapes: ShapeCache,
        *,
        opened: tuple[apsw.Connection, Stamp | None],
        replaced: Callable[[apsw.Connection], None],
        settle: Callable[[], None],
    ) -> None:
        super().__init__(path, vfs, collections, overlay, shapes)
        self._db, self._still = opened
        self._replaced = replaced
        self._settle = settle
        self._turn = RLock()
        self._inside = False
        self._version: int | None = None
        self._process = os.getpid()

    def within(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, which reads from one state of the store. Raises StorageError, and what it raises."""
        with self._turn:
            if self._inside:
                return work()
            try:
                self._begin()
                self._inside = True
                return work()
            finally:
                self._inside = False
                self._end()

    def pin(self) -> apsw.Connection:
        """From here to ``close`` everything is read from one state. For one thread."""
        with self._turn:
            self._begin()
            self._inside = True
            assert self._db is not None
            return self._db

    def _begin(self) -> None:
        if self._closed:
            self._connect()
        if os.getpid() != self._process:
            raise StorageError(
                f"{self._path} was opened by process {self._process}, of which this is a fork",
                hint="open the store after forking; SQLite cannot be shared across a fork",
            )
        if self._still is not None and self._still != stamp_of(self._path):
            self._open_again()
        db = self._db
        assert db is not None
        try:
            if db.in_transaction:
                roll_back(db)  # a signal handler raised between its beginning and its end
            db.execute("BEGIN")
            version: int = db.execute("PRAGMA data_version").get
            if version != self._version:
                self._version = None
                self._inside = True
                self._settle()
                self._version = version
        except (apsw.Error, OSError) as error:
            raise translate(error, self._path) from error
        finally:
            self._inside = False

    def _end(self) -> None:
        db = self._db
        if db is not None:
            with suppress(apsw.ConnectionClosedError):
                roll_back(db)

    def _open_again(self) -> None:
        db, self._still = connect_reading(self._path, vfs=self._vfs)
        if self._db is not None:
            close(self._db)
        self._db, self._version = db, None
        self._replaced(db)

    def close(self) -> None:
        with self._turn:
            super().close()

    def connect(self) -> apsw.Connection:
        return connect_reading(self._path, vfs=self._vfs)[0]

    # -- the same reads, each within a snapshot ------------------------------------------------------------------------

    def one(self, sql: str, *bindings: Any) -> Any:
        one = super().one
        return self.within(lambda: one(sql, *bindings))

    def all(self, sql: str, *bindings: Any) -> list[Any]:
        every = super().all
        return self.within(lambda: every(sql, *bindings))

    def image(self, collection: str, key: str) -> bytes | None:
        image = super().image
        return self.within(lambda: image(collection, key))

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, bytes]:
        images = super().images
        return self.within(lambda: images(collection, keys))

    def scan(self, collection: str, after: str, prefix: str, limit: int) -> list[tuple[str, bytes]]:
        scan = super().scan
        return self.within(lambda: scan(collection, after, prefix, limit))

    def count(self, collection: str) -> int:
        count = super().count
        return self.within(lambda: count(collection))

    def pending(self, replica: bytes, after_seq: int, max_operations: int, max_bytes: int) -> list[Operation]:
        pending = super().pending
        return self.within(lambda: pending(replica, after_seq, max_operations, max_bytes))

    def state(self, after: tuple[str, str] | None, limit: int) -> list[tuple[str, str, bytes]]:
        state = super().state
        return self.within(lambda: state(after, limit))

    def changes(self, after_position: int, limit: int, known_position: int) -> list[tuple[int, str, str]]:
        changes = super().changes
        return self.within(lambda: changes(after_position, limit, known_position))

    def dead_letters(self) -> list[DeadLetter]:
        letters = super().dead_letters
        return self.within(letters)

    def walk(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[Any]:
        if self._closed:
            self._connect()
        return super().walk(sql, bindings)
