"""A sync rule changes in mid-life: whatever is written, lost, cut and restored meanwhile, each device ends with what is
in its scope, and nothing that was written is lost.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cloud.stream import baseline
from edge.storage import link_state
from sync.effects import Growth
from tests.contracts.fleet_world import Device
from tests.contracts.scope_world import DAY_MS, KEYS, NOTES, PLACES, RULES, TALLIES, ScopeWorld, held

KINDS = ["put", "put", "patch", "delete", "add", "remove", "count"]
NAMES = ("office", "kiosk", "van")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "RECORDS_PER_PAGE", 3)
    monkeypatch.setattr(baseline, "_RECORDS_PER_READ", 2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScopeWorld]:
    world = ScopeWorld(tmp_path, NAMES)
    yield world
    world.close()


def fill(world: ScopeWorld, name: str = "office") -> None:
    for place in PLACES:
        world.write(name, place)
    assert world.devices[name].sync()


def note(world: ScopeWorld, name: str) -> tuple[bytes, object, bool]:
    position = link_state.load_position(world.devices[name].edge.log)
    return position.scope, position.growth, position.owed


def grow_a_little(world: ScopeWorld, name: str) -> Growth:
    for _ in range(20):
        world.devices[name].sync(steps=6)
        growth = link_state.load_position(world.devices[name].edge.log).growth
        if growth is not None and growth.token:
            return growth
    raise AssertionError("no growth is under way")


def test_what_comes_into_scope_is_fetched(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "south")
    assert note(world, "kiosk")[1:] == (None, False), "nothing is gained: no growth"
    fill(world)
    assert kiosk.sync()
    assert held(world) == {("notes", key) for key in KEYS if key.startswith("south")}
    world.write("office", PLACES[0], "delete")
    world.give("kiosk", "notes")
    assert note(world, "kiosk")[1] is not None
    world.heal()
    assert held(world) == NOTES - {PLACES[0]}
    world.give("kiosk", "")
    world.heal()
    world.check()
    assert note(world, "kiosk") == (b"", None, False)


def test_what_changes_while_a_growth_is_under_way_is_not_missed(world: ScopeWorld) -> None:
    """After the page that had it was read, and before the last one."""
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    world.give("kiosk", "south")
    fill(world)
    assert kiosk.sync()
    world.give("kiosk", "")
    grow_a_little(world, "kiosk")
    for place in reversed(PLACES):
        world.write("office", place, "patch")
    assert office.sync()
    world.heal()
    world.check()


def test_a_growth_goes_on_after_a_power_cut(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "south")
    fill(world)
    assert kiosk.sync()
    world.give("kiosk", "")
    tokens: list[bytes] = []
    while (growth := link_state.load_position(kiosk.edge.log).growth) is not None:
        assert len(tokens) < 60
        tokens.append(growth.token)
        kiosk.sync(steps=4)
        kiosk.crash()
    assert len(set(tokens)) > 3, "each cut found it further on"
    world.heal()
    world.check()


@pytest.mark.parametrize("then", ["north", "notes", "south"])
def test_another_policy_comes_during_a_growth(world: ScopeWorld, then: str) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "south")
    fill(world)
    assert kiosk.sync()
    world.give("kiosk", "")
    kiosk.sync(steps=8)
    kiosk.before = {"PullBaseline": lambda: world.give("kiosk", then)}
    kiosk.sync()
    assert world.assigned["kiosk"] == then, "it came in the middle"
    world.heal()
    world.check()


def fill_while_narrowed(world: ScopeWorld) -> Device:
    """The kiosk, which has not heard that the cloud sends it less."""
    kiosk = world.devices["kiosk"]
    world.heal()
    world.assigned["kiosk"] = "south"
    fill(world)
    kiosk.sync()
    return kiosk


def test_there_and_back_before_the_device_heard_of_it(world: ScopeWorld) -> None:
    """What it was not sent meanwhile it is owed; nobody else knows."""
    kiosk = fill_while_narrowed(world)
    assert held(world) == {("notes", key) for key in KEYS if key.startswith("south")}
    assert note(world, "kiosk") == (b"", None, True)
    kiosk.crash()
    world.assigned["kiosk"] = ""
    assert kiosk.sync()
    assert note(world, "kiosk") == (b"", None, False)
    world.heal()
    world.check()


def test_what_is_owed_is_fetched_under_whatever_policy_comes(world: ScopeWorld) -> None:
    """Neither gains anything over everything, of which some was left out."""
    fill_while_narrowed(world)
    world.give("kiosk", "notes")
    grow_a_little(world, "kiosk")
    world.give("kiosk", "north only")
    world.heal()
    world.check()


def test_the_same_during_a_growth(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "north only")
    fill(world)
    assert kiosk.sync()
    world.give("kiosk", "")
    world.assigned["kiosk"] = "south"
    assert kiosk.sync()
    assert note(world, "kiosk") == (b"", None, True), "the growth itself was narrowed"
    world.assigned["kiosk"] = ""
    world.heal()
    world.check()


def test_a_cloud_that_was_restored_begins_the_growth_anew(world: ScopeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "south")
    fill(world)
    assert kiosk.sync()
    backup = world.cloud.backup()
    for place in PLACES[:8]:
        world.write("office", place, "patch")
    assert world.devices["office"].sync()
    world.give("kiosk", "")
    grow_a_little(world, "kiosk")
    world.cloud.restore(backup)
    for place in [*PLACES[8:], *PLACES[:8]]:
        world.write("van", place)
    monkeypatch.setattr(baseline, "_RECORDS_PER_READ", 1)  # so that the feed is at its head before the growth ends
    monkeypatch.setattr(baseline, "RECORDS_PER_PAGE", 1)
    assert world.devices["van"].sync()
    world.heal()
    world.check()


def test_what_was_deleted_while_it_was_out_of_scope_goes(world: ScopeWorld) -> None:
    """Under up what came before stays, and its delete is not heard."""
    kiosk = world.devices["kiosk"]
    fill(world)
    assert kiosk.sync()
    world.give("kiosk", "north")
    for place in PLACES:
        world.write("office", place, "delete")
    assert world.devices["office"].sync()
    assert kiosk.sync()
    assert held(world) == set(PLACES) - {("notes", key) for key in KEYS if key.startswith("north")}
    world.give("kiosk", "")
    world.heal()
    assert held(world) == set()
    world.check()


class ScopeChanges(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = ScopeWorld(self.folder, NAMES)

    names = st.sampled_from(NAMES)

    @initialize(first=st.sampled_from(sorted(RULES)))
    def begin(self, first: str) -> None:
        self.world.give("kiosk", first)

    @rule(name=names, place=st.sampled_from(PLACES), kind=st.sampled_from(KINDS))
    def write(self, name: str, place: tuple[str, str], kind: str) -> None:
        self.world.write(name, place, kind)

    @rule(name=names, place=st.sampled_from(TALLIES))
    def tally(self, name: str, place: tuple[str, str]) -> None:
        self.world.tally(name, place)

    @rule(name=names, wanted=st.sampled_from(sorted(RULES)))
    def assign(self, name: str, wanted: str) -> None:
        self.world.assigned[name] = wanted

    @rule(name=names)
    def activate(self, name: str) -> None:
        self.world.activate(name)

    @rule(name=names, loss=st.sampled_from([0.0, 0.0, 0.3]), steps=st.sampled_from([8, 20, 60]))
    def sync(self, name: str, loss: float, steps: int) -> None:
        self.world.devices[name].sync(loss=loss, steps=steps)

    @rule(name=names, when=st.sampled_from(["Pull", "PullBaseline"]))
    def activate_in_a_sync(self, name: str, when: str) -> None:
        device = self.world.devices[name]
        device.before = {when: lambda: self.world.activate(name)}
        device.sync(steps=60)
        device.before = {}

    @rule(name=names, other=names, place=st.sampled_from(PLACES), kind=st.sampled_from(["put", "delete"]))
    def write_in_a_growth(self, name: str, other: str, place: tuple[str, str], kind: str) -> None:
        def meanwhile() -> None:
            self.world.write(other, place, kind)
            if other != name:
                self.world.devices[other].sync()

        device = self.world.devices[name]
        device.before = {"PullBaseline": meanwhile}
        device.sync(steps=30)
        device.before = {}

    @rule(name=names)
    def cut(self, name: str) -> None:
        self.world.devices[name].crash()

    @rule(days=st.sampled_from([1, 2]))
    def pass_by(self, days: int) -> None:
        self.world.pass_by(days * DAY_MS)

    @rule()
    def archive(self) -> None:
        self.world.archive()

    @rule()
    def restore(self) -> None:
        self.world.restore()

    def teardown(self) -> None:
        try:
            self.world.heal()
            self.world.check()
        finally:
            self.world.close()
            shutil.rmtree(self.folder)


TestScopeChanges = ScopeChanges.TestCase
TestScopeChanges.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
