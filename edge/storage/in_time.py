"""When the background work of a store begins that is only written to: it needs no search tables, but space.

What always holds: a commit does no more for it than compare two numbers; the work begins in a thread of its own, since
whoever commits holds the log's lock.
"""

from __future__ import annotations

import sys
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sync.errors import StorageError

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

WRITES = 50_000  # of this process


def start_in_time(log: DeltaLog, start: Callable[[], None]) -> Callable[[], None]:
    """Call ``start`` once when so much has been written since now, unless what is returned was called before."""
    due = log.head_seq + WRITES

    def listen() -> None:
        nonlocal due
        if log.head_seq >= due:
            due = sys.maxsize
            start_new_thread(begin, ())

    def begin() -> None:
        with suppress(StorageError):  # the store was closed meanwhile
            start()

    def forget() -> None:
        if listen in log.listeners:
            log.listeners.remove(listen)

    log.listeners.append(listen)
    return forget
