"""A device in the simulator: the real store and session, in a process that can die at any write.

What the replicator's event loop does in life, ``_pump`` does here by events: it steps the session, lets the product's
``Carrier`` carry out what it asks for, and puts its messages on the wire.

Long file: a machine's life is one state machine, and each of its steps may be its last.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.link.carrier import Carrier
from edge.link.membership import accept, enroll_request, find_membership, session_keys
from edge.link.signing import Nonces
from edge.node import Edge
from edge.storage import link_state
from simulations.fleet.agent import DECLARED, RIVAL, Agent, carry_out, read_back
from simulations.fleet.cloud_node import CloudNode
from simulations.fleet.disk import Disk
from simulations.fleet.envelope import unpack_answer, wrap
from simulations.fleet.network import Wire
from simulations.fleet.oracle import Oracle, show
from simulations.fleet.violation import Violation
from simulations.fleet.world import MachineClock, SeededRandom, World
from sync.effects import Learn, Mend, NewIncarnation, Persist, Send, SessionLimits
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
from sync.keys import DeviceKey
from sync.messages import Failure, Pull
from sync.operations import Operation
from sync.schedule import Backoff
from sync.schema import COLLECTIONS
from sync.session import SyncSession

NONCE_TRIES_MAX = 3
TIMEOUT_MS = 10_000
_ALL = 1 << 30


class DeviceNode:
    """One machine with a store of one fleet. ``edge`` is None while it is down; ``gone`` for good."""

    def __init__(
        self,
        world: World,
        root: Path,
        name: str,
        fleet: bytes,
        cloud: CloudNode,
        oracle: Oracle,
        *,
        keys: int,
        prefix: str,
        limits: SessionLimits,
        signed: bool,
        large: bool,
        versions: Sequence[int],
    ) -> None:
        self.world = world
        self.name = name
        self.fleet = fleet
        self.cloud = cloud
        self.oracle = oracle
        self.dice = world.dice(f"device {name}")
        self.directory = root / name
        self.directory.mkdir()
        self.store = self.directory / "store"
        self.disk = Disk(self.directory, world.dice(f"disk {name}"))
        self.clock = MachineClock(world)
        self.random = SeededRandom(world.dice(f"keys {name}"))
        self.wire = Wire(world, name, world.dice(f"wire {name}"), cloud.serve, TIMEOUT_MS)
        self.agent = Agent(name, world.dice(f"agent {name}"), keys, prefix, large=large)
        self.edge: Edge | None = None
        self.session: SyncSession | None = None
        self.revoked = False
        self.rotten = False
        self.lives = 0
        self._limits = limits
        self._signed = signed
        self._versions = versions
        self._nonces: Nonces | None = None
        self._wake_at = -1
        self._position: tuple[bytes, bytes, int] = (b"", b"", 0)  # replica, incarnation, cursor at the last look

    # -- life and death -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process; what it finds in its log, it may have acknowledged."""
        if self.edge is not None:
            return
        try:
            edge = Edge.open(self.store, clock=self.clock, random=self.random)
        except CorruptStore as error:
            self._start_over(error)
            return
        except StorageError as error:
            self.world.note(self.name, f"does not start: {error.code}")
            self.disk.revive(power_cut=False)
            self.world.at(30_000, self.boot)
            return
        self.edge = edge
        self.lives += 1
        try:
            self._join()
            self._look()
        except AgentDBError as error:
            self._trouble(error, "starting")

    def _join(self) -> None:
        edge = self._edge
        if find_membership(edge.log) is None:
            self._enroll()
            self.world.note(self.name, "joins the fleet")
        if self.lives == 1 and not edge.collections():
            for name, declaration in DECLARED.items():
                if name == "memories" or self.dice.random() < 0.9:
                    edge.collection(name, **declaration)
        self._key: DeviceKey = edge.device_key()

    def _enroll(self) -> None:
        edge, plane = self._edge, self.cloud.plane
        token = plane.create_token(self.fleet)
        name = self.name.partition("+")[0]  # a copy has the keys, and so the name, of its original
        answer = plane.enrollment.enroll(enroll_request(edge.log, edge.path, token, name))
        accept(edge.log, edge.path, token, answer, "http://127.0.0.1", name)

    def _enroll_again(self) -> None:
        """The cloud was restored to before this device was enrolled: its owner is given a new token."""
        self.world.note(self.name, "joins again", count="devices that joined again")
        try:
            self._enroll()
        except AgentDBError as error:
            self._trouble(error, "joining again")
        self.cloud.check_death()

    def _look(self) -> None:
        """After a start: nothing promised is missing, nothing has gone back."""
        log = self._edge.log
        self.oracle.found(self.name, self.logged())
        replica, incarnation, cursor = self._position
        position = link_state.load_position(log)
        if position.replica == replica and position.incarnation == incarnation and position.cursor < cursor:
            raise Violation("never back", f"{self.name}: cursor {position.cursor} after {cursor}")
        for held in self.oracle.of(self.name):
            operation = held.operation
            promised = held.acknowledged and not held.excused and operation.replica == log.replica
            if promised and operation.seq > log.head_seq:
                raise Violation("nothing lost", f"{self.name} restarted without {show(operation)}")

    def logged(self) -> list[Operation]:
        """All operations that the log still has."""
        log = self._edge.log
        first = log.reader.one("SELECT min(seq) FROM operations") or 1
        return log.pending(first - 1, _ALL, _ALL)

    def crash(self, *, power_cut: bool, down_ms: int, why: str = "crashes") -> None:
        """The process is killed, or the machine loses power; it starts again after ``down_ms``."""
        if self.edge is None:
            return
        self.world.note(self.name, why, count="device crashes")
        self.disk.kill()
        self.drop()
        lost = self.disk.revive(power_cut=power_cut)
        if power_cut:
            self.world.note(self.name, f"power cut: {lost} unsynced writes lost or torn", count="device power cuts")
        self.world.at(down_ms, self.boot)

    def drop(self) -> None:
        edge, self.edge, self.session = self.edge, None, None
        if edge is not None:
            with suppress(AgentDBError, OSError):  # a dead process closes nothing in order
                edge.log.close()
            with suppress(AgentDBError, OSError):
                edge.close()

    def shut_down(self) -> None:
        """In order."""
        if self.edge is not None:
            self.edge.close()
            self.edge = self.session = None

    def forget(self) -> None:
        """Its store was replaced: what was seen of the old one says nothing of it."""
        self._position = (b"", b"", 0)

    def check_death(self) -> bool:
        """After anything that wrote: the disk may have died in the middle of it."""
        if self.edge is not None and self.disk.dead:
            power_cut = self.dice.random() < 0.5
            self.crash(power_cut=power_cut, down_ms=self.dice.randrange(500, 60_000), why="dies in mid-write")
            return True
        return self.edge is None

    def _start_over(self, error: AgentDBError) -> None:
        """What the error's hint says: everything but the keys goes away, and the device joins again."""
        if not self.rotten:
            raise Violation("opens", f"{self.name}: {error}")
        self.world.note(
            self.name, f"store is damaged ({error.code}): begins again with its keys", count="stores rebuilt"
        )
        self.drop()
        self.disk.revive(power_cut=False)
        mine = self.oracle.of(self.name)
        self.oracle.excuse("disk rotted", [self.cloud.images(self.fleet)] if self.cloud.up else [], mine)
        for held in mine:
            self.oracle.retire(held)
        for path in sorted(self.store.iterdir()):
            if path.name != "keys":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.disk.reload()
        self.rotten = False
        self.lives = 0
        self._position = (b"", b"", 0)
        self.world.at(1000, self.boot)

    # -- the agent ----------------------------------------------------------------------------------------------------

    def work(self, *, clear: bool = False) -> None:
        """One write, or one batch; or the delete of a record, to ``clear`` up."""
        if self.edge is None:
            return
        edge, log = self.edge, self.edge.log
        try:
            changes = self.agent.clear(edge) if clear else self.agent.draw(edge)
            if not changes:
                return
            before = {change.place: log.image(*change.place) for change in changes}
            for name in {change.place[0]: None for change in changes}:
                if name not in log.schemas:
                    edge.collection(name, **DECLARED[name])
            head = log.head_seq
            self.oracle.ask(self.name, [change.asked for change in changes])
            carry_out(edge, changes)
            if self.disk.dead:
                raise Violation("acknowledged", f"{self.name}: a write returned from a dead disk")
            logged = log.pending(head, _ALL, _ALL)
            self.oracle.acknowledge(self.name, logged, before, excused="revoked" if self.revoked else "")
            wrong = read_back(edge, changes, before)
            if wrong:
                raise Violation("read your writes", f"{self.name}: {wrong}")
            self.world.counts["writes"] += len(changes)
        except AgentDBError as error:
            self._trouble(error, "writing")
            return
        self._pump()

    def redeclare(self, name: str, declaration: dict[str, Any]) -> None:
        """An update of the agent brings a new version of a schema, or one that another device has otherwise."""
        if self.edge is not None:
            try:
                self.edge.collection(name, **declaration)
                self.world.note(self.name, f"declares {name}", count="schema changes")
            except SchemaMismatch as error:
                self.world.note(self.name, f"cannot declare {name}: {error.code}")
            except AgentDBError as error:
                self._trouble(error, "declaring")

    def _trouble(self, error: AgentDBError, doing: str) -> None:
        """A call failed. A dead disk is a crash, a damaged one is for the operator; otherwise the agent goes on."""
        if self.check_death():
            return
        self.world.note(self.name, f"{doing} fails: {error.code}", count="typed errors")
        if isinstance(error, CorruptStore):
            self._start_over(error)
        elif not isinstance(error, (StorageError, FutureStamp, TooLarge)):
            raise Violation("typed errors", f"{self.name}: {doing} failed with {error!r}") from error
        else:
            with suppress(StorageError):  # a write that failed may be in the log all the same
                self.oracle.found(self.name, self.logged())

    # -- the link -----------------------------------------------------------------------------------------------------

    def connect(self, *, live: bool) -> None:
        """Begin to sync, as ``sync`` or ``run`` would."""
        if self.edge is None or self.revoked:
            return
        log = self.edge.log
        try:
            if find_membership(log) is None:  # the disk failed at that moment
                self._join()
            keys = session_keys(log, self.edge.path)
            self.session = SyncSession(
                link_state.load_position(log),
                keys,
                self.random,
                live=live,
                limits=self._limits,
                versions=self._versions,
            )
            self._carrier = Carrier(log, self.edge.path, self.session)
            self._backoff = Backoff(self.random)
            self._nonces = None
            if self._signed:
                self._nonces = Nonces(log.meta_get("nonce") or 0, lambda last: log.meta_set("nonce", last))
        except AgentDBError as error:
            self._trouble(error, "connecting")
            return
        self._pump()

    def disconnect(self) -> None:
        self.session = None

    @property
    def settled(self) -> bool:
        """Both sides have everything, as far as this side knows."""
        session = self.session
        return self.edge is not None and session is not None and session.idle

    def _pump(self) -> None:
        """Carry out everything that is ready; then wait for an answer, a write or the session's timer."""
        for _ in range(10_000):
            session = self.session
            if session is None or self.edge is None:
                return
            session.tick(self.clock.monotonic_ms())
            session.written(self.edge.log.head_seq)
            try:
                effects = session.ready()
                for effect in effects:
                    if isinstance(effect, Send):
                        self._send(session, effect, NONCE_TRIES_MAX)
                        continue
                    self._carrier.carry_out(effect)
                    self._observe(effect)
                    if self.check_death():
                        return
            except AgentDBError as error:
                if self.check_death():
                    return
                self.world.note(self.name, f"link: {error.code}", count="typed errors")
                if isinstance(error, CorruptStore):
                    self._start_over(error)
                    return
                self._begin_again(session, error)
                effects = []
            if not effects:
                self._sleep(session)
                return
        raise Violation("bounded", f"{self.name}: the session is busy without end")

    def _begin_again(self, session: SyncSession, error: AgentDBError) -> None:
        try:
            position = link_state.load_position(self._edge.log)
        except StorageError:
            position = session.position
        session.interrupt(position, error, self._backoff.next_ms())

    def _sleep(self, session: SyncSession) -> None:
        wake_ms = session.wake_ms()
        if wake_ms is not None:
            at = self.world.now_ms + wake_ms
            if self._wake_at <= self.world.now_ms or at < self._wake_at:
                self._wake_at = at
                self.world.at(wake_ms + 1, lambda: self._pump() if self.session is session else None)

    def _observe(self, effect: object) -> None:
        """The oracle hears of what was refused; stamps may have been corrected."""
        if isinstance(effect, Persist):
            for refusal in effect.refusals:
                self.world.note(self.name, f"refused: {refusal.seq} {refusal.code}", count="operations refused")
                held = self.oracle.refused(self.name, self._edge.log.replica, refusal.seq)
                if held is not None and not self._rightly(refusal.code, held.place[0]):
                    raise Violation("refused rightly", f"{self.name}: {held.place} was refused: {refusal.reason}")
        assert self.session is not None
        position = self.session.position
        self._position = (position.replica, position.incarnation, position.cursor)
        if isinstance(effect, NewIncarnation):
            self.oracle.copied_devices.add(self._edge.device)
        if isinstance(effect, (Learn, Mend, NewIncarnation)):
            self.oracle.found(self.name, self.logged())

    def _rightly(self, code: str, collection: str) -> bool:
        """Whether there is anything in this run that such a refusal can come from."""
        if code == SchemaMismatch.code:
            return collection in (RIVAL, COLLECTIONS)
        if code == TooLarge.code:
            return self.agent.large
        return code != FutureStamp.code or self.world.counts["clocks set wrong"] > 0

    def _send(self, session: SyncSession, effect: Send, tries: int) -> None:
        message = effect.message
        label = type(message).__name__
        wait_ms = message.wait_ms if isinstance(message, Pull) else 0
        request = wrap(message, self._key, self._nonces)

        def answered(data: bytes | None) -> None:
            if self.session is not session:
                return
            if data is None:
                session.failed(effect.number, Unreachable("no answer"))
            else:
                try:
                    answer, used = unpack_answer(data)
                except (AgentDBError, ValueError):
                    session.failed(effect.number, ProtocolError("the answer was cut"))
                else:
                    if isinstance(answer, Failure):
                        self.world.note(self.name, f"{label} fails: {answer.code}", count=f"failures {answer.code}")
                        if answer.code == StaleNonce.code and tries > 1 and self._nonces and self._nonces.skip(used):
                            self._send(session, effect, tries - 1)
                            return
                        if answer.code == Unauthenticated.code and not self.revoked:
                            self._enroll_again()
                    session.receive(effect.number, answer)
            self._pump()

        self.world.note(self.name, f"sends {label}{_details(message)}")
        self.wire.send(label, request, wait_ms, answered)

    @property
    def _edge(self) -> Edge:
        assert self.edge is not None
        return self.edge


def _details(message: object) -> str:
    if isinstance(message, Pull):
        return f" after {message.cursor}"
    acked = getattr(message, "acked", None)
    return "" if acked is None else f" head {message.log_head} acked {acked} cursor {message.cursor}"  # type: ignore[attr-defined]
