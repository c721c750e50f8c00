"""The bases of records that are kept back (``kept_back``): what others may be given of them.

What others write is merged into them as it is into the records. When the store takes another name (ADR 12) its log
ends, and what was not acknowledged goes as state: so that is merged into them as well, and moved as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge.storage.log_schema import has_table
from sync.images import fold
from sync.moving import Contribution, move
from sync.operations import Operation
from sync.records import Record

if TYPE_CHECKING:
    import apsw

    from edge.storage.delta_log import DeltaLog

_BASE = "SELECT base FROM kept_back WHERE collection = ? AND key = ?"
_OF = (
    "SELECT k.collection, k.base FROM kept_back k WHERE k.collection = (SELECT id FROM collections WHERE name = ?) "
    "AND k.key = ?"
)
_SET = "UPDATE kept_back SET base = ? WHERE collection = ? AND key = ?"


def take_pending(log: DeltaLog, db: apsw.Connection) -> None:
    """Merge what is in the log and was not acknowledged. A part of the transaction in which the name changes."""
    if not has_table(db, "kept_back"):
        return
    merge(db, log.reader.operations_after(db, log.replica, log.acked_seq))


def merge(db: apsw.Connection, operations: Sequence[Operation]) -> None:
    """What is, or may be, known to others. There is a table."""
    for operation in operations:
        rowed: list[Any] = db.execute(_OF, (operation.shape.collection, operation.key)).fetchall()
        for number, base in rowed:
            merged = fold(base or None, operation)
            if merged != base:
                db.execute(_SET, (merged, number, operation.key))


def move_pending(
    log: DeltaLog, db: apsw.Connection, place: tuple[int, str, str], contributions: Sequence[Contribution]
) -> None:
    """Move what was contributed to a record (collection id, name, key); ``take_pending`` came before."""
    number, name, key = place
    base = db.execute(_BASE, (number, key)).get if has_table(db, "kept_back") else None
    if base:
        record = Record.decode(base)
        move(record, log.replica, (name, key), contributions)
        db.execute(_SET, (record.encode(), number, key))
