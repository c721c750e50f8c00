"""Rollouts over a real store: exposure under the row's lock, halting, reverting, and what operators may do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.fleet import rollouts, twins
from cloud.fleet.rollout_desk import EXPOSURES_KEPT_MS, OPEN_MAX, followed
from cloud.twin_rows import RolloutRow
from sync.errors import InvalidValue, NotFound, Refused
from tests.cloud.fleet.rollout_world import GATE, World, spec


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.store.close()


def test_a_good_one_reaches_everybody_in_stages(world: World) -> None:
    assert world.desk.create(world.id, spec()).id == "r1"
    first = world.all_ask()
    assert 0 < len(first) < 30
    assert world.desk.run(world.id) == []
    for device in first:
        world.tell(device, "committed")
    assert world.desk.run(world.id) == [("r1", rollouts.Advance(1))]
    assert world.all_ask() == world.rows
    for device in world.rows:
        world.tell(device, "committed")
    assert world.desk.run(world.id) == [("r1", rollouts.Finish())]
    shown = world.desk.show(world.id, "r1")
    assert (shown.row.state, shown.tally.total) == ("done", (60, 60, 0))
    assert world.trail == ["operator: rollout.created", "cloud: rollout.advanced", "cloud: rollout.done"]
    newcomer = world.rows[0]._replace(device=b"n" * 12)
    with world.store.writing() as tx:
        tx.put_devices([newcomer])
    assert world.ask(newcomer) == "models/embed/13.json"


def test_a_bad_one_is_halted_and_taken_back_and_exposes_nobody_after(world: World) -> None:
    world.desk.create(world.id, spec(spread="reported.hardware"))
    exposed = world.all_ask()
    bad = [device for device in exposed if world.rows.index(device) % 5 == 0]
    assert len(bad) >= 2
    for device in bad[:2]:
        world.tell(device, "returned")
    world.desk.run(world.id)
    shown = world.desk.show(world.id, "r1")
    assert shown.row.state == "reverted"
    assert shown.row.why == "halted: 2 of 2 that report failed of rev2; all 2 failures: rev2"
    assert [one.reason for one in shown.failures] == ["slow", "slow"]
    assert world.all_ask() == []
    assert world.desk.show(world.id, "r1").tally.total.exposed == len(exposed)


def test_keep_leaves_it_to_those_who_have_it(world: World) -> None:
    everybody = [{"percent": 100}]
    world.desk.create(world.id, spec(on_halt="keep", stages=everybody, gate=GATE | {"failed_max": 1}))
    exposed = world.rows[:5]  # the others have not asked yet, and would have been given it
    assert all(map(world.ask, exposed))
    world.tell(exposed[0], "failed")
    world.desk.run(world.id)
    assert world.row().state == "kept"
    assert world.all_ask() == exposed
    world.desk.abort(world.id, "r1", "revert")
    assert world.all_ask() == []


def test_a_revert_names_the_version_before(world: World) -> None:
    everybody = [{"percent": 100}]
    world.desk.create(world.id, spec(what="models/embed/12.json", stages=everybody))
    for device in world.all_ask():
        world.tell(device, "committed", "models/embed/12.json")
    world.desk.run(world.id)
    world.desk.create(world.id, spec(gate=GATE | {"failed_max": 1}))
    exposed = [device for device in world.rows if world.ask(device) == "models/embed/13.json"]
    assert exposed
    world.tell(exposed[0], "refused")
    world.desk.run(world.id)
    assert {world.ask(device) for device in world.rows} == {"models/embed/12.json"}


def test_one_that_is_done_follows_those_before_it(world: World) -> None:
    for number in (12, 13):
        path = f"models/embed/{number}.json"
        world.desk.create(world.id, spec(what=path, stages=[{"percent": 100}]))
        for device in world.all_ask()[:2]:
            world.tell(device, "committed", path)
        world.desk.run(world.id)
    assert [shown.row.state for shown in world.desk.all(world.id)] == ["past", "done"]
    with world.store.writing() as tx:
        followed(tx, world.id, "models/embed", world.clock.wall_ms())
    assert world.all_ask() == []


def test_one_that_ends_with_half_of_its_group_leaves_the_others_what_they_had(world: World) -> None:
    for number, percent in ((12, 100), (13, 50)):
        path = f"models/embed/{number}.json"
        world.desk.create(world.id, spec(what=path, stages=[{"percent": percent}]))
        for device in [device for device in world.rows if world.ask(device) == path][:2]:
            world.tell(device, "committed", path)
        world.desk.run(world.id)
    assert [shown.row.state for shown in world.desk.all(world.id)] == ["done", "done"]
    assert {world.ask(device) for device in world.rows} == {"models/embed/12.json", "models/embed/13.json"}


def test_paused_exposes_nobody_more_and_resumes(world: World) -> None:
    world.desk.create(world.id, spec(stages=[{"percent": 50}]))
    exposed = [device for device in world.rows[:10] if world.ask(device)]
    assert exposed
    world.desk.pause(world.id, "r1")
    assert world.all_ask() == exposed
    for device in exposed:
        world.tell(device, "returned")
    assert world.desk.run(world.id) == []
    with pytest.raises(Refused, match="paused"):
        world.desk.pause(world.id, "r1")
    world.desk.resume(world.id, "r1")
    assert len(world.all_ask()) > len(exposed)


def test_offline_devices_are_neither_success_nor_failure(world: World) -> None:
    world.desk.create(world.id, spec(gate=GATE | {"stalled_after_s": 60}))
    exposed = world.all_ask()
    world.tell(exposed[0], "committed")
    assert world.desk.run(world.id) == []
    world.clock.now_ms += 61_000
    assert world.desk.run(world.id) == [("r1", rollouts.Pause("stalled: 1 of 2 devices report"))]
    assert "stalled" in world.row().why


def test_an_outcome_of_another_digest_says_nothing(world: World) -> None:
    world.desk.create(world.id, spec(stages=[{"percent": 100}]))
    world.ask(world.rows[0])
    world.tell(world.rows[0], "committed", "models/embed/12.json")
    world.report(world.rows[0], b'{"agentdb":{"outcomes":{"models/embed":7}}}')
    assert world.desk.show(world.id, "r1").tally.total == (1, 0, 0)
    world.tell(world.rows[0], "committed")
    world.tell(world.rows[0], "returned")  # later, in its soak: the last counts
    assert world.desk.show(world.id, "r1").tally.total == (1, 0, 1)


def test_two_for_one_place_share_no_device(world: World) -> None:
    with world.store.writing() as tx:
        twins.set_labels(tx, world.id, world.rows[0].device, {"site": "north"})
        twins.set_labels(tx, world.id, world.rows[1].device, {"site": "south"})
    world.desk.create(world.id, spec(group='labels.site = "north"'))
    world.desk.create(world.id, spec(group='labels.site = "south"'))
    world.desk.create(world.id, spec(what="policies/kiosk/7.json"))
    with pytest.raises(Refused, match="r1 is running for models/embed and 'd1'"):
        world.desk.create(world.id, spec())
    world.desk.abort(world.id, "r1", "keep")
    with pytest.raises(Refused, match="r2"):
        world.desk.create(world.id, spec())


@pytest.mark.parametrize(
    ("what", "error"), [("models/embed/99.json", NotFound), ("embed", InvalidValue), ("models/embed/13", InvalidValue)]
)
def test_what_is_not_there_is_not_rolled_out(world: World, what: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        world.desk.create(world.id, spec(what=what))
    assert world.desk.all(world.id) == []


def test_nothing_is_exposed_after_a_halt_however_many_ask_at_once(tmp_path: Path) -> None:
    world = World(80)
    world.desk.create(world.id, spec(stages=[{"percent": 100}], gate=GATE | {"failed_max": 1}))
    assert world.ask(world.rows[0])
    at_halt: list[int] = []

    def halt() -> None:
        world.tell(world.rows[0], "returned")
        world.desk.run(world.id)
        at_halt.append(world.desk.show(world.id, "r1").tally.total.exposed)

    threads = [threading.Thread(target=world.ask, args=(device,)) for device in world.rows[1:]]
    threads.insert(40, threading.Thread(target=halt))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.row().state == "reverted"
    assert world.desk.show(world.id, "r1").tally.total.exposed == at_halt[0]
    world.store.close()


def test_there_is_a_bound(world: World) -> None:
    with world.store.writing() as tx:
        packed = rollouts.pack_spec(spec())
        tx.put_rollouts(
            world.id,
            [RolloutRow(f"r{n}", n, f"m{n}", packed, "", "done", 0, 1, 0, "", 1) for n in range(1, OPEN_MAX + 1)],
        )
    with pytest.raises(Refused, match="200 rollouts"):
        world.desk.create(world.id, spec())


def test_who_was_exposed_is_forgotten_a_month_after_it_says_nothing_any_more(world: World) -> None:
    everybody: list[dict[str, Any]] = [{"percent": 100}]
    world.desk.create(world.id, spec(stages=everybody))
    for device in world.all_ask():
        world.tell(device, "committed")
    world.desk.run(world.id)
    world.desk.create(world.id, spec(what="policies/kiosk/7.json", stages=everybody, gate={"reporting_min": 60}))
    world.all_ask()
    world.clock.now_ms += 2 * EXPOSURES_KEPT_MS
    world.desk.abort(world.id, "r2", "revert")
    world.desk.create(world.id, spec(what={"desired": {"level": 1}}, stages=everybody))
    assert world.desk.show(world.id, "r1").tally.total.exposed == 60, "it says what they run, however long"
    assert world.desk.show(world.id, "r2").tally.total.exposed == 60, "not a month yet"
    world.desk.abort(world.id, "r3", "revert")
    world.clock.now_ms += EXPOSURES_KEPT_MS
    world.desk.create(world.id, spec(what={"desired": {"level": 2}}, stages=everybody))
    shown = world.desk.show(world.id, "r2")
    assert (shown.tally.total.exposed, shown.row.state) == (0, "reverted")
    assert shown.row.why == "by an operator; it had been given to 60: 0 good, 0 failed"
    with world.store.reading() as view:
        assert view.exposures(world.id, "r2") == []
        assert len(view.exposures(world.id, "r1")) == 60
    world.desk.abort(world.id, "r4", "revert")
    world.desk.create(world.id, spec(what={"desired": {"level": 3}}, stages=everybody))
    assert world.row("r2").why == shown.row.why, "once"
    world.tell(world.rows[0], "returned")  # nothing is in the way of what devices still say


def test_a_report_of_what_is_past_changes_nothing(world: World) -> None:
    everybody: list[dict[str, Any]] = [{"percent": 100}]
    for path in ("models/embed/13.json", "models/embed/12.json"):
        row = world.desk.create(world.id, spec(what=path, stages=everybody))
        for device in world.all_ask():
            world.tell(device, "committed", path)
        world.desk.run(world.id, row.id)
    assert world.row("r1").state == "past"
    before = world.desk.show(world.id, "r1").tally
    world.tell(world.rows[0], "returned")
    assert world.desk.show(world.id, "r1").tally == before
