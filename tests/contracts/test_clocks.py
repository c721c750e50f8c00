"""Wrong clocks: whatever a device's clock did, all replicas hold the same in the end, nothing acknowledged is lost,
what was written by a wrong clock takes its true place, and nobody is locked out or drawn along.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.errors import FutureStamp
from sync.limits import FUTURE_MS_MAX
from sync.records import Record
from sync.stamps import wall_ms_of
from tests.cloud.identity_world import NOW_MS
from tests.contracts.fleet_world import Cloud, Device
from tests.contracts.test_convergence import KEYS, heal

YEAR_MS = 365 * 86_400_000
HOUR_MS = 3_600_000
BOOT_1970 = -NOW_MS + 60_000


class Fleet:
    """A cloud and three devices under one true time; ``wrong`` sets one device's clock off from it."""

    def __init__(self, directory: Path, seed: int = 1) -> None:
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", seed)
        self.devices = [Device(directory / f"d{n}", self.cloud, f"d{n}", seed * 100 + n) for n in range(3)]
        self.wrong, self.second, self.third = self.devices
        for device in self.devices:
            assert device.sync()

    def pass_ms(self, ms: int) -> None:
        for clock in (self.cloud.clock, *(device.clock for device in self.devices)):
            clock.now_ms += ms

    def heal(self) -> None:
        heal(self.cloud, self.devices)
        for device in self.devices:
            assert device.edge.verify() == []

    def newest_ms(self) -> int:
        """How far the largest stamp that the cloud holds is ahead of the true time."""
        with self.cloud.store.reading() as view:
            newest = max(Record.decode(row.image).newest_ts for row in view.records(self.cloud.fleet))
        return wall_ms_of(newest) - self.cloud.clock.now_ms

    def texts(self, key: str) -> set[str]:
        return {note(device, key)["text"] for device in self.devices}


def note(device: Device, key: str) -> dict[str, Any]:
    found = device.notes.get(key)
    assert found is not None
    return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    for device in fleet.devices:
        device.edge.close()
    fleet.cloud.store.close()


@pytest.mark.parametrize("off_ms", [10 * YEAR_MS, HOUR_MS, -HOUR_MS, BOOT_1970], ids=["10y", "1h", "-1h", "1970"])
def test_what_was_written_by_a_wrong_clock_takes_its_true_place(fleet: Fleet, off_ms: int) -> None:
    """Written before and after what another device writes: who was last in true time, wins."""
    wrong, second = fleet.wrong, fleet.second
    wrong.clock.now_ms += off_ms
    wrong.notes.put("early", {"text": "wrong clock, first"})
    fleet.pass_ms(10_000)
    second.notes.put("early", {"text": "right clock, second"})
    second.notes.put("late", {"text": "right clock, first"})
    fleet.pass_ms(10_000)
    wrong.notes.put("late", {"text": "wrong clock, second"})
    fleet.heal()
    assert fleet.texts("early") == {"right clock, second"}
    assert fleet.texts("late") == {"wrong clock, second"}
    assert wrong.edge.log.dead_letters() == []
    assert fleet.newest_ms() <= 0
    wrong.notes.put("after", {"text": "written once the clock's error is known"})
    fleet.heal()
    assert abs(fleet.newest_ms()) < 1_000


