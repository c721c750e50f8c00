"""Failures that other sync and backup engines shipped, one test each: those of snapshots and of the archive.

A snapshot has to be of one moment, its data and its clock alike; a backup has to go on after a restore.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cloud.storage.archive import snapshots
from cloud.storage.archive.anchor import MemoryAnchor
from cloud.storage.archive.restore import Restored, restore_fleet
from cloud.storage.archive.verify import verify
from cloud.storage.archive.writer import Archive
from cloud.storage.objects import open_objects
from cloud.storage.sqlite_store import SqliteStore
from tests.contracts.fleet_world import Cloud, Device
from tests.contracts.test_convergence import close, copy_of, fleet, heal


class ArchivedCloud(Cloud):
    """A cloud with an archive; ``perish`` takes its database away, and the archive and the keys are what is left."""

    def __init__(self, directory: Path, seed: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.objects = open_objects("memory://")
        self.anchor = MemoryAnchor()
        super().__init__(directory, seed)

    @property
    def archive(self) -> Archive:
        return Archive(self.store, self.objects, self.keys, self.fleet, clock=self.clock, anchor=self.anchor)

    @property
    def head(self) -> int:
        with self.store.reading() as view:
            return view.head(self.fleet).position

    def perish(self) -> None:
        self.store.close()
        for file in self.directory.glob("cloud.db*"):
            file.unlink()

    def recover(self, **target: Any) -> Restored:
        self.perish()
        store = SqliteStore.open(self.directory / "cloud.db")
        restored = restore_fleet(
            self.objects, self.keys, store, self.fleet, random=self.random, anchor=self.anchor, **target
        )
        store.close()
        self.open()
        return restored


def archived(directory: Path, seed: int, count: int) -> tuple[ArchivedCloud, list[Device]]:
    cloud = ArchivedCloud(directory / "cloud", seed)
    return cloud, [Device(directory / f"d{n}", cloud, f"d{n}", seed * 100 + n) for n in range(count)]


def missing(device: Device, keys: list[str]) -> list[str]:
    return [key for key in keys if key not in device.notes]


# -- snapshots and their clocks ---------------------------------------------------------------------------------------


def test_a_devices_snapshot_has_the_clock_of_its_data(tmp_path: Path) -> None:
    """Super Productivity (pull request 9002, issue 9011): a snapshot's clock covered operations that were not in it,
    and clients that started from it never got them; or it lagged, and what came after was taken for known.

    Here a snapshot is made before each page of a pull and after it, on a machine whose clock is ahead, and each is
    opened elsewhere, where it is right: it must miss nothing, and write what is later than all that it holds.
    """
    cloud, (device, other) = fleet(tmp_path, 21, count=2)
    heal(cloud, [device, other])
    keys = [f"k{n}" for n in range(12)]
    for key in keys:
        other.notes.put(key, {"text": "first", "visits": 1})
    assert other.sync()
    device.clock.now_ms += 90_000
    taken: list[Path] = []

    def snapshot() -> None:
        device.notes.put("mine", {"text": f"before snapshot {len(taken)}"})
        taken.append(tmp_path / f"snapshot{len(taken)}")
        device.edge.snapshot(taken[-1])
        if len(taken) < 4:
            device.before = {"Pull": snapshot}

    device.before = {"Pull": snapshot}
    assert device.sync()
    snapshot()
    heal(cloud, [device, other])
    assert len(taken) >= 4
    for number, path in enumerate(taken):
        copy = Device.__new__(Device)
        copy.__dict__.update(other.__dict__, path=path, name=path.name, before={}, delayed=[])
        copy.key, copy.ring = device.key, device.ring
        copy.open()
        copy.crash()  # what it learned when it found out that it is a copy has to be on its disk
        assert (copy.notes.get("mine") or {}).get("text") == f"before snapshot {number}"
        copy.notes.patch("mine", {"text": "by the copy"})
        assert (copy.notes.get("mine") or {}).get("text") == "by the copy"
        assert copy.sync()
        assert missing(copy, keys) == []
        for each in (device, copy):
            assert each.sync()
            assert [(each.notes.get(key) or {}).get("visits") for key in keys] == [1] * len(keys)
        assert device.edge.digest() == copy.edge.digest() == cloud.digest()
        copy.edge.close()
    close(cloud, [device, other])


def test_what_only_a_snapshot_has_reaches_the_fleet(tmp_path: Path) -> None:
    """As above, the reverse: the original is gone, and what it had not pushed is in its snapshot alone."""
    cloud, (device, other) = fleet(tmp_path, 27, count=2)
    heal(cloud, [device, other])
    device.notes.put("owed", {"text": "never pushed by the original", "visits": 3})
    device.edge.snapshot(tmp_path / "snapshot")
    device.edge.close()
    device.path = tmp_path / "snapshot"
    device.open()
    device.crash()
    assert device.sync()
    assert other.sync()
    assert (other.notes.get("owed") or {}).get("visits") == 3
    heal(cloud, [device, other])
    close(cloud, [device, other])


def test_a_baselines_cursor_is_that_of_its_first_page(tmp_path: Path) -> None:
    """As above, for what a new device starts from: whatever changes while its pages are read comes again."""
    cloud, (writer,) = fleet(tmp_path, 22, count=1)
    keys = [f"k{n:02}" for n in range(12)]
    for key in keys:
        writer.notes.put(key, {"text": key * 40_000, "visits": 1})
    for key in keys:
        writer.notes.patch(key, {"mood": "so that a baseline is shorter than the feed"})
    heal(cloud, [writer])
    late = Device(tmp_path / "late", cloud, "late", 2299)
    pages: list[int] = []

    def meanwhile() -> None:
        pages.append(len(pages))
        if pages[-1] > 0:  # the first page is there, with the oldest keys in it
            writer.notes.patch(keys[0], {"text": f"changed after page {pages[-1]}"})
            writer.notes.increment(keys[1], "visits", 1)
            writer.notes.put(f"a{pages[-1]}", {"text": "sorts before all that was read"})
            writer.notes.delete(keys[pages[-1] + 1])
            assert writer.sync()
        late.before = {"PullBaseline": meanwhile}

    late.before = {"PullBaseline": meanwhile}
    assert late.sync()
    assert len(pages) >= 3
    late.before.clear()
    assert (late.notes.get(keys[1]) or {}).get("visits") == len(pages)
    heal(cloud, [writer, late])
    close(cloud, [writer, late])


def test_an_archived_snapshot_is_of_the_position_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for the archive's snapshots: devices go on pushing while one is made, and a restore to any position
    before, at and after it has what was written up to there, no less and no more.
    """
    monkeypatch.setattr(snapshots, "PART_BYTES", 1)
    monkeypatch.setattr(snapshots, "_SEGMENT_RECORDS_MAX", 2)
    cloud, (writer, other) = archived(tmp_path, 23, count=2)
    digests: dict[int, str] = {}

    def note() -> None:
        digests[cloud.head] = cloud.digest()

    for n in range(8):
        writer.notes.put(f"k{n}", {"text": str(n), "visits": 1})
        assert writer.sync()
        note()
    cloud.archive.run_once()
    parts = 0

    def meanwhile(_done: int, _total: int) -> None:
        nonlocal parts
        parts += 1
        writer.notes.increment("k0", "visits", 1)
        writer.notes.increment("k7", "visits", 1)
        if parts == 1:
            writer.notes.delete("k6")
        assert writer.sync()
        note()

    cloud.archive.snapshot(meanwhile)
    assert parts >= 3
    writer.notes.put("after", {"text": "the snapshot"})
    assert writer.sync()
    note()
    cloud.archive.run_once()
    heal(cloud, [writer, other])
    assert verify(cloud.objects, cloud.keys, cloud.fleet, anchor=cloud.anchor).problems == []
    for position, digest in sorted(digests.items()):
        store = SqliteStore.open(tmp_path / f"at-{position}.db")
        restored = restore_fleet(
            cloud.objects, cloud.keys, store, cloud.fleet, random=cloud.random, position=position, anchor=cloud.anchor
        )
        assert (restored.position, restored.digest) == (position, digest)
        assert store.verify() == []
        store.close()
    close(cloud, [writer, other])


