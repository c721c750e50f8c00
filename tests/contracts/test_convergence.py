"""Whatever the wire, the disks and the people do: afterwards all replicas hold the same bytes, and nothing is lost.

Each seed is one history of real devices and a real control plane (``fleet_world``). The full simulator comes with
virtual time and broken disks; this is the part of it that every change of the protocol has to pass at once.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from sync.keys import KeyRing, unwrap
from tests.cloud.identity_world import NOW_MS, SeededRandom, SetClock
from tests.contracts.fleet_world import NOTES, Cloud, Device

KEYS = [f"k{n}" for n in range(6)]


def heal(cloud: Cloud, devices: list[Device]) -> None:
    """A good wire for everybody, until nobody has anything to say."""
    for _ in range(4):
        for device in devices:
            assert device.sync(), f"{device.name} does not come to rest: {device.edge.status()['log']}"
    digests = {device.name: device.edge.digest() for device in devices}
    assert set(digests.values()) == {cloud.digest()}, digests


def fleet(directory: Path, seed: int, count: int = 3) -> tuple[Cloud, list[Device]]:
    (directory / "cloud").mkdir()
    cloud = Cloud(directory / "cloud", seed)
    return cloud, [Device(directory / f"d{n}", cloud, f"d{n}", seed * 100 + n) for n in range(count)]


def close(cloud: Cloud, devices: list[Device]) -> None:
    for device in devices:
        device.edge.close()
    cloud.store.close()


@pytest.mark.parametrize("seed", range(12))
def test_a_lossy_wire_and_crashes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cloud, devices = fleet(tmp_path, seed)
    for _ in range(40):
        device = rng.choice(devices)
        what = rng.random()
        if what < 0.6:
            for _ in range(rng.randrange(1, 6)):
                device.write(KEYS)
        elif what < 0.9:
            device.sync(loss=rng.choice([0.0, 0.2, 0.5]), steps=rng.randrange(1, 30))
        else:
            device.crash()
    heal(cloud, devices)
    for device in devices:
        assert device.edge.verify() == []
    close(cloud, devices)


@pytest.mark.parametrize("seed", range(6))
def test_a_cloud_restored_to_an_earlier_time_gets_everything_back(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cloud, devices = fleet(tmp_path, seed)
    backup = None
    written = 0
    for step in range(40):
        device = rng.choice(devices)
        if step == 15:
            backup = cloud.backup()
        if step == 30:
            assert backup is not None
            cloud.restore(backup)
        if rng.random() < 0.6:
            device.notes.put(f"only-{device.name}-{written}", {"text": "must not be lost"})
            written += 1
            device.write(KEYS)
        else:
            device.sync(loss=0.2, steps=rng.randrange(1, 40))
    heal(cloud, devices)
    for device in devices:
        for n in range(written):
            assert any(f"only-{other.name}-{n}" in device.notes for other in devices), f"record {n} is lost"
    close(cloud, devices)


@pytest.mark.parametrize("seed", range(6))
def test_a_device_rolled_back_to_an_old_copy_of_its_store(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cloud, devices = fleet(tmp_path, seed)
    victim = devices[0]
    for _ in range(10):
        victim.write(KEYS)
    victim.sync(loss=0.1)
    victim.edge.close()
    shutil.copytree(victim.path, tmp_path / "old")
    victim.open()
    for _ in range(rng.randrange(1, 20)):
        victim.write(KEYS)
    victim.sync(loss=0.1)
    for device in devices[1:]:
        device.sync()
        device.write(KEYS)
    victim.edge.close()
    shutil.rmtree(victim.path)
    shutil.copytree(tmp_path / "old", victim.path)
    victim.open()
    for n in range(rng.randrange(30)):
        victim.write(KEYS)
        victim.notes.put(f"after-{n}", {"text": "written by the old copy"})
    heal(cloud, devices)
    for device in devices:
        assert all(f"after-{m}" in device.notes for m in range(n + 1 if "n" in dir() else 0))
    close(cloud, devices)


def test_a_cloned_store_becomes_a_second_replica(tmp_path: Path) -> None:
    cloud, (device,) = fleet(tmp_path, 1, count=1)
    device.notes.put("shared", {"text": "before the copy"})
    device.sync()
    device.edge.close()
    shutil.copytree(device.path, tmp_path / "clone")
    device.open()
    device.notes.put("original", {"text": "written by the original"})
    assert device.sync()
    clone = Device.__new__(Device)
    clone.__dict__.update(device.__dict__, path=tmp_path / "clone", name="clone")
    clone.open()
    clone.notes.put("clone", {"text": "written by the clone"})
    clone.notes.put("clone2", {"text": "and again"})
    heal(cloud, [device, clone])
    assert {"shared", "original", "clone", "clone2"} <= {key for key, _ in device.notes.scan()}
    assert device.edge.log.replica != clone.edge.log.replica
    close(cloud, [device, clone])


def test_a_clone_misses_nothing_that_its_original_wrote_under_their_name(tmp_path: Path) -> None:
    """A device is never sent what stands in the feed under its own name. The clone reads past such an operation of the
    original's before it learns, by its own push, that they are two.
    """
    cloud, (device, other) = fleet(tmp_path, 1, count=2)
    device.notes.put("shared", {"text": "before the copy"})
    device.sync()
    device.edge.close()
    shutil.copytree(device.path, tmp_path / "clone")
    device.open()
    clone = Device.__new__(Device)
    clone.__dict__.update(device.__dict__, path=tmp_path / "clone", name="clone")
    clone.open()
    other.notes.put("other", {"text": "so that the clone has something to pull"})
    assert other.sync()

    def meanwhile() -> None:
        device.notes.put("original", {"text": "written by the original"})
        assert device.sync()
        other.notes.put("other2", {"text": "so that its cursor moves past it"})
        assert other.sync()

    clone.before = {"Pull": meanwhile}
    clone.sync(steps=400)
    clone.notes.put("clone", {"text": "written by the clone"})
    heal(cloud, [device, clone, other])
    assert "original" in clone.notes
    close(cloud, [device, clone, other])


def copy_of(device: Device, path: Path, *, running: bool = False) -> Device:
    """A second device from a copy of the first one's directory, made while it is ``running`` if nothing is written."""
    if not running:
        device.edge.close()
    shutil.copytree(device.path, path)
    if not running:
        device.open()
    clone = Device.__new__(Device)
    clone.__dict__.update(device.__dict__, path=path, name=path.name, before={}, delayed=[], clock=SetClock(NOW_MS))
    clone.open()
    return clone


