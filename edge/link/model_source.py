"""Where a device's models come from while a link is up: connections to the packs, ended with the link."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sync.errors import Unreachable

if TYPE_CHECKING:
    from edge.link.model_client import ModelClient
    from edge.link.runner import Link
    from sync.keys import KeyRing
    from sync.ports import Clock


class ModelSource:
    """``within_ms``: for how long anything is begun; None: until ``end``."""

    def __init__(self, link: Link, url: str | None, clock: Clock, within_ms: int | None) -> None:
        self._link = link
        self._url = url
        self._clock = clock
        self._ends_ms = None if within_ms is None else clock.monotonic_ms() + within_ms
        self._lock = threading.Lock()
        self._ended = False
        self._client: ModelClient | None = None

    def connect(self) -> ModelClient:
        """Raises Unreachable when it has ended, NotFound (no fleet joined), CorruptStore."""
        self.admit(0)
        client = self._link.packs(self._url)
        with self._lock:
            self._client = client
            if self._ended:
                client.abort()
        return client

    def ring(self) -> KeyRing:
        """The fleet's keys."""
        return self._link.ring()

    def target(self, sha256: str) -> bytes:
        """A chunk list, as the cloud sends it. Raises as ``connect``, and SyncError."""
        client = self.connect()
        try:
            return client.target(sha256)
        finally:
            client.close()

    def admit(self, _bytes: int) -> None:
        """Whether something may be begun. Raises Unreachable."""
        if self._ended or (self._ends_ms is not None and self._clock.monotonic_ms() >= self._ends_ms):
            raise Unreachable("the sync has ended before the model was here", hint="it goes on with the next one")

    def end(self) -> None:
        """What is under way fails with Unreachable."""
        with self._lock:
            self._ended = True
            if self._client is not None:
                self._client.abort()
