"""Giving back the space of what the log has dropped: its free pages, and a write-ahead log that has grown.

SQLite keeps the pages of deleted rows for rows to come, and its write-ahead log at the size that it once had. The log
is made with ``auto_vacuum=INCREMENTAL``, so that free pages can be given back a few at a time.

What always holds: a step is one short transaction, so a writer waits for some milliseconds; nothing is given back
before a quarter of the file is free, so what a store needs again and again stays with it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import apsw

from edge.storage.log_schema import BUSY_MS, translate

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

STEP_PAGES = 256
STEPS_MAX = 64
_FREE_LEAST = 256  # pages: a megabyte
_WHOLE_PAGES_MAX = 16_384  # 64 MiB: what may be copied at once, in under a second
_WAL_BYTES_MAX = 1 << 20
_INCREMENTAL = 2


def reclaim(log: DeltaLog, *, idle: bool) -> int:
    """Give back free pages, at most 64 MiB a call; when ``idle``, the write-ahead log too. Returns how many pages.
    Raises StorageError.
    """
    given = 0
    pages, free, mode = _state(log)
    if free > max(_FREE_LEAST, pages // 4):
        if mode == _INCREMENTAL:
            given = _in_steps(log, keep=(pages - free) // 8)
        elif pages - free <= _WHOLE_PAGES_MAX:
            given = _whole(log, free)
    if idle or given:
        _truncate(log)
    return given


def _state(log: DeltaLog) -> tuple[int, int, int]:
    """Pages, free ones among them, and the mode, as the writing connection has it: others may hold an old one."""
    with log.writer.lock:
        log.writer.check_open()
        try:
            pages, free, mode = (
                int(log.writer.db.execute(f"PRAGMA {name}").get or 0)
                for name in ("page_count", "freelist_count", "auto_vacuum")
            )
        except (apsw.Error, OSError) as error:
            raise translate(error, log.path) from error
    return pages, free, mode


def _in_steps(log: DeltaLog, keep: int) -> int:
    given = 0
    for _ in range(STEPS_MAX):
        with log.writer.lock, log.transact() as db:
            free = int(db.execute("PRAGMA freelist_count").get or 0)
            step = min(STEP_PAGES, free - keep)
            if step <= 0:
                break
            db.execute(f"PRAGMA incremental_vacuum({step})").fetchall()
            given += step
    return given


def _whole(log: DeltaLog, free: int) -> int:
    """A store of the first builds: copied whole, once; from then on it is as new ones are."""
    with log.writer.lock:
        log.writer.check_open()
        try:
            log.writer.db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            log.writer.db.execute("VACUUM")
        except (apsw.Error, OSError) as error:
            raise translate(error, log.path) from error
    return free


def _truncate(log: DeltaLog) -> None:
    """Bring the write-ahead log in, and cut it to nothing, unless somebody is reading: then another time."""
    wal = log.path + "-wal"
    if not os.path.exists(wal) or os.path.getsize(wal) <= _WAL_BYTES_MAX:
        return
    with log.writer.lock:
        log.writer.check_open()
        db = log.writer.db
        try:
            db.set_busy_timeout(0)  # writers wait behind us: no waiting for readers here
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except apsw.BusyError:
            return
        except (apsw.Error, OSError) as error:
            raise translate(error, log.path) from error
        finally:
            db.set_busy_timeout(BUSY_MS)
