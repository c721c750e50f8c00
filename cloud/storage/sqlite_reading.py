"""Reading from the cloud's SQLite database: ``cloud.ports.Reading`` over one connection that is inside a
transaction.

It neither opens nor ends transactions (``sqlite_store`` does) and writes nothing (``sqlite_writing``
does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgpack

from cloud.rows import (
    AuditRow,
    Claim,
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
    record_row,
)
from cloud.storage.sqlite_control import SqliteControlReading
from cloud.storage.sqlite_models import SqliteModelReading
from cloud.storage.sqlite_twins import SqliteTwinsReading
from sync.errors import NotFound
from sync.images import is_alive
from sync.limits import SEGMENT_OPERATIONS_MAX
from sync.stamps import device_of

_HEAD = """SELECT position, incarnation, generation, restored_head, trimmed, clock, living, previous
    FROM heads WHERE fleet = ?"""
_DEVICE = """SELECT fleet, device, signing, exchange, name, priority, enrolled_ms, token_id, revoked_ms
    FROM devices """
_TOKEN = "SELECT token_id, fleet, secret_hash, uses, expires_ms, created_ms FROM tokens "  # noqa: S105 - a statement
_AUDIT = "SELECT number, at_ms, actor, action, subject, details, digest FROM audit WHERE fleet = ? "
_REPLICA = "SELECT replica, last_seq, last_segment, cursor, at_ms, head FROM replicas WHERE fleet = ? "
_RECORD = "SELECT collection, key, image, position, field_positions, grave FROM records "
# CROSS JOIN fixes the order: the planner knows nothing of the array's size, and the other way round reads
# all records.
_LOOKUP = """SELECT r.collection, r.key, r.image, r.position, r.field_positions, r.grave
    FROM carray(?) AS wanted CROSS JOIN records AS r
    ON r.fleet = ? AND r.collection = ? AND r.key = wanted.value"""
_FEED = """SELECT first, last, replica, state, packed, plain_length, min_ts, max_ts, at_ms, segment, collections
    FROM feed WHERE fleet = ? AND last > ? ORDER BY last LIMIT ?"""
_CONFLICT = """SELECT number, position, at_ms, collection, key, field, held, came, winner, rule, state, resolution, note
    FROM conflicts WHERE fleet = ? """
_DEAD_LETTER = """SELECT number, replica, seq, at_ms, collection, key, code, reason, operation
    FROM dead_letters WHERE fleet = ? """
_REFUSED = """SELECT number, replica, seq, at_ms, collection, key, code, reason, X'' FROM dead_letters
    WHERE fleet = ? AND replica = ? AND seq BETWEEN ? AND ? ORDER BY seq, collection, key LIMIT ?"""
_COUNTS = {
    "devices": "SELECT count(*) FROM devices WHERE fleet = ?",
    "replicas": "SELECT count(*) FROM replicas WHERE fleet = ?",
    "conflicts": "SELECT count(*) FROM conflicts WHERE fleet = ?",
    "open_conflicts": "SELECT count(*) FROM conflicts WHERE fleet = ? AND state = 'open'",
    "dead_letters": "SELECT count(*) FROM dead_letters WHERE fleet = ?",
}


class SqliteReading(SqliteTwinsReading, SqliteControlReading, SqliteModelReading):
    """Valid within the block that it was given to."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def fleets(self) -> list[FleetRow]:
        rows = self._db.execute("SELECT fleet, name, created_ms FROM fleets ORDER BY fleet")
        return [FleetRow(*row) for row in rows]

    def fleet(self, fleet: bytes) -> FleetRow | None:
        row = self._one("SELECT fleet, name, created_ms FROM fleets WHERE fleet = ?", fleet)
        return FleetRow(*row) if row else None

    def head(self, fleet: bytes) -> Head:
        row = self._one(_HEAD, fleet)
        if row is None:
            raise NotFound(f"no fleet {fleet.hex()}", hint="agentdb-cloud init creates one")
        return Head(*row)

    # -- identity -------------------------------------------------------------------------------------------------

    def device(self, device: bytes) -> DeviceRow | None:
        row = self._one(_DEVICE + "WHERE device = ?", device)
        return DeviceRow(*row) if row else None

    def devices(self, fleet: bytes) -> list[DeviceRow]:
        rows = self._db.execute(_DEVICE + "WHERE fleet = ? ORDER BY device", (fleet,))
        return [DeviceRow(*row) for row in rows]

    def revocation(self, fleet: bytes, replica: bytes) -> int | None:
        row = self.device(device_of(replica))
        if row is None or row.fleet != fleet or not row.revoked_ms:
            return None
        bound = self._one("SELECT last_seq FROM revocations WHERE fleet = ? AND replica = ?", fleet, replica)
        return int(bound[0]) if bound else 0

    def token(self, token_id: bytes) -> TokenRow | None:
        row = self._one(_TOKEN + "WHERE token_id = ?", token_id)
        return TokenRow(*row) if row else None

    def tokens(self, fleet: bytes) -> list[TokenRow]:
        rows = self._db.execute(_TOKEN + "WHERE fleet = ? ORDER BY token_id", (fleet,))
        return [TokenRow(*row) for row in rows]

    def nonce(self, device: bytes) -> int:
        row = self._one("SELECT nonce FROM nonces WHERE device = ?", device)
        return int(row[0]) if row else 0

    def epochs(self, fleet: bytes) -> list[EpochRow]:
        sql = "SELECT epoch, created_ms, reason FROM epoch_keys WHERE fleet = ? ORDER BY epoch"
        return [EpochRow(*row) for row in self._db.execute(sql, (fleet,))]

    def audit(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[AuditRow]:
        rows = self._db.execute(_AUDIT + "AND number > ? ORDER BY number LIMIT ?", (fleet, after, limit))
        return [_audit_row(row) for row in rows]

    def last_audit(self, fleet: bytes) -> AuditRow | None:
        row = self._one(_AUDIT + "ORDER BY number DESC LIMIT 1", fleet)
        return _audit_row(row) if row else None

    # -- stream ---------------------------------------------------------------------------------------------------

    def replica(self, fleet: bytes, replica: bytes) -> ReplicaRow | None:
        row = self._one(_REPLICA + "AND replica = ?", fleet, replica)
        return ReplicaRow(*row) if row else None

    def replicas(self, fleet: bytes) -> list[ReplicaRow]:
        return [ReplicaRow(*row) for row in self._db.execute(_REPLICA + "ORDER BY replica", (fleet,))]

    def lease(self, fleet: bytes, replica: bytes) -> Lease | None:
        row = self._one("SELECT replica, settled, at_ms FROM leases WHERE fleet = ? AND replica = ?", fleet, replica)
        return Lease(*row) if row else None

    def leases(self, fleet: bytes) -> list[Lease]:
        sql = "SELECT replica, settled, at_ms FROM leases WHERE fleet = ? ORDER BY replica"
        return [Lease(*row) for row in self._db.execute(sql, (fleet,))]

    def lookup(self, fleet: bytes, collection: str, keys: Sequence[str]) -> dict[str, RecordRow]:
        if not keys:
            return {}
        rows = self._db.execute(_LOOKUP, (apsw.carray(tuple(keys)), fleet, collection))
        return {row[1]: record_row(row) for row in rows}

    def records(
        self, fleet: bytes, after: tuple[str, str] | None = None, limit: int = 1000, max_bytes: int = 4 << 20
    ) -> list[RecordRow]:
        sql = _RECORD + "WHERE fleet = ? AND (collection, key) > (?, ?) ORDER BY collection, key LIMIT ?"
        out: list[RecordRow] = []
        for row in map(record_row, self._db.execute(sql, (fleet, *(after or ("", "")), limit))):
            max_bytes -= len(row.image) + len(row.grave)
            if out and max_bytes < 0:
                break
            out.append(row)
        return out

    def count_living(self, fleet: bytes) -> int:
        rows = self._db.execute("SELECT image FROM records WHERE fleet = ?", (fleet,))
        return sum(is_alive(image) for (image,) in rows)

    def feed(self, fleet: bytes, after: int, limit: int = 1000, max_bytes: int = 4 << 20) -> list[FeedRow]:
        out: list[FeedRow] = []
        size = 0
        for row in self._db.execute(_FEED, (fleet, after, limit)):
            first, last, replica, state, packed, length, min_ts, max_ts, at_ms, segment, named = row
            size += len(packed)
            if out and size > max_bytes:
                break
            times, names = (min_ts, max_ts, at_ms), tuple(named.split())
            out.append(FeedRow(first, last, replica, bool(state), packed, length, *times, segment, names))
        return out

    def conflict(self, fleet: bytes, number: int) -> Conflict | None:
        row = self._one(_CONFLICT + "AND number = ?", fleet, number)
        return _conflict(row) if row else None

    def conflicts(self, fleet: bytes, after: int = 0, limit: int = 1000, *, state: str = "") -> list[Conflict]:
        if state:
            sql = _CONFLICT + "AND number > ? AND state = ? ORDER BY number LIMIT ?"
            rows = self._db.execute(sql, (fleet, after, state, limit))
        else:
            rows = self._db.execute(_CONFLICT + "AND number > ? ORDER BY number LIMIT ?", (fleet, after, limit))
        return [_conflict(row) for row in rows]

    def resolved_at(self, fleet: bytes, position: int) -> Conflict | None:
        if position <= 0:
            return None
        row = self._one(_CONFLICT + "AND resolution > 0 AND resolution = ? LIMIT 1", fleet, position)
        return _conflict(row) if row else None

    def dead_letters(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[DeadLetter]:
        sql = _DEAD_LETTER + "AND number > ? ORDER BY number LIMIT ?"
        return [DeadLetter(*row) for row in self._db.execute(sql, (fleet, after, limit))]

    def refused(
        self, fleet: bytes, replica: bytes, first_seq: int, last_seq: int, limit: int = SEGMENT_OPERATIONS_MAX
    ) -> list[DeadLetter]:
        rows = self._db.execute(_REFUSED, (fleet, replica, first_seq, last_seq, limit))
        return [DeadLetter(*row) for row in rows]

    def counts(self, fleet: bytes) -> dict[str, int]:
        return {name: int(self._db.execute(sql, (fleet,)).get) for name, sql in _COUNTS.items()}

    def archive_state(self, fleet: bytes, name: str) -> bytes | None:
        row = self._one("SELECT value FROM archive_state WHERE fleet = ? AND name = ?", fleet, name)
        return bytes(row[0]) if row else None

    def _one(self, sql: str, *bindings: bytes | int | str) -> tuple[Any, ...] | None:
        for row in self._db.execute(sql, bindings):
            return tuple(row)
        return None


def pack_claim(claim: Claim) -> bytes:
    packed: bytes = msgpack.packb(tuple(claim))
    return packed


def _claim(data: bytes) -> Claim:
    return Claim(*msgpack.unpackb(data, strict_map_key=False))


def _conflict(row: tuple[Any, ...]) -> Conflict:
    number, position, at_ms, collection, key, field, held, came, *rest = row
    return Conflict(number, position, at_ms, collection, key, field, _claim(held), _claim(came), *rest)


def _audit_row(row: tuple[Any, ...]) -> AuditRow:
    number, at_ms, actor, action, subject, details, digest = row
    return AuditRow(number, at_ms, actor, action, subject, msgpack.unpackb(details), digest)
