"""The delta log's database: its tables, how a connection to it is opened, and what its errors mean to a caller.

Layout, chosen by measurement of durable single puts (300-B documents and 384-d vectors): rowid tables with 4 KiB
pages. WITHOUT ROWID puts the images into the key's tree, where 1.5 KB no longer fits a cell and overflows: 4 times
slower in batches and 15 % in single puts.

What always holds: WAL, and ``synchronous=FULL`` unless the owner asked for ``relaxed``: a commit that returned is
on disk. SQLite before 3.51.3 could corrupt a WAL with several connections; ``connect`` refuses to run on it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import apsw
import msgpack

from edge.storage import page_checksums
from edge.storage.wal_tail import has_lost_commits
from sync.errors import AgentDBError, CorruptStore, DiskFull, StorageError, StoreLocked, UnsupportedVersion
from sync.stamps import replica_id

FORMAT = 1
BUSY_MS = 2_000
APPLICATION_ID = 0x41474442  # "AGDB"
DURABILITY = {"full": "FULL", "relaxed": "NORMAL"}
HAS_TABLE = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
_SQLITE_MIN = 3_051_003
_DAMAGED_HINT = (
    "put a snapshot in its place; without one, move everything but keys/ away and join again with a new token: "
    "what had been synced comes back"
)

# ``position`` numbers every change of a record, local or remote, densely and in order of commit; a local change is an
# operation (and its position grows with its seq), a remote one only a mark. ``living`` is 0 for a tombstone, -1 for
# one that waits to be forgotten (``log_sweep``).
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE collections (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE operations (
    seq INTEGER PRIMARY KEY, position INTEGER NOT NULL, ts INTEGER NOT NULL, seen INTEGER NOT NULL,
    collection INTEGER NOT NULL, key TEXT NOT NULL, kind INTEGER NOT NULL, rules TEXT NOT NULL, fields BLOB NOT NULL);
CREATE TABLE marks (position INTEGER PRIMARY KEY, collection INTEGER NOT NULL, key TEXT NOT NULL);
CREATE TABLE records (
    id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, key TEXT NOT NULL, living INTEGER NOT NULL,
    image BLOB NOT NULL, UNIQUE (collection, key));
CREATE INDEX dead ON records (collection) WHERE living <= 0;
CREATE TABLE dead_letters (
    seq INTEGER NOT NULL, replica BLOB NOT NULL, collection TEXT NOT NULL, key TEXT NOT NULL, code TEXT NOT NULL,
    reason TEXT NOT NULL, at_ms INTEGER NOT NULL, operation BLOB NOT NULL, PRIMARY KEY (replica, seq));
"""

# Stores of the first builds index what is 0 only.
_INDEXED_ANEW = """
CREATE INDEX IF NOT EXISTS dead ON records (collection) WHERE living <= 0;
DROP INDEX IF EXISTS tombstones;
"""


def connect(
    path: str,
    *,
    vfs: str | None = None,
    durability: str = "full",
    create: bytes | Callable[[], bytes] | None = None,
) -> apsw.Connection:
    """A connection that may write, over the checksum VFS unless another is named (by tests). With ``create``, the id of
    the device or what makes it, a new log is made if there is none: its tables and its first replica id in one
    transaction, so that it is there whole or not at all.

    Raises CorruptStore if the file is missing (without ``create``) or is not a delta log, and the rest of
    StorageError.
    """
    if apsw.SQLITE_VERSION_NUMBER < _SQLITE_MIN:
        raise StorageError(
            f"this apsw carries SQLite {apsw.sqlite_lib_version()}, which can corrupt a WAL",
            hint="pip install 'apsw>=3.51.3'",
        )
    flags = apsw.SQLITE_OPEN_READWRITE | (0 if create is None else apsw.SQLITE_OPEN_CREATE)
    name = vfs or page_checksums.checksum_vfs()
    try:
        # SQLite would make it readable for everybody; its journals have the mode that it has. One that is there is left
        # alone: closing any handle of it would take away the locks of another connection of this process.
        if create is not None and not os.path.exists(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = apsw.Connection(path, flags=flags, vfs=name)
    except (apsw.Error, OSError) as error:
        raise translate(error, path) from error
    try:
        if db.readonly("main"):  # SQLite opens it so, if it cannot open it otherwise, and fails with the first write
            raise StorageError(
                f"{path} cannot be opened to be written",
                hint="may this user write to it, and is the disk neither read-only nor full? If so, open it again",
            )
        # Only against strangers with a SQLite shell: our own writers queue before they come here.
        db.set_busy_timeout(BUSY_MS)
        # What is refused stays as it was found: closing would bring the write-ahead log in, as far as it can be read.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if vfs is None:
            if create is not None and db.execute("PRAGMA page_count").get == 0:
                page_checksums.reserve(db)
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table, or it takes a VACUUM
        elif page_checksums.has_checksums(db):
            raise StorageError(f"{path} has page checksums, which VFS {vfs!r} would not keep")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={DURABILITY[durability]}")
        db.execute("PRAGMA cache_size=-8000")
        if create is not None and db.execute("PRAGMA application_id").get == 0:
            _create(db, create if isinstance(create, bytes) else create())
        check_format(db, path)
        if create is not None:
            _check_tail(db, path, durability)
            # What a process had written and not synced when it died is read from now on: it must stay.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    except (apsw.Error, OSError) as error:
        close(db)
        raise translate(error, path) from error
    except BaseException:
        close(db)
        raise
    return db


def _create(db: apsw.Connection, device: bytes) -> None:
    with db:
        if db.execute("SELECT count(*) FROM sqlite_schema").get == 0:
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT}")
            db.execute(TABLES)
            db.execute("INSERT INTO meta VALUES ('replica', ?)", (msgpack.packb(replica_id(device, 1)),))


