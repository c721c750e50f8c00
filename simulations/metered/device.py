"""A device on a metered link: the real store, session, pacing and gate, stepped by events; it is killed now and then.

What the replicator and the bodies' thread do in life, ``pump`` and ``Bulk`` do here.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edge.link.carrier import Carrier
from edge.link.gate import ASK_AGAIN_MS, Gate, LinkRules, Ticket, deferred
from edge.link.membership import accept, enroll_request, find_membership, session_keys
from edge.link.pacing import LONG, Pacing
from edge.node import Edge
from edge.storage import link_state
from simulations.fleet.cloud_node import CloudNode
from simulations.fleet.disk import Disk
from simulations.fleet.envelope import unpack_answer, wrap
from simulations.fleet.world import MachineClock, SeededRandom, World
from simulations.metered.pipe import HEADS_BYTES, Pipe
from sync.budgets import REQUEST_OVERHEAD_BYTES, Wait
from sync.effects import Send
from sync.errors import AgentDBError, StorageError
from sync.lanes import BULK, NORMAL
from sync.limits import BODY_PART_BYTES
from sync.messages import Hello, Pull
from sync.pacing import PacedSession
from sync.schedule import Backoff

LOOK_MS = 600_000  # between two looks at whether there is anything to upload, and the budget for it
QUEUE_BYTES = 256 << 10  # what a kernel and a modem take of a request before anybody waits


class MeteredDevice:
    """``lanes``: as the product does; else everything is of one lane, in the order in which it comes."""

    def __init__(
        self,
        world: World,
        root: Path,
        name: str,
        fleet: bytes,
        cloud: CloudNode,
        rules: LinkRules,
        pipe: Pipe,
        *,
        lanes: bool,
    ) -> None:
        self.world = world
        self.name = name
        self.pipe = pipe
        self.directory = root / name
        self.directory.mkdir()
        self.disk = Disk(self.directory, world.dice(f"disk {name}"))
        self.clock = MachineClock(world)
        self.random = SeededRandom(world.dice(f"keys {name}"))
        self.edge: Edge | None = None
        self._fleet = fleet
        self._cloud = cloud
        self._rules = rules
        self._life = 0
        self._wake_at = -1
        self.bulk = Bulk(self, lanes=lanes)

    # -- life and death -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        edge = Edge.open(self.directory / "store", clock=self.clock, random=self.random)
        if find_membership(edge.log) is None:
            plane = self._cloud.plane
            token = plane.create_token(self._fleet)
            request = enroll_request(edge.log, edge.path, token, self.name)
            accept(edge.log, edge.path, token, plane.enrollment.enroll(request), "http://127.0.0.1", self.name)
        self.edge = edge
        self.key = edge.device_key()
        self._life += 1
        self.gate = Gate(edge.log, self._rules, self.clock)
        keys = session_keys(edge.log, edge.path)
        self.session = PacedSession(link_state.load_position(edge.log), keys, self.random, live=True)
        self._pacing = Pacing(self.session, self.gate, edge.log, self.clock)
        self._carrier = Carrier(edge.log, edge.path, self.session)
        self._backoff = Backoff(self.random)
        self._wake_at = -1  # a timer of the process before is none of this one's
        self.pump()
        self.bulk.start(self._life)

    def kill(self, *, power_cut: bool, down_ms: int) -> None:
        if self.edge is None:
            return
        edge, self.edge = self.edge, None
        self.world.counts["kills"] += 1
        self.disk.kill()
        with suppress(AgentDBError, OSError):
            edge.log.close()
        with suppress(AgentDBError, OSError):
            edge.close()
        self.disk.revive(power_cut=power_cut)
        self.world.at(down_ms, self.boot)

    def stop(self) -> None:
        edge, self.edge = self.edge, None
        if edge is not None:
            edge.close()
        self.disk.forget()

    def alive(self, life: int) -> bool:
        return self.edge is not None and life == self._life

    # -- the link -----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out everything that is ready; then wait for an answer, a write or a timer."""
        session, paced_ms = self.session, None
        while self.edge is not None:
            session.tick(self.clock.monotonic_ms())
            session.written(self.edge.log.head_seq)
            paced_ms = self._pacing.before()
            effects = session.ready()
            try:
                for effect in effects:
                    if isinstance(effect, Send):
                        self._send(effect, self._life)
                    else:
                        self._carrier.carry_out(effect)
            except StorageError as error:
                session.interrupt(link_state.load_position(self.edge.log), error, self._backoff.next_ms())
            if not effects:
                break
        waits = [wait for wait in (session.wake_ms(), paced_ms) if wait is not None]
        if self.edge is not None and waits:
            at = self.world.now_ms + min(waits) + 1
            if self._wake_at <= self.world.now_ms or at < self._wake_at:
                self._wake_at, life = at, self._life
                self.world.at(min(waits) + 1, lambda: self.pump() if self.alive(life) else None)

    def _send(self, effect: Send, life: int) -> None:
        """Through the gate, now or when it lets us."""
        if not self.alive(life):
            return
        message = effect.message
        idle = isinstance(message, Pull) and message.wait_ms > 0
        answer = self.gate.take(self._pacing.lane_of(message), self._pacing.size_of(message), idle=idle)
        if isinstance(answer, Ticket):
            self._carry(effect, answer, life)
        elif answer.why in LONG:
            wait = answer
            self.world.at(0, lambda: self._refused(effect, wait, life))
        else:
            self.world.at(min(answer.ms, ASK_AGAIN_MS), lambda: self._send(effect, life))

    def _refused(self, effect: Send, wait: Wait, life: int) -> None:
        if self.alive(life):
            if isinstance(effect.message, Hello):
                self.session.failed(effect.number, deferred(wait))
            else:
                self._pacing.refused(effect.number, effect.message, wait)
            self.pump()

    def _carry(self, effect: Send, ticket: Ticket, life: int) -> None:
        request, started_ms = wrap(effect.message, self.key, None), self.world.now_ms
        asked = REQUEST_OVERHEAD_BYTES + len(request)

        def landed(data: bytes) -> None:
            if not self.alive(life):
                return
            self.gate.land(ticket, asked + len(data), None if ticket.idle else self.world.now_ms - started_ms)
            answer, _ = unpack_answer(data)
            self.session.receive(effect.number, answer)
            self.pump()

        def replied(data: bytes) -> None:
            self.pipe.carry(len(data), lambda: landed(data))

        self.pipe.carry(HEADS_BYTES + len(request), lambda: self._cloud.serve(request, replied))


