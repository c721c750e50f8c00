"""The cloud in the simulator: the real control plane, store, authenticator and archive, in a process that can die."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import apsw
import msgpack

from cloud.control_plane import ControlPlane
from cloud.fleet.choosing import Choosing
from cloud.fleet.policies import PolicyScopes
from cloud.identity.key_service import MemoryKeyService
from cloud.ports import Caller
from cloud.rows import Claim, Head
from cloud.storage.archive.anchor import MemoryAnchor
from cloud.storage.archive.restore import Restored, restore_fleet
from cloud.storage.archive.snapshots import state_digest
from cloud.storage.archive.writer import Archive
from cloud.storage.sqlite_store import SqliteStore
from cloud.stream import leases
from simulations.fleet.disk import Disk
from simulations.fleet.envelope import answer_to, caller_of, pack_failure
from simulations.fleet.objects import SimulatedObjects
from simulations.fleet.violation import Violation
from simulations.fleet.world import MachineClock, SeededRandom, World
from sync.errors import AgentDBError, StorageError, Unreachable
from sync.messages import AnyMessage, Hello, Pull, PullPage, Push, PushAck, decode
from sync.operations import Operation
from sync.segment import parse_header, unpack
from sync.stamps import device_of

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey

Reply = Callable[[bytes], None]
CLOUD = "cloud"


class _Poll(NamedTuple):
    """A request that waits for its fleet's feed to move."""

    message: Pull
    caller: Caller
    reply: Reply
    until_ms: int
    life: int