def check_format(db: apsw.Connection, path: str) -> None:
    if db.execute("PRAGMA application_id").get != APPLICATION_ID:
        raise CorruptStore(f"{path} is a database, but not a delta log")
    version = db.execute("PRAGMA user_version").get
    if version != FORMAT:
        raise UnsupportedVersion(
            f"{path} has store format {version}; this build reads {FORMAT}", hint="install a newer agentdb-edge"
        )


def check_end(db: apsw.Connection, path: str) -> None:
    """While nobody writes. Raises CorruptStore if commits are missing at the end; apsw.Error, OSError."""
    was_relaxed = db.execute("SELECT count(*) FROM meta WHERE name = 'relaxed'").get
    if not was_relaxed and has_lost_commits(db, path):
        raise CorruptStore(
            f"{path}-wal is damaged: the disk, or something else, changed it, and the newest writes cannot be read",
            hint=_DAMAGED_HINT,
        )


def _check_tail(db: apsw.Connection, path: str, durability: str) -> None:
    """Before the first write of whoever opens the log. A log that was written ``relaxed`` says so in ``meta``: its end
    may be in any order after a power cut.
    """
    was_relaxed = db.execute("SELECT count(*) FROM meta WHERE name = 'relaxed'").get
    check_end(db, path)
    if durability == "relaxed" and not was_relaxed:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("INSERT INTO meta VALUES ('relaxed', X'C3')")
        db.execute(f"PRAGMA synchronous={DURABILITY[durability]}")
    elif durability == "full" and was_relaxed:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("DELETE FROM meta WHERE name = 'relaxed'")


def index_anew(db: apsw.Connection) -> None:
    """Bring the indexes of an older store up to date, once. Raises apsw.Error."""
    if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tombstones'").get:
        with db:
            db.execute(_INDEXED_ANEW)


def has_table(db: apsw.Connection, name: str) -> bool:
    """Whether it was made: some are with their first row. Raises apsw.Error."""
    return db.execute(HAS_TABLE, (name,)).get is not None


def close(db: apsw.Connection) -> None:
    """Close a connection. The last one to close makes a checkpoint; if the disk refuses that, nothing is lost: the
    write-ahead log stays, and has everything.
    """
    with suppress(apsw.Error, OSError):
        db.close(True)


def unpacked_note(path: str, name: str, value: bytes) -> Any:
    """What a row of ``meta`` says. Raises CorruptStore."""
    try:
        return msgpack.unpackb(value)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise damaged_note(path, name) from error


def damaged_note(path: str, name: str) -> CorruptStore:
    """A row of ``meta`` that is not as it was written."""
    return CorruptStore(f"{path}: the note {name!r} is not what was written", hint=_DAMAGED_HINT)


def translate(error: Exception, path: str) -> AgentDBError:
    """The typed error for one of SQLite's, or of the file system's. Nothing was committed."""
    number = _errno_of(error)
    if isinstance(error, apsw.FullError) or number in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"the disk that holds {path} is full; nothing was written",
            hint="free some space and repeat the call; the store stays usable",
        )
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreLocked(
            f"{path} is locked by another program", hint="close the SQLite shell or backup tool that has it open"
        )
    if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return CorruptStore(
            f"{path} has a page that is not what was written: the disk, or something else, changed it",
            hint=_DAMAGED_HINT,
        )
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return CorruptStore(f"{path} fails SQLite's checks: {error}", hint=_DAMAGED_HINT)
    if isinstance(error, apsw.CantOpenError):
        return StorageError(
            f"cannot open {path}: {error}", hint="does the directory exist, and may this user write to it?"
        )
    if isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError)) or number in (
        errno.EACCES,
        errno.EROFS,
        errno.EPERM,
    ):
        return StorageError(
            f"{path} cannot be written: {error}", hint="check permissions and whether the disk is read-only"
        )
    return StorageError(f"{path}: {type(error).__name__}: {error}")


def _errno_of(error: BaseException | None) -> int | None:
    """The system's error number, wherever in the chain it hides: SQLite reports a short write as an I/O error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__context__
    return None


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sqlite_version() -> str:
    """Of the SQLite that apsw brings with it."""
    return apsw.sqlite_lib_version()
