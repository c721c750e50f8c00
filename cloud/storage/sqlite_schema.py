"""The cloud's SQLite database: tables, pragmas, and SQLite's errors in our words.

Rows of any size lie in rowid tables with their key in an index: record keys are random, and a b-tree that
carries the images inside moves whole pages of them for every insert (measured: 5 to 8 us a record instead
of 2.5). Small rows are ``WITHOUT ROWID``.

The format is ``VERSION`` in ``user_version``; ``APPLICATION_ID`` tells our file from others'.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import apsw

from cloud.storage import sqlite_control, sqlite_models, sqlite_twins
from cloud.storage.sqlite_checksums import checksum_vfs, prepare
from sync.errors import CorruptStore, DiskFull, StorageError, StoreLocked, UnsupportedVersion

VERSION = 1
APPLICATION_ID = 0x41474443  # "AGDC"
BUSY_MS = 5_000
# 16 MiB of log between checkpoints: a checkpoint writes every page once, however often it changed
# meanwhile.
CHECKPOINT_PAGES = 4_000
CACHE_KIB = 32 << 10

_TABLES = """
CREATE TABLE fleets (fleet BLOB PRIMARY KEY, name TEXT NOT NULL, created_ms INT NOT NULL) WITHOUT ROWID;
CREATE TABLE heads (
    fleet BLOB PRIMARY KEY, position INT NOT NULL, incarnation BLOB NOT NULL, generation INT NOT NULL,
    restored_head INT NOT NULL, trimmed INT NOT NULL, clock INT NOT NULL, living INT NOT NULL,
    previous BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE devices (
    fleet BLOB NOT NULL, device BLOB PRIMARY KEY, signing BLOB NOT NULL, exchange BLOB NOT NULL, name TEXT NOT NULL,
    priority INT NOT NULL, enrolled_ms INT NOT NULL, token_id BLOB NOT NULL, revoked_ms INT NOT NULL
) WITHOUT ROWID;
CREATE INDEX devices_of_fleet ON devices (fleet, device);
CREATE TABLE revocations (
    fleet BLOB NOT NULL, replica BLOB NOT NULL, last_seq INT NOT NULL, PRIMARY KEY (fleet, replica)
) WITHOUT ROWID;
CREATE TABLE tokens (
    token_id BLOB PRIMARY KEY, fleet BLOB NOT NULL, secret_hash BLOB NOT NULL, uses INT NOT NULL,
    expires_ms INT NOT NULL, created_ms INT NOT NULL
) WITHOUT ROWID;
CREATE TABLE nonces (device BLOB PRIMARY KEY, nonce INT NOT NULL) WITHOUT ROWID;
CREATE TABLE epoch_keys (
    fleet BLOB NOT NULL, epoch INT NOT NULL, created_ms INT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (fleet, epoch)
) WITHOUT ROWID;
CREATE TABLE audit (
    fleet BLOB NOT NULL, number INT NOT NULL, at_ms INT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    subject TEXT NOT NULL, details BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (fleet, number)
) WITHOUT ROWID;

CREATE TABLE replicas (
    fleet BLOB NOT NULL, replica BLOB NOT NULL, last_seq INT NOT NULL, last_segment BLOB NOT NULL,
    cursor INT NOT NULL, at_ms INT NOT NULL, head INT NOT NULL, PRIMARY KEY (fleet, replica)
) WITHOUT ROWID;
CREATE TABLE records (
    fleet BLOB NOT NULL, collection TEXT NOT NULL, key TEXT NOT NULL, image BLOB NOT NULL, position INT NOT NULL,
    field_positions BLOB NOT NULL, grave BLOB NOT NULL, PRIMARY KEY (fleet, collection, key)
);
CREATE TABLE feed (
    fleet BLOB NOT NULL, first INT NOT NULL, last INT NOT NULL, replica BLOB NOT NULL, state INT NOT NULL,
    packed BLOB NOT NULL, plain_length INT NOT NULL, min_ts INT NOT NULL, max_ts INT NOT NULL, at_ms INT NOT NULL,
    segment BLOB NOT NULL, collections TEXT NOT NULL DEFAULT '', PRIMARY KEY (fleet, last), CHECK (first <= last)
);
CREATE TABLE conflicts (
    fleet BLOB NOT NULL, number INT NOT NULL, position INT NOT NULL, at_ms INT NOT NULL, collection TEXT NOT NULL,
    key TEXT NOT NULL, field TEXT NOT NULL, held BLOB NOT NULL, came BLOB NOT NULL, winner TEXT NOT NULL,
    rule TEXT NOT NULL, state TEXT NOT NULL, resolution INT NOT NULL, note TEXT NOT NULL, PRIMARY KEY (fleet, number)
);
CREATE INDEX conflicts_open ON conflicts (fleet, number) WHERE state = 'open';
CREATE INDEX conflicts_resolved_at ON conflicts (fleet, resolution) WHERE resolution > 0;
CREATE TABLE dead_letters (
    fleet BLOB NOT NULL, number INT NOT NULL, replica BLOB NOT NULL, seq INT NOT NULL, at_ms INT NOT NULL,
    collection TEXT NOT NULL, key TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, operation BLOB NOT NULL,
    PRIMARY KEY (fleet, number), UNIQUE (fleet, replica, seq, collection, key)
);

CREATE TABLE archive_state (
    fleet BLOB NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (fleet, name)
) WITHOUT ROWID;
"""

# Not in the first databases of this format; what is lost with it is learned again from the next handshakes.
_LEASES = """
CREATE TABLE IF NOT EXISTS leases (
    fleet BLOB NOT NULL, replica BLOB NOT NULL, settled INT NOT NULL, at_ms INT NOT NULL, PRIMARY KEY (fleet, replica)
) WITHOUT ROWID;
"""

# Nor this; of rows from before it is not known.
_COLLECTIONS = "ALTER TABLE feed ADD COLUMN collections TEXT NOT NULL DEFAULT ''"


def connect(path: str, *, vfs: str | None = None, read_only: bool = False) -> apsw.Connection:
    """A connection with our settings, over the checksum VFS unless another is named; a writing one creates the tables
    in an empty file.

    Raises StorageError and its kinds, UnsupportedVersion.
    """
    if not read_only:
        _make_private(path)
    try:
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
        db = apsw.Connection(path, flags=flags, vfs=vfs or checksum_vfs(), statementcachesize=100)
    except apsw.Error as error:
        raise translate(error, path) from error
    try:
        db.set_busy_timeout(BUSY_MS)
        db.pragma("cache_size", -CACHE_KIB)
        if read_only:
            db.pragma("query_only", True)
            return db
        if db.readonly("main"):  # SQLite opens it so, if it cannot open it otherwise, and fails with the first write
            raise StorageError(
                f"{path} cannot be opened to be written",
                hint="may this user write to it, and is the disk neither read-only nor full? If so, start again",
            )
        prepare(db, path, vfs=vfs)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", "full")
        db.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        _prepare(db, path)
        # What a process had written and not synced when it died is answered from now on: it must stay.
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return db
    except BaseException as error:
        with suppress(apsw.Error):  # what it failed with before is the reason
            db.close(True)
        if isinstance(error, apsw.Error):
            raise translate(error, path) from error
        raise


def _make_private(path: str) -> None:
    """A new file is the owner's alone, whatever the directory allows; SQLite gives its log the file's own mode."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError:  # it is there; or it cannot be made, which SQLite says in its own words
        return


def _prepare(db: apsw.Connection, path: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.pragma("user_version")
        if version == 0 and db.execute("SELECT count(*) FROM sqlite_schema").get == 0:
            db.execute(_TABLES)
            db.execute(f"PRAGMA user_version = {VERSION}; PRAGMA application_id = {APPLICATION_ID}")
        elif db.pragma("application_id") != APPLICATION_ID:
            raise CorruptStore(f"{path} is a database, but not a control plane's", hint="check the path")
        elif version != VERSION:
            raise UnsupportedVersion(f"{path} has format {version}", hint="update the control plane")
        db.execute(_LEASES)
        db.execute(sqlite_twins.TABLES)
        if not db.execute("SELECT 1 FROM pragma_table_info('feed') WHERE name = 'collections'").get:
            db.execute(_COLLECTIONS)
        db.execute(sqlite_control.TABLES)
        db.execute(sqlite_models.TABLES)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def translate(error: apsw.Error, path: str) -> StorageError:
    """SQLite's error in our words."""
    if isinstance(error, apsw.FullError) or _errno_of(error) in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{path}: {error}", hint="make room on the disk; nothing was changed")
    if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        message = f"{path} has a page that is not what was written: the disk, or something else, changed it"
        return CorruptStore(message, hint="restore it from the archive")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreLocked(f"{path}: {error}", hint="another process is writing; try again")
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.ConstraintError, apsw.MismatchError)):
        return CorruptStore(f"{path}: {error}", hint="restore it from the archive")
    return StorageError(f"{path}: {error}", hint="check the disk and the directory's permissions")


def _errno_of(error: BaseException | None) -> int | None:
    """The system's error number, wherever in the chain it hides: SQLite reports a short write as an I/O
    error.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__context__
    return None
