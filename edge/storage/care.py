"""The background thread that cares for the projections: a round at every interval, or sooner when much was written.

What a round does is its owner's business. What always holds: a round that fails is noted in ``problem`` and tried again
at the next interval; an error that is none of ours (a bug) is logged with its traceback and handled the same way, since
searches flush for themselves and no answer depends on this thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sync.errors import AgentDBError

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

ROWS_MAX = 500
_log = logging.getLogger("agentdb.edge")


class Care:
    """Runs from construction to ``stop``. ``interval_ms`` is the longest time between two rounds."""

    def __init__(self, log: DeltaLog, attend: Callable[[], None], interval_ms: int) -> None:
        self.problem = ""
        self._log = log
        self._attend = attend
        self._interval_s = interval_ms / 1000
        self._wake = threading.Event()
        self._stopping = False
        self._turn = threading.Lock()
        self._seen = log.position
        self._thread = threading.Thread(target=self._run, name="agentdb-projection", daemon=True)
        log.listeners.append(self._nudge)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Return when the round under way is done."""
        self._stopping = True
        self._log.listeners.remove(self._nudge)
        self._wake.set()
        self._thread.join()

    def now(self) -> None:
        """Two rounds, in the caller's thread: the second finds nothing new, and gives back what only then can go.
        Raises StorageError.
        """
        with self._turn:
            self._attend()
            self._attend()

    def _nudge(self) -> None:
        if self._log.position - self._seen >= ROWS_MAX:
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if self._stopping:
                return
            self._seen = self._log.position
            self._round()

    def _round(self) -> None:
        try:
            with self._turn:
                self._attend()
            self.problem = ""
        except AgentDBError as error:
            if str(error) != self.problem:
                _log.warning("projection: %s (%s)", error, error.hint)
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - logged and shown; a thread that ended would be worse
            _log.exception("projection: unexpected error; trying again")
            self.problem = f"{type(error).__name__}: {error}"
