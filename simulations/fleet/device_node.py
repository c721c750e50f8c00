"""A device in the simulator: the real store and its agent, in a process that can die at any write (``device_link``
syncs it).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.link.membership import accept, enroll_request, find_membership
from edge.node import Edge
from edge.storage.evicted import state_of
from simulations.fleet.agent import DECLARED, Agent, Change, carry_out, read_back
from simulations.fleet.cloud_node import CloudNode
from simulations.fleet.device_link import DeviceLink
from simulations.fleet.disk import Disk
from simulations.fleet.erasing import told
from simulations.fleet.oracle import Oracle, Place, show
from simulations.fleet.violation import Violation
from simulations.fleet.world import MachineClock, SeededRandom, World
from sync.effects import SessionLimits
from sync.errors import (
    AgentDBError,
    CorruptStore,
    FutureStamp,
    NotAllowed,
    NotFound,
    NotHere,
    SchemaMismatch,
    StorageError,
    TooLarge,
)
from sync.keys import DeviceKey
from sync.operations import Operation

if TYPE_CHECKING:
    from simulations.steered.device import Steered

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
        large: int,
        versions: Sequence[int],
    ) -> None:
        self.world = world
        self.name = name
        self.id = b""  # until it has joined
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
        self.agent = Agent(name, world.dice(f"agent {name}"), keys, prefix, large=large)
        self.edge: Edge | None = None
        self.link = DeviceLink(self, limits, signed=signed, versions=versions)
        self.revoked = False
        self.owed = False  # a write was acknowledged, and its log could not be looked at any more
        self.declares = True  # its collections, before it writes
        self.rotten = False
        self.lives = 0
        self.steered: Steered | None = None

    # -- life and death -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process; what it finds in its log, it may have acknowledged."""
        if self.edge is not None:
            return
        try:
            edge = Edge.open(self.store, clock=self.clock, random=self.random)
        except CorruptStore as error:
            self.start_over(error)
            return
        except StorageError as error:
            self.world.note(self.name, f"does not start: {error.code}")
            self.disk.revive(power_cut=False)
            self.world.at(30_000, self.boot)
            return
        self.edge = edge
        self.lives += 1
        try:
            if self.steered is not None:
                self.steered.opened(edge)
            self.join()
            self._look()
            if self.steered is not None:
                self.steered.began()
        except AgentDBError as error:
            self.trouble(error, "starting")
            if self.steered is not None:  # nothing is made of what was not begun
                self.crash(power_cut=False, down_ms=30_000, why="could not begin")

    def join(self) -> None:
        edge = self.opened
        if find_membership(edge.log) is None:
            self._enroll()
            self.world.note(self.name, "joins the fleet")
        if self.declares and self.lives == 1 and not edge.collections():
            for name, declaration in DECLARED.items():
                if name == "memories" or self.dice.random() < 0.9:
                    edge.collection(name, **declaration)
        self.key: DeviceKey = edge.device_key()
        self.id = self.key.device_id

    def _enroll(self) -> None:
        edge, plane = self.opened, self.cloud.plane
        token = plane.create_token(self.fleet)
        name = self.name.partition("+")[0]  # a copy has the keys, and so the name, of its original
        request = enroll_request(edge.log, edge.path, token, name)
        answer = plane.enrollment.enroll(request)
        accept(edge.log, edge.path, token, answer, "http://127.0.0.1", name)

    def break_in(self) -> None:
        """Whoever has a revoked device tries to join with it again, and with a token that was used."""
        if self.edge is None or not self.cloud.up:
            return
        plane, log = self.cloud.plane, self.edge.log
        try:
            token = plane.create_token(self.fleet)
            plane.enrollment.enroll(enroll_request(log, self.edge.path, token, self.name.partition("+")[0]))
        except AgentDBError as error:
            self.world.note(self.name, f"tries to join again: {error.code}")
        else:
            raise Violation("revoked", f"{self.name} was revoked, and may join again")
        self.cloud.check_death()

    def enroll_again(self) -> None:
        """The cloud was restored to before this device was enrolled: its owner is given a new token."""
        self.world.note(self.name, "joins again", count="devices that joined again")
        try:
            self._enroll()
        except AgentDBError as error:
            self.trouble(error, "joining again")
        self.cloud.check_death()

    def _look(self) -> None:
        """After a start: nothing promised is missing, nothing has gone back."""
        log = self.opened.log
        owed, self.owed = self.owed, False
        self.oracle.found(self.name, self.logged(), owed=owed)
        self.link.look(log)
        for held in self.oracle.of(self.name):
            operation = held.operation
            promised = held.acknowledged and not held.excused and operation.replica == log.replica
            if promised and operation.seq > log.head_seq:
                raise Violation("nothing lost", f"{self.name} restarted without {show(operation)}")

    def logged(self) -> list[Operation]:
        """All operations that the log still has."""
        log = self.opened.log
        first = log.reader.one("SELECT min(seq) FROM operations") or 1
        return told(log.pending(first - 1, _ALL, _ALL))

    def crash(self, *, power_cut: bool, down_ms: int, why: str = "crashes") -> None:
        """The process is killed, or the machine loses power; it starts again after ``down_ms``."""
        if self.edge is None:
            return
        self.world.note(self.name, why, count="device crashes")
        self.disk.kill()
        self.drop()
        lost = self.disk.revive(power_cut=power_cut)
        if self.steered is not None and self.steered.models is not None:
            self.steered.models.power_cut |= power_cut
        if power_cut:
            self.world.note(self.name, f"power cut: {lost} unsynced writes lost or torn", count="device power cuts")
        self.world.at(down_ms, self.boot)

    def drop(self) -> None:
        if self.steered is not None:
            self.steered.died()
        edge, self.edge, self.link.session = self.edge, None, None
        if edge is not None:
            with suppress(AgentDBError, OSError):  # a dead process closes nothing in order
                edge.log.close()
            with suppress(AgentDBError, OSError):
                edge.close()

    def shut_down(self) -> None:
        """In order."""
        if self.edge is not None:
            try:
                self.edge.close()
            except StorageError as error:  # its disk fails; what was acknowledged is in the log
                self.world.note(self.name, f"closing fails: {error.code}", count="typed errors")
                self.disk.kill()
                self.drop()
                self.disk.revive(power_cut=False)
            self.edge = self.link.session = None

    def check_death(self) -> bool:
        """After anything that wrote: the disk may have died in the middle of it."""
        if self.edge is not None and self.disk.dead:
            power_cut = self.dice.random() < 0.5
            self.crash(power_cut=power_cut, down_ms=self.dice.randrange(500, 60_000), why="dies in mid-write")
            return True
        return self.edge is None

    def start_over(self, error: AgentDBError) -> None:
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
        self.forget()
        self.world.at(1000, self.boot)

    def forget(self) -> None:
        """The store was replaced: what was seen of the old one says nothing of it."""
        self.link.forget()
        if self.steered is not None:
            self.steered.forget()

    # -- the agent ----------------------------------------------------------------------------------------------------

    def work(self, *, clear: bool = False) -> None:
        """One write, or one batch; or the delete of a record, to ``clear`` up."""
        if self.edge is None:
            return
        edge, log = self.edge, self.edge.log
        try:
            if self.dice.random() < 0.03:
                self._blunder()
            changes = self.agent.clear(edge) if clear else self.agent.draw(edge)
            if not changes:
                return
            before = {change.place: log.image(*change.place) for change in changes}
            for name in {change.place[0]: None for change in changes}:
                if name not in log.schemas:
                    edge.collection(name, **DECLARED[name])
            head, away = log.head_seq, self._away(changes)
            self.oracle.ask(self.name, [change.asked for change in changes])
            if not self._carried_out(changes, head, away):
                return
            if self.disk.dead:  # it died after the commit, in a checkpoint that nobody waits for
                self.owed = True
                self.check_death()
                return
            logged = log.pending(head, _ALL, _ALL)
            self.oracle.acknowledge(
                self.name,
                logged,
                before,
                excused="revoked" if self.revoked else "",
                midway=self.link.took_baseline or log.baseline is not None,
            )
            away |= self._away(changes)  # nobody reads a stub, and what goes on from one shows what it remembers
            wrong = read_back(edge, [change for change in changes if change.place not in away], before)
            if wrong:
                raise Violation("read your writes", f"{self.name}: {wrong}")
            self.world.counts["writes"] += len(changes)
        except AgentDBError as error:
            self.trouble(error, "writing")
            return
        self.link.pump()

    def _carried_out(self, changes: list[Change], head: int, away: set[Place]) -> bool:
        """False if the policy, or what has left, does not let it be written. Raises AgentDBError, Violation."""
        log, edge = self.opened.log, self.opened
        may = self.steered is None or self.steered.lets_through(changes)
        try:
            carry_out(edge, changes)
        except (NotAllowed, NotHere) as error:
            denied = isinstance(error, NotAllowed)
            if (may if denied else not away) or self.steered is None or log.head_seq != head:
                raise Violation("policy", f"{self.name}: {error}") from error
            self.oracle.asked.pop(self.name, None)
            self.world.counts["writes not allowed" if denied else "writes that wait for what has left"] += 1
            return False
        if not may:
            raise Violation("policy", f"{self.name} wrote {[change.place for change in changes]}")
        return True

    def _away(self, changes: Sequence[Change]) -> set[Place]:
        """Places of these whose records have left the device."""
        log = self.opened.log
        return {change.place for change in changes if state_of(log, *change.place) is not None}

    def _blunder(self) -> None:
        """A batch whose last write cannot be: nothing of it is written."""
        edge, head = self.opened, self.opened.log.head_seq
        name = next(iter(DECLARED))
        if name not in edge.log.schemas:
            return
        try:
            with edge.batch():
                edge.collection(name).increment(self.agent.key(name), "count", 1, upsert=True)
                edge.collection(name).patch("no such record", {"top": 1})
        except NotFound:
            pass
        except NotAllowed:
            if self.steered is None:
                raise
        else:
            raise Violation("all or nothing", f"{self.name}: a batch with an impossible write was taken")
        if edge.log.head_seq != head:
            raise Violation("all or nothing", f"{self.name}: a batch that failed was written in part")

    def redeclare(self, name: str, declaration: dict[str, Any]) -> None:
        """An update of the agent brings a new version of a schema, or one that another device has otherwise."""
        if self.edge is not None:
            try:
                self.edge.collection(name, **declaration)
                self.world.note(self.name, f"declares {name}", count="schema changes")
            except SchemaMismatch as error:
                self.world.note(self.name, f"cannot declare {name}: {error.code}")
            except AgentDBError as error:
                self.trouble(error, "declaring")

    def trouble(self, error: AgentDBError, doing: str) -> None:
        """A call failed. A dead disk is a crash, a damaged one is for the operator; otherwise the agent goes on."""
        if self.check_death():
            return
        self.world.note(self.name, f"{doing} fails: {error.code}", count="typed errors")
        if isinstance(error, CorruptStore):
            self.start_over(error)
        elif not isinstance(error, (StorageError, FutureStamp, TooLarge)):
            raise Violation("typed errors", f"{self.name}: {doing} failed with {error!r}") from error
        else:
            with suppress(StorageError):  # a write that failed may be in the log all the same
                self.oracle.found(self.name, self.logged())

    @property
    def opened(self) -> Edge:
        """The store of a device that is up."""
        assert self.edge is not None
        return self.edge
