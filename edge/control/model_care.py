"""When models are cared for: by a thread that tries and counts, and one that fetches, each made when it is needed.

Fetching may take hours, and a soak is counted meanwhile. What always holds: no thread is made where there are no
models; each ends with the store. What fails is tried again, the seldomer the longer it does (``Seldomer``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge.control.model_store import ModelStore
from edge.storage.seldomer import PAUSE_MS, PAUSE_MS_MAX
from sync.errors import AgentDBError

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.storage.cache import Cache
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

_log = logging.getLogger("agentdb.edge")


class Care:
    """``store.wake`` calls it; its threads end when the store is closed."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._rounds = (
            _Round("agentdb-models", store, self._due_ms, self._advance),
            _Round("agentdb-models-fetch", store, self._fetch_ms, self._fetch),
        )

    def poke(self) -> None:
        for one in self._rounds:
            one.poke()

    def join(self) -> None:
        """The store is closed: wait until nothing is done any more."""
        for one in self._rounds:
            one.join()

    def _due_ms(self) -> int | None:
        return self._store.due_ms()

    def _advance(self) -> bool:
        self._store.advance()
        return self._store.due_ms() != 0

    def _fetch_ms(self) -> int | None:
        return 0 if self._store.is_fetching() else None

    def _fetch(self) -> bool:
        self._store.fetch()
        return not self._store.is_fetching()


class _Round:
    """``work`` in a thread of its own when it is due; it says whether all was done."""

    def __init__(
        self, name: str, store: ModelStore, due_ms: Callable[[], int | None], work: Callable[[], bool]
    ) -> None:
        self._name = name
        self._store = store
        self._due_ms = due_ms
        self._work = work
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def poke(self) -> None:
        if threading.current_thread() is self._thread:
            return  # it looks again anyway, and not before its time if it failed
        self._woken.set()
        is_due = self._due_ms() is not None  # before the lock: it takes the store's, which whoever calls may have
        with self._lock:
            if self._thread is None and not self._store.closed and is_due:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def join(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        pause_ms = PAUSE_MS
        while not self._store.closed:
            self._woken.clear()
            due_ms = self._due_ms()
            if due_ms == 0:
                try:
                    done = self._work()
                except AgentDBError as error:
                    done = False
                    if not self._store.closed:
                        _log.warning("models: %s (%s)", error, error.hint)
                except Exception:  # noqa: BLE001 - logged, and tried again; a thread that ended would be worse
                    done = False
                    _log.exception("models: unexpected error; trying again")
                due_ms, pause_ms = (0, PAUSE_MS) if done else (pause_ms, min(2 * pause_ms, PAUSE_MS_MAX))
                if done:
                    continue
            self._woken.wait(None if due_ms is None else due_ms / 1000)


def open_models(
    log: DeltaLog,
    path: str,
    config: EdgeConfig,
    clock: Clock,
    cache: Callable[[], Cache],
    reported: Callable[[], Mapping[str, Any]],
) -> ModelStore:
    """The store's models, and what cares for them if this process may write. Raises StorageError."""
    store = ModelStore(
        log,
        path,
        clock,
        runners=config.models_runners,
        code_runs=config.models_allow_code,
        reported=reported,
        room=lambda size: cache().room(size),
    )
    if not log.read_only:
        care = Care(store)
        store.wake, store.ended = care.poke, care.join
        care.poke()
    return store
