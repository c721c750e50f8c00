"""What can go wrong, each kind as one method of ``Faults``; a plan says which happen, the seed when and to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulations.fleet.agent import CHANGED, RIVAL, RIVALS
from simulations.fleet.checks import check_damaged_archive, check_search
from simulations.fleet.disasters import HOUR_MS, MINUTE_MS, Disasters
from simulations.fleet.disk import FULL, IO, SYNC, Disk
from simulations.fleet.erasing import attend, remember
from simulations.fleet.violation import Violation
from sync.errors import AgentDBError, StorageError

if TYPE_CHECKING:
    from simulations.steered.steering import Steering

_FAULT_MS = 20 * MINUTE_MS


class Faults(Disasters):
    def schedule(self, plan: dict[str, int], end_ms: int) -> None:
        """Each fault at times of the seed's choice."""
        for kind in sorted(plan):
            method: Callable[[], None] = getattr(self, kind)
            for _ in range(plan[kind]):
                self._world.at(self._dice.randrange(end_ms), self._counted(kind, method))

    def _counted(self, kind: str, method: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            self._world.counts[f"fault {kind}"] += 1
            method()

        return run

    # -- processes and machines ---------------------------------------------------------------------------------------

    def device_crash(self) -> None:
        self._device().crash(power_cut=False, down_ms=self._dice.randrange(500, MINUTE_MS))

    def device_power_cut(self) -> None:
        self._device().crash(power_cut=True, down_ms=self._dice.randrange(500, 10 * MINUTE_MS), why="loses power")

    def device_dies(self) -> None:
        """At some write or sync from now: between any two statements that persist."""
        self._device().disk.crash_in = self._dice.randrange(60)

    def cloud_crash(self) -> None:
        self._cloud.stop(power_cut=False, down_ms=self._dice.randrange(1000, 10 * MINUTE_MS), why="crashes")

    def cloud_power_cut(self) -> None:
        self._cloud.stop(power_cut=True, down_ms=self._dice.randrange(1000, 10 * MINUTE_MS), why="loses power")

    def cloud_dies(self) -> None:
        self._cloud.disk.crash_in = self._dice.randrange(60)

    # -- disks --------------------------------------------------------------------------------------------------------

    def disk_full(self) -> None:
        self._ail(self._device().disk, FULL)

    def disk_io(self) -> None:
        self._ail(self._device().disk, IO)

    def disk_sync(self) -> None:
        self._ail(self._device().disk, SYNC)

    def cloud_disk_full(self) -> None:
        self._ail(self._cloud.disk, FULL)

    def cloud_disk_io(self) -> None:
        self._ail(self._cloud.disk, IO)

    def cloud_disk_sync(self) -> None:
        self._ail(self._cloud.disk, SYNC)

    def _ail(self, disk: Disk, fault: str) -> None:
        self._world.note(disk.root.name, f"disk begins to fail: {fault}")
        disk.fault, disk.fault_share = fault, self._dice.choice([0.1, 0.5, 1.0])

        def well() -> None:
            disk.fault = ""

        self._world.at(self._dice.randrange(_FAULT_MS), well)

    def disk_rot(self) -> None:
        """Bits flip in the log of a machine that is off."""
        device = self._device()
        if device.edge is None:
            return
        device.shut_down()
        bits = self._dice.randrange(1, 20)
        device.rotten = True
        device.disk.rot("store/log.db", bits)
        self._world.note(device.name, f"{bits} bits of its log flip while it is off", count="bits rotted")
        self._world.at(1000, device.boot)

    # -- newcomers -----------------------------------------------------------------------------------------------------

    def joins_late(self) -> None:
        """A new device comes to a fleet that has a past."""
        self._fleet.add_late(self._dice.choice(self._cloud.fleets))

    # -- clocks -------------------------------------------------------------------------------------------------------

    def clock_ahead(self) -> None:
        self._set_clock(self._far())

    def clock_behind(self) -> None:
        self._set_clock(-self._far())

    def _far(self) -> int:
        """From seconds to ten years, each order of magnitude as often."""
        return int(1000 * 10 ** (self._dice.random() * 8.5))

    def clock_jumps(self) -> None:
        """Far ahead while a link is up and its agent writes: the cloud refuses what it is sent."""
        device = self._device()
        device.link.connect(live=True)

        def jump() -> None:
            device.clock.step(self._far() + 5 * MINUTE_MS)
            self._world.note(device.name, "its clock jumps ahead while it is connected", count="clocks set wrong")
            for _ in range(3):
                device.work()

        self._world.at(2_000, jump)

    def clock_1970(self) -> None:
        """Booted without a battery."""
        device = self._device()
        device.clock.set_to_1970()
        self._world.note(device.name, "its clock begins in 1970", count="clocks set wrong")

    def clock_stops(self) -> None:
        device = self._device()
        device.clock.stop()
        self._world.note(device.name, "its clock stops", count="clocks set wrong")

    def clock_drifts(self) -> None:
        device = self._device()
        device.clock.step(device.clock.error_ms, drift=self._dice.uniform(-0.2, 0.2))
        self._world.note(device.name, "its clock drifts", count="clocks set wrong")

    def clock_is_set(self) -> None:
        device = self._device()
        device.clock.step(0)
        self._world.note(device.name, "its clock is set right")

    def _set_clock(self, error_ms: int) -> None:
        device = self._device()
        device.clock.step(error_ms)
        self._world.note(device.name, f"its clock is {error_ms / 1000:+.0f} s off", count="clocks set wrong")

    # -- networks -----------------------------------------------------------------------------------------------------

    def partition_up(self) -> None:
        self._cut("up_blocked")

    def partition_down(self) -> None:
        self._cut("down_blocked")

    def _cut(self, way: str) -> None:
        device = self._device()
        weather = device.link.wire.weather
        setattr(weather, way, True)
        self._world.note(device.name, f"network: {way.replace('_', ' ')}")
        self._world.at(self._dice.randrange(2 * HOUR_MS), lambda: setattr(weather, way, False))

    def storm(self) -> None:
        """Everybody comes back at the same moment."""
        self._world.note("fleet", "reconnects all at once", count="reconnect storms")
        for device in self._fleet.devices:
            device.link.connect(live=True)
            self._world.at(10 * MINUTE_MS, device.link.disconnect)

    # -- the cloud's data ---------------------------------------------------------------------------------------------

    def cloud_archive(self) -> None:
        for fleet in self._cloud.fleets:
            roll = self._dice.random()
            self._cloud.archive(fleet, snapshot=roll < 0.4, trim=roll < 0.2)

    def objects_trouble(self) -> None:
        self._cloud.objects.trouble = 0.2
        self._world.note("objects", "the object store is unreliable")

        def well() -> None:
            self._cloud.objects.trouble = 0.0

        self._world.at(self._dice.randrange(_FAULT_MS), well)

    def objects_forget(self) -> None:
        """A store that says yes and keeps nothing."""
        self._cloud.objects.forgets = 0.3
        self._world.note("objects", "the object store forgets what it acknowledged")

        def well() -> None:
            self._cloud.objects.forgets = 0.0

        self._world.at(self._dice.randrange(_FAULT_MS), well)

    def objects_damage(self) -> None:
        """An object of the archive is gone, another's, or altered, until somebody puts it back."""
        check_damaged_archive(self._fleet, self._dice)

    # -- people -------------------------------------------------------------------------------------------------------

    def rotate_keys(self) -> None:
        if self._cloud.up:
            for fleet in self._cloud.fleets:
                try:
                    self._cloud.plane.enrollment.rotate(fleet, "schedule")
                    self._world.note("cloud", "rotates the epoch key", count="epoch keys rotated")
                except AgentDBError as error:
                    self._world.note("cloud", f"rotation fails: {error.code}")
            self._cloud.check_death()

    def revoke(self) -> None:
        device = self._device()
        if not self._cloud.up or device.edge is None or len(self._fleet.devices) < 3 or device.revoked:
            return
        before = self._cloud.keys.ring(device.fleet).epochs()[-1]
        try:
            self._cloud.plane.enrollment.revoke(device.fleet, device.edge.device, reason="stolen")
        except AgentDBError as error:
            self._world.note("cloud", f"revocation fails: {error.code}")
            self._cloud.check_death()
            return
        if self._cloud.keys.ring(device.fleet).epochs()[-1] <= before:
            raise Violation("revoked", f"{device.name} has the key by which pages are sealed after its revocation")
        self._world.note("cloud", f"revokes {device.name}", count="devices revoked")
        images = [self._cloud.images(device.fleet)]
        oracle = self._fleet.oracle(device)
        for copy in self._fleet.devices:  # which have its keys
            if copy.id == device.id:
                copy.revoked = True
                oracle.excuse("revoked", images, oracle.of(copy.name))
                self._world.at(self._dice.randrange(HOUR_MS), copy.break_in)

    def trims(self) -> None:
        """Not a fault but what a runtime does now and then: the log forgets what the cloud has."""
        device = self._device()
        if device.edge is not None:
            try:
                dropped = device.edge.projections.trim()
                self._world.note(device.name, f"trims {dropped} rows of its log", count="logs trimmed")
            except StorageError as error:
                self._world.note(device.name, f"trimming fails: {error.code}")
                device.check_death()

    def searches(self) -> None:
        """An agent looks for its memories: what it finds are exactly those that are there."""
        device = self._device()
        if device.edge is not None:
            try:
                check_search(device)
                self._world.counts["searches"] += 1
            except StorageError as error:
                self._world.note(device.name, f"searching fails: {error.code}")
                device.check_death()

    def deletes(self) -> None:
        """An agent clears up: most of what it sees goes."""
        device = self._device()
        self._world.note(device.name, "clears up", count="clearings")
        for number in range(6):
            self._world.at(number, lambda: device.work(clear=True))

    def remembers(self) -> None:
        """An agent whose memories are erased now and then."""
        remember(self._device(), self._dice)

    def attends(self) -> None:
        """A runtime's round of care."""
        attend(self._device())

    # -- operators, of a fleet that is steered ------------------------------------------------------------------------

    @property
    def _steering(self) -> Steering:
        """No other plan has these faults."""
        steering = self._fleet.steering
        assert steering is not None
        return steering

    def policy_signed(self) -> None:
        self._steering.publish_policy()

    def policy_assigned(self) -> None:
        self._steering.assign_policy()

    def policy_rolled_out(self) -> None:
        self._steering.roll_out_policy()

    def model_published(self) -> None:
        self._steering.publish_model()

    def model_assigned(self) -> None:
        self._steering.assign_model()

    def model_rolled_out(self) -> None:
        self._steering.roll_out_model()

    def rollout_moved(self) -> None:
        self._steering.move_rollout()

    def server_hostile(self) -> None:
        """Old, mixed, foreign, cut and forged metadata, assignments and targets."""
        self._steering.serve_badly(self._dice.randrange(10 * MINUTE_MS, 6 * HOUR_MS))

    def online_key_changed(self) -> None:
        self._steering.change_online_key()

    def guide_remembers(self) -> None:
        """An agent whose permissions change writes a memory."""
        device = self._device()
        assert device.steered is not None
        device.steered.remember()

    # -- schemas ------------------------------------------------------------------------------------------------------

    def schema_change(self) -> None:
        self._device().redeclare("memories", CHANGED["memories"])

    def rival_schema(self) -> None:
        """Two devices declare a collection in ways that cannot both be."""
        self._device().redeclare(RIVAL, self._dice.choice(RIVALS))
