"""What has left a device and is written to again goes on as if it had stayed: counters, extremes, sets, all values."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.storage import evicted
from edge.storage.evicted import WANTED
from sync.errors import NotFound, NotHere
from sync.images import image_values
from tests.contracts.fleet_world import Device
from tests.contracts.scope_world import DAY_MS, KEYS, TALLIES, ScopeWorld, notes

KEY = KEYS[0]
PLACE = ("notes", KEY)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScopeWorld]:
    """The kiosk has counted to 5, with a maximum of 7; it has left since."""
    world = ScopeWorld(tmp_path, ("office", "kiosk"))
    notes(world).put(KEY, {"text": "both", "visits": 5, "best": 7, "tags": ["k"], "ideas": "kiosk's"})
    world.heal()
    notes(world, "office").increment(KEY, "visits", 10)
    notes(world, "office").add(KEY, "tags", "o")
    world.heal()
    world.give("kiosk", "south")
    world.heal()
    assert world.devices["kiosk"].edge.log.image(*PLACE) is None
    yield world
    world.close()


def shown(world: ScopeWorld) -> dict[str, Any] | None:
    """By the cloud."""
    return image_values(world.images()[PLACE])


def rows(device: Device) -> int:
    return int(device.edge.log.reader.one("SELECT count(*) FROM evicted"))


@pytest.mark.parametrize("then", ["", "logs"])
@pytest.mark.parametrize("cut", [False, True])
def test_its_own_slots_go_on(world: ScopeWorld, then: str, cut: bool) -> None:
    """5, evicted, then by 1; a maximum of 7, then 3: without a stub the fleet would have 1 and 3."""
    world.give("kiosk", then)
    world.devices["kiosk"].clock.now_ms += 5
    notes(world).increment(KEY, "visits", 1, upsert=True)
    notes(world).patch(KEY, {"best": 3}, upsert=True)
    notes(world).add(KEY, "tags", "again", upsert=True)
    if cut:
        world.devices["kiosk"].crash()
        world.devices["kiosk"].crash()
    assert (notes(world).get(KEY) is None) == (then == "")
    world.heal()
    told = shown(world)
    assert told is not None
    assert (told["visits"], told["best"], told["tags"]) == (16, 7, ["again", "k", "o"])
    if then == "":
        assert notes(world).get(KEY) == notes(world, "office").get(KEY) == told
        assert rows(world.devices["kiosk"]) == 0
    else:
        assert notes(world).get(KEY)["visits"] == 6, "what the office counts is not received here"
        world.give("kiosk", "")
        world.heal()
    world.check()


def test_what_depends_on_the_rest_waits_for_it(world: ScopeWorld) -> None:
    world.give("kiosk", "")
    kiosk = notes(world)
    for write, *given in (
        (kiosk.put, {"text": "new"}),
        (kiosk.remove, "tags", "k"),
        (kiosk.patch, {"visits": 0}),
        (kiosk.patch, {"tags": []}),
        (kiosk.patch, {"ideas": "another"}),
    ):
        with pytest.raises(NotHere) as error:
            write(KEY, *given)
        assert error.value.retryable
        assert "sync" in error.value.hint
    before = world.devices["kiosk"].edge.log.head_seq
    with pytest.raises(NotHere):  # noqa: PT012, SIM117 - it is raised where the batch ends
        with world.devices["kiosk"].edge.batch():
            kiosk.increment(KEY, "visits", 100)
            kiosk.put(KEY, {"text": "not this one either"})
    assert world.devices["kiosk"].edge.log.head_seq == before, "all or nothing"
    with world.devices["kiosk"].edge.batch():
        kiosk.increment(KEY, "visits", 1)
        kiosk.increment(KEY, "visits", 1)
        kiosk.put(KEYS[5], {"text": "beside it"})
    world.heal()
    assert (shown(world) or {})["visits"] == 17
    kiosk.remove(KEY, "tags", "k")
    kiosk.patch(KEY, {"ideas": "another"})
    kiosk.put(KEY, {"visits": 3, "text": "new", "best": 0})
    world.heal()
    assert shown(world) == {"best": 7, "ideas": ["another"], "tags": ["o"], "text": "new", "visits": 3}
    world.check()


def test_a_delete_needs_no_asking(world: ScopeWorld) -> None:
    world.give("kiosk", "")
    kiosk = notes(world)
    with world.devices["kiosk"].edge.batch():
        kiosk.delete(KEY)
        kiosk.increment(KEY, "visits", 2, upsert=True)
    assert kiosk.get(KEY) == {"visits": 2}
    kiosk.delete(KEY)
    with pytest.raises(NotFound):
        kiosk.increment(KEY, "visits", 1)
    world.devices["kiosk"].crash()
    notes(world).increment(KEY, "visits", 4, upsert=True)
    world.heal()
    assert shown(world) == {"visits": 4}
    world.check()


def test_what_others_delete_is_no_part_of_what_goes_on(world: ScopeWorld) -> None:
    world.give("kiosk", "")
    world.devices["office"].clock.now_ms += 10
    notes(world, "office").delete(KEY)
    notes(world, "office").put(KEY, {"visits": 100})
    world.heal()
    world.devices["kiosk"].clock.now_ms += 20
    notes(world).increment(KEY, "visits", 1)
    world.heal()
    assert shown(world) == {"visits": 101}


def test_the_store_was_copied_after_it_had_left(world: ScopeWorld, tmp_path: Path) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "")
    kiosk.edge.close()
    shutil.copytree(kiosk.path, tmp_path / "old")
    kiosk.open()
    notes(world).increment(KEY, "visits", 1)
    world.heal()
    kiosk.edge.close()
    shutil.rmtree(kiosk.path)
    shutil.copytree(tmp_path / "old", kiosk.path)
    kiosk.open()
    notes(world).increment(KEY, "visits", 2)
    notes(world).patch(KEY, {"best": 9, "text": "of the copy"})
    notes(world).add(KEY, "tags", "copy")
    replica = kiosk.edge.log.replica
    world.heal()
    assert kiosk.edge.log.replica != replica
    told = shown(world)
    assert told is not None
    assert (told["visits"], told["best"], told["text"], told["tags"]) == (18, 9, "of the copy", ["copy", "k", "o"])
    world.check()


def test_the_cloud_was_restored_while_it_was_away(world: ScopeWorld) -> None:
    """What was written to a stub and acknowledged, and the archive has not, is pushed with the rest of the state."""
    world.give("kiosk", "")
    kiosk = world.devices["kiosk"]
    kiosk.before = {"PullBaseline": lambda: 1 / 0}
    notes(world).increment(KEY, "visits", 1)
    with pytest.raises(ZeroDivisionError):
        kiosk.sync()
    kiosk.before = {}
    for _ in range(3):
        kiosk.sync(steps=6)
        if kiosk.edge.log.acked_seq == kiosk.edge.log.head_seq:
            break
    assert kiosk.edge.log.acked_seq == kiosk.edge.log.head_seq
    world.restore()
    world.heal()
    assert (shown(world) or {})["visits"] == 16
    world.check()


@pytest.mark.parametrize("wrong_ms", [-DAY_MS, DAY_MS])
def test_a_wrong_clock_is_mended_in_what_was_written_to_a_stub(world: ScopeWorld, wrong_ms: int) -> None:
    world.give("kiosk", "")
    kiosk = world.devices["kiosk"]
    kiosk.clock.now_ms += wrong_ms
    notes(world).increment(KEY, "visits", 1)
    notes(world).patch(KEY, {"mood": "wrong", "best": 8})
    kiosk.crash()
    world.heal()
    told = shown(world)
    assert told is not None
    assert (told["visits"], told["best"], told["mood"]) == (16, 8, "wrong")
    assert notes(world).get(KEY) == told
    notes(world).increment(KEY, "visits", 1)
    world.heal()
    assert (shown(world) or {})["visits"] == 17
    world.check()


@pytest.mark.parametrize("point", range(1, 12))
def test_the_power_fails_at_each_step_there_and_back(tmp_path: Path, point: int) -> None:
    world = ScopeWorld(tmp_path, ("office", "kiosk"))
    for turn in range(6):
        for name in world.devices:
            for place in TALLIES:
                world.tally(name, place)
                world.tally(name, TALLIES[0])
            world.write(name, ("notes", KEYS[turn]))
            world.write(name, ("notes", KEYS[turn]), "count")
        world.give("kiosk", ("south", "", "logs", "north only", "", "south")[turn])
        for _ in range(3):
            world.devices["kiosk"].sync(steps=point)
            world.devices["kiosk"].crash()
            assert world.devices["kiosk"].edge.verify() == []
        world.devices["office"].sync()
        world.archive()
    world.heal()
    world.check()
    world.give("kiosk", "")
    world.heal()
    world.check()
    assert world.devices["kiosk"].edge.digest() == world.cloud.digest()
    assert rows(world.devices["kiosk"]) == 0
    world.close()


def test_a_stub_is_small_and_says_what_is_needed(world: ScopeWorld) -> None:
    log = world.devices["kiosk"].edge.log
    (row,) = log.reader.all("SELECT newest, state, stub FROM evicted WHERE key = ?", KEY)
    assert row[1] != WANTED
    assert image_values(row[2]) is None
    assert len(row[2]) < 100
    assert evicted.to_fetch(log) == []
