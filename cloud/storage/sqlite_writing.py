"""Writing to the cloud's SQLite database: ``cloud.ports.Transaction`` over the one writing connection.

It is only handed out inside ``BEGIN IMMEDIATE … COMMIT`` (``sqlite_store``), which is also what
``lock_head`` relies on: in SQLite there is one writer at a time, whatever the fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgpack

from cloud.rows import (
    AuditRow,
    Conflict,
    DeadLetter,
    DeviceRow,
    EpochRow,
    FeedRow,
    FleetRow,
    Head,
    Lease,
    RecordRow,
    ReplicaRow,
    TokenRow,
)
from cloud.storage.sqlite_control import SqliteControlWriting
from cloud.storage.sqlite_models import SqliteModelWriting
from cloud.storage.sqlite_reading import SqliteReading, pack_claim
from cloud.storage.sqlite_twins import SqliteTwinsWriting
from sync.errors import CorruptStore, InvalidValue

_DEVICE = """INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device) DO UPDATE
    SET signing = excluded.signing, exchange = excluded.exchange, name = excluded.name,
    priority = excluded.priority, enrolled_ms = excluded.enrolled_ms, token_id = excluded.token_id,
    revoked_ms = excluded.revoked_ms WHERE fleet = excluded.fleet"""
# An upsert keeps the rowid, so the row stays in its place; OR REPLACE would delete and append it, index
# entry included.
_RECORD = """INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET image = excluded.image,
    position = excluded.position, field_positions = excluded.field_positions, grave = excluded.grave"""
_FEED = "INSERT INTO feed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CONFLICT = "INSERT OR REPLACE INTO conflicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DEAD_LETTER = "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteTransaction(SqliteReading, SqliteTwinsWriting, SqliteControlWriting, SqliteModelWriting):
    """Valid within the block that it was given to."""

    def create_fleet(self, row: FleetRow, head: Head) -> None:
        if self.fleet(row.fleet) is not None:
            raise InvalidValue(f"fleet {row.fleet.hex()} exists already")
        self._db.execute("INSERT INTO fleets VALUES (?, ?, ?)", row)
        self._db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (row.fleet, *head))

    def lock_head(self, fleet: bytes) -> Head:
        return self.head(fleet)

    def set_head(self, fleet: bytes, head: Head) -> None:
        self._db.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (fleet, *head))

    # -- identity -------------------------------------------------------------------------------------------------

    def put_devices(self, rows: Iterable[DeviceRow]) -> None:
        for row in rows:
            self._db.execute(_DEVICE, row)
            if not self._db.changes():
                raise InvalidValue(f"device {row.device.hex()} belongs to another fleet")

    def revoke(self, fleet: bytes, device: bytes, at_ms: int, bounds: Mapping[bytes, int]) -> None:
        sql = "UPDATE devices SET revoked_ms = ? WHERE fleet = ? AND device = ?"
        self._db.execute(sql, (at_ms, fleet, device))
        rows = [(fleet, replica, seq) for replica, seq in bounds.items()]
        self._db.executemany("INSERT OR REPLACE INTO revocations VALUES (?, ?, ?)", rows)

    def put_token(self, row: TokenRow) -> None:
        self._db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?)", row)

    def use_token(self, token_id: bytes) -> bool:
        self._db.execute("UPDATE tokens SET uses = uses - 1 WHERE token_id = ? AND uses > 0", (token_id,))
        return self._db.changes() == 1

    def advance_nonce(self, device: bytes, nonce: int) -> bool:
        sql = """INSERT INTO nonces VALUES (?, ?) ON CONFLICT DO UPDATE SET nonce = excluded.nonce
            WHERE excluded.nonce > nonce"""
        self._db.execute(sql, (device, nonce))
        return self._db.changes() == 1

    def put_epoch(self, fleet: bytes, row: EpochRow) -> None:
        self._db.execute("INSERT OR REPLACE INTO epoch_keys VALUES (?, ?, ?, ?)", (fleet, *row))

    def append_audit(self, fleet: bytes, row: AuditRow) -> None:
        number, at_ms, actor, action, subject, details, digest = row
        bindings = (fleet, number, at_ms, actor, action, subject, msgpack.packb(dict(details)), digest)
        self._db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", bindings)

    # -- stream ---------------------------------------------------------------------------------------------------

    def put_replicas(self, fleet: bytes, rows: Iterable[ReplicaRow]) -> None:
        sql = "INSERT OR REPLACE INTO replicas VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._db.executemany(sql, [(fleet, *row) for row in rows])

    def put_lease(self, fleet: bytes, lease: Lease) -> None:
        self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (fleet, *lease))

    def put_records(self, fleet: bytes, rows: Iterable[RecordRow]) -> None:
        self._db.executemany(_RECORD, [(fleet, *row) for row in rows])

    def append_feed(self, fleet: bytes, rows: Iterable[FeedRow]) -> None:
        last: int | None = self._db.execute("SELECT max(last) FROM feed WHERE fleet = ?", (fleet,)).get
        for row in rows:
            if last is not None and row.first != last + 1:
                raise CorruptStore(f"the feed ends at {last}; a row at {row.first} does not continue it")
            self._db.execute(_FEED, (fleet, *row[:-1], " ".join(row.collections)))
            last = row.last

    def trim_feed(self, fleet: bytes, position: int) -> int:
        head = self.head(fleet)
        end: int | None = self._db.execute(
            "SELECT max(last) FROM feed WHERE fleet = ? AND last <= ?", (fleet, position)
        ).get
        if end is None:
            return 0
        self._db.execute("DELETE FROM feed WHERE fleet = ? AND last <= ?", (fleet, end))
        gone = self._db.changes()
        self.set_head(fleet, head._replace(trimmed=max(head.trimmed, end)))
        return gone

    def add_conflict(self, fleet: bytes, conflict: Conflict) -> int:
        number: int = self._db.execute(
            "SELECT coalesce(max(number), 0) + 1 FROM conflicts WHERE fleet = ?", (fleet,)
        ).get
        self.put_conflicts(fleet, [conflict._replace(number=number)])
        return number

    def put_conflicts(self, fleet: bytes, rows: Iterable[Conflict]) -> None:
        for row in rows:
            packed = (*row[:6], pack_claim(row.held), pack_claim(row.came), *row[8:])
            self._db.execute(_CONFLICT, (fleet, *packed))

    def add_dead_letters(self, fleet: bytes, rows: Iterable[DeadLetter]) -> None:
        number: int = self._db.execute(
            "SELECT coalesce(max(number), 0) + 1 FROM dead_letters WHERE fleet = ?", (fleet,)
        ).get
        for row in rows:
            self._db.execute(_DEAD_LETTER, (fleet, number, *row[1:]))
            number += self._db.changes()

    # -- archive --------------------------------------------------------------------------------------------------

    def set_archive_state(self, fleet: bytes, name: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO archive_state VALUES (?, ?, ?)", (fleet, name, value))
