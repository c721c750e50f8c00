"""The replicator: runs a ``SyncSession`` over a transport; what it asks of the device itself, the carrier carries out.

It is one asyncio task; the work it does itself (sealing, merging a page) is short, bounded by the session's limits, and
runs between awaits, so requests of both lanes overlap with it. ``Edge`` runs it in a thread of its own; an agent's
reads and writes never wait for it except for the write lock of one page.

What always holds: effects are carried out one by one in their order. Whatever is under way when it is stopped or killed
is repeated or recognised by the next session's handshake. A live link survives a disk that fails for a while (full,
busy) as it does a lost network: the session begins again from what is durable. Only a damaged log ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from edge.link.carrier import Carrier
from edge.link.gate import Gate, LinkRules, deferred
from edge.link.membership import session_keys
from edge.link.metered import Held, Metered
from edge.link.pacing import Pacing
from edge.link.transport import Transport
from edge.storage import link_state
from edge.storage.delta_log import DeltaLog
from sync.effects import Apply, Effect, Send, SessionLimits
from sync.errors import (
    AgentDBError,
    CorruptStore,
    Deferred,
    NotFound,
    Refused,
    StorageError,
    Unauthenticated,
    Unreachable,
    UnsupportedVersion,
)
from sync.messages import Answer, Hello
from sync.pacing import PacedSession
from sync.ports import Clock, RandomSource
from sync.schedule import Backoff

_log = logging.getLogger("agentdb.edge")
# No handshake mends these; anything else, a broken chain or a damaged segment among them, may go well the next time.
_HOPELESS = (Unauthenticated, Refused, UnsupportedVersion, NotFound, Deferred)


class Progress(NamedTuple):
    """Counted since the replicator was made: operations pushed and pulled, refused ones, handshakes; ``behind`` is how
    many feed positions are still to come, ``pending`` how many local operations are not acknowledged.
    """

    pushed: int
    pulled: int
    refused: int
    handshakes: int
    pending: int
    behind: int
    error: str


class Replicator:
    """``live`` keeps the link up until ``stop``; otherwise ``run`` returns once both sides have everything.
    ``on_assignment`` is called on its thread with the number of the newest assignment (0 for none), after each
    handshake with a cloud that speaks version 3, and when there may be another than was asked for last.
    ``gate``: what its requests have to pass; by default nothing.
    """

    def __init__(
        self,
        log: DeltaLog,
        store: str,
        transport: Transport,
        *,
        clock: Clock,
        random: RandomSource,
        live: bool,
        limits: SessionLimits | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_assignment: Callable[[int], None] | None = None,
        gate: Gate | None = None,
    ) -> None:
        gate = gate or Gate(log, LinkRules(), clock)
        self._log = log
        self._transport = Metered(transport, gate, clock)
        self._clock = clock
        self._live = live
        self._backoff = Backoff(random)
        self._on_progress = on_progress
        self._on_assignment = on_assignment
        keys = session_keys(log, store)
        self._session = PacedSession(link_state.load_position(log), keys, random, live=live, limits=limits)
        self._pacing = Pacing(self._session, gate, log, clock, limits, live=live)
        self._paced_ms: int | None = None
        self._answers: list[tuple[Send, Answer | AgentDBError | Held]] = []
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order in which they began
        self._changed = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._carrier = Carrier(log, store, self._session)
        self._noted: tuple[bool, str] | None = None
        self._heard = self._to_hear
        self._hurried = self._idle = False

    @property
    def assignment(self) -> int:
        """The number of the newest that the cloud has spoken of, 0 for none."""
        return self._session.assignment

    @property
    def version(self) -> int:
        """Of the protocol, as agreed; 0 before the first handshake."""
        return self._session.version

    @property
    def progress(self) -> Progress:
        session, done = self._session, self._carrier
        position = session.position
        return Progress(
            done.pushed,
            done.pulled,
            done.refused,
            done.handshakes,
            position.head_seq - position.acked[0],
            max(0, session.head - position.cursor),
            session.error.message if session.error else "",
        )

    @property
    def stuck(self) -> Deferred | None:
        """Why what is to be done waits for another day, or another class of link."""
        error, wait = self._session.error, self._pacing.stuck
        if isinstance(error, Deferred):
            return error
        return None if wait is None else deferred(wait)

    @property
    def idle(self) -> bool:
        """Both sides have everything, as far as this side knows; after ``hurry``, what it has learnt since. From any
        thread.
        """
        if self._hurried or not self._idle or not self._carrier.follows:
            return False
        return self._log.head_seq == self._session.position.head_seq

    def stop(self) -> None:
        """From any thread: ``run`` returns soon; nothing is lost."""
        self._stopping = True
        self.wake()

    async def run(self, timeout_ms: int | None = None) -> Progress:
        """Replicate. Raises the last error if ``timeout_ms`` passed before both sides had everything (not live), or at
        once if it is one that retrying cannot mend.
        """
        self._loop = asyncio.get_running_loop()
        self._log.listeners.append(self.wake)
        started = self._clock.monotonic_ms()
        failure: AgentDBError | None = None
        try:
            while not self._stopping:
                try:
                    busy = self._step()
                except AgentDBError as error:
                    if not self._live or isinstance(error, CorruptStore):
                        raise
                    busy = self._begin_again(error)
                if not self._live:
                    if self._session.idle:
                        break
                    self._check_hopeless(started, timeout_ms)
                    if not (busy or self._tasks or self._pacing.stuck is None):
                        raise deferred(self._pacing.stuck)
                if not busy:
                    await self._wait(started, timeout_ms)
                await asyncio.sleep(0)
        except AgentDBError as error:
            failure = error
            raise
        finally:
            self._log.listeners.remove(self.wake)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._transport.close()
            self._note(failure)
        return self.progress

    def _begin_again(self, error: AgentDBError) -> bool:
        """After an effect that failed. False: there is nothing to do for a while."""
        _log.warning("sync: %s; trying again", error)
        wait_ms = self._backoff.next_ms()
        try:
            position = link_state.load_position(self._log)
        except StorageError:  # the session's own is older than the log by what was under way: the handshake tells
            position = self._session.position
        self._session.interrupt(position, error, wait_ms)
        self._note()
        return False

    def _step(self) -> bool:
        """Take what has arrived, carry out what is ready. Returns whether there was anything."""
        session = self._session
        self._idle = False  # while it changes, what other threads see of it is of no one moment
        if self._hurried:
            session.greet()
            self._hurried = False  # last: another thread that sees this sees that it is not idle
        session.tick(self._clock.monotonic_ms())
        session.written(self._log.head_seq)
        answers, self._answers = self._answers, []
        for sent, answer in answers:
            if isinstance(answer, Held):
                if isinstance(sent.message, Hello):
                    session.failed(sent.number, deferred(answer.wait))
                else:
                    self._pacing.refused(sent.number, sent.message, answer.wait)
            elif isinstance(answer, AgentDBError):
                session.failed(sent.number, answer)
            else:
                session.receive(sent.number, answer)
        self._carrier.follow()
        self._paced_ms = self._pacing.before()
        effects = session.ready()
        for effect in effects:
            self._carry_out(effect)
        if answers:
            self._note()
            if self._on_progress is not None:
                self._on_progress(self.progress)
            self._hear()
        self._idle = session.idle and self._heard == self._to_hear
        return bool(effects or answers)

    def _hear(self) -> None:
        """Pass on whether there is an assignment."""
        heard = self._to_hear
        if heard != self._heard and self._session.version > 2 and self._on_assignment is not None:
            self._on_assignment(self._session.assignment)
        self._heard = heard

    @property
    def _to_hear(self) -> tuple[int, int]:
        return (self._carrier.handshakes, self._session.assignment)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            task = asyncio.get_running_loop().create_task(self._exchange(effect))
            self._tasks[task] = None
            task.add_done_callback(lambda done: self._tasks.pop(done, None))
            return
        self._carrier.carry_out(effect)
        if isinstance(effect, Apply):
            self._backoff.reset()

    async def _exchange(self, effect: Send) -> None:
        message, pacing = effect.message, self._pacing
        try:
            answer: Answer | AgentDBError | Held = await self._transport.exchange(
                message, pacing.lane_of(message), pacing.size_of(message)
            )
        except (AgentDBError, Held) as error:
            answer = error
        self._answers.append((effect, answer))
        self._changed.set()

    async def _wait(self, started: int, timeout_ms: int | None) -> None:
        """Until an answer, a local write, ``stop``, the session's timer or the time limit."""
        self._changed.clear()
        if self._answers or self._stopping or self._hurried or self._log.head_seq != self._session.position.head_seq:
            return
        bounds = [self._session.wake_ms(), self._paced_ms]
        if timeout_ms is not None:
            bounds.append(max(0, started + timeout_ms - self._clock.monotonic_ms()))
        waits = [bound for bound in bounds if bound is not None]
        try:
            await asyncio.wait_for(self._changed.wait(), min(waits) / 1000 + 0.001 if waits else None)
        except TimeoutError:
            return  # the timer is what was waited for

    def _check_hopeless(self, started: int, timeout_ms: int | None) -> None:
        error = self._session.error
        if isinstance(error, _HOPELESS) and (not error.retryable or isinstance(error, Deferred)):
            raise error
        if timeout_ms is not None and self._clock.monotonic_ms() - started >= timeout_ms:
            raise error or Unreachable(
                f"not in sync after {timeout_ms / 1000:.0f} s", hint="what has arrived is kept; run sync again"
            )

    def _note(self, failure: AgentDBError | None = None) -> None:
        """Keep the state of the link for ``status``, when it changes. ``failure`` is what ended it."""
        session = self._session
        error = failure or session.error
        noted = (session.connected and failure is None, error.message if error else "")
        if noted == self._noted:
            return
        state: dict[str, Any] = {
            "at_ms": self._clock.wall_ms(),
            "connected": noted[0],
            "error": noted[1],
            "hint": error.hint if error else "",
        }
        try:
            self._log.meta_set("sync", state)
            self._noted = noted
        except StorageError as unwritable:  # status is behind until the disk is well; nothing else is
            _log.warning("sync: the link's state cannot be noted: %s", unwritable)

    def wake(self) -> None:
        """From any thread: look again whether there is anything to do; the link's class may be another."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended, and so has ``run``
                self._loop.call_soon_threadsafe(self._changed.set)

    def hurry(self) -> None:
        """From any thread: somebody waits. What was written until now is sent as soon as the link lets it, and the
        cloud is asked what it has now.
        """
        self._pacing.hurry()
        self._hurried = True
        self.wake()
