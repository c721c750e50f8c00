"""What takes data away with good reason: stores set back to older copies, cloned, a database restored from the archive.

After each, the oracle is told what nobody has any more; everything else is still owed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.storage.archive.state import load_state
from simulations.fleet.device_node import DeviceNode
from simulations.fleet.oracle import Place, Written
from sync.digest import living_image
from sync.errors import StorageError
from sync.operations import Operation
from sync.stamps import device_of

if TYPE_CHECKING:
    from simulations.fleet.fleet import Fleet

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
Had = dict[tuple[bytes, int, int], Operation]  # by replica, seq and stamp: a seq alone may be given twice


class Disasters:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world
        self._cloud = fleet.cloud
        self._dice = fleet.world.dice("faults")

    def _device(self) -> DeviceNode:
        return self._dice.choice(self._fleet.devices)

    # -- copies -------------------------------------------------------------------------------------------------------

    def rollback(self) -> None:
        """The files are set back to a copy that was made a while ago."""
        device = self._device()
        copy = device.directory / f"copy-{self._world.now_ms}"
        if device.edge is None:
            return
        self._fleet.look_at_logs()
        device.shut_down()
        copy_store(device, copy)
        had = self._had(device)
        self._world.note(device.name, "its files are copied")
        self._world.at(500, device.boot)
        self._world.at(self._dice.randrange(MINUTE_MS, 4 * HOUR_MS), lambda: self._set_back(device, copy, had))

    def snapshot_back(self) -> None:
        """The same, with the product's own snapshot."""
        device = self._device()
        target = device.directory / f"snapshot-{self._world.now_ms}"
        if device.edge is None:
            return
        self._fleet.look_at_logs()
        try:
            device.edge.snapshot(target)
        except (StorageError, SystemError) as error:
            # apsw cannot carry an exception of a VFS in Python out of a backup that ends; SQLite's own VFS has none.
            self._world.note(device.name, f"snapshot fails: {getattr(error, 'code', 'system')}")
            device.check_death()
            return
        had = self._had(device)
        self._world.note(device.name, "takes a snapshot")
        self._world.at(self._dice.randrange(MINUTE_MS, 4 * HOUR_MS), lambda: self._set_back(device, target, had))

    def _had(self, device: DeviceNode) -> Had:
        """What the copy has."""
        mine = self._fleet.oracle(device).of(device.name)
        return {_name(held.operation): held.operation for held in mine}

    def _set_back(self, device: DeviceNode, copy: object, had: Had) -> None:
        if device.edge is None or not self._cloud.up:
            self._world.at(MINUTE_MS, lambda: self._set_back(device, copy, had))
            return
        oracle = self._fleet.oracle(device)
        self._fleet.spare_disks()
        self._fleet.look_at_logs()
        device.shut_down()
        suspects = [held for held in oracle.of(device.name) if not _has(held, had)]
        oracle.copied_devices |= {device_of(replica) for replica, _, _ in had}
        # What nobody else has any more whose writer cannot give it back may have had its last copy here, too.
        writers = {other.name for other in self._fleet.devices if not other.revoked}
        orphans = [held for held in oracle.written.values() if held.node not in writers]
        gone = oracle.excuse("store set back", self._survivors(device), [*suspects, *orphans])
        for held in suspects:
            oracle.retire(held)
        oracle.reinstate(device.name, had.values())
        shutil.rmtree(device.store)
        shutil.copytree(str(copy), device.store)
        device.disk.reload()
        device.forget()
        self._world.note(
            device.name,
            f"its store is set back to an older copy; {gone} operations are nowhere else",
            count="stores set back",
        )
        self._world.at(500, device.boot)

    def clone(self) -> None:
        """The store is copied onto a second machine, and both go on."""
        device = self._device()
        if device.edge is None or device.rotten:
            return
        self._fleet.look_at_logs()
        device.shut_down()
        twin = self._fleet.add_twin(device)
        copy_store(device, twin.store)
        twin.disk.reload()
        twin.lives, twin.revoked = 1, device.revoked
        if twin.steered is not None and device.steered is not None:
            twin.steered.copied_from(device.steered)
        self._fleet.oracle(device).copied(device.name, twin.name)
        self._world.note(device.name, f"is cloned onto {twin.name}", count="stores cloned")
        self._world.at(500, device.boot)
        self._world.at(500, twin.boot)

    # -- the cloud's data ----------------------------------------------------------------------------------------------

    def cloud_restore(self) -> None:
        self._restore({})

    def cloud_restore_earlier(self) -> None:
        """To a position that the operator thinks was good."""
        if not self._cloud.up:
            self._world.at(5 * MINUTE_MS, self.cloud_restore_earlier)
            return
        target = {}
        for fleet in self._cloud.fleets:
            with self._cloud.store.reading() as view:
                known = [at for held, _, at in sorted(self._cloud.digests) if held == fleet and at]
                held_up_to = min(view.head(fleet).position, load_state(view, fleet).position)
                known = [at for at in known if at <= held_up_to]
            if known:
                target[fleet] = self._dice.choice(known)
        self._restore(target)

    def _restore(self, target: dict[bytes, int]) -> None:
        cloud = self._cloud
        trouble, cloud.objects.trouble = cloud.objects.trouble, 0.0
        forgets, cloud.objects.forgets = cloud.objects.forgets, 0.0
        ready = all(any(held == fleet for held, _, _ in cloud.digests) for fleet in cloud.fleets)
        if not cloud.up or not ready or any(device.edge is None for device in self._fleet.devices):
            self._world.at(5 * MINUTE_MS, lambda: self._restore(target))
            cloud.objects.trouble, cloud.objects.forgets = trouble, forgets
            return
        self._fleet.spare_disks()
        self._fleet.look_at_logs()
        cloud.follow()
        cloud.restore(target)
        if self._fleet.steering is not None:
            self._fleet.steering.restored(earlier=bool(target))
        self._fleet.check_revocations()
        cloud.follow()
        for fleet in cloud.fleets:
            members = [device for device in self._fleet.devices if device.fleet == fleet and not device.revoked]
            images = [cloud.images(fleet), *(all_images(device) for device in members)]
            oracle = self._fleet.oracles[fleet]
            suspects = [held for held in oracle.written.values() if not held.excused]
            gone = oracle.excuse("cloud restored to an earlier time", images, suspects)
            oracle.forget_answers(images)
            self._world.note("cloud", f"{gone} operations are nowhere any more")
        cloud.objects.trouble, cloud.objects.forgets = trouble, forgets

    # -- inside --------------------------------------------------------------------------------------------------------

    def _survivors(self, apart: DeviceNode) -> list[dict[Place, bytes]]:
        members = [
            device
            for device in self._fleet.devices
            if device.fleet == apart.fleet and device is not apart and device.edge is not None and not device.revoked
        ]
        return [self._cloud.images(apart.fleet), *(all_images(device) for device in members)]


def _has(held: Written, had: Had) -> bool:
    """The same write, whose stamp and seq may have moved since."""
    return any(_name(operation) in had for operation in (held.operation, *held.earlier))


def _name(operation: Operation) -> tuple[bytes, int, int]:
    return operation.replica, operation.seq, operation.ts


def all_images(device: DeviceNode) -> dict[Place, bytes]:
    """Every record image of a device that is up, tombstones too."""
    log = device.opened.log
    log.fold()
    rows = log.reader.walk("SELECT c.name, r.key, r.image FROM collections c JOIN records r ON r.collection = c.id")
    return {(name, key): image for name, key, image in rows}


def living(image: bytes | None) -> bytes | None:
    """What all have alike of a record; None of one that is dead, or not there."""
    return None if image is None else living_image(image)


def copy_store(source: DeviceNode, target: Path) -> None:
    """A copy of the files of a store whose process is down: what a backup tool, or a thief of SD cards, takes."""
    assert source.edge is None
    shutil.copytree(source.store, target, ignore=shutil.ignore_patterns("*-shm"))