# -- restores and what comes after them -------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", [False, True], ids=["feed only", "with a snapshot"])
def test_a_restored_cloud_is_archived_again_at_once(tmp_path: Path, *, snapshot: bool) -> None:
    """Litestream 0.5.0 (issue 781): after a restore, nothing was backed up until the new transaction ids had passed the
    old high-water mark; what was written meanwhile was lost by the next restore.
    """
    cloud, (writer, other) = archived(tmp_path, 24, count=2)
    for n in range(5):
        writer.notes.put(f"early{n}", {"text": str(n)})
    heal(cloud, [writer, other])
    cloud.archive.run_once()
    if snapshot:
        cloud.archive.snapshot()
    target = cloud.head
    for n in range(60):
        writer.notes.patch(f"early{n % 5}", {"text": f"again {n}"})
    heal(cloud, [writer, other])
    cloud.archive.run_once()
    mark = cloud.archive.state.position
    cloud.recover(position=target)
    for each in (writer, other):
        each.edge.close()
    newcomer = Device(tmp_path / "new", cloud, "new", 2499)
    later = [f"later{n}" for n in range(4)]
    for key in later:
        newcomer.notes.put(key, {"text": "below the old mark"})
        assert newcomer.sync()
        run = cloud.archive.run_once()
        assert run.manifests >= 1
        assert run.position == cloud.head < mark
    digest = cloud.digest()
    again = cloud.recover()
    assert (again.digest, cloud.digest()) == (digest, digest)
    newcomer.edge.close()
    shutil.rmtree(tmp_path / "new")
    last = Device(tmp_path / "last", cloud, "last", 2498)
    assert last.sync()
    assert missing(last, later) == []
    cloud.archive.run_once()
    assert verify(cloud.objects, cloud.keys, cloud.fleet, anchor=cloud.anchor).problems == []
    close(cloud, [last])