@pytest.mark.parametrize("off_ms", [10 * YEAR_MS, HOUR_MS], ids=["10y", "1h"])
def test_a_clock_that_jumps_ahead_while_the_link_is_up_strands_nothing(fleet: Fleet, off_ms: int) -> None:
    """The cloud refuses what came from the future; the device writes it again with true stamps, in its order."""
    wrong, second = fleet.wrong, fleet.second
    wrong.notes.put("n", {"text": "start", "visits": 3, "tags": ["a", "b"]})
    fleet.heal()

    def jump() -> None:
        wrong.clock.now_ms += off_ms
        wrong.notes.increment("n", "visits", 4)
        wrong.notes.add("n", "tags", "c", "d")
        wrong.notes.remove("n", "tags", "a", "c")
        wrong.notes.patch("n", {"text": "jumped", "ideas": "one", "best": 7})
        wrong.notes.put("gone", {"text": "x"})
        wrong.notes.delete("gone")
        with wrong.edge.batch():
            wrong.notes.put("pair-1", {"text": "both"})
            wrong.notes.put("pair-2", {"text": "both"})

    wrong.notes.put("k", {"text": "so that the link is up"})
    wrong.before = {"Push": jump}
    assert wrong.sync()
    letters = wrong.edge.log.dead_letters()
    assert {letter.code for letter in letters} == {"future-stamp"}
    assert len(letters) == len(fleet.cloud.plane.dead_letters(fleet.cloud.fleet))
    second.notes.increment("n", "visits", 1)
    second.notes.add("n", "tags", "z")
    fleet.heal()
    seen = note(fleet.third, "n")
    assert (seen["text"], seen["visits"], seen["tags"], seen["best"], seen["ideas"]) == (
        "jumped", 8, ["b", "d", "z"], 7, ["one"],
    )  # fmt: skip
    assert "gone" not in fleet.third.notes
    assert {"pair-1", "pair-2"} <= {key for key, _ in fleet.third.notes.scan()}
    assert fleet.newest_ms() <= 0
    wrong.notes.increment("n", "visits", 10)
    wrong.crash()
    fleet.heal()
    assert note(second, "n")["visits"] == 18


def test_a_stopped_clock(fleet: Fleet) -> None:
    """Its stamps do not move between handshakes; what is written a day later still wins over what is a day old."""
    stopped = fleet.wrong
    still = stopped.clock.now_ms
    for day in range(3):
        for device in (fleet.second, fleet.third):
            device.notes.put("k", {"text": f"{device.name}, day {day}"})
            device.sync()
        fleet.pass_ms(24 * HOUR_MS)
        stopped.clock.now_ms = still
        stopped.notes.put("k", {"text": f"stopped, day {day}"})
        stopped.notes.increment("k", "visits", 1, upsert=True)
        fleet.heal()
        assert fleet.texts("k") == {f"stopped, day {day}"}
    assert note(fleet.second, "k")["visits"] == 3
    assert fleet.newest_ms() <= 0


def test_a_clock_that_jumps_back_by_years_between_runs(fleet: Fleet) -> None:
    wrong = fleet.wrong
    wrong.notes.put("k", {"text": "before", "visits": 1})
    fleet.heal()
    fleet.pass_ms(30 * 24 * HOUR_MS)
    wrong.clock.now_ms -= 5 * YEAR_MS
    wrong.crash()
    wrong.notes.patch("k", {"text": "after the jump"})
    wrong.notes.increment("k", "visits", 1)
    fleet.heal()
    assert fleet.texts("k") == {"after the jump"}
    wrong.crash()
    fleet.pass_ms(1_000)
    wrong.notes.patch("k", {"text": "and on"})
    fleet.heal()
    assert fleet.texts("k") == {"and on"}
    assert note(fleet.third, "k")["visits"] == 2
    assert abs(fleet.newest_ms()) < 2_000


def test_drift_during_a_live_link(fleet: Fleet) -> None:
    """A clock that gains ten seconds a minute and never reconnects for long: each handshake takes it back."""
    wrong = fleet.wrong
    for minute in range(30):
        fleet.pass_ms(60_000)
        wrong.clock.now_ms += 10_000
        wrong.notes.put(f"m{minute % 5}", {"text": f"minute {minute}"})
        wrong.sync()
        fleet.second.sync()
        fleet.second.notes.patch(f"m{minute % 5}", {"mood": f"{minute}"})
        fleet.second.sync()
    fleet.heal()
    assert wrong.edge.log.dead_letters() == []
    assert fleet.newest_ms() <= 10_000
    assert note(fleet.third, "m4")["text"] == "minute 29"


