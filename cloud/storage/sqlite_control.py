"""The tables of what devices are to run, in the cloud's SQLite database: ``cloud.control_rows`` over one connection
that is inside a transaction.

They are made with the first connection that may write: databases of the first builds have none of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from cloud.control_rows import AssignmentRow, ChannelRow, TargetRow, TrustRow

TABLES = """
CREATE TABLE IF NOT EXISTS control (fleet BLOB PRIMARY KEY, changed INT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trust (
    fleet BLOB NOT NULL, name TEXT NOT NULL, version INT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (fleet, name, version)
);
CREATE TABLE IF NOT EXISTS targets (
    fleet BLOB NOT NULL, number INT NOT NULL, sha256 BLOB NOT NULL, path TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (fleet, number), UNIQUE (fleet, sha256)
);
CREATE TABLE IF NOT EXISTS assignments (
    fleet BLOB NOT NULL, device BLOB NOT NULL, number INT NOT NULL, chosen BLOB NOT NULL, snapshot INT NOT NULL,
    expires_ms INT NOT NULL, data BLOB NOT NULL, signature BLOB NOT NULL, served_ms INT NOT NULL,
    PRIMARY KEY (fleet, device)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS channels (
    fleet BLOB NOT NULL, place TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (fleet, place)
) WITHOUT ROWID;
"""

_ASSIGNMENT = """SELECT device, number, chosen, snapshot, expires_ms, data, signature, served_ms
    FROM assignments WHERE fleet = ? """
_TARGET = "SELECT number, sha256, path, data FROM targets WHERE fleet = ? "
_ADD_TARGET = """INSERT INTO targets SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM targets WHERE fleet = ?1
    ON CONFLICT (fleet, sha256) DO NOTHING"""


class SqliteControlReading:
    """Valid within the block that it was given to."""

    _db: apsw.Connection

    def control(self, fleet: bytes) -> int:
        for (changed,) in self._db.execute("SELECT changed FROM control WHERE fleet = ?", (fleet,)):
            return int(changed)
        return 0

    def trust_versions(self, fleet: bytes) -> list[tuple[str, int]]:
        sql = "SELECT name, version FROM trust WHERE fleet = ? ORDER BY name, version"
        return [(name, version) for name, version in self._db.execute(sql, (fleet,))]

    def trust(self, fleet: bytes, name: str, version: int = 0) -> TrustRow | None:
        sql = """SELECT name, version, data FROM trust WHERE fleet = ?1 AND name = ?2 AND (version = ?3 OR ?3 = 0)
            ORDER BY version DESC LIMIT 1"""
        for row in self._db.execute(sql, (fleet, name, version)):
            return TrustRow(*row)
        return None

    def target(self, fleet: bytes, sha256: bytes) -> TargetRow | None:
        for row in self._db.execute(_TARGET + "AND sha256 = ?", (fleet, sha256)):
            return TargetRow(*row)
        return None

    def targets(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[TargetRow]:
        rows = self._db.execute(_TARGET + "AND number > ? ORDER BY number LIMIT ?", (fleet, after, limit))
        return [TargetRow(*row) for row in rows]

    def assignment(self, fleet: bytes, device: bytes) -> AssignmentRow | None:
        for row in self._db.execute(_ASSIGNMENT + "AND device = ?", (fleet, device)):
            return AssignmentRow(*row)
        return None

    def assignments(self, fleet: bytes) -> list[AssignmentRow]:
        return [AssignmentRow(*row) for row in self._db.execute(_ASSIGNMENT + "ORDER BY device", (fleet,))]

    def channels(self, fleet: bytes) -> list[ChannelRow]:
        sql = "SELECT place, path FROM channels WHERE fleet = ? ORDER BY place"
        return [ChannelRow(*row) for row in self._db.execute(sql, (fleet,))]


class SqliteControlWriting(SqliteControlReading):
    """The same, inside a transaction that may write."""

    def touch_control(self, fleet: bytes) -> int:
        sql = "INSERT INTO control VALUES (?, 1) ON CONFLICT DO UPDATE SET changed = changed + 1 RETURNING changed"
        changed: int = self._db.execute(sql, (fleet,)).get
        return changed

    def put_trust(self, fleet: bytes, rows: Iterable[TrustRow]) -> None:
        for row in rows:
            if row.name != "root":
                self._db.execute("DELETE FROM trust WHERE fleet = ? AND name = ?", (fleet, row.name))
            self._db.execute("INSERT OR REPLACE INTO trust VALUES (?, ?, ?, ?)", (fleet, *row))

    def add_targets(self, fleet: bytes, rows: Iterable[TargetRow]) -> None:
        for row in rows:
            self._db.execute(_ADD_TARGET, (fleet, row.sha256, row.path, row.data))

    def put_assignment(self, fleet: bytes, row: AssignmentRow) -> None:
        self._db.execute("INSERT OR REPLACE INTO assignments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (fleet, *row))

    def put_channel(self, fleet: bytes, row: ChannelRow) -> None:
        self._db.execute("INSERT OR REPLACE INTO channels VALUES (?, ?, ?)", (fleet, *row))

    def drop_channel(self, fleet: bytes, place: str) -> None:
        self._db.execute("DELETE FROM channels WHERE fleet = ? AND place = ?", (fleet, place))
