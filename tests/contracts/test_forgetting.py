"""Deletes that everybody has read are forgotten on devices, and whatever turns up late resurrects nothing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cloud import control_plane
from sync.keys import KeyRing, unwrap
from tests.cloud.identity_world import SeededRandom, SetClock
from tests.contracts.fleet_world import LEASE_MS, Cloud, Device
from tests.contracts.test_convergence import KEYS, heal

MINUTE_MS = 61_000


class Fleet:
    def __init__(self, directory: Path, seed: int = 1, count: int = 3) -> None:
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", seed)
        self.devices = [Device(directory / f"d{n}", self.cloud, f"d{n}", seed * 100 + n) for n in range(count)]

    def pass_ms(self, ms: int) -> None:
        for clock in (self.cloud.clock, *(device.clock for device in self.devices)):
            clock.now_ms += ms

    def handshakes(self, count: int, devices: Sequence[Device] | None = None) -> None:
        for _ in range(count):
            for device in devices or self.devices:
                assert device.sync()
            self.pass_ms(MINUTE_MS)

    def close(self) -> None:
        for device in self.devices:
            device.edge.close()
        self.cloud.store.close()


def tombstones(device: Device) -> int:
    device.edge.log.fold()
    return int(device.edge.log.reader.one("SELECT count(*) FROM records WHERE living <= 0"))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def newcomer(fleet: Fleet, path: Path) -> Device:
    """A device that has written nothing, not even a declaration, before its first handshake."""
    late = Device.__new__(Device)
    late.__dict__.update(fleet.devices[0].__dict__, path=path, name="late", before={}, delayed=[])
    late.random, late.clock = SeededRandom(99), SetClock(fleet.cloud.clock.now_ms)
    late.open()
    late.key = late.edge.device_key()
    keys = fleet.cloud.enroll(late.edge, "late").keys
    late.ring = KeyRing({item.epoch: unwrap(item.wrapped, late.key, fleet.cloud.fleet, item.epoch) for item in keys})
    fleet.devices.append(late)
    return late


def deleted(fleet: Fleet, count: int = 5) -> None:
    """Records that everybody had, and one device deleted."""
    first = fleet.devices[0]
    for n in range(count):
        first.notes.put(f"old-{n}", {"text": "to be deleted"})
    heal(fleet.cloud, fleet.devices)
    fleet.pass_ms(1_000)
    for n in range(count):
        first.notes.delete(f"old-{n}")
    heal(fleet.cloud, fleet.devices)


def test_what_everybody_has_read_is_forgotten_and_the_cloud_keeps_it(fleet: Fleet) -> None:
    deleted(fleet)
    assert [tombstones(device) for device in fleet.devices] == [5, 5, 5]
    fleet.handshakes(5)
    assert [tombstones(device) for device in fleet.devices] == [0, 0, 0]
    for device in fleet.devices:
        assert device.edge.verify() == []
        assert device.notes.count() == 0
    with fleet.cloud.store.reading() as view:
        assert len(view.lookup(fleet.cloud.fleet, "notes", [f"old-{n}" for n in range(5)])) == 5
    fleet.devices[1].notes.put("old-1", {"text": "anew"})
    heal(fleet.cloud, fleet.devices)
    assert "old-1" in fleet.devices[2].notes


def test_a_device_that_is_away_is_waited_for_until_its_lease_has_run_out(fleet: Fleet) -> None:
    first, second, away = fleet.devices
    first.notes.put("old-0", {"text": "everybody has it"})
    heal(fleet.cloud, fleet.devices)
    first.notes.delete("old-0")
    fleet.handshakes(5, [first, second])
    assert tombstones(first) == 1
    fleet.pass_ms(LEASE_MS)
    fleet.handshakes(5, [first, second])
    assert tombstones(first) == 0
    heal(fleet.cloud, fleet.devices)
    assert "old-0" not in away.notes


@pytest.mark.parametrize("ahead_ms", [0, 5_000], ids=["written before the delete", "written after it"])
def test_what_a_device_brings_after_its_lease_resurrects_nothing_on_those_that_forgot(
    fleet: Fleet, ahead_ms: int
) -> None:
    first, second, away = fleet.devices
    first.notes.put("old-0", {"text": "everybody has it", "tags": ["a"]})
    heal(fleet.cloud, fleet.devices)
    away.notes.patch("old-0", {"mood": "written while away"})
    away.notes.increment("old-0", "visits", 3)
    fleet.pass_ms(2_000)
    first.notes.delete("old-0")
    if ahead_ms:
        fleet.pass_ms(ahead_ms)
        away.notes.patch("old-0", {"mood": "written later than the delete"})
    fleet.handshakes(2, [first, second])
    fleet.pass_ms(LEASE_MS)
    fleet.handshakes(5, [first, second])
    assert tombstones(first) == tombstones(second) == 0
    heal(fleet.cloud, fleet.devices)
    assert [("old-0" in device.notes) for device in fleet.devices] == [bool(ahead_ms)] * 3


def test_a_device_from_a_baseline_without_tombstones_keeps_nothing_that_a_delete_undid(
    fleet: Fleet, tmp_path: Path
) -> None:
    """It has never heard of the delete, and reads the late write from the feed."""
    first, _, away = fleet.devices
    first.notes.put("old-0", {"text": "everybody has it"})
    heal(fleet.cloud, fleet.devices)
    away.notes.put("old-0", {"text": "late"})
    fleet.pass_ms(2_000)
    first.notes.delete("old-0")
    for n in range(20):
        first.notes.put("busy", {"text": f"so that the feed is longer than the state {n}"})
    assert first.sync()
    late = newcomer(fleet, tmp_path / "late")
    assert late.sync()
    late.notes = late.edge.collection("notes")
    assert tombstones(late) == 0, "it came without"
    heal(fleet.cloud, fleet.devices)
    assert "old-0" not in late.notes


def test_an_old_copy_of_a_store_brings_nothing_back(fleet: Fleet, tmp_path: Path) -> None:
    first, second, third = fleet.devices
    first.notes.put("old-0", {"text": "everybody has it"})
    heal(fleet.cloud, fleet.devices)
    third.edge.close()
    shutil.copytree(third.path, tmp_path / "copy")
    third.open()
    third.notes.put("since", {"text": "the copy lacks it"})
    fleet.pass_ms(1_000)
    first.notes.delete("old-0")
    heal(fleet.cloud, fleet.devices)
    fleet.handshakes(5)
    assert tombstones(first) == 0
    third.edge.close()
    shutil.rmtree(third.path)
    shutil.copytree(tmp_path / "copy", third.path)
    third.open()
    third.notes.put("by-the-copy", {"text": "so that it pushes"})
    heal(fleet.cloud, fleet.devices)
    assert "old-0" not in first.notes
    assert {"since", "by-the-copy"} <= {key for key, _ in second.notes.scan()}


def test_a_cloud_restored_to_before_a_delete_that_is_forgotten(fleet: Fleet) -> None:
    """Whoever restores to before a delete that nobody remembers has undone it; the fleet agrees on that."""
    first = fleet.devices[0]
    first.notes.put("old-0", {"text": "everybody has it"})
    first.notes.put("kept", {"text": "and this"})
    heal(fleet.cloud, fleet.devices)
    backup = fleet.cloud.backup()
    fleet.pass_ms(1_000)
    first.notes.delete("old-0")
    first.notes.put("after", {"text": "not in the backup"})
    heal(fleet.cloud, fleet.devices)
    fleet.handshakes(5)
    assert [tombstones(device) for device in fleet.devices] == [0, 0, 0]
    fleet.cloud.restore(backup)
    heal(fleet.cloud, fleet.devices)
    for device in fleet.devices:
        assert {key for key, _ in device.notes.scan()} == {"old-0", "kept", "after"}
    first.notes.delete("old-0")
    heal(fleet.cloud, fleet.devices)
    fleet.handshakes(5)
    assert [tombstones(device) for device in fleet.devices] == [0, 0, 0]


def test_a_cloud_restored_to_before_a_delete_that_is_remembered_hears_of_it(fleet: Fleet) -> None:
    first = fleet.devices[0]
    first.notes.put("old-0", {"text": "everybody has it"})
    heal(fleet.cloud, fleet.devices)
    backup = fleet.cloud.backup()
    fleet.pass_ms(1_000)
    first.notes.delete("old-0")
    heal(fleet.cloud, fleet.devices)
    fleet.cloud.restore(backup)
    heal(fleet.cloud, fleet.devices)
    assert "old-0" not in fleet.devices[2].notes


@pytest.mark.parametrize("seed", range(10))
def test_whoever_is_away_for_however_long(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fleet = Fleet(tmp_path, seed + 1, count=4)
    backup = None
    forgot = 0
    for step in range(120):
        fleet.pass_ms(rng.choice([10, 1_000, MINUTE_MS, LEASE_MS // 3]))
        device = rng.choice(fleet.devices[: rng.choice([2, 4])])
        what = rng.random()
        if step == 50:
            backup = fleet.cloud.backup()
        if step == 80 and seed % 2 and backup:
            fleet.cloud.restore(backup)
        if what < 0.4:
            for _ in range(rng.randrange(1, 5)):
                device.write(KEYS)
            if rng.random() < 0.5:
                for key in rng.sample(KEYS, 2):
                    if key in device.notes:
                        device.notes.delete(key)
        elif what < 0.95:
            before = tombstones(device)
            device.sync(loss=rng.choice([0.0, 0.0, 0.3]), steps=rng.choice([10, 400]))
            forgot += tombstones(device) < before
        else:
            device.crash()
    heal(fleet.cloud, fleet.devices)
    for device in fleet.devices:
        assert device.edge.verify() == []
    assert forgot
    fleet.close()


def test_new_devices_and_an_old_cloud(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "PROTOCOL_VERSIONS", (1,))
    deleted(fleet)
    fleet.handshakes(5)
    assert [tombstones(device) for device in fleet.devices] == [5, 5, 5]
    monkeypatch.undo()
    fleet.handshakes(6)
    assert [tombstones(device) for device in fleet.devices] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_old_devices_and_new_ones_in_one_fleet(tmp_path: Path, seed: int) -> None:
    """A device of the first version forgets nothing, and understands what the others and the cloud say."""
    rng = random.Random(seed)
    fleet = Fleet(tmp_path, seed + 1)
    old = fleet.devices[0]
    for _ in range(60):
        fleet.pass_ms(rng.choice([10, 1_000, MINUTE_MS]))
        device = rng.choice(fleet.devices)
        if rng.random() < 0.5:
            device.write(KEYS)
        else:
            device.sync(loss=rng.choice([0.0, 0.2]), versions=(1,) if device is old else (1, 2))
    for _ in range(4):
        for device in fleet.devices:
            assert device.sync(versions=(1,) if device is old else (1, 2))
        fleet.pass_ms(MINUTE_MS)
    assert {device.edge.digest() for device in fleet.devices} == {fleet.cloud.digest()}
    assert [bool(device.edge.log.meta_get("marked")) for device in fleet.devices] == [False, True, True]
    fleet.close()
