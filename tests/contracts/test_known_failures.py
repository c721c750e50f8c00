"""Failures that other sync engines shipped, one test each: the docstring names the engine and what became of its users.

They are driven through the real parts, as in ``fleet_world``. What concerns snapshots and the archive is in
``test_known_failures_archive``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sync.errors import DiskFull, TooLarge
from tests.cloud.identity_world import NOW_MS, SetClock
from tests.contracts.fleet_world import Cloud, Device
from tests.contracts.test_convergence import close, copy_of, fleet, heal

DAY_MS = 24 * 3_600_000


class Killed(Exception):
    """The process is gone at the moment at which a request would have left."""


def die() -> None:
    raise Killed


class Behind(Device):
    """A device whose clock has been a year behind since it was made."""

    def open(self) -> None:
        self.clock = SetClock(NOW_MS - 365 * DAY_MS)
        super().open()


def put_many(device: Device, prefix: str, count: int) -> list[str]:
    keys = [f"{prefix}{n}" for n in range(count)]
    for key in keys:
        device.notes.put(key, {"text": f"{key} of {device.name}"})
    return keys


def missing(device: Device, keys: list[str]) -> list[str]:
    return [key for key in keys if key not in device.notes]


def pass_time(cloud: Cloud, devices: list[Device], ms: int) -> None:
    cloud.clock.now_ms += ms
    for device in devices:
        device.clock.now_ms += ms


@pytest.mark.parametrize("later", [3, 40], ids=["the feed is shorter", "the feed has passed it"])
def test_a_cursor_that_survives_a_server_restore_skips_no_writes(tmp_path: Path, later: int) -> None:
    """Harper (its issue 2451): a restored backup carries no epoch, so cursors and replication sequences from before it
    read as valid: a consumer resumes beyond what is new. CouchDB-style ``since`` checkpoints share it.
    """
    cloud, (reader, writer, away) = fleet(tmp_path, 11, count=3)
    before = put_many(writer, "before", 5)
    heal(cloud, [reader, writer, away])
    backup = cloud.backup()
    lost = put_many(writer, "lost", 20)
    heal(cloud, [reader, writer])
    cursor = reader.edge.log.cursor
    cloud.restore(backup)
    after = put_many(away, "after", later)
    assert away.sync()
    with cloud.store.reading() as view:
        assert (view.head(cloud.fleet).position >= cursor) == (later > 20)
    assert reader.sync()
    assert missing(reader, before + lost + after) == []
    assert away.sync()
    assert missing(away, lost) == [], "the reader has what the cloud forgot, and its author may never come back"
    heal(cloud, [reader, writer, away])
    close(cloud, [reader, writer, away])


def test_a_push_that_was_paused_in_its_retry_is_pushed(tmp_path: Path) -> None:
    """RxDB (pull request 8285): pausing during a push retry marked the batch as pushed; its documents never left."""
    cloud, (device, other) = fleet(tmp_path, 12, count=2)
    heal(cloud, [device, other])
    first = put_many(device, "first", 20)
    for _ in range(3):  # each time the batch is noted and on its way, and the process dies
        device.before = {"Push": die}
        with pytest.raises(Killed):
            device.sync()
        device.before.clear()
        device.crash()
        assert device.edge.log.trim(device.edge.log.position) >= 0  # nothing may be dropped that did not arrive
        pass_time(cloud, [device, other], DAY_MS)
    later = put_many(device, "later", 20)
    assert device.sync()
    assert other.sync()
    assert missing(other, first + later) == []
    heal(cloud, [device, other])
    close(cloud, [device, other])


def test_a_page_that_could_not_be_stored_is_pulled_again(tmp_path: Path) -> None:
    """xredis-crdt (pull request 10): the vector clock was updated before the data it covers; after a failure in between
    the next synchronisation left the data out. Here the disk is full for one page.
    """
    cloud, (writer, reader) = fleet(tmp_path, 13, count=2)
    heal(cloud, [writer, reader])
    for n in range(12):
        writer.notes.put(f"k{n}", {"text": str(n) * 30_000})
    assert writer.sync()
    cursor = reader.edge.log.cursor
    db = reader.edge.log.writer.db
    db.pragma("max_page_count", db.pragma("page_count") + 2)
    with pytest.raises(DiskFull):
        reader.sync()
    assert reader.edge.log.cursor == cursor
    db.pragma("max_page_count", 1 << 30)
    reader.crash()
    assert reader.sync()
    assert missing(reader, [f"k{n}" for n in range(12)]) == []
    heal(cloud, [writer, reader])
    close(cloud, [writer, reader])


def test_one_oversized_value_stops_nobodys_sync(tmp_path: Path) -> None:
    """Couchbase Lite 2.0 (couchbase-lite-core issue 457): one large document, and the replicator is busy for good."""
    cloud, (device, other) = fleet(tmp_path, 14, count=2)
    device.notes.put("r", {"text": "both write into it"})
    heal(cloud, [device, other])
    with pytest.raises(TooLarge):
        device.notes.put("huge", {"text": "x" * 300_000})
    device.notes.patch("r", {"mood": "a" * 150_000})
    other.notes.patch("r", {"state": "b" * 150_000})  # each is valid, and together they are over the bound of a record
    behind = put_many(other, "behind", 10)
    assert device.sync()
    assert other.sync()
    assert [letter.key for letter in other.edge.log.dead_letters()] == ["r"]
    assert device.sync()
    assert missing(device, behind) == []
    # And when the device has to push all that it has, what it holds of that record is not in the way either.
    clone = copy_of(other, tmp_path / "clone")
    other.notes.put("other", {"text": "of the original"})
    clone.notes.put("clone", {"text": "of the clone"})
    for each in (other, clone, device, other, clone):
        assert each.sync(), each.name
    assert missing(device, ["other", "clone"]) == []
    close(cloud, [device, other, clone])


@pytest.mark.parametrize("edited", [False, True], ids=["it wrote nothing", "it had edited what others deleted"])
def test_an_offline_device_brings_no_deletes_back(tmp_path: Path, *, edited: bool) -> None:
    """Couchbase Sync Gateway (issue 2622): clients that stay away longer than the metadata purge interval never hear of
    the tombstones that were purged meanwhile, and offer what was deleted again.
    """
    cloud, (away, *others) = fleet(tmp_path, 15, count=3)
    devices = [away, *others]
    keys = put_many(others[0], "gone", 6) + put_many(others[0], "kept", 3)
    heal(cloud, devices)
    if edited:
        away.notes.patch("gone0", {"text": "edited before it was deleted, and offline"})
    away.notes.put("offline", {"text": "written offline"})
    pass_time(cloud, devices, 60_000)
    for key in keys[:6]:
        others[1].notes.delete(key)
    for day in range(60):
        pass_time(cloud, devices, DAY_MS // 2)
        others[day % 2].notes.put("diary", {"text": str(day)})
        for device in others:
            assert device.sync()
    heal(cloud, devices)
    for device in devices:
        assert missing(device, keys) == keys[:6], device.name
        assert missing(device, ["offline", "diary"]) == []
    newcomer = Device(tmp_path / "new", cloud, "new", 1599)
    newcomer.clock.now_ms = cloud.clock.now_ms
    assert newcomer.sync()
    assert missing(newcomer, keys) == keys[:6]
    close(cloud, [*devices, newcomer])


@pytest.mark.parametrize("how", ["snapshot", "old directory", "old directory, unaware"])
def test_a_restored_device_rewinds_no_counter(tmp_path: Path, how: str) -> None:
    """actor-ts (issue 955): a replica that came back under its address with an older state counted on from there; until
    it had caught up, its increments were taken for ones that everybody had. Totals were lowered or stood still.
    """
    cloud, (device, other) = fleet(tmp_path, 16, count=2)
    device.notes.put("k", {"visits": 2, "best": 3})
    other.notes.put("own", {"visits": 1})
    heal(cloud, [device, other])
    if how == "snapshot":
        device.notes.increment("k", "visits", 10)  # in the snapshot, and pushed by the original afterwards
        device.edge.snapshot(tmp_path / "old")
    else:
        device.edge.close()
        shutil.copytree(device.path, tmp_path / "old")
        device.open()
        device.notes.increment("k", "visits", 10)
    device.notes.increment("k", "visits", 100)
    device.notes.patch("k", {"best": 9})
    other.notes.increment("k", "visits", 1_000)
    heal(cloud, [device, other])
    device.edge.close()
    shutil.rmtree(device.path)
    shutil.copytree(tmp_path / "old", device.path)
    device.open()
    if how == "old directory":  # it can only know by the cloud that it is one; unaware, it writes before it asks
        assert device.sync()
    device.notes.increment("k", "visits", 10_000)
    device.notes.patch("k", {"best": 5})
    heal(cloud, [device, other])
    for each in (device, other):
        shown = each.notes.get("k")
        assert shown is not None
        assert (shown["visits"], shown["best"]) == (11_112, 9)
    close(cloud, [device, other])


def test_rejecting_one_clock_locks_nobody_else_out(tmp_path: Path) -> None:
    """Actual Budget (issue 3786): a laptop an hour off could not sync at all, in either direction, and was not told
    why. Here its writes take their true place, and nobody waits for it.
    """
    cloud, (ahead, honest) = fleet(tmp_path, 17, count=2)
    behind = Behind(tmp_path / "behind", cloud, "behind", 1799)
    stood = put_many(behind, "first", 3)
    assert behind.sync()
    heal(cloud, [ahead, behind, honest])
    assert missing(honest, stood) == []
    right = put_many(ahead, "right", 3)
    ahead.clock.now_ms += 3_600_000
    wrong = put_many(ahead, "wrong", 3)
    theirs = put_many(behind, "behind", 3) + put_many(honest, "honest", 3)
    for device in (ahead, behind, honest, ahead, behind):
        assert device.sync()
    for device in (ahead, behind, honest):
        assert missing(device, right + theirs) == [], device.name
    assert honest.sync()
    for device in (ahead, behind, honest):
        assert missing(device, wrong) == [], device.name
    with cloud.store.reading() as view:
        assert view.head(cloud.fleet).clock >> 16 <= cloud.clock.now_ms + 120_000
    more = put_many(behind, "more", 3)
    assert behind.sync()
    assert ahead.sync()
    assert missing(ahead, more) == []
    close(cloud, [ahead, behind, honest])


def test_accepting_one_clock_poisons_nobody(tmp_path: Path) -> None:
    """Harmony (issue 7) and Actual Budget (issue 7106): commits of a machine whose clock says 2030 were accepted, every
    hybrid clock went on from there, and nothing that others wrote could win any more.
    """
    cloud, (ahead, honest, other) = fleet(tmp_path, 18, count=3)
    for key in ("slightly", "far"):
        honest.notes.put(key, {"text": "at first"})
    heal(cloud, [ahead, honest, other])
    stood = honest.edge.log.clock.last >> 16
    ahead.clock.now_ms += 60_000  # within what is taken
    ahead.notes.patch("slightly", {"text": "a minute ahead"})
    ahead.clock.now_ms += 4 * 365 * DAY_MS
    ahead.notes.patch("far", {"text": "from 2030"})
    ahead.notes.increment("far", "visits", 7)
    ahead.edge.collection("also-from-2030")
    for device in (ahead, honest, other):
        assert device.sync()
    for device in (honest, other):
        assert device.edge.log.clock.last >> 16 <= stood + 120_000, "the clock was carried along"
    with cloud.store.reading() as view:
        assert view.head(cloud.fleet).clock >> 16 <= stood + 120_000
    honest.notes.patch(
        "slightly", {"text": "the honest one, later"}
    )  # it has seen the other: its clock has observed it
    honest.notes.patch("far", {"text": "the honest one"})
    assert honest.sync()
    assert other.sync()
    assert [(other.notes.get(key) or {}).get("text") for key in ("slightly", "far")] == [
        "the honest one, later",
        "the honest one",
    ]
    late = Device(tmp_path / "late", cloud, "late", 1899)
    heal(cloud, [ahead, honest, other, late])
    assert late.notes.get("far") == {**(other.notes.get("far") or {}), "text": "the honest one"}
    assert (late.notes.get("far") or {})["visits"] == 7
    close(cloud, [ahead, honest, other, late])


@pytest.mark.parametrize("wiped", [True, False], ids=["to nothing", "to before some deletes"])
def test_a_relay_that_was_wiped_gets_everything_again(tmp_path: Path, *, wiped: bool) -> None:
    """Nextcloud desktop (issue 171) and ownCloud client (issue 1038): after the server was rolled back, clients took
    their own newer files for what had to go, and deleted them instead of uploading them again.
    """
    cloud, devices = fleet(tmp_path, 19, count=3)
    backup = cloud.backup()
    keys = [key for device in devices for key in put_many(device, f"of-{device.name}-", 15)]
    devices[0].notes.increment(keys[0], "visits", 5)
    devices[1].notes.add(keys[15], "tags", "a", "b")
    heal(cloud, devices)
    backup = backup if wiped else cloud.backup()
    devices[2].notes.delete(keys[1])
    devices[2].notes.delete(keys[20])
    heal(cloud, devices)
    held = devices[0].edge.digest()
    for device in devices:  # what is acknowledged may have been dropped from the logs long ago, and they restarted
        device.edge.log.trim(device.edge.log.position)
        device.crash()
    cloud.restore(backup)
    devices[1].clock = SetClock(NOW_MS + DAY_MS)
    assert devices[0].sync()
    assert cloud.digest() == held
    newcomer = Device(tmp_path / "new", cloud, "new", 1999)
    assert newcomer.sync()
    assert missing(newcomer, keys) == [keys[1], keys[20]]
    heal(cloud, [*devices, newcomer])
    assert newcomer.edge.digest() == held
    close(cloud, [*devices, newcomer])
