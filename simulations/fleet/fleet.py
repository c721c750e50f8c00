"""One run: a fleet is built from a plan, lives through its faults, is healed, and has to converge.

The safety phase checks as it goes (``oracle``, the nodes themselves); ``converge`` is the liveness phase: everything is
mended, nobody writes any more, and within ``HEAL_MS`` of virtual time all replicas have to be equal. Then ``checks``
looks at the end state from all sides.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random

from simulations.fleet import checks, device_link, erasing, scenario
from simulations.fleet.agent import CANARY, LARGE, SMALL_LARGE
from simulations.fleet.cloud_node import CloudNode
from simulations.fleet.device_node import DeviceNode
from simulations.fleet.disasters import HOUR_MS, MINUTE_MS
from simulations.fleet.faults import Faults
from simulations.fleet.network import Weather
from simulations.fleet.oracle import Oracle
from simulations.fleet.scenario import Plan
from simulations.fleet.small import small_bounds
from simulations.fleet.violation import Violation
from simulations.fleet.world import World
from simulations.steered.device import Steered
from simulations.steered.steering import Steering
from sync.effects import SessionLimits
from sync.messages import PROTOCOL_VERSIONS
from sync.operations import Operation

HEAL_ROUNDS_MAX = 12
HEAL_ROUND_MS = 10 * MINUTE_MS
_MOMENTS = 4  # at which many work at once
_DECLARING = 10  # devices that declare the collections by themselves, in a large fleet
_CANARY = CANARY.encode()


@dataclass
class Outcome:
    """How a run ended. ``violation`` is empty if everything held; ``broken`` says that the simulator or the product
    failed with an error that is none of its own.
    """

    seed: int
    plan: Plan
    trace: str
    counts: Counter[str]
    violation: str
    broken: bool
    tail: list[str]
    virtual_ms: int
    heal_ms: int

    @property
    def held(self) -> bool:
        return not self.violation


class Fleet:
    """All nodes of a run."""

    def __init__(self, world: World, plan: Plan, root: Path) -> None:
        self.world = world
        self.plan = plan
        self.root = root
        self._dice = world.dice("fleet")
        self._moments = [self._dice.randrange(self._end_ms) for _ in range(_MOMENTS)]
        self.oracles: dict[bytes, Oracle] = {}
        self.devices: list[DeviceNode] = []
        self.cloud = CloudNode(
            world,
            root,
            lease_ms=plan.lease_ms,
            on_commit=self._committed,
            on_stable=self._check_stable,
            wire_check=self._check_wire,
            steered=plan.steered,
        )
        for number in range(plan.fleets):
            self.oracles[self.cloud.create_fleet(f"fleet-{number}")] = Oracle()
        self.steering = Steering(self) if plan.steered else None
        for number in range(plan.devices):
            for place, fleet in enumerate(self.cloud.fleets):
                device = self._add(f"{chr(ord('a') + place)}{number}", fleet)
                device.declares = number < _DECLARING  # the others are given what is declared

    def prefix(self, owner: bytes) -> str:
        """What the keys of a fleet's records begin with."""
        return f"{chr(ord('a') + self.cloud.fleets.index(owner))}/"

    def oracle(self, device: DeviceNode) -> Oracle:
        return self.oracles[device.fleet]

    def add_twin(self, device: DeviceNode) -> DeviceNode:
        twins = sum(other.name.startswith(f"{device.name}+") for other in self.devices)
        twin = self._add(f"{device.name}+{twins + 1}", device.fleet)
        self._live(twin)
        return twin

    def add_late(self, fleet: bytes) -> None:
        name = f"{chr(ord('a') + self.cloud.fleets.index(fleet))}{len(self.devices)}"
        device = self._add(name, fleet)
        device.declares = self._dice.random() < 0.5  # or it only writes, and is given the fleet's declarations
        self.world.note(name, "is new", count="devices that joined late")
        device.boot()
        self._live(device)
        self.world.at(1000, _connecting(device, live=True))
        for _ in range(4):  # it begins to write before it has everything
            self.world.at(1000 + self._dice.randrange(500), device.work)

    def _add(self, name: str, fleet: bytes) -> DeviceNode:
        plan = self.plan
        device = DeviceNode(
            self.world,
            self.root,
            name,
            fleet,
            self.cloud,
            self.oracles[fleet],
            keys=plan.keys,
            prefix=f"{name[0]}/",
            limits=SessionLimits(push_operations=plan.push_operations, pull_operations=plan.pull_operations),
            signed=plan.signed,
            large=plan.large and (SMALL_LARGE if plan.small else LARGE),
            versions=(1,) if self._dice.random() < plan.old_share and not plan.steered else PROTOCOL_VERSIONS,
        )
        if self.steering is not None:
            device.steered = Steered(device, self.steering)
        device.link.wire.weather = Weather(**vars(plan.weather))
        if plan.metered:
            device.link.rules = device_link.drawn(self.world.dice(f"limits of {name}"))
        device.clock.step(self._dice.randint(-plan.skew_ms, plan.skew_ms))
        self.devices.append(device)
        return device

    def live(self) -> None:
        """Start everybody and plan their days."""
        for device in self.devices:
            device.boot()
            self._live(device)
        Faults(self).schedule(self.plan.faults, self._end_ms)
        if self.steering is not None:
            self.steering.schedule()

    @property
    def _end_ms(self) -> int:
        return int(self.plan.hours * HOUR_MS)

    def _live(self, device: DeviceNode) -> None:
        """Bursts of work, and times at which there is a network."""
        dice, world = self.world.dice(f"life of {device.name}"), self.world
        left = max(1, self._end_ms - world.now_ms)
        moments = [moment - world.now_ms for moment in self._moments if moment > world.now_ms]
        writes = self.plan.writes
        while writes > 0:
            burst = min(writes, dice.randrange(1, 8))
            at = dice.choice(moments) if moments and dice.random() < self.plan.together else dice.randrange(left)
            for number in range(burst):
                world.at(at + number * dice.choice([0, 1, 5, 1000]), device.work)
            writes -= burst
        for _ in range(self.plan.links):
            at, lasting = dice.randrange(left), dice.randrange(MINUTE_MS, 30 * MINUTE_MS)
            live = dice.random() < 0.5
            world.at(at, _connecting(device, live=live))
            world.at(at + lasting, device.link.disconnect)

    def converge(self) -> int:
        """Mend everything; then all replicas become equal. Returns how long it took. Raises Violation."""
        world = self.world
        self._heal()
        begun = world.now_ms
        unequal = "nobody has tried"
        for _ in range(HEAL_ROUNDS_MAX):
            for device in self.devices:
                erasing.attend(device)
                device.link.connect(live=False)
            world.run_until(world.now_ms + HEAL_ROUND_MS)
            if self.steering is not None:
                for owner in self.cloud.fleets:  # what is to leave a device leaves it once it is archived
                    self.cloud.archive(owner, snapshot=False, trim=False)
            self.cloud.follow()
            unequal = checks.difference(self) or erasing.unattended(self)
            if not unequal:
                return world.now_ms - begun
        raise Violation("convergence", f"not equal {HEAL_ROUNDS_MAX * HEAL_ROUND_MS // MINUTE_MS} min after: {unequal}")

    def _heal(self) -> None:
        world = self.world
        for disk in (self.cloud.disk, *(device.disk for device in self.devices)):
            disk.fault, disk.crash_in = "", None
        self.cloud.objects.trouble = self.cloud.objects.forgets = 0.0
        for device in self.devices:
            device.link.wire.weather = Weather()
            device.link.rules.limits = ()
            if self._dice.random() < 0.5:  # a device with a wrong clock is not locked out
                device.clock.step(0)
        world.note("fleet", "everything is mended; nobody writes any more")
        world.run_until(world.now_ms + 15 * MINUTE_MS)
        self.cloud.boot()
        for device in self.devices:
            device.boot()
        if self.steering is not None:
            self.steering.heal()

    def check_revocations(self) -> None:
        """After a restore: going back in time takes back no decision, and what the archive had not heard of yet is
        decided again.
        """
        for device in self.devices:
            if not device.revoked:
                continue
            row = next(row for row in self.cloud.plane.devices(device.fleet) if row.device == device.id)
            if not row.revoked_ms and row.device in self.cloud.revoked:
                raise Violation("revoked", f"a restore takes back that {device.name} was revoked")
            if not row.revoked_ms:
                self.cloud.plane.enrollment.revoke(device.fleet, row.device, reason="stolen")

    def spare_disks(self) -> None:
        """No disk fails while the oracle looks at what everybody has."""
        for disk in (self.cloud.disk, *(device.disk for device in self.devices)):
            disk.fault, disk.crash_in = "", None

    def look_at_logs(self) -> None:
        """Before a disaster: what is in the logs and was not acknowledged is known."""
        for device in self.devices:
            if device.edge is not None:
                self.oracle(device).found(device.name, device.logged())

    def destroy(self) -> None:
        nodes: list[CloudNode | DeviceNode] = [self.cloud, *self.devices]
        for node in nodes:
            node.disk.kill()
            node.drop()
            node.disk.forget()

    # -- watching -----------------------------------------------------------------------------------------------------

    def _committed(self, fleet: bytes, operations: list[Operation]) -> None:
        oracle, service = self.oracles[fleet], self.cloud.keys.service_key.device_id
        operations = erasing.told(operations)
        if not oracle.knows(operations, service):
            self.look_at_logs()  # they may be in a log, of a write that nobody acknowledged
        oracle.committed(operations, service, self.cloud.clock.wall_ms())

    def _check_stable(self, fleet: bytes, stable: int) -> None:
        """Deletes are forgotten only behind every active device. Of copies nobody knows whose lease it is."""
        leased, life = self.cloud.leased(fleet), self.cloud.head(fleet).incarnation
        for device in self.devices:
            if device.id in self.oracles[fleet].copied_devices:
                continue
            replica, incarnation, cursor = device.link.seen
            if replica in leased and incarnation == life and cursor < stable:
                raise Violation("tombstones", f"forgotten up to {stable}, and {device.name} has read up to {cursor}")

    def _check_wire(self, what: str, data: bytes) -> None:
        if _CANARY in data:
            raise Violation("no plaintext", f"a text can be read in a {what}")


