"""What is older than its rule lets it be leaves the device, and is fetched, whole, when somebody writes to it again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.stream import fetched
from edge.link.carrier import Carrier
from edge.storage import evicted, link_state
from edge.storage.leaving import why_not
from sync.errors import NotFound, NotHere
from sync.images import image_values
from sync.messages import RecordsPage
from tests.contracts.fleet_world import Device
from tests.contracts.scope_world import DAY_MS, KEYS, LOGS, NOTES, PLACES, ScopeWorld, held, notes
from tests.contracts.test_convergence import copy_of

KEY = KEYS[0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScopeWorld]:
    """Two days ago there was a note and a log at each place; for the kiosk notes may be a day old, logs three."""
    world = ScopeWorld(tmp_path, ("office", "kiosk"))
    for place in PLACES:
        world.write("office", place)
    notes(world).increment(KEY, "visits", 5, upsert=True)
    world.heal()
    notes(world).increment(KEY, "visits", 3)
    notes(world, "office").patch(KEY, {"mood": "good", "best": 7})
    world.heal()
    world.pass_by(2 * DAY_MS)
    world.give("kiosk", "young")
    yield world
    world.close()


def counted(device: Device) -> dict[int, int]:
    """Stubs by state."""
    return dict(device.edge.log.reader.all("SELECT state, count(*) FROM evicted GROUP BY state"))


def test_the_old_leaves_and_comes_back_whole_when_it_is_written_to(world: ScopeWorld) -> None:
    rule = world.tables["young"].rule("notes", KEY)
    kiosk = world.devices["kiosk"]
    assert "archive" in why_not(kiosk.edge.log, "notes", KEY, rule)
    world.heal()
    assert held(world) == LOGS
    assert held(world, "office") == NOTES | LOGS
    world.pass_by(1_000)
    notes(world, "office").patch(KEY, {"text": "news"})
    world.heal()
    assert held(world) == LOGS | {("notes", KEY)}
    assert notes(world).get(KEY) == {"best": 7, "mood": "good", "text": "news", "visits": 8}
    assert why_not(kiosk.edge.log, "notes", KEY, rule) == ""
    assert counted(kiosk) == {evicted.QUIET: len(NOTES) - 1}
    world.pass_by(3 * DAY_MS)
    world.heal()
    assert held(world) == set()


def test_a_write_here_goes_on_from_what_has_left(world: ScopeWorld) -> None:
    world.heal()
    kiosk = world.devices["kiosk"]
    notes(world).increment(KEY, "visits", 1)
    assert notes(world).get(KEY) is None
    kiosk.crash()
    world.heal()
    assert notes(world).get(KEY)["visits"] == 9
    with pytest.raises(NotHere):
        notes(world).put(KEYS[1], {"text": "new"})
    with pytest.raises(NotHere):
        notes(world).put(KEYS[2], {"text": "new"})
    assert kiosk.sync()
    assert kiosk.edge.log.writer.evicted.asked == {}
    notes(world).put(KEYS[1], {"text": "new"})
    world.heal()
    assert held(world) == LOGS | {("notes", KEY), ("notes", KEYS[1])}
    assert image_values(world.images()["notes", KEYS[1]]) == {"text": "new"}
    world.devices["office"].sync()
    assert notes(world, "office").get(KEY)["visits"] == 9


def test_what_others_delete_is_not_asked_for(world: ScopeWorld) -> None:
    world.heal()
    kiosk = world.devices["kiosk"]
    world.write("office", ("notes", KEY), "delete")
    assert world.devices["office"].sync()
    kiosk.before = {"FetchRecords": lambda: pytest.fail("it was asked for")}
    assert kiosk.sync()
    assert counted(kiosk) == {evicted.QUIET: len(NOTES) - 1}
    with pytest.raises(NotFound):
        notes(world).increment(KEY, "visits", 1)


@pytest.mark.parametrize("then", ["", "older"])
def test_a_longer_age_brings_back_what_is_young_enough_by_it(world: ScopeWorld, then: str) -> None:
    world.heal()
    assert held(world) == LOGS
    kiosk = world.devices["kiosk"]
    kiosk.crash()
    world.give("kiosk", then)
    world.heal()
    assert held(world) == NOTES | LOGS
    assert counted(kiosk) == {}
    world.give("kiosk", "young")
    assert link_state.load_position(kiosk.edge.log).growth is None, "nothing is gained"
    world.give("kiosk", then)
    assert link_state.load_position(kiosk.edge.log).growth is None, "nothing has left by then"
    world.check()


@pytest.mark.parametrize("bound", [1, 3, 1_000])
def test_many_at_once(world: ScopeWorld, monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    monkeypatch.setattr(evicted, "FETCHED_RECORDS_MAX", bound)
    monkeypatch.setattr(fetched, "IMAGE_BYTES_PER_PAGE", 150)
    world.heal()
    world.pass_by(1_000)
    for key in KEYS:
        notes(world, "office").patch(key, {"mood": "better"})
    world.heal()
    assert held(world) == NOTES | LOGS
    world.check()


@pytest.mark.parametrize("steps", range(2, 14))
def test_a_cut_while_it_is_fetched(world: ScopeWorld, steps: int) -> None:
    world.heal()
    world.pass_by(1_000)
    kiosk = world.devices["kiosk"]
    for key in KEYS:
        notes(world, "office").add(key, "tags", "late")
        notes(world).increment(key, "visits", 1)
    world.devices["office"].sync()
    for _ in range(3):
        kiosk.sync(steps=steps, loss=0.2)
        kiosk.crash()
        assert kiosk.edge.verify() == []
    world.heal()
    assert {key: notes(world).get(key)["visits"] for key in KEYS} == {key: 9 if key == KEY else 1 for key in KEYS}
    world.check()


def test_the_cloud_was_restored_to_before_it_had_it(world: ScopeWorld, tmp_path: Path) -> None:
    """What the operator gave up is gone; what this device counts there goes on, as others may have it."""
    world.heal()
    kiosk = world.devices["kiosk"]
    new = ("notes", "north/new")
    empty = shutil.copytree(world.cloud.backup(), tmp_path / "empty")
    notes(world).increment("north/new", "visits", 4, upsert=True)
    kiosk.sync()
    for _ in range(3):
        world.pass_by(2 * DAY_MS)
        world.archive()
        assert kiosk.sync()
    assert kiosk.edge.log.image(*new) is None
    world.cloud.restore(empty)
    assert new not in world.images()
    notes(world).increment("north/new", "visits", 1)
    world.heal_without_archive()
    assert (image_values(world.images()[new]) or {})["visits"] == 5


def test_what_the_cloud_has_nothing_of_can_be_written_whole(world: ScopeWorld) -> None:
    world.heal()
    kiosk = world.devices["kiosk"]
    with world.cloud.store.writing() as tx:
        tx._db.execute("DELETE FROM records WHERE key = ?", (KEY,))  # type: ignore[attr-defined]
    with pytest.raises(NotHere):
        notes(world).put(KEY, {"text": "new"})
    assert kiosk.sync()
    assert counted(kiosk) == {evicted.QUIET: len(NOTES) - 1, evicted.ALONE: 1}
    notes(world).put(KEY, {"text": "new", "visits": 9})
    assert notes(world).get(KEY) == {"text": "new", "visits": 9}
    assert kiosk.sync()
    assert (image_values(world.images()["notes", KEY]) or {})["visits"] == 9


def test_an_older_cloud_is_not_asked(world: ScopeWorld) -> None:
    world.heal()
    kiosk = world.devices["kiosk"]
    world.pass_by(1_000)
    notes(world).increment(KEY, "visits", 1)
    kiosk.before = {"FetchRecords": lambda: pytest.fail("version 2 does not know it")}
    world.assigned["kiosk"] = ""
    assert kiosk.sync(versions=(1, 2))
    assert notes(world).get(KEY) is None
    world.assigned["kiosk"], kiosk.before = "young", {}
    world.heal()
    assert notes(world).get(KEY)["visits"] == 9


def test_what_the_cloud_does_not_give_is_not_asked_for_again_and_again(world: ScopeWorld) -> None:
    """Its policy is narrower by now, and the device has not heard of it."""
    world.heal()
    kiosk = world.devices["kiosk"]
    notes(world).increment(KEY, "visits", 1)
    world.assigned["kiosk"] = "south"
    kiosk.sync()
    assert counted(kiosk)[evicted.DENIED] == 1
    world.assigned["kiosk"] = "young"
    world.heal()
    notes(world).increment(KEY, "visits", 1)
    world.heal()
    assert notes(world).get(KEY)["visits"] == 10


def test_what_a_copy_takes_back_of_what_has_left_it(world: ScopeWorld, tmp_path: Path) -> None:
    """It moved what both had counted and was not sent (ADR 12); then the record left; then the original sent it."""
    kiosk = world.devices["kiosk"]
    world.pass_by(1_000)
    notes(world).increment(KEY, "visits", 4)
    kiosk.edge.snapshot(tmp_path / "snapshot")
    original = copy_of(kiosk, tmp_path / "original")
    original.edge.close()
    kiosk.edge.close()
    shutil.rmtree(kiosk.path)
    shutil.copytree(tmp_path / "snapshot", kiosk.path)
    kiosk.open()
    world.heal()
    assert notes(world, "office").get(KEY)["visits"] == 12
    for _ in range(3):
        world.pass_by(2 * DAY_MS)
        world.heal()
    assert notes(world).get(KEY) is None
    original.clock.now_ms = kiosk.clock.now_ms
    original.open()
    assert original.sync()
    world.heal()
    assert original.sync()
    assert notes(world, "office").get(KEY)["visits"] == 12, "each is counted once"
    world.check()
    original.edge.close()


@pytest.mark.parametrize(
    ("answered", "denied"), [(0, []), (1, [1]), (1, [500])], ids=["nothing", "beyond what is answered", "beyond all"]
)
def test_an_answer_that_is_none_changes_nothing(
    world: ScopeWorld, monkeypatch: pytest.MonkeyPatch, answered: int, denied: list[int]
) -> None:
    world.heal()
    kiosk, handle = world.devices["kiosk"], world.cloud.plane.handle
    notes(world).increment(KEY, "visits", 1)

    def forged(message: Any, caller: Any) -> Any:
        answer = handle(message, caller)
        if isinstance(answer, RecordsPage):
            return RecordsPage([], answered, denied, answer.head, answer.time_ms)
        return answer

    monkeypatch.setattr(world.cloud.plane, "handle", forged)
    assert not kiosk.sync(steps=30)
    assert counted(kiosk)[evicted.WANTED] == 1
    monkeypatch.undo()
    world.heal()
    assert notes(world).get(KEY)["visits"] == 9


def test_a_carrier_asks_once_for_what_it_was_told(world: ScopeWorld) -> None:
    world.heal()
    kiosk = world.devices["kiosk"]
    session = _Session()
    carrier = Carrier(kiosk.edge.log, str(kiosk.path), session)  # type: ignore[arg-type]
    for _ in range(3):
        carrier.follow()
    assert session.wanted == 0, "nothing is wanted"
    with pytest.raises(NotHere):
        notes(world).put(KEY, {})
    for _ in range(3):
        carrier.follow()
    assert session.wanted == 1
    assert link_state.load_position(kiosk.edge.log).growth is None


class _Session:
    wanted = 0

    def wants(self) -> None:
        self.wanted += 1
