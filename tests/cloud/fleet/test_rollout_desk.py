"""Rollouts over a real store: exposure under the row's lock, halting, reverting, and what operators may do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.fleet import exposing, rollouts, twins
from cloud.fleet.rollout_desk import EXPOSURES_KEPT_MS, OPEN_MAX, RolloutDesk, followed
from cloud.fleet.rollouts import Spec
from cloud.ports import Transaction
from cloud.rows import DeviceRow
from cloud.twin_rows import RolloutRow
from sync.errors import InvalidValue, NotFound, Refused
from tests.cloud.stream_world import Fleet

GATE: dict[str, Any] = {"reporting_min": 2, "failed_share_max": 0.2, "failed_max": 3}
STAGES: list[dict[str, Any]] = [{"percent": 10}, {"percent": 100}]
HERE = {"models/embed/12.json": "12" * 32, "models/embed/13.json": "13" * 32, "policies/kiosk/7.json": "07" * 32}


def spec(**changes: Any) -> Spec:
    return rollouts.parse_spec(
        msgspec.json.encode({"what": "models/embed/13.json", "stages": STAGES, "gate": GATE, **changes})
    )


class World:
    """A fleet of rows: every fifth device is rev2."""

    def __init__(self, size: int = 60) -> None:
        self.fleet = Fleet(None)
        self.id, self.store, self.clock = self.fleet.id, self.fleet.store, self.fleet.clock
        self.trail: list[str] = []
        self.moved = 0
        self.desk = RolloutDesk(self.store, self.clock, self._note, self._count, self._goal)
        self.rows = [
            DeviceRow(self.id, number.to_bytes(12), bytes(32), bytes(32), f"d{number}", 0, 1, b"t" * 16, 0)
            for number in range(1, size + 1)
        ]
        with self.store.writing() as tx:
            tx.put_devices(self.rows)
            for number, device in enumerate(self.rows):
                hardware = b"rev2" if number % 5 == 0 else b"rev1"
                twins.take_report(tx, self.id, device.device, 1, b'{"hardware":"%s"}' % hardware, 0, 1)

    def _goal(self, _: Transaction, __: bytes, path: str) -> str:
        if path not in HERE:
            raise NotFound(path)
        return HERE[path]

    def _note(self, tx: Any, fleet: bytes, at_ms: int, actor: str, action: str, subject: str, **details: Any) -> None:
        self.trail.append(f"{actor}: {action}")

    def _count(self, _: bytes) -> None:
        self.moved += 1

    def ask(self, device: DeviceRow) -> str:
        """The device asks for its assignment: the path of its model, "" without one."""
        with self.store.writing(durable=False) as tx:
            before = exposing.given(tx, device)
            exposing.expose(tx, device, self.clock.wall_ms())
            after = exposing.given(tx, device)
            assert before == after  # what is promised when it asks is what it is given
        return after["models/embed"].path if "models/embed" in after else ""

    def tell(self, device: DeviceRow, outcome: str, path: str = "models/embed/13.json", acks: int = 0) -> None:
        said = {"": None, "path": path, "sha256": HERE[path], "outcome": outcome, "reason": "slow"}
        patch = msgspec.json.encode({"agentdb": {"outcomes": {"models/embed": said}}})
        self.report(device, patch, acks)

    def report(self, device: DeviceRow, patch: bytes, acks: int = 0) -> None:
        with self.store.writing(durable=False) as tx:
            version = twins.twin_of(tx, self.id, device.device).reported_version + 1
            taken = twins.take_report(tx, self.id, device.device, version, patch, acks, self.clock.wall_ms())
            assert taken.twin is not None
            exposing.heard(tx, self.id, taken.twin, self.clock.wall_ms())

    def all_ask(self) -> list[DeviceRow]:
        return [device for device in self.rows if self.ask(device)]

    def row(self, rollout: str = "r1") -> RolloutRow:
        return self.desk.show(self.id, rollout).row


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


def test_configuration_goes_the_same_way(world: World) -> None:
    device = world.rows[0]
    with world.store.writing() as tx:
        twins.set_desired(tx, world.id, device.device, {"level": "info", "port": 1})
        exposing.expose(tx, device, 1)
        assert exposing.desired(tx, device).desired_version == 1
    world.desk.create(world.id, spec(what={"desired": {"tone": "calm", "port": 2}}, stages=[{"percent": 100}]))
    world.all_ask()
    with world.store.reading() as view:
        row = exposing.desired(view, device)
        assert (row.desired, row.desired_version) == (b'{"level":"info","port":1,"tone":"calm"}', 2)
        assert exposing.desired(view, world.rows[1]).desired == b'{"port":2,"tone":"calm"}'
    world.report(device, b"{}", acks=1)
    assert world.desk.show(world.id, "r1").tally.total == (60, 0, 0)
    world.report(device, b"{}", acks=2)
    assert world.desk.show(world.id, "r1").tally.total == (60, 1, 0)
    world.desk.abort(world.id, "r1", "revert")
    world.all_ask()
    with world.store.reading() as view:
        row = exposing.desired(view, device)
        assert (row.desired, row.desired_version) == (b'{"level":"info","port":1}', 3)


def finish(world: World, patch: dict[str, Any], **changes: Any) -> RolloutRow:
    """Settings that every device has said that it has."""
    everybody = {"stages": [{"percent": 100}], "gate": {"reporting_min": 1}}
    row = world.desk.create(world.id, spec(what={"desired": patch}, **everybody, **changes))
    device = world.rows[0]
    world.ask(device)
    with world.store.reading() as view:
        version = exposing.desired(view, device).desired_version
    world.report(device, b"{}", acks=version)
    assert (row.id, rollouts.Finish()) in world.desk.run(world.id)
    return row


def told(world: World, device: DeviceRow) -> tuple[bytes, int]:
    with world.store.reading() as view:
        row = exposing.desired(view, device)
    return row.desired, row.desired_version


def test_finished_settings_of_the_whole_fleet_become_one_and_no_device_is_told_anything_else(world: World) -> None:
    first, newcomer = world.rows[0], world.rows[7]
    for number in range(rollouts.REVERTABLE + 5):
        finish(world, {"last": number, f"own{number % 3}": {"": None, str(number): True}})
    before = told(world, first)
    assert told(world, newcomer)[0] == before[0]
    world.desk.create(world.id, spec())
    states = [shown.row.state for shown in world.desk.all(world.id)]
    assert states == ["past"] * 4 + ["settled"] + ["done"] * rollouts.REVERTABLE + ["running"]
    assert told(world, first) == before, "the same version"
    assert told(world, newcomer)[0] == before[0]
    assert world.trail[-2:] == ["cloud: rollout.settled", "operator: rollout.created"]
    assert "before it" in world.row("r5").why
    with pytest.raises(Refused, match="r5 is settled"):
        world.desk.abort(world.id, "r5", "revert")
    for number in range(6, rollouts.REVERTABLE + 6):
        world.desk.abort(world.id, f"r{number}", "revert")
    assert told(world, newcomer)[0] == b'{"last":4,"own0":{"3":true},"own1":{"4":true},"own2":{"2":true}}'


def test_more_settings_than_there_may_be_rollouts(world: World) -> None:
    """What finished before there was any such thing makes room, too."""
    packed = rollouts.pack_spec(spec(what={"desired": {"level": 1}}, stages=[{"percent": 100}]))
    old = [RolloutRow(f"r{at}", at, "desired", packed, "", "done", 0, 1, 0, "", 1) for at in range(1, OPEN_MAX + 1)]
    with world.store.writing() as tx:
        tx.put_rollouts(world.id, old)
    finish(world, {"level": 2})
    assert told(world, world.rows[0])[0] == b'{"level":2}'
    states = [shown.row.state for shown in world.desk.all(world.id)]
    assert states.count("past") == OPEN_MAX - rollouts.REVERTABLE - 1


def test_settings_keep_their_order_among_those_of_groups(world: World) -> None:
    with world.store.writing() as tx:
        twins.set_labels(tx, world.id, world.rows[0].device, {"site": "north"})
    finish(world, {"level": "debug", "mode": 1})
    finish(world, {"level": "info"}, group='labels.site = "north"')
    finish(world, {"mode": 2})
    before = told(world, world.rows[0])
    for _ in range(rollouts.REVERTABLE + 2):
        finish(world, {"mode": 3})
    assert told(world, world.rows[0])[0] == before[0].replace(b"2", b"3") == b'{"level":"info","mode":3}'
    found = {shown.row.id: shown.row.state for shown in world.desk.all(world.id)}
    assert (found["r1"], found["r2"], found["r3"]) == ("done", "done", "past"), "r1 would be above r2"


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
