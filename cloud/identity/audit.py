"""The audit trail: who was let in, who was turned away, and what an operator changed. Append-only, one per fleet.

Each row's digest covers the row and the digest before it, so that a row that was altered, removed or put in later
shows (``broken``); to hide it, everything after it must be rewritten, and whoever kept one digest still notices.

Rows are written in the transaction of what they tell of: there is no enrollment without its row. They hold no
secrets: tokens by id, keys by device id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from cloud.ports import Transaction
from cloud.rows import AuditRow

_FIRST = bytes(32)


def record(
    tx: Transaction, fleet: bytes, at_ms: int, actor: str, action: str, subject: str, **details: Any
) -> AuditRow:
    """Append a row. ``actor``: who did it ("device <hex>", "operator", "cloud"); ``action``: object.verb, such as
    "device.enrolled"; ``subject``: what it was done to. ``details``: plain msgpack values.
    """
    last = tx.last_audit(fleet)
    number, before = (last.number + 1, last.digest) if last else (1, _FIRST)
    row = AuditRow(number, at_ms, actor, action, subject, details, b"")
    row = row._replace(digest=_digest(fleet, row, before))
    tx.append_audit(fleet, row)
    return row


def broken(fleet: bytes, rows: Iterable[AuditRow]) -> int | None:
    """The number at which a whole trail, from its first row, stops being what was written; None if it is sound."""
    expected, before = 1, _FIRST
    for row in rows:
        if row.number != expected or row.digest != _digest(fleet, row, before):
            return expected
        expected, before = row.number + 1, row.digest
    return None


def _digest(fleet: bytes, row: AuditRow, before: bytes) -> bytes:
    details: Mapping[str, Any] = dict(sorted(row.details.items()))
    content = (fleet, row.number, row.at_ms, row.actor, row.action, row.subject, details, before)
    return sha256(b"agentdb.audit.v1" + msgspec.msgpack.encode(content)).digest()