def test_a_stamp_from_the_far_future_sets_no_other_clock(fleet: Fleet) -> None:
    """A cloud that was a year ahead for an hour took such stamps. Put right, it concerns the records that were written
    in that hour; the fleet's clocks follow the true time, and a write that could not take effect is not acknowledged.
    """
    cloud, wrong, second, third = fleet.cloud, fleet.wrong, fleet.second, fleet.third
    cloud.clock.now_ms += YEAR_MS
    second.notes.put("poisoned", {"text": "by a cloud that was a year ahead"})
    assert second.sync()
    cloud.clock.now_ms -= YEAR_MS
    assert wrong.sync()
    assert note(wrong, "poisoned")["text"] == "by a cloud that was a year ahead"
    wrong.notes.put("fine", {"text": "as ever"})
    wrong.notes.patch("fine", {"text": "and changed"})
    with pytest.raises(FutureStamp, match="ahead"):
        wrong.notes.patch("poisoned", {"text": "without effect for a year"})
    assert wrong.sync()
    assert wrong.edge.log.dead_letters() == []
    third.notes.put("third", {"text": "as ever"})
    fleet.heal()
    second.notes.put("second", {"text": "its clock has come down as well"})
    fleet.heal()
    assert second.edge.log.dead_letters() == []
    fleet.pass_ms(YEAR_MS + 1_000)
    wrong.notes.patch("poisoned", {"text": "a year later"})
    fleet.heal()
    assert fleet.texts("poisoned") == {"a year later"}


@pytest.mark.parametrize("restored", [False, True], ids=["", "restored"])
@pytest.mark.parametrize("seed", range(10))
def test_clocks_that_do_what_they_like(tmp_path: Path, seed: int, *, restored: bool) -> None:
    rng = random.Random(seed)
    fleet = Fleet(tmp_path, seed + 1)
    counted = 0
    backup = fleet.cloud.backup()
    for step in range(60):
        if restored and step == 20:
            backup = fleet.cloud.backup()
        if restored and step == 45:
            fleet.cloud.restore(backup)
        fleet.pass_ms(rng.randrange(5_000))
        device = rng.choice(fleet.devices)
        what = rng.random()
        if what < 0.15:
            device.clock.now_ms = fleet.cloud.clock.now_ms + rng.choice(
                [0, 0, 5_000, -5_000, HOUR_MS, -HOUR_MS, 10 * YEAR_MS, BOOT_1970, -5 * YEAR_MS, FUTURE_MS_MAX - 500]
            )
        elif what < 0.65:
            for _ in range(rng.randrange(1, 5)):
                device.write(KEYS)
            device.notes.increment("count", "visits", 1, upsert=True)
            counted += 1
        elif what < 0.9:
            device.sync(loss=rng.choice([0.0, 0.2, 0.4]), steps=rng.randrange(1, 30))
        else:
            device.crash()
    heal(fleet.cloud, fleet.devices)
    for device in fleet.devices:
        assert device.edge.verify() == []
        assert note(device, "count")["visits"] == counted
        device.edge.close()
    assert fleet.newest_ms() <= FUTURE_MS_MAX
    fleet.cloud.store.close()


def test_what_the_cloud_was_told_of_in_state_keeps_its_stamps(fleet: Fleet) -> None:
    """A repair's state has what was written while it was under way. Under another stamp it would be another write: the
    element that was added would survive its removal.
    """
    cloud, wrong = fleet.cloud, fleet.wrong
    for number in range(20):
        wrong.notes.put(f"n{number:02}", {"text": "start", "tags": []})
    backup = cloud.backup()
    fleet.second.notes.put("later", {"text": "lost with the restore"})
    fleet.heal()
    cloud.restore(backup)

    def jump() -> None:
        fleet.pass_ms(5_000)
        wrong.clock.now_ms += 30_000
        wrong.notes.add("n19", "tags", "a")
        wrong.before["Push"] = cut

    def cut() -> None:
        if log.meta_get("told_ts"):
            raise KeyboardInterrupt
        wrong.before["Push"] = cut

    log = wrong.edge.log
    wrong.before["Push"] = jump
    with pytest.raises(KeyboardInterrupt):
        wrong.sync()
    told = log.pending(log.acked_seq, 10, 1 << 20)
    assert len(told) == 1
    log.learn_time(cloud.clock.now_ms)
    log.mend_stamps()
    assert log.pending(log.acked_seq, 10, 1 << 20) == told
    wrong.clock.now_ms = cloud.clock.now_ms
    fleet.heal()
    wrong.notes.remove("n19", "tags", "a")
    fleet.heal()
    assert [note(device, "n19")["tags"] for device in fleet.devices] == [[], [], []]