def _connecting(device: DeviceNode, *, live: bool) -> Callable[[], None]:
    return lambda: device.link.connect(live=live)


def run(
    seed: int,
    name: str = "",
    *,
    devices: int | None = None,
    hours: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """One seed, from its plan to its last check. Raises nothing that a run can do wrong: see ``Outcome``."""
    plan = scenario.draw(name or scenario.of_seed(seed), Random(f"{seed}/plan"), devices=devices, hours=hours)
    world = World(seed, on_line)
    violation, broken, heal_ms = "", False, 0
    root = Path(tempfile.mkdtemp(prefix="fleet-", dir=_scratch()))
    fleet: Fleet | None = None
    try:
        with small_bounds() if plan.small else nullcontext():
            fleet = Fleet(world, plan, root)
            fleet.live()
            world.run_until(int(plan.hours * HOUR_MS))
            heal_ms = fleet.converge()
            checks.check_all(fleet)
            erasing.check(fleet)
    except Violation as error:
        violation = str(error)
    except Exception as error:  # noqa: BLE001 - an error of any kind is a finding, with its seed
        violation, broken = f"{type(error).__name__}: {error}", True
        world.note("run", _where(error))
    finally:
        if fleet is not None:
            fleet.destroy()
        shutil.rmtree(root, ignore_errors=True)
    if violation:
        world.note("run", violation)
    return Outcome(seed, plan, world.trace, world.counts, violation, broken, world.tail, world.now_ms, heal_ms)


def _where(error: BaseException) -> str:
    """The last line of the product, or of ours, that the error passed."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"error at {place}"


def _scratch() -> str | None:
    """Memory, where there is such a place: nothing in there is ever synced."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a scratch directory of our own is made in it
