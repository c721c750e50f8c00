"""The link as the device's owner uses it: join a fleet, sync once, or stay in sync in the background.

``join`` and ``sync_once`` block until done; ``LiveLink`` owns a thread with an event loop in which a live replicator
runs until it is stopped. A failure of the network, or of a disk that is full for a while, is never an error of the
agent: the live link tries again for ever, and ``status`` says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.config import EdgeConfig
from edge.link import membership
from edge.link.body_care import BodyCare
from edge.link.membership import Membership
from edge.link.replicator import Progress, Replicator
from edge.link.signing import Nonces
from edge.link.transport import HttpTransport, enroll
from edge.storage.delta_log import DeltaLog
from edge.storage.keystore import load_device_key
from edge.storage.once import once
from sync.errors import AgentDBError, BodyNotHere, NotFound, SyncError, Unreachable
from sync.ports import Clock, RandomSource
from sync.schedule import Backoff
from sync.tokens import parse_token

if TYPE_CHECKING:
    from edge.link.bodies import BodyLink
    from edge.storage.cache import Cache

JOIN_TRIES_MAX = 5
STOP_S_MAX = 30.0
_log = logging.getLogger("agentdb.edge")


class Link:
    """What joining and syncing need of an open store."""

    def __init__(
        self, log: DeltaLog, store: str, config: EdgeConfig, clock: Clock, random: RandomSource, cache: Cache
    ) -> None:
        self.log = log
        self.cache = cache
        self.store = store
        self.config = config
        self.clock = clock
        self.random = random

    def join(self, token_text: str, name: str, url: str | None = None) -> Membership:
        """Enroll with a join token; idempotent. ``url`` overrides the token's. Raises InvalidValue, Refused,
        Unreachable, ProtocolError, InvalidConfig.
        """
        token = parse_token(token_text)
        target = url or self.config.sync_url or token.url
        request = membership.enroll_request(self.log, self.store, token, name)
        backoff = Backoff(self.random)
        for attempt in range(JOIN_TRIES_MAX):
            try:
                answer = asyncio.run(enroll(target, request, allow_plain_http=self.config.sync_allow_plain_http))
                return membership.accept(self.log, self.store, token, answer, target, name)
            except Unreachable:
                if attempt == JOIN_TRIES_MAX - 1:
                    raise
                time.sleep(backoff.next_ms() / 1000)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def replicator(
        self, *, live: bool, url: str | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> Replicator:
        """Raises NotFound if the device has not joined a fleet."""
        member = membership.require_membership(self.log)
        transport = HttpTransport(
            url or self.config.sync_url or member.url,
            load_device_key(self.store),
            self._nonces,
            allow_plain_http=self.config.sync_allow_plain_http,
        )
        return Replicator(
            self.log,
            self.store,
            transport,
            clock=self.clock,
            random=self.random,
            live=live,
            on_progress=on_progress,
        )

    def sync_once(
        self, *, timeout_ms: int | None, url: str | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> Progress:
        """Push and pull until both sides have everything, attachments' bodies too. Raises the last error when the time
        is over.
        """
        started = self.clock.monotonic_ms()
        done = asyncio.run(self.replicator(live=False, url=url, on_progress=on_progress).run(timeout_ms))
        backoff = Backoff(self.random)
        while self.cache.is_concerned():
            try:
                sent = self.bodies(url).upload()
            except Unreachable:
                wait_ms = backoff.next_ms()
                if timeout_ms is not None and self.clock.monotonic_ms() + wait_ms - started >= timeout_ms:
                    raise
                time.sleep(wait_ms / 1000)
                continue
            if sent.failed is not None:
                raise sent.failed
            if not self.cache.pending():
                break
        self.cache.settle()
        return done

    def bodies(self, url: str | None = None) -> BodyLink:
        """What brings attachments' bodies there and back. Raises NotFound (no fleet joined), CorruptStore."""
        from edge.link.bodies import BodyLink
        from edge.link.body_client import BodyClient

        member = membership.require_membership(self.log)
        keys = membership.session_keys(self.log, self.store)
        target = url or self.config.sync_url or member.url
        plain = self.config.sync_allow_plain_http
        return BodyLink(
            self.cache,
            member.fleet,
            keys.ring,
            lambda: BodyClient(target, keys.device, self._nonces, allow_plain_http=plain),
        )

    def fetch_body(self, digest: bytes, size: int) -> None:
        """Bring a body here. Raises BodyNotHere, which says why it cannot be; else as ``BodyLink.fetch``."""
        try:
            self.bodies().fetch(digest, size)
        except NotFound as error:
            raise BodyNotHere(error.message, hint=error.hint) from error
        except SyncError as error:
            from edge.link.bodies import unreachable

            raise unreachable(error) from error

    @once
    def _nonces(self) -> Nonces:
        """One for all requests of this process."""
        return Nonces(self.log.meta_get("nonce") or 0, lambda last: self.log.meta_set("nonce", last))


class LiveLink:
    """A live replicator in a thread of its own, and attachments' bodies in another."""

    def __init__(
        self, link: Link, *, url: str | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        self._replicator = link.replicator(live=True, url=url, on_progress=on_progress)
        self.failure: BaseException | None = None
        self._bodies = BodyCare(link, url)
        self._thread = threading.Thread(target=self._run, name="agentdb-sync", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> Progress:
        return self._replicator.progress

    @property
    def idle(self) -> bool:
        return self._replicator.idle and self._bodies.idle

    @property
    def running(self) -> bool:
        """False once something ended it that trying again does not mend; ``failure`` says what."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the link; what is under way is taken up again by the next one. Raises what ended it before, if
        anything.
        """
        self._replicator.stop()
        self._bodies.stop()
        self._thread.join(STOP_S_MAX)
        if self._thread.is_alive():
            raise Unreachable("the sync thread did not stop in time", hint="it will end with the process")
        if self.failure is not None:
            raise self.failure

    def wait_idle(self, timeout_ms: int | None, clock: Clock) -> Progress:
        """Until both sides have everything, as far as known. Raises the last error, or Unreachable, when time is
        over.
        """
        started = clock.monotonic_ms()
        while not self.idle:
            if self.failure is not None:
                raise self.failure
            if timeout_ms is not None and clock.monotonic_ms() - started >= timeout_ms:
                why = self.progress.error or self._bodies.problem or "not in sync in time"
                raise Unreachable(why, hint="the link goes on trying")
            time.sleep(0.01)
        return self.progress

    def _run(self) -> None:
        try:
            asyncio.run(self._replicator.run())
        except AgentDBError as error:
            self.failure = error
            _log.error("sync stopped: %s (%s)", error, error.hint)
        except BaseException as error:
            self.failure = error
            _log.exception("sync stopped by an unexpected error")
            raise
