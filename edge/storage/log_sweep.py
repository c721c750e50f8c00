"""Forgetting deletes that the whole fleet has read (ADR 11): tombstones are marked, and dropped some handshakes later.

``living`` of a record in its table is 1, 0 for a tombstone, -1 for one that is marked. Whatever changes the record sets
it to 0 or 1 again. Kept in ``meta``: ``marked``, under which life of the cloud and which replica tombstones were marked
and up to which feed position they are; ``swept``, up to which position deletes may be forgotten here.

What always holds: a tombstone goes only if the delete that made it lies at a feed position that every active device has
read, and only after everything that the cloud had taken by then has been merged here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.storage import kept_back
from sync.records import Record
from sync.schema import COLLECTIONS

if TYPE_CHECKING:
    import apsw

    from edge.storage.delta_log import DeltaLog

SWEEP_ROWS_MAX = 10_000


def sweep(log: DeltaLog, stable: int, until: int) -> int:
    """Drop what was marked, if all that is up to ``stable``; then mark what is there now, whose deletes lie at feed
    positions up to ``until``. At most ``SWEEP_ROWS_MAX`` a call. Returns how many were dropped. Raises StorageError.
    """
    with log.writer.lock:
        here = [log.meta_get("incarnation"), log.replica]
        *place, marked = log.meta_get("marked") or (None, None, 0)
        if place == here and marked > stable:
            return 0
        log.fold()  # a record that has changed in memory only is not the one that was marked
        dropped = 0
        with log.transact() as db:
            if place == here:
                dropped = _drop(db, log.clock.reading())
                log.writer.put_meta("swept", (here[0], marked))
            _mark(db)
            log.writer.put_meta("marked", (*here, until))
    return dropped


def _drop(db: apsw.Connection, now: int) -> int:
    sql = "SELECT id, image FROM records WHERE living = -1 LIMIT ?"
    rows: list[Any] = db.execute(sql, (SWEEP_ROWS_MAX,)).fetchall()
    # One that was deleted by a clock that was ahead stays: a new write here would be stamped before the delete.
    past = [(number,) for number, image in rows if Record.decode(image).newest_ts <= now]
    kept_back.forget(db, past)
    db.executemany("DELETE FROM records WHERE id = ?", past)
    return len(past)


def _mark(db: apsw.Connection) -> None:
    left = SWEEP_ROWS_MAX - int(db.execute("SELECT count(*) FROM records WHERE living = -1").get or 0)
    if left > 0:
        found = (
            "SELECT id FROM records WHERE living = 0 AND collection IS NOT (SELECT id FROM collections WHERE name = ?)"
        )
        sql = f"UPDATE records SET living = -1 WHERE id IN ({found}{kept_back.not_swept(db)} LIMIT ?)"  # noqa: S608 - ours
        db.execute(sql, (COLLECTIONS, left))