@pytest.mark.parametrize("stays", [False, True], ids=["its author is gone for good", "its author comes back"])
def test_a_relay_lost_after_the_ack_comes_back_from_its_archive(tmp_path: Path, *, stays: bool) -> None:
    """As for the wiped relay in ``test_known_failures`` (Nextcloud, ownCloud), with the database gone altogether, and
    with it, possibly, the only device that had written and was acknowledged.
    """
    cloud, (author, other) = archived(tmp_path, 25, count=2)
    keys = [f"k{n}" for n in range(30)]
    for key in keys:
        author.notes.put(key, {"text": key, "visits": 1})
    author.notes.delete(keys[3])
    assert author.sync()
    cloud.archive.run_once()
    for n in range(5):
        author.notes.increment("k0", "visits", 1)
        author.notes.put(f"unarchived{n}", {"text": "acknowledged, and not in the archive yet"})
    assert author.sync()
    author.edge.log.trim(author.edge.log.position)
    acknowledged = cloud.head
    assert cloud.recover().position < acknowledged
    if stays:
        heal(cloud, [author, other])
        assert missing(other, [f"unarchived{n}" for n in range(5)]) == []
        assert (other.notes.get("k0") or {}).get("visits") == 6
    else:
        heal(cloud, [other])
    assert missing(other, keys) == [keys[3]]
    other.notes.put("goes on", {"text": "and so does the archive"})
    assert other.sync()
    cloud.archive.run_once()
    digest = cloud.digest()
    assert cloud.recover().digest == digest
    heal(cloud, [author, other] if stays else [other])
    close(cloud, [author, other])


def test_a_clone_that_meets_a_cloud_from_the_archive_counts_once(tmp_path: Path) -> None:
    """As for restored counters in ``test_known_failures`` (actor-ts), with both sides put back to different moments."""
    cloud, (device, other) = archived(tmp_path, 26, count=2)
    device.notes.put("k", {"visits": 1})
    heal(cloud, [device, other])
    cloud.archive.run_once()
    clone = copy_of(device, tmp_path / "clone")
    device.notes.increment("k", "visits", 10)
    other.notes.increment("k", "visits", 100)
    heal(cloud, [device, other])
    cloud.recover()
    heal(cloud, [clone, other, device])
    for each in (clone, other, device):
        assert (each.notes.get("k") or {}).get("visits") == 111
    close(cloud, [device, other, clone])


def test_a_cursor_from_beyond_the_target_of_a_restore_counts_for_nothing(tmp_path: Path) -> None:
    """As for the cursor in ``test_known_failures`` (Harper), with a restore to an earlier position by the archive: a
    reader has what the cloud then lacks, and must both give it back and read what is written in its place.
    """
    cloud, (author, reader, other) = archived(tmp_path, 28, count=3)
    author.notes.put("early", {"text": "before the target"})
    heal(cloud, [author, reader, other])
    target = cloud.head
    lost = [f"lost{n}" for n in range(12)]
    for key in lost:
        author.notes.put(key, {"text": "after the target"})
    assert author.sync()
    assert reader.sync()
    cloud.archive.run_once()
    cursor = reader.edge.log.cursor
    cloud.recover(position=target)
    instead = [f"instead{n}" for n in range(20)]
    for key in instead:
        other.notes.put(key, {"text": "where the lost ones were"})
    assert other.sync()
    assert cloud.head > cursor
    assert reader.sync()
    assert missing(reader, instead) == []
    assert other.sync()
    assert missing(other, lost) == [], "and their author never comes back"
    heal(cloud, [reader, other, author])
    close(cloud, [author, reader, other])
