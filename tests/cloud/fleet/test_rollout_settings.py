"""Settings by rollouts: they add up, and the finished ones of the whole fleet become one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloud.fleet import exposing, rollouts, twins
from cloud.fleet.rollout_desk import OPEN_MAX
from cloud.rows import DeviceRow
from cloud.twin_rows import RolloutRow
from sync.errors import Refused
from tests.cloud.fleet.rollout_world import World, spec


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.store.close()


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