class Bulk:
    """What attachments' uploads do to the link (``edge.link.slices``): parts of bodies, one after the other, as long as
    there is something left. Without ``lanes``, through one lane and as much at once as the kernel takes.
    """

    def __init__(self, device: MeteredDevice, *, lanes: bool) -> None:
        self.left = 0
        self.sent = 0
        self._device = device
        self._lane = BULK if lanes else NORMAL
        self._lanes = lanes

    def add(self, size: int) -> None:
        self.left += size

    def start(self, life: int) -> None:
        """A process begins: the part that was under way begins again."""
        device = self._device
        if not device.alive(life):
            return
        answer: Ticket | Wait = Wait(LOOK_MS, "nothing to send")
        if self.left >= BODY_PART_BYTES:
            answer = device.gate.take(self._lane, REQUEST_OVERHEAD_BYTES + BODY_PART_BYTES, sliced=True)
        if isinstance(answer, Ticket):
            self._slice(life, answer, 0)
        else:
            device.world.at(min(answer.ms, LOOK_MS), lambda: self.start(life))

    def _slice(self, life: int, ticket: Ticket, at: int) -> None:
        device = self._device
        if not device.alive(life):
            return
        gate = device.gate
        if at >= BODY_PART_BYTES:
            gate.land(ticket, REQUEST_OVERHEAD_BYTES + BODY_PART_BYTES, sliced=True)
            self.left -= BODY_PART_BYTES
            self.sent += BODY_PART_BYTES
            device.pump()
            self.start(life)
            return
        size = min(BODY_PART_BYTES - at, gate.batch() if self._lanes else QUEUE_BYTES)
        wait = gate.slice(ticket, size)
        if wait is not None:
            device.world.at(min(wait.ms, ASK_AGAIN_MS), lambda: self._slice(life, ticket, at))
            return

        def through() -> None:
            if device.alive(life):
                gate.land_slice(ticket, 0)
                self._slice(life, ticket, at + size)

        device.pipe.carry(size + (0 if at else HEADS_BYTES), through)