@pytest.mark.parametrize("ahead", [False, True], ids=["at once", "one after the other"])
def test_two_copies_that_both_have_to_push_their_state(tmp_path: Path, *, ahead: bool) -> None:
    """Opened from a snapshot, a store has a new name and owes its state; it is copied before it has paid."""
    cloud, (device, other) = fleet(tmp_path, 3, count=2)
    other.notes.put("b", {"text": "1"})
    heal(cloud, [device, other])
    device.edge.snapshot(tmp_path / "snapshot")
    device.edge.close()
    shutil.rmtree(device.path)
    shutil.copytree(tmp_path / "snapshot", device.path)
    device.open()
    clone = copy_of(device, tmp_path / "clone")
    clone.notes.put("K", {"text": "of the clone"})
    for key in ("A", "B", "C"):
        device.notes.put(key, {"text": "of the original"})
    if ahead:  # one has paid, went on under the name that the other still has, and never comes back
        assert clone.sync()
        clone.notes.put("ordinary", {"text": "an operation of its log"})
        assert clone.sync()
        other.notes.put("so that", {"text": "the head moves beyond it"})
        assert other.sync()
    heal(cloud, [device, other] if ahead else [clone, device, other])
    assert ("ordinary" in device.notes) == ahead
    assert {"A", "K"} <= {key for key, _ in device.notes.scan()}
    assert device.edge.log.replica != clone.edge.log.replica
    close(cloud, [device, clone, other])