class CloudNode:
    """One machine with the control plane of some fleets. ``on_commit(fleet, operations)`` is told of every operation
    that entered a feed, ``on_stable(fleet, position)`` when deletes up to another position may be forgotten,
    ``wire_check`` sees every message. ``steered``: policies say what of the feed devices may have; ``on_answer`` is
    told of what they are answered, before it leaves.
    """

    def __init__(
        self,
        world: World,
        root: Path,
        *,
        lease_ms: int,
        on_commit: Callable[[bytes, list[Operation]], None],
        on_stable: Callable[[bytes, int], None],
        wire_check: Callable[[str, bytes], None],
        steered: bool = False,
    ) -> None:
        self.world = world
        self.dice = world.dice("cloud")
        self.directory = root / CLOUD
        self.directory.mkdir()
        self.disk = Disk(self.directory, world.dice("cloud disk"))
        self.clock = MachineClock(world)
        self.random = SeededRandom(world.dice("cloud keys"))
        self.keys = MemoryKeyService(self.random)
        self.objects = SimulatedObjects(world.dice("objects"))
        self.anchor = MemoryAnchor()
        self.fleets: list[bytes] = []
        self.life = 0
        self.up = False
        self.revoked: set[bytes] = set()  # devices whose revocation is in the archive; for membership only
        self.digests: dict[tuple[bytes, bytes, int], str] = {}
        self._lease_ms = lease_ms
        self._on_commit = on_commit
        self._on_stable = on_stable
        self._wire_check = wire_check
        self._steered = steered
        self.online_key: SigningKey | None = None
        self.on_answer: Callable[[AnyMessage, Caller, object], None] = _nothing
        self._stable: dict[tuple[bytes, bytes], int] = {}  # by life: up to where deletes are forgotten
        self._polls: list[_Poll] = []
        self._promised: dict[tuple[bytes, bytes], int] = {}  # fleet, replica -> what was acknowledged
        self._read_up_to: dict[bytes, tuple[bytes, int]] = {}
        self._archives: dict[bytes, Archive] = {}
        self.boot()

    # -- life and death -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process. It may fail while its disk does; then it is tried again."""
        if self.up:
            return
        try:
            self.store = SqliteStore.open(self.directory / "cloud.db")
        except StorageError as error:
            self.world.note(CLOUD, f"does not start: {error.code}")
            if self.disk.dead:
                self.disk.revive(power_cut=False)
            self.world.at(60_000, self.boot)
            return
        self.life += 1
        self.up = True
        choosing = Choosing()
        self.plane = ControlPlane(
            self.store,
            self.keys,
            self.clock,
            self.random,
            resolvers={"join": join_texts, "broken": broken},
            scopes=PolicyScopes(choosing.policy) if self._steered else None,
            lease_ms=self._lease_ms,
            online_key=lambda: self.online_key,
            choosing=choosing,
        )
        self._archives = {}
        for fleet in self.fleets:
            self._attend(fleet)
        self._check_promises()

    def create_fleet(self, name: str) -> bytes:
        fleet = self.plane.create_fleet(name).fleet
        self.fleets.append(fleet)
        self._attend(fleet)
        return fleet

    def _attend(self, fleet: bytes) -> None:
        self.plane.on_head(fleet, lambda: self.world.at(0, lambda: self._wake(fleet)))
        self._archives[fleet] = Archive(
            self.store, self.objects, self.keys, fleet, clock=self.clock, anchor=self.anchor
        )

    def stop(self, *, power_cut: bool, down_ms: int, why: str) -> None:
        """The process dies; the machine starts again after ``down_ms``."""
        if self.up:
            self._down(why)
            lost = self.disk.revive(power_cut=power_cut)
            if power_cut:
                self.world.note(CLOUD, f"power cut: {lost} unsynced writes lost or torn", count="cloud power cuts")
            self.world.at(down_ms, self.boot)

    def _down(self, why: str) -> None:
        self.world.note(CLOUD, why, count="cloud crashes")
        self.disk.kill()
        self.up = False
        self.drop()

    def drop(self) -> None:
        self._polls.clear()
        with suppress(StorageError, apsw.Error):  # a dead process closes nothing in order
            self.store.close()

    def check_death(self) -> bool:
        """After anything that wrote: the disk may have died in the middle of it."""
        if self.up and self.disk.dead:
            power_cut = self.dice.random() < 0.5
            self.stop(power_cut=power_cut, down_ms=self.dice.randrange(1000, 120_000), why="dies in mid-write")
            return True
        return not self.up

    # -- serving ------------------------------------------------------------------------------------------------------

    def serve(self, request: bytes, reply: Reply) -> None:
        """A request arrives; nobody answers while the machine is down."""
        if not self.up:
            return
        self._wire_check("request", request)

        def answer(data: bytes) -> None:
            self._wire_check("answer", data)
            reply(data)

        asked: tuple[AnyMessage, Caller] | None = None
        try:
            asked = caller_of(request, self.store)
            data = answer_to(self.plane, *asked)
        except AgentDBError as error:
            asked, data = None, pack_failure(error)
        self.follow()
        if self.check_death():
            return
        message, caller = asked or (None, None)
        if isinstance(message, Push) and caller is not None:
            self._remember(message, caller, data)
        if isinstance(message, Hello) and caller is not None:
            self._look_at_stable(caller.fleet)
        if isinstance(message, Pull) and caller is not None and message.wait_ms and _is_empty(data, message):
            until = self.world.now_ms + message.wait_ms
            poll = _Poll(message, caller, answer, until, self.life)
            self._polls = [held for held in self._polls if held.caller.device != caller.device]
            self._polls.append(poll)
            self.world.at(message.wait_ms, lambda: self._release(poll))
            return
        if self._steered and message is not None and caller is not None:
            self.on_answer(message, caller, decode(msgpack.unpackb(data)[0]))
        answer(data)

    def _remember(self, push: Push, caller: Caller, data: bytes) -> None:
        answer = decode(msgpack.unpackb(data)[0])
        if isinstance(answer, PushAck) and answer.last_seq:
            self._promised[caller.fleet, parse_header(push.segment).replica] = answer.last_seq
            self._check_promises()

    def _look_at_stable(self, fleet: bytes) -> None:
        with suppress(StorageError), self.store.reading() as view:
            head = view.head(fleet)
            stable = leases.stable_of(view, fleet, head)
            if stable > self._stable.get((fleet, head.incarnation), 0):
                self._stable[fleet, head.incarnation] = stable
                self._on_stable(fleet, stable)

    def _check_promises(self) -> None:
        """What was acknowledged is in the store, also after the machine lost power. A device would give back what is
        missing, if it is still there.
        """
        with suppress(StorageError), self.store.reading() as view:
            for (fleet, replica), promised in self._promised.items():
                row = view.replica(fleet, replica)
                if row is None or row.last_seq < promised:
                    what = f"{replica.hex()[:6]}.{replica[-1]} up to {promised}, its store has {row and row.last_seq}"
                    raise Violation("nothing lost", f"the cloud acknowledged {what}")

    def _wake(self, fleet: bytes) -> None:
        for poll in [held for held in self._polls if held.caller.fleet == fleet]:
            self._release(poll)

    def _release(self, poll: _Poll) -> None:
        if poll not in self._polls:
            return
        self._polls.remove(poll)
        if self.up and poll.life == self.life:
            try:
                data = answer_to(self.plane, poll.message, poll.caller)
            except StorageError as error:
                data = pack_failure(error)
            if not self.check_death():
                if self._steered:
                    self.on_answer(poll.message, poll.caller, None)
                poll.reply(data)

    def follow(self) -> None:
        """Show the observer what came into the feeds since it last looked."""
        if not self.up or self.disk.dead:
            return
        for fleet in self.fleets:
            with suppress(StorageError), self.store.reading() as view:
                head = view.head(fleet)
                incarnation, at = self._read_up_to.get(fleet, (b"", 0))
                if incarnation != head.incarnation:
                    at = min(at, head.restored_head)
                if head.position > at:
                    for row in view.feed(fleet, max(at, head.trimmed), 1 << 30, 1 << 40):
                        self._on_commit(fleet, unpack(row.packed, row.plain_length))
                self._read_up_to[fleet] = (head.incarnation, head.position)

    # -- the archive --------------------------------------------------------------------------------------------------

    def archive(self, fleet: bytes, *, snapshot: bool, trim: bool) -> None:
        """A run of the archive's job, as ``cloud.server.jobs`` makes it: what fails is tried again when it is due."""
        if not self.up:
            return
        archive = self._archives[fleet]
        try:
            run = archive.snapshot() if snapshot else archive.run_once()
            self._note_digest(fleet)
            self.revoked |= {device.device for device in self.plane.devices(fleet) if device.revoked_ms}
            if trim:
                self._trim(fleet, archive.state.position)
            self.world.note(CLOUD, f"archived up to {run.position}", count="archive runs")
        except AgentDBError as error:
            self.world.note(CLOUD, f"archive: {error.code}", count="archive runs failed")
        self.check_death()

    def _trim(self, fleet: bytes, position: int) -> None:
        with self.store.writing() as tx:
            tx.lock_head(fleet)
            tx.trim_feed(fleet, position)
        self.world.note(CLOUD, f"feed trimmed up to {position}", count="feeds trimmed")

    def _note_digest(self, fleet: bytes) -> None:
        """What the state was at this position of this life: restores are compared with it."""
        with self.store.reading() as view:
            head = view.head(fleet)
            self.digests[fleet, head.incarnation, head.position] = state_digest(view, fleet).hexdigest()

    def restore(self, position: dict[bytes, int] | None = None) -> None:
        """The database is destroyed and made anew from the archive: the newest state, or that of a position."""
        self._down("database destroyed")
        for file in sorted(self.directory.iterdir()):
            file.unlink()
        self.disk.reload()
        self.disk.revive(power_cut=False)
        store = SqliteStore.open(self.directory / "cloud.db")
        self._promised.clear()
        for fleet in self.fleets:
            target = (position or {}).get(fleet)
            restored = self.restore_into(store, fleet, target)
            self.world.note(CLOUD, f"restored to {restored.position} from the archive", count="cloud restores")
        store.close()
        self.boot()

    def restore_into(self, store: SqliteStore, fleet: bytes, position: int | None = None) -> Restored:
        return restore_fleet(
            self.objects, self.keys, store, fleet, random=self.random, position=position, anchor=self.anchor
        )

    # -- what checkers ask --------------------------------------------------------------------------------------------

    def head(self, fleet: bytes) -> Head:
        with self.store.reading() as view:
            return view.head(fleet)

    def leased(self, fleet: bytes) -> list[bytes]:
        """Replicas whose lease runs, and whose device is in good standing."""
        with self.store.reading() as view:
            revoked = {row.device for row in view.devices(fleet) if row.revoked_ms}
            since = self.clock.wall_ms() - self._lease_ms
            rows = [row for row in view.leases(fleet) if row.at_ms > since]
            return [row.replica for row in rows if device_of(row.replica) not in revoked]

    def images(self, fleet: bytes) -> dict[tuple[str, str], bytes]:
        """All record images, tombstones too."""
        out: dict[tuple[str, str], bytes] = {}
        with self.store.reading() as view:
            after: tuple[str, str] | None = None
            while page := view.records(fleet, after):
                out |= {(row.collection, row.key): row.image for row in page}
                after = (page[-1].collection, page[-1].key)
        return out

    def digest(self, fleet: bytes) -> str:
        with self.store.reading() as view:
            return state_digest(view, fleet).hexdigest()


def _is_empty(data: bytes, message: Pull) -> bool:
    answer = decode(msgpack.unpackb(data)[0])
    return isinstance(answer, PullPage) and not answer.segments and answer.cursor == message.cursor


def join_texts(_c: str, _k: str, field: str, left: Claim, right: Claim, _context: object) -> object:
    """The resolver of a collection: both texts, sorted; an edit beats a delete."""
    if field == "":
        return (right if left.delete else left).value
    return " | ".join(sorted({str(left.value), str(right.value)}))[:200]


def _nothing(*_: object) -> None:
    """Nobody steers this fleet."""


def broken(*_: object) -> object:
    """A resolver with a bug."""
    raise Unreachable("the resolver's own service is down")
