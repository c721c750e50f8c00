"""What a link's budget has noted of its days (``sync.budgets``): one row for each class, day and lane, in the log's
database.

The table is made with the first note. What always holds: a note is durable when ``note`` returns, as durable as the
log is (``relaxed`` gives up as much of it as of the writes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sync.budgets import DAYS_KEPT

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.budgets import Note

_TABLE = (
    "CREATE TABLE IF NOT EXISTS budgets (class TEXT NOT NULL, day INTEGER NOT NULL, lane TEXT NOT NULL, "
    "bytes INTEGER NOT NULL, PRIMARY KEY (class, day, lane)) WITHOUT ROWID"
)
_CLEAR = (
    "DELETE FROM budgets WHERE class = ?1 AND (day > ?2 OR day < "
    "(SELECT min(day) FROM (SELECT DISTINCT day FROM budgets WHERE class = ?1 ORDER BY day DESC LIMIT ?3)))"
)
_SET = "INSERT INTO budgets VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET bytes = excluded.bytes"


class BudgetRows:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self._log = log
        self._made = False

    def load(self, link_class: str) -> dict[int, dict[str, int]]:
        """Day (since 1970) -> lane -> bytes, as it was noted. Raises StorageError."""
        if not self._made and not self._log.reader.has_table("budgets"):
            return {}
        self._made = True
        noted: dict[int, dict[str, int]] = {}
        for day, lane, size in self._log.reader.all("SELECT day, lane, bytes FROM budgets WHERE class = ?", link_class):
            noted.setdefault(day, {})[lane] = size
        return noted

    def note(self, link_class: str, note: Note) -> None:
        """Make it durable; what is noted of later days goes, and of days long past. Raises StorageError."""
        with self._log.writer.lock, self._log.transact() as db:
            if not self._made:
                db.execute(_TABLE)
            for lane, size in note.lanes.items():
                db.execute(_SET, (link_class, note.day, lane, size))
            db.execute(_CLEAR, (link_class, note.day, DAYS_KEPT))
        self._made = True