@pytest.mark.parametrize("steps", [4, 6, 8, 10, 12])
def test_a_clones_repair_is_interrupted_and_its_original_reads_on(tmp_path: Path, steps: int) -> None:
    """State segments before the last one leave no trace in the chain: the original is sent them though they bear its
    name.
    """
    cloud, (device, other) = fleet(tmp_path, 3, count=2)
    for n in range(30):
        other.notes.put(f"b{n}", {"text": str(n)})
    heal(cloud, [device, other])
    backup = cloud.backup()
    for n in range(100):
        other.notes.patch("b1", {"text": str(n)})
    heal(cloud, [device, other])
    clone = copy_of(device, tmp_path / "clone")
    for n in range(30):
        clone.notes.put(f"A-clone{n}", {"text": "of the clone"})
    cloud.restore(backup)
    clone.sync(steps=steps)
    assert device.sync()
    heal(cloud, [device, clone, other])
    assert "A-clone29" in device.notes
    close(cloud, [device, clone, other])


def test_a_clone_is_quicker_with_a_restored_cloud_and_writes_on(tmp_path: Path) -> None:
    """What stands under the original's name came in the cloud's present life, and is not its own."""
    cloud, (device, other) = fleet(tmp_path, 3, count=2)
    device.notes.put("a", {"text": "1"})
    heal(cloud, [device, other])
    backup = cloud.backup()
    device.notes.put("a", {"text": "2"})
    heal(cloud, [device, other])
    clone = copy_of(device, tmp_path / "clone")
    cloud.restore(backup)
    assert clone.sync()
    clone.notes.put("clone", {"text": "an ordinary operation, under the name that both have"})
    assert clone.sync()
    device.notes.put("device", {"text": "of the original"})
    heal(cloud, [device, clone, other])
    assert {"clone", "device"} <= {key for key, _ in device.notes.scan()}
    close(cloud, [device, clone, other])


def test_a_clone_is_quicker_with_a_restored_cloud_and_has_written_less(tmp_path: Path) -> None:
    """What it pushed stands where the original's own operations stood, which were acknowledged in the life before."""
    cloud, (device,) = fleet(tmp_path, 8, count=1)
    device.notes.put("shared", {"text": "before the copy"})
    assert device.sync()
    backup = cloud.backup()
    clone = copy_of(device, tmp_path / "clone")
    for number in range(3):
        device.notes.put(f"original {number}", {"text": "acknowledged, and lost by the cloud"})
    assert device.sync()
    cloud.restore(backup)
    clone.notes.put("clone", {"text": "pushed first in the new life"})
    assert clone.sync()
    heal(cloud, [device, clone])
    wanted = {"shared", "clone", *(f"original {number}" for number in range(3))}
    assert {key for key, _ in device.notes.scan()} == {key for key, _ in clone.notes.scan()} == wanted
    close(cloud, [device, clone])


@pytest.mark.parametrize("pages", [1, 2])
def test_a_device_that_writes_while_its_first_baseline_comes_hears_of_deletes(tmp_path: Path, pages: int) -> None:
    cloud, (device, other) = fleet(tmp_path, 3, count=2)
    device.clock.now_ms += 500
    for n in range(30):
        device.notes.put(f"k{n}", {"text": f"{n:02}" * 20_000 * (pages - 1)})
    device.notes.delete("k1")
    heal(cloud, [device, other])
    (tmp_path / "late").mkdir()
    late = Device.__new__(Device)
    late.__dict__.update(other.__dict__, path=tmp_path / "late" / "store", name="late", before={}, delayed=[])
    late.random, late.clock = SeededRandom(99), SetClock(NOW_MS)
    late.open()
    late.key = late.edge.device_key()
    enrolled = cloud.enroll(late.edge, "late")
    late.ring = KeyRing({item.epoch: unwrap(item.wrapped, late.key, cloud.fleet, item.epoch) for item in enrolled.keys})

    def meanwhile() -> None:
        if pages == 2 and late.edge.log.baseline in (None, b""):
            late.before = {"PullBaseline": meanwhile}
            return
        late.notes = late.edge.collection("notes", **NOTES)
        late.notes.put("k1", {"text": "written before the delete was heard of, and stamped before it"})

    late.before = {"PullBaseline": meanwhile}
    assert late.sync()
    assert "k1" not in late.notes
    heal(cloud, [device, other, late])
    close(cloud, [device, other, late])


