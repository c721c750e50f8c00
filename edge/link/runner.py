"""The link as the device's owner uses it: join a fleet, or sync once; both block until done. What stays in sync in the
background is ``live``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from edge.config import EdgeConfig
from edge.link import membership
from edge.link.gate import Gate, LinkRules, deferred
from edge.link.membership import Membership
from edge.link.pacing import LONG
from edge.link.replicator import Progress, Replicator
from edge.link.signing import Nonces
from edge.link.transport import HttpTransport, enroll
from edge.storage.delta_log import DeltaLog
from edge.storage.keystore import load_device_key
from edge.storage.once import once
from sync.budgets import CONNECTION_BYTES
from sync.errors import (
    BodyNotHere,
    DataError,
    InputError,
    NotFound,
    Refused,
    StorageError,
    SyncError,
    Unreachable,
)
from sync.lanes import BULK
from sync.limits import BODY_PART_BYTES
from sync.ports import Clock, RandomSource
from sync.schedule import Backoff
from sync.tokens import parse_token

if TYPE_CHECKING:
    from edge.link.bodies import BodyLink
    from edge.link.control import ControlLink, Trust, Twin
    from edge.link.model_client import ModelClient
    from edge.link.signed_client import SignedClient
    from edge.storage.cache import Cache
    from sync.keys import KeyRing

JOIN_TRIES_MAX = 5
CONTROL_S_MAX = 60.0  # of a sync, before it brings attachments
BODY_ASKED_BYTES = 8 << 10  # where bodies are, which parts of one are there, and the heads of all that
Client = TypeVar("Client", bound="SignedClient")
_log = logging.getLogger("agentdb.edge")


class Link:
    """What joining and syncing need of an open store."""

    def __init__(
        self,
        log: DeltaLog,
        store: str,
        config: EdgeConfig,
        clock: Clock,
        random: RandomSource,
        cache: Cache,
        trust: Callable[[], Trust],
        twin: Callable[[], Twin],
        rules: LinkRules,
    ) -> None:
        self.log = log
        self.cache = cache
        self.trust = trust
        self.twin = twin
        self.store = store
        self.config = config
        self.clock = clock
        self.random = random
        self.rules = rules
        self.gate = Gate(log, rules, clock)
        self._version = 0  # of the protocol, as the last sync agreed on it

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
        self,
        *,
        live: bool,
        url: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_assignment: Callable[[int], None] | None = None,
    ) -> Replicator:
        """Raises NotFound if the device has not joined a fleet."""
        target = self._target(url)
        self.gate.connection_bytes = CONNECTION_BYTES if target.startswith("https:") else 0
        transport = HttpTransport(
            target,
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
            on_assignment=on_assignment,
            gate=self.gate,
        )

    def sync_once(
        self, *, timeout_ms: int | None, url: str | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> Progress:
        """Push and pull until both sides have everything, attachments' bodies and what this device is to run too.
        Raises the last error when the time is over, Deferred if the link's budget does not let it go on.
        """
        try:
            return self._sync_once(timeout_ms, url, on_progress)
        finally:
            self.rest()

    def _sync_once(
        self, timeout_ms: int | None, url: str | None, on_progress: Callable[[Progress], None] | None
    ) -> Progress:
        started = self.clock.monotonic_ms()
        until_ms = None if timeout_ms is None else started + timeout_ms
        while True:
            rescoped = self.log.rescoped
            replicator = self.replicator(live=False, url=url, on_progress=on_progress)
            left_ms = None if until_ms is None else max(0, until_ms - self.clock.monotonic_ms())
            done = asyncio.run(replicator.run(left_ms))
            self._version = replicator.version
            take = partial(self._take_assignment, url, ask=replicator.assignment > 0)
            # Before attachments: it may say what they may cost. But they wait for no control plane that is not well.
            late = replicator.version > 2 and not self._is_taken(take)
            if rescoped != self.log.rescoped:  # a policy came, and may want more here
                continue
            try:
                self._bring_bodies(url, until_ms)
            finally:
                if late:
                    self._patiently(take, until_ms)
            if rescoped == self.log.rescoped:
                return done

    def _bring_bodies(self, url: str | None, until_ms: int | None) -> None:
        while self.cache.is_concerned():
            self._patiently(lambda: self._send_bodies(url), until_ms)
            if not self.cache.pending():
                break
        self.cache.settle()

    def _patiently(self, do: Callable[[], None], until_ms: int | None) -> None:
        """Again while the network breaks it off. Raises Unreachable when the time is over."""
        backoff = Backoff(self.random)
        while True:
            try:
                do()
            except Unreachable:
                wait_ms = backoff.next_ms()
                if until_ms is not None and self.clock.monotonic_ms() + wait_ms >= until_ms:
                    raise
                time.sleep(wait_ms / 1000)
            else:
                return

    def _send_bodies(self, url: str | None) -> None:
        self.check_bulk()
        sent = self.bodies(url).upload()
        if sent.failed is not None:
            raise sent.failed

    def report(self, url: str | None) -> None:
        """At the end of a sync: what became of the models that it brought. A device may not sync again for a day, and a
        rollout waits for it. Tried once; what does not get there goes with the next sync.
        """
        if self._version > 2:
            self._is_taken(partial(self._take_assignment, url, ask=False))

    def _is_taken(self, take: Callable[..., None]) -> bool:
        """Tried once, and not for long. False: it is to be tried again when there is nothing else to do."""
        clients: list[SignedClient] = []

        def end() -> None:
            for client in clients:
                client.abort()

        alarm = threading.Timer(CONTROL_S_MAX, end)
        alarm.daemon = True
        alarm.start()
        try:
            take(using=clients.append)
        except (SyncError, StorageError) as error:
            _log.warning("trust: %s; it is tried again later", error)
            return False
        finally:
            alarm.cancel()
        return True

    def _take_assignment(
        self, url: str | None, *, ask: bool, using: Callable[[SignedClient], None] = lambda _: None
    ) -> None:
        """And report. What was refused is in ``status``: all else is in sync. Raises SyncError, but what the control
        plane refuses; StorageError.
        """
        try:
            self.control(url).exchange(ask=ask, using=using)
        except (DataError, InputError, Refused) as error:
            _log.info("trust: nothing new was taken: %s", error)

    def control(self, url: str | None = None) -> ControlLink:
        """What brings here what this device is to run. Raises NotFound (no fleet joined), CorruptStore."""
        from edge.link.control import ControlLink
        from edge.link.signed_client import SignedClient

        return ControlLink(self.trust(), self.twin(), self._connecting(SignedClient, url))

    def bodies(self, url: str | None = None) -> BodyLink:
        """What brings attachments' bodies there and back. Raises NotFound (no fleet joined), CorruptStore."""
        from edge.link.bodies import BodyLink
        from edge.link.body_client import BodyClient

        member = membership.require_membership(self.log)
        return BodyLink(self.cache, member.fleet, self.ring(), self._connecting(BodyClient, url))

    def rest(self) -> None:
        """Nothing is sent for now: what was set aside of today's budget is given back."""
        try:
            self.gate.rest()
        except StorageError as error:  # it counts as used
            _log.warning("sync: what is left of today's budget cannot be noted: %s", error)

    def check_bulk(self) -> None:
        """Before bodies are looked for: asking costs bytes, too. Raises Deferred if the next one may not go now."""
        if self.gate.limits is None:
            return
        least = min((one.size for one in self.cache.pending()), default=0)
        wait = self.gate.ask(BULK, min(least, BODY_PART_BYTES) + BODY_ASKED_BYTES)
        if wait is not None and wait.why in LONG:
            raise deferred(wait, BULK)

    def packs(self, url: str | None = None) -> ModelClient:
        """A connection to the packs of models. Raises NotFound (no fleet joined), CorruptStore."""
        from edge.link.model_client import ModelClient

        return self._connecting(ModelClient, url)()

    def ring(self) -> KeyRing:
        """The fleet's keys that this device has by now. Raises NotFound (no fleet joined), CorruptStore."""
        return membership.session_keys(self.log, self.store).ring

    def fetch_body(self, digest: bytes, size: int) -> None:
        """Bring a body here. Raises BodyNotHere, which says why it cannot be; else as ``BodyLink.fetch``."""
        try:
            self.bodies().fetch(digest, size)
        except NotFound as error:
            raise BodyNotHere(error.message, hint=error.hint) from error
        except SyncError as error:
            from edge.link.bodies import unreachable

            raise unreachable(error) from error

    def _target(self, url: str | None) -> str:
        member = membership.require_membership(self.log)
        return url or self.config.sync_url or member.url

    def _connecting(self, kind: type[Client], url: str | None) -> Callable[[], Client]:
        """What makes connections of that kind. Raises NotFound (no fleet joined), CorruptStore."""
        target, key, plain = self._target(url), load_device_key(self.store), self.config.sync_allow_plain_http
        return lambda: kind(target, key, self._nonces, allow_plain_http=plain, gate=self.gate)

    @once
    def _nonces(self) -> Nonces:
        """One for all requests of this process."""
        return Nonces(self.log.meta_get("nonce") or 0, lambda last: self.log.meta_set("nonce", last))
