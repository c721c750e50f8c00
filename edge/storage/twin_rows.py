"""What the device says that it is, in the log's database, and what of that is unsent.

The table is made with the first row. What always holds: a change is durable when its function returns. What was
reported while there was no network is one patch (``sync.twins.compact``), never larger than the state: where it would
be, it is the whole state that is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

_TABLE = (
    "CREATE TABLE IF NOT EXISTS reported (name TEXT PRIMARY KEY, version INTEGER NOT NULL, state BLOB NOT NULL, "
    "unsent BLOB, told INTEGER NOT NULL) WITHOUT ROWID"
)
_NAME = "device"
_PUT = "INSERT OR REPLACE INTO reported VALUES (?, ?, ?, ?, ?)"


class Row(NamedTuple):
    """``state`` is a document and ``unsent`` a patch or None, as ``sync.twins`` packs them. ``version`` is the one that
    the cloud has, and ``told`` the version of *desired* that the cloud knows to be here.
    """

    version: int = 0
    state: bytes = b"{}"
    unsent: bytes | None = None
    told: int = 0


def load(log: DeltaLog) -> Row:
    """Raises StorageError."""
    if not log.reader.has_table("reported"):
        return Row()
    found = log.reader.one("SELECT version, state, unsent, told FROM reported WHERE name = ?", _NAME)
    return Row() if found is None else Row(*found)


def change(log: DeltaLog, step: Callable[[Row], Row]) -> Row:
    """Replace the row by what ``step`` makes of it, in one transaction. Raises StorageError, and what ``step`` does."""
    with log.writer.lock, log.writer.transact() as db:
        db.execute(_TABLE)
        found = db.execute("SELECT version, state, unsent, told FROM reported WHERE name = ?", (_NAME,)).fetchone()
        before = Row() if found is None else Row(*found)
        if (row := step(before)) != before:
            db.execute(_PUT, (_NAME, *row))
    return row