@pytest.mark.parametrize("meets", [False, True], ids=["one after the other", "between its repair and its pull"])
def test_a_clone_and_its_original_meet_a_restored_cloud(tmp_path: Path, *, meets: bool) -> None:
    """What was known of feed positions under the old life of the cloud says nothing about the new one's."""
    cloud, (device, other) = fleet(tmp_path, 3, count=2)
    for n in range(30):
        other.notes.put(f"b{n}", {"text": str(n)})
    heal(cloud, [device, other])
    backup = cloud.backup()
    for n in range(100):
        other.notes.patch("b1", {"text": str(n)})
    heal(cloud, [device, other])
    device.edge.close()
    shutil.copytree(device.path, tmp_path / "clone")
    device.open()
    clone = Device.__new__(Device)
    clone.__dict__.update(device.__dict__, path=tmp_path / "clone", name="clone", before={})
    clone.open()
    clone.notes.put("clone", {"text": "written by the clone"})
    cloud.restore(backup)
    if meets:
        device.before = {"Pull": clone.sync}
    assert device.sync()
    heal(cloud, [device, clone, other])
    assert "clone" in device.notes
    close(cloud, [device, clone, other])


def test_a_third_device_joins_from_a_baseline(tmp_path: Path) -> None:
    cloud, devices = fleet(tmp_path, 3, count=2)
    for _ in range(60):
        for device in devices:
            device.write(KEYS)
            device.sync(steps=20)
    heal(cloud, devices)
    late = Device(tmp_path / "late", cloud, "late", 77)
    assert late.sync()
    assert late.edge.log.cursor > 0
    heal(cloud, [*devices, late])
    close(cloud, [*devices, late])


def test_refusals_whose_ack_was_lost_come_with_the_next_handshake(tmp_path: Path) -> None:
    cloud, (device, other) = fleet(tmp_path, 5, count=2)
    device.notes.put("first", {"text": "to push, so that the link is up when the clock jumps"})

    def jump() -> None:
        device.clock.now_ms += 3_600_000
        device.notes.put("early", {"text": "from the future"})
        device.before = {"Push": lambda: setattr(device, "lose_next_answer_to", "Push")}

    device.before = {"Push": jump}
    device.sync()
    assert [letter.key for letter in device.edge.log.dead_letters()] == ["early"]
    assert [letter.code for letter in cloud.plane.dead_letters(cloud.fleet)] == ["future-stamp"]
    other.notes.put("k", {"text": "not held up"})
    assert other.sync()
    assert device.sync()
    assert "k" in device.notes
    assert other.sync()
    assert "early" in other.notes
    close(cloud, [device, other])


def test_a_cloud_restored_twice_while_a_device_was_away(tmp_path: Path) -> None:
    """The second restore begins after the device's cursor; what the first one lost is noticed all the same."""
    cloud, (away, other) = fleet(tmp_path, 9, count=2)
    other.notes.put("kept", {"text": "in the backup"})
    assert other.sync()
    first = cloud.backup()
    other.notes.put("lost", {"text": "away has seen it, the cloud forgets it"})
    assert other.sync()
    assert away.sync()
    assert "lost" in away.notes
    cloud.restore(first)
    newcomer = Device(tmp_path / "new", cloud, "newcomer", 44)
    for n in range(9):
        newcomer.notes.put(f"filler-{n}", {"text": "moves the head beyond away's cursor"})
    assert newcomer.sync()
    cloud.restore(cloud.backup())
    other.edge.close()  # and never comes back
    heal(cloud, [away, newcomer])
    assert "lost" in newcomer.notes
    assert "filler-0" in away.notes
    away.edge.close()
    newcomer.edge.close()
    cloud.store.close()
