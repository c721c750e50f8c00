"""Twins, rollouts and exposures in the cloud's SQLite database: ``cloud.twin_rows`` over a connection that is inside a
transaction, as of ``sqlite_reading`` and ``sqlite_writing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from cloud.twin_rows import ExposureCount, ExposureRow, RolloutRow, TwinRow
from sync.errors import NotFound

# Not in the first databases of this format.
TABLES = """
CREATE TABLE IF NOT EXISTS twins (
    fleet BLOB NOT NULL, device BLOB NOT NULL, labels BLOB NOT NULL, own BLOB NOT NULL, desired BLOB NOT NULL,
    desired_version INT NOT NULL, reported BLOB NOT NULL, reported_version INT NOT NULL, acked INT NOT NULL,
    at_ms INT NOT NULL, PRIMARY KEY (fleet, device)
);
CREATE TABLE IF NOT EXISTS rollouts (
    fleet BLOB NOT NULL, id TEXT NOT NULL, number INT NOT NULL, place TEXT NOT NULL, spec BLOB NOT NULL,
    goal TEXT NOT NULL, state TEXT NOT NULL, stage INT NOT NULL, stage_ms INT NOT NULL, met_ms INT NOT NULL,
    why TEXT NOT NULL, created_ms INT NOT NULL, PRIMARY KEY (fleet, id), UNIQUE (fleet, number)
);
CREATE TABLE IF NOT EXISTS exposures (
    fleet BLOB NOT NULL, rollout TEXT NOT NULL, device BLOB NOT NULL, stage INT NOT NULL, kind TEXT NOT NULL,
    goal TEXT NOT NULL, at_ms INT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, outcome_ms INT NOT NULL,
    PRIMARY KEY (fleet, rollout, device)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exposures_of_device ON exposures (fleet, device, rollout);
CREATE INDEX IF NOT EXISTS exposures_alike ON exposures (fleet, rollout, kind, outcome);
"""

_TWIN = """SELECT device, labels, own, desired, desired_version, reported, reported_version, acked, at_ms
    FROM twins WHERE fleet = ? """
_ROLLOUT = """SELECT id, number, place, spec, goal, state, stage, stage_ms, met_ms, why, created_ms
    FROM rollouts WHERE fleet = ? """
_EXPOSURE = """SELECT rollout, device, stage, kind, goal, at_ms, outcome, reason, outcome_ms
    FROM exposures WHERE fleet = ? """
_COUNT = "SELECT kind, outcome, count(*) FROM exposures WHERE fleet = ? AND rollout = ? GROUP BY kind, outcome"
_PUT_TWIN = """INSERT INTO twins VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (fleet, device) DO UPDATE SET
    labels = excluded.labels, own = excluded.own, desired = excluded.desired,
    desired_version = excluded.desired_version, reported = excluded.reported,
    reported_version = excluded.reported_version, acked = excluded.acked, at_ms = excluded.at_ms"""


class SqliteTwinsReading:
    """A part of ``SqliteReading``."""

    _db: apsw.Connection

    def twin(self, fleet: bytes, device: bytes) -> TwinRow | None:
        for row in self._db.execute(_TWIN + "AND device = ?", (fleet, device)):
            return TwinRow(*row)
        return None

    def twins(self, fleet: bytes, after: bytes = b"", limit: int = 1000) -> list[TwinRow]:
        rows = self._db.execute(_TWIN + "AND device > ? ORDER BY device LIMIT ?", (fleet, after, limit))
        return [TwinRow(*row) for row in rows]

    def rollout(self, fleet: bytes, rollout: str) -> RolloutRow | None:
        for row in self._db.execute(_ROLLOUT + "AND id = ?", (fleet, rollout)):
            return RolloutRow(*row)
        return None

    def rollouts(self, fleet: bytes, states: Sequence[str] = ()) -> list[RolloutRow]:
        wanted = f"AND state IN ({', '.join('?' * len(states))}) " if states else ""
        rows = self._db.execute(_ROLLOUT + wanted + "ORDER BY number", (fleet, *states))
        return [RolloutRow(*row) for row in rows]

    def exposure(self, fleet: bytes, rollout: str, device: bytes) -> ExposureRow | None:
        for row in self._db.execute(_EXPOSURE + "AND rollout = ? AND device = ?", (fleet, rollout, device)):
            return ExposureRow(*row)
        return None

    def exposures(self, fleet: bytes, rollout: str, after: bytes = b"", limit: int = 1000) -> list[ExposureRow]:
        sql = _EXPOSURE + "AND rollout = ? AND device > ? ORDER BY device LIMIT ?"
        return [ExposureRow(*row) for row in self._db.execute(sql, (fleet, rollout, after, limit))]

    def exposed_to(self, fleet: bytes, device: bytes, states: Sequence[str] = ()) -> list[ExposureRow]:
        wanted = "AND rollout IN (SELECT id FROM rollouts WHERE fleet = ? AND state IN (%s)) " if states else ""
        sql = _EXPOSURE + "AND device = ? " + wanted.replace("%s", ", ".join("?" * len(states))) + "ORDER BY rollout"
        rows = self._db.execute(sql, (fleet, device, *((fleet, *states) if states else ())))
        return [ExposureRow(*row) for row in rows]

    def exposed_of_kind(self, fleet: bytes, rollout: str, kind: str, most: int) -> int:
        sql = "SELECT count(*) FROM (SELECT 1 FROM exposures WHERE fleet = ? AND rollout = ? AND kind = ? LIMIT ?)"
        found: int = self._db.execute(sql, (fleet, rollout, kind, most)).get
        return found

    def count_exposures(self, fleet: bytes, rollout: str) -> list[ExposureCount]:
        return sorted(ExposureCount(*row) for row in self._db.execute(_COUNT, (fleet, rollout)))


class SqliteTwinsWriting(SqliteTwinsReading):
    """A part of ``SqliteTransaction``."""

    def put_twins(self, fleet: bytes, rows: Iterable[TwinRow]) -> None:
        self._db.executemany(_PUT_TWIN, [(fleet, *row) for row in rows])

    def lock_rollout(self, fleet: bytes, rollout: str) -> RolloutRow:
        row = self.rollout(fleet, rollout)  # there is one writer at a time, whatever the row
        if row is None:
            raise NotFound(f"no rollout {rollout!r:.80}", hint="agentdb-cloud rollouts list shows them")
        return row

    def put_rollouts(self, fleet: bytes, rows: Iterable[RolloutRow]) -> None:
        sql = "INSERT OR REPLACE INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.executemany(sql, [(fleet, *row) for row in rows])

    def put_exposures(self, fleet: bytes, rows: Iterable[ExposureRow]) -> None:
        sql = "INSERT OR REPLACE INTO exposures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.executemany(sql, [(fleet, *row) for row in rows])

    def drop_exposures(self, fleet: bytes, rollout: str) -> None:
        self._db.execute("DELETE FROM exposures WHERE fleet = ? AND rollout = ?", (fleet, rollout))
