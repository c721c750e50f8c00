"""The policy that holds on this device, one row of the log's database: the bytes that were published, and whence.

What always holds: the row is replaced whole, in one transaction with what it leads to (``scoping``); there is no row,
and no table, before the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

_TABLE = """CREATE TABLE IF NOT EXISTS policy (
    one INTEGER PRIMARY KEY CHECK (one = 1), path TEXT NOT NULL, number INTEGER NOT NULL, sha256 BLOB NOT NULL,
    since_ms INTEGER NOT NULL, assignment INTEGER NOT NULL, data BLOB NOT NULL)"""
_READ = "SELECT path, number, sha256, since_ms, assignment, data FROM policy"

Notes = Callable[[], Mapping[str, Any]]  # of the log, to store with a row; asked under the write lock


class PolicyRow(NamedTuple):
    """``data`` is canonical JSON of that SHA-256; ``path`` and ``number`` are the target's, ``assignment`` is the
    number of the one that named it; active ``since_ms``, milliseconds since 1970.
    """

    path: str
    number: int
    sha256: bytes
    since_ms: int
    assignment: int
    data: bytes


def load(log: DeltaLog) -> PolicyRow | None:
    """Raises StorageError."""
    if not is_there(log):
        return None
    row = log.reader.one(_READ)
    return None if row is None else PolicyRow(*row)


def is_there(log: DeltaLog) -> bool:
    """Whether one was ever activated. Raises StorageError."""
    return log.reader.has_table("policy")


def drop(log: DeltaLog, notes: Notes = dict) -> None:
    """From now on none holds. Raises StorageError."""
    _change(log, notes, "DELETE FROM policy", ())


def store(log: DeltaLog, row: PolicyRow, notes: Notes = dict) -> None:
    """Raises StorageError; the row that was there holds then."""
    _change(log, notes, "INSERT OR REPLACE INTO policy VALUES (1, ?, ?, ?, ?, ?, ?)", row)


def note(log: DeltaLog, notes: Notes) -> None:
    """What the row that is there leads to. Raises StorageError."""
    _change(log, notes, "", ())


def _change(log: DeltaLog, notes: Notes, sql: str, row: Sequence[object]) -> None:
    with log.writer.lock:
        changed = notes()
        if not (sql or changed):
            return
        with log.transact() as db:
            db.execute(_TABLE)
            db.execute(sql, tuple(row))
            for name, value in changed.items():
                log.writer.put_meta(name, value)
        log.rescoped += 1
    for listener in log.listeners:
        listener()
