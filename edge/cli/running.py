"""``<store>/status.json``: what ``agentdb-edge run`` says of its link, which nobody else can see.

Written whole (a new file in the place of the old one, mode 0600) at every change of the link and every few seconds;
removed at the end. After a crash it stays, and is not believed: it counts only while the process that wrote it holds
the store. It is a courtesy, not state: nothing is read from it but for showing, so it is not fsynced.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.node import Edge
from edge.ports import SystemClock
from edge.storage.store_lock import holder
from edge.storage.store_opening import LOCK_FILE

STATUS_FILE = "status.json"
_EVERY_MS = 5_000
_BYTES_MAX = 16 << 20


class StatusFile:
    """The writer's side, as a context manager."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._path = Path(edge.path, STATUS_FILE)
        self._clock = SystemClock()
        self._state: tuple[str, int] | None = None
        self._written_ms = 0

    def write(self, state: str) -> None:
        """``state`` is a word on the link. If the disk refuses, syncing goes on, and the file says how old it is."""
        now_ms = self._clock.monotonic_ms()
        seen = (state, self._edge.log.cursor)
        if seen == self._state and now_ms - self._written_ms < _EVERY_MS:
            return
        self._state, self._written_ms = seen, now_ms
        said = {"at_ms": self._clock.wall_ms(), "pid": os.getpid(), "status": self._edge.status()}
        part = self._path.with_name(STATUS_FILE + ".part")
        try:
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(said, file)
            part.replace(self._path)
        except OSError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)


def read_status(store: str) -> dict[str, Any] | None:
    """What the process that holds the store wrote last: its ``Edge.status()``, and ``held_by`` (pid, command) and
    ``age_ms`` besides. None if it has written nothing.
    """
    held = holder(str(Path(store, LOCK_FILE)))
    try:
        with Path(store, STATUS_FILE).open("rb") as file:
            said = json.loads(file.read(_BYTES_MAX))
        if held is None or said["pid"] != held.pid:
            return None
        age_ms = max(0, SystemClock().wall_ms() - int(said["at_ms"]))
        return {**said["status"], "held_by": held._asdict(), "age_ms": age_ms}
    except (OSError, ValueError, KeyError, TypeError):
        return None
