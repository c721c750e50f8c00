"""The thread that brings attachments' bodies to the cloud while a live link is up, and evicts what may go.

A round comes when a body was added, and every half minute, for what other devices have deleted. What always holds: a
round that fails is tried again after a while, for as long as the link is up; ``problem`` says why it failed.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from sync.errors import AgentDBError, Deferred
from sync.schedule import Backoff

if TYPE_CHECKING:
    from edge.link.body_client import BodyClient
    from edge.link.runner import Link

ROUND_S = 30.0
ASK_MS = 3_600_000  # where bodies are kept, if there is nothing else to ask
_log = logging.getLogger("agentdb.edge")


class BodyCare:
    """Runs from construction to ``stop``, and ``join`` waits for its end."""

    def __init__(self, link: Link, url: str | None) -> None:
        self.problem = ""
        self.deferred: Deferred | None = None  # why it waits for another day, or another link
        self._link = link
        self._url = url
        self._backoff = Backoff(link.random)
        self._busy = True
        self._stopping = False
        self._settled = -1
        self._due = True  # there may be something to upload
        self._ask_at = link.clock.monotonic_ms()
        self._client: BodyClient | None = None
        self._thread = threading.Thread(target=self._run, name="agentdb-bodies", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """The cloud has all that is here, as of the last round, and nothing was added since."""
        # In this order: it is busy before it takes what was added.
        return not self._link.cache.added.is_set() and not self._busy and not self.problem

    def stop(self) -> None:
        """At once; what is under way is taken up again by the next link."""
        self._stopping = True
        self._link.cache.added.set()
        client = self._client
        if client is not None:
            client.abort()

    def join(self, within_s: float) -> None:
        self._thread.join(within_s)

    def _run(self) -> None:
        added = self._link.cache.added
        while not self._stopping:
            self._busy = True
            if added.is_set():  # what is added after this look is found by the next
                added.clear()
                self._due = True
            if self._stopping:
                return
            wait_s = self._round()
            self._busy = False
            added.wait(wait_s)

    def _round(self) -> float:
        """Seconds until the next one, if nothing is added before."""
        cache = self._link.cache
        try:
            now = self._link.clock.monotonic_ms()
            uploading = self._due or now >= self._ask_at
            if uploading:
                self._due = True
                self._link.check_bulk()
                self._ask_at = now + ASK_MS
                failed = self._link.bodies(self._url).upload(using=self._use).failed
                if failed is not None:
                    raise failed
                self._due = False
            position = self._link.log.position
            if uploading or position != self._settled:
                cache.settle()
                self._settled = position
        except AgentDBError as error:
            self.deferred = error if isinstance(error, Deferred) else None
            if not self._stopping:
                if str(error) != self.problem:
                    _log.warning("attachments: %s (%s)", error, error.hint)
                self.problem = cache.problem = str(error)
            return self._backoff.next_ms() / 1000
        except Exception as error:  # noqa: BLE001 - logged and shown; a thread that ended would be worse
            _log.exception("attachments: unexpected error; trying again")
            self.deferred = None
            self.problem = cache.problem = f"{type(error).__name__}: {error}"
            return self._backoff.next_ms() / 1000
        finally:
            self._client = None
        self.problem, self.deferred = "", None
        self._backoff.reset()
        return ROUND_S

    def _use(self, client: BodyClient) -> None:
        self._client = client
        if self._stopping:
            client.abort()
