"""A device's link in the simulator: the real session and its carrier, stepped by events.

What the replicator's event loop does in life, ``pump`` does here: it steps the session, lets the product's ``Carrier``
carry out what it asks for, and puts its messages on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from edge.link.carrier import Carrier
from edge.link.gate import ASK_AGAIN_MS, Gate, LinkRules, Ticket, deferred
from edge.link.membership import find_membership, session_keys
from edge.link.pacing import LONG, Pacing
from edge.link.signing import Nonces
from edge.linking import rules_of
from edge.storage import link_state
from edge.storage.delta_log import DeltaLog
from simulations.fleet.agent import RIVAL
from simulations.fleet.envelope import unpack_answer, wrap
from simulations.fleet.network import Wire
from simulations.fleet.violation import Violation
from sync.budgets import REQUEST_OVERHEAD_BYTES, LinkLimits
from sync.effects import Apply, Effect, Growth, Learn, Leave, Mend, NewIncarnation, Persist, Send, SessionLimits
from sync.errors import (
    AgentDBError,
    CorruptStore,
    FutureStamp,
    ProtocolError,
    SchemaMismatch,
    StaleNonce,
    StorageError,
    TooLarge,
    Unauthenticated,
    Unreachable,
)
from sync.lanes import NORMAL, URGENT
from sync.messages import Failure, Hello, Pull
from sync.pacing import PacedSession
from sync.schedule import Backoff
from sync.schema import COLLECTIONS
from sync.session import SyncSession

if TYPE_CHECKING:
    from simulations.fleet.device_node import DeviceNode

NONCE_TRIES_MAX = 3
TIMEOUT_MS = 10_000


def drawn(dice: Random) -> LinkRules:
    """Limits so tight that they are felt, and some collections that are urgent."""
    per_day = int(10 ** (4.3 + dice.random() * 1.5)) if dice.random() < 0.8 else 0
    per_s = int(10 ** (2 + dice.random() * 2)) if dice.random() < 0.5 else 0
    share = dice.choice([0.0, 0.2, 0.4])
    limits = LinkLimits("metered", per_day, per_s, dice.choice([1_000, 16_384]), share)
    urgent = dice.choice(["", "orders", "memories"])
    return LinkRules((limits,), "metered", lambda collection, _key, _fields: URGENT if collection == urgent else NORMAL)


class DeviceLink:
    """``session`` is None while the device does not sync. ``rules``: which limits it has, by default none."""

    def __init__(self, node: DeviceNode, limits: SessionLimits, *, signed: bool, versions: Sequence[int]) -> None:
        self.session: PacedSession | None = None
        self.wire = Wire(node.world, node.name, node.world.dice(f"wire {node.name}"), node.cloud.serve, TIMEOUT_MS)
        self.took_baseline = False
        self._node = node
        self._limits = limits
        self._signed = signed
        self._versions = versions
        self.nonces: Nonces | None = None  # of requests that are signed
        self.rules = LinkRules()
        self._wake_at = -1
        self.seen: tuple[bytes, bytes, int] = (b"", b"", 0)  # replica, incarnation, cursor at the last look

    def forget(self) -> None:
        """The store was replaced: what was seen of the old one says nothing of it."""
        self.seen = (b"", b"", 0)

    def look(self, log: DeltaLog) -> None:
        """After a start: the cursor has not gone back."""
        replica, incarnation, cursor = self.seen
        position = link_state.load_position(log)
        if position.replica == replica and position.incarnation == incarnation and position.cursor < cursor:
            raise Violation("never back", f"{self._node.name}: cursor {position.cursor} after {cursor}")
        self.seen = (position.replica, position.incarnation, position.cursor)

    def connect(self, *, live: bool) -> None:
        """Begin to sync, as ``sync`` or ``run`` would."""
        node = self._node
        if node.edge is None:
            return
        log = node.edge.log
        try:
            if find_membership(log) is None:  # the disk failed at that moment
                node.join()
            keys = session_keys(log, node.edge.path)
            self.session = PacedSession(
                link_state.load_position(log),
                keys,
                node.random,
                live=live,
                limits=self._limits,
                versions=self._versions,
            )
            self._carrier = Carrier(log, node.edge.path, self.session)
            self._gate = Gate(log, self.rules, node.clock)
            self._pacing = Pacing(self.session, self._gate, log, node.clock, self._limits, live=live)
            self._backoff = Backoff(node.random)
            self._wake_at = -1  # a timer of the session before is none of this one's
            self.nonces = None
            if node.steered is not None:
                self._gate.rules = rules_of(node.edge)
            if self._signed:
                self.nonces = Nonces(log.meta_get("nonce") or 0, lambda last: log.meta_set("nonce", last))
        except AgentDBError as error:
            node.trouble(error, "connecting")
            return
        self.pump()
        if node.steered is not None:
            node.steered.connected()

    def disconnect(self) -> None:
        self.session = None

    @property
    def settled(self) -> bool:
        """Both sides have everything, as far as this side knows."""
        session = self.session
        return self._node.edge is not None and session is not None and session.idle

    def pump(self) -> None:
        """Carry out everything that is ready; then wait for an answer, a write or the session's timer."""
        node = self._node
        for _ in range(10_000):
            session = self.session
            if session is None or node.edge is None:
                return
            session.tick(node.clock.monotonic_ms())
            session.written(node.edge.log.head_seq)
            paced_ms = None
            try:
                self._carrier.follow()
                paced_ms = self._pacing.before()
                effects = session.ready()
                for effect in effects:
                    if isinstance(effect, Send):
                        self._pass(session, effect)
                        continue
                    self._carry_out(effect)
                    self._observe(effect)
                    self._check_durable(session)
                    if node.check_death():
                        return
            except AgentDBError as error:
                if node.check_death():
                    return
                node.world.note(node.name, f"link: {error.code}", count="typed errors")
                if isinstance(error, CorruptStore):
                    node.start_over(error)
                    return
                self._begin_again(session, error)
                effects = []
            if node.steered is not None:
                node.steered.hear(self._carrier.handshakes, session.assignment, session.version)
            if not effects:
                self._sleep(session, paced_ms)
                return
        raise Violation("bounded", f"{node.name}: the session is busy without end")

    def _carry_out(self, effect: Effect) -> None:
        steered = self._node.steered
        if steered is None:
            self._carrier.carry_out(effect)
            return
        if isinstance(effect, Apply):
            steered.arrived(effect.operations)
        if isinstance(effect, Leave):
            steered.leaving()
        self._carrier.carry_out(effect)
        if isinstance(effect, Leave):
            steered.left()

    def _begin_again(self, session: SyncSession, error: AgentDBError) -> None:
        try:
            position = link_state.load_position(self._node.opened.log)
        except StorageError:
            position = session.position
        session.interrupt(position, error, self._backoff.next_ms())

    def _sleep(self, session: SyncSession, paced_ms: int | None) -> None:
        world, waits = self._node.world, (session.wake_ms(), paced_ms)
        wake_ms = min((wait for wait in waits if wait is not None), default=None)
        if wake_ms is not None:
            at = world.now_ms + wake_ms
            if self._wake_at <= world.now_ms or at < self._wake_at:
                self._wake_at = at
                world.at(wake_ms + 1, lambda: self.pump() if self.session is session else None)

    def _observe(self, effect: object) -> None:
        """The oracle hears of what was refused; stamps may have been corrected."""
        node, log = self._node, self._node.opened.log
        if isinstance(effect, Persist):
            for refusal in effect.refusals:
                node.world.note(node.name, f"refused: {refusal.seq} {refusal.code}", count="operations refused")
                held = node.oracle.refused(node.name, log.replica, refusal.seq)
                if held is not None and not self._rightly(refusal.code, held.place[0]):
                    raise Violation("refused rightly", f"{node.name}: {held.place} was refused: {refusal.reason}")
        assert self.session is not None
        position = self.session.position
        self.seen = (position.replica, position.incarnation, position.cursor)
        self.took_baseline |= isinstance(effect, Apply) and (position.baseline is not None or effect.growth is not None)
        if isinstance(effect, NewIncarnation):
            node.oracle.copied_devices.add(node.opened.device)
        if isinstance(effect, (Learn, Mend, NewIncarnation)):
            node.oracle.found(node.name, node.logged())

    def _check_durable(self, session: SyncSession) -> None:
        """What the session goes on from is what it would find after a crash now."""
        if self._node.disk.dead:
            return
        durable = link_state.load_position(self._node.opened.log)
        believed = session.position._replace(
            head_seq=durable.head_seq, swept=durable.swept, assignment=durable.assignment
        )
        if believed.owed and durable.growth is None and believed.growth == Growth(believed.scope):
            believed = believed._replace(growth=None)  # begun because something is owed, which is durable
        if believed != durable:
            raise Violation("durable", f"{self._node.name}: the session is at {believed}, its log at {durable}")

    def _rightly(self, code: str, collection: str) -> bool:
        """Whether there is anything in this run that such a refusal can come from."""
        if code == SchemaMismatch.code:
            return collection in (RIVAL, COLLECTIONS)
        if code == TooLarge.code:
            return self._node.agent.large > 0
        return code != FutureStamp.code or self._node.world.counts["clocks set wrong"] > 0

    def _pass(self, session: PacedSession, effect: Send) -> None:
        """Through the gate, now or when it lets us. Raises StorageError."""
        if self.session is not session:
            return
        message, world = effect.message, self._node.world
        idle = isinstance(message, Pull) and message.wait_ms > 0
        answer = self._gate.take(self._pacing.lane_of(message), self._pacing.size_of(message), idle=idle)
        if isinstance(answer, Ticket):
            self._send(session, effect, NONCE_TRIES_MAX, answer)
            return
        why = f"{type(message).__name__} waits: {answer.why}"
        world.note(self._node.name, why, count=f"requests that wait, {answer.why}")
        if answer.why not in LONG:
            world.at(min(answer.ms, ASK_AGAIN_MS), lambda: self._pass_again(session, effect))
            return
        if isinstance(message, Hello):
            session.failed(effect.number, deferred(answer))
        else:
            self._pacing.refused(effect.number, message, answer)
        world.at(1, lambda: self.pump() if self.session is session else None)

    def _pass_again(self, session: PacedSession, effect: Send) -> None:
        try:
            self._pass(session, effect)
        except StorageError as error:
            if not self._node.check_death():
                self._begin_again(session, error)
                self.pump()

    def _land(self, ticket: Ticket, actual: int) -> None:
        with suppress(StorageError):  # it counts as it was taken
            self._gate.land(ticket, actual)

    def _send(self, session: PacedSession, effect: Send, tries: int, ticket: Ticket) -> None:
        node, message = self._node, effect.message
        label = type(message).__name__
        wait_ms = message.wait_ms if isinstance(message, Pull) else 0
        was_revoked = node.revoked
        request = wrap(message, node.key, self.nonces)

        def answered(data: bytes | None) -> None:
            if self.session is not session:
                return
            self._land(ticket, ticket.size if data is None else REQUEST_OVERHEAD_BYTES + len(request) + len(data))
            if data is None:
                session.failed(effect.number, Unreachable("no answer"))
            else:
                try:
                    answer, used = unpack_answer(data)
                except (AgentDBError, ValueError):
                    session.failed(effect.number, ProtocolError("the answer was cut"))
                else:
                    if isinstance(answer, Failure):
                        node.world.note(node.name, f"{label} fails: {answer.code}", count=f"failures {answer.code}")
                        if (
                            answer.code == StaleNonce.code
                            and tries > 1
                            and self._again(session, effect, used, tries - 1, ticket)
                        ):
                            return
                        if answer.code == Unauthenticated.code and not node.revoked:
                            node.enroll_again()
                    elif was_revoked:
                        raise Violation("revoked", f"{node.name} was revoked, and is answered {type(answer).__name__}")
                    session.receive(effect.number, answer)
            self.pump()

        node.world.note(node.name, f"sends {label}{_details(message)}")
        self.wire.send(label, request, wait_ms, answered)

    def _again(self, session: PacedSession, effect: Send, used: int, tries: int, ticket: Ticket) -> bool:
        """With a nonce that was not used; where they go on is durable first. False: it is of no use."""
        try:
            if self.nonces is None or not self.nonces.skip(used):
                return False
            self._send(session, effect, tries, ticket._replace(of=None))
        except StorageError as error:
            if not self._node.check_death():
                self._begin_again(session, error)
        return True


def _details(message: object) -> str:
    if isinstance(message, Pull):
        return f" after {message.cursor}"
    acked = getattr(message, "acked", None)
    return "" if acked is None else f" head {message.log_head} acked {acked} cursor {message.cursor}"  # type: ignore[attr-defined]
