"""Twins and rollouts between a real device and a real control plane: signed on the way down, reported on the way up."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep

import msgspec
import pytest

from cloud.fleet import rollouts
from edge import Edge
from edge.control.policy import Policies
from edge.control.policy_told import PolicyTold
from sync.errors import InvalidPolicy
from sync.messages import Report, Reported, decode, encode
from tests.cloud.test_cli import ok, served
from tests.control_world import DOCUMENTS, MODEL, POLICY, POLICY_2, ControlWorld
from tests.edge.control.trust_device import Device


def send(device: Device) -> None:
    due = device.edge.twin.due()
    assert due is not None
    answer = device.world.plane.handle(decode(encode(Report(*due))), device.world.caller(device.key))
    assert isinstance(answer, Reported)
    assert device.edge.twin.answered(due, answer.version)


def begin(world: ControlWorld, **spec: object) -> str:
    document = {"stages": [{"percent": 100}], "gate": {"failed_max": 1}, **spec}
    return world.plane.rollouts.create(world.fleet, rollouts.parse_spec(msgspec.json.encode(document))).id


def test_what_is_desired_comes_signed_and_is_acknowledged(world: ControlWorld, device: Device) -> None:
    world.plane.assign(world.fleet, "policy", POLICY)
    device.update()
    assert device.edge.twin.desired() == {}
    send(device)  # that the policy is active
    world.plane.twins.set_desired(world.fleet, device.key.device_id, {"level": "debug"})
    begin(world, what={"desired": {"level": "info", "agents": {"guide": {"tone": "calm"}}}})
    device.update()
    assert device.edge.twin.desired() == {"level": "debug"}
    assert device.edge.twin.desired("guide") == {"tone": "calm"}
    device.again()
    assert device.edge.twin.desired() == {"level": "debug"}
    send(device)
    shown = world.plane.rollouts.show(world.fleet, "r1")
    assert shown.tally.total == (1, 1, 0)
    world.plane.rollouts.abort(world.fleet, "r1", "revert")
    device.update()
    assert device.edge.twin.desired("guide") == {}
    assert device.edge.twin.status()["desired_version"] == 3


def test_a_model_that_fails_here_goes_back_by_the_next_assignment(world: ControlWorld, device: Device) -> None:
    place = f"models/{MODEL.split('/')[1]}"
    begin(world, what=MODEL)
    assert device.update() == (place,)
    assert device.runs()[place] == DOCUMENTS[MODEL]
    (document,) = device.trust.documents("models/")
    assert (document.rollout, document.stage) == ("r1", 0)
    device.edge.twin.report({"hardware": "rev2"})
    device.edge.twin.note_outcome(place, MODEL, sha256(DOCUMENTS[MODEL]).hexdigest(), "returned", "too slow")
    send(device)
    shown = world.plane.rollouts.show(world.fleet, "r1")
    assert shown.row.state == "reverted"
    assert shown.failures[0].reason == "too slow"
    assert device.update() == (place,)
    assert device.runs() == {}


def test_a_reverted_policy_is_the_one_before(world: ControlWorld, device: Device) -> None:
    world.plane.assign(world.fleet, "policy", POLICY)
    begin(world, what=POLICY_2)
    device.update()
    assert device.runs()["policy"] == DOCUMENTS[POLICY_2]
    world.plane.rollouts.abort(world.fleet, "r1", "revert")
    device.update()
    assert device.runs()["policy"] == DOCUMENTS[POLICY]


def test_a_policy_reports_that_it_is_active_also_after_a_crash_before_it_could(
    world: ControlWorld, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, what=POLICY)
    with monkeypatch.context() as crash:
        crash.setattr(PolicyTold, "catch_up", lambda _: None)
        device.update()
    assert device.edge.twin.due() is None
    device.again()
    send(device)
    assert world.plane.rollouts.show(world.fleet, "r1").tally.total == (1, 1, 0)


def test_a_policy_that_this_device_cannot_run_is_reported_refused(
    world: ControlWorld, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.plane.assign(world.fleet, "policy", POLICY)
    device.update()
    send(device)
    begin(world, what=POLICY_2)

    def cannot(*_: object) -> None:
        raise InvalidPolicy("direction local is not carried out by this version")

    monkeypatch.setattr(Policies, "check", cannot)
    with pytest.raises(InvalidPolicy):
        device.update()
    assert device.runs()["policy"] == DOCUMENTS[POLICY]
    send(device)
    shown = world.plane.rollouts.show(world.fleet, "r1")
    assert shown.row.state == "reverted"
    assert "not carried out" in shown.failures[0].reason


def test_a_restored_cloud_that_knows_no_report_is_told_all(world: ControlWorld, device: Device) -> None:
    device.edge.twin.report({"a": 1, "b": 2})
    send(device)
    with world.store.writing() as tx:
        row = tx.twin(world.fleet, device.key.device_id)
        assert row is not None
        tx.put_twins(world.fleet, [row._replace(reported=b"{}", reported_version=0)])
    device.edge.twin.report({"b": 3})
    device.edge.twin.report({"b": 4})
    due = device.edge.twin.due()
    assert due is not None
    answer = world.plane.handle(Report(*due), world.caller(device.key))
    assert isinstance(answer, Reported)
    assert not device.edge.twin.answered(due, answer.version)
    send(device)
    with world.store.reading() as view:
        row = view.twin(world.fleet, device.key.device_id)
    assert row is not None
    assert row.reported == b'{"a":1,"b":4}'


def eventually(done: Callable[[], bool]) -> None:
    until = monotonic() + 10
    while not done():
        assert monotonic() < until
        sleep(0.05)


def test_reports_arrive_by_sync_and_at_once_while_the_link_is_up_without_any_trust(tmp_path: Path) -> None:
    cloud = tmp_path / "cloud"
    ok("init", cloud)
    with served(cloud), Edge.open(tmp_path / "device") as edge:
        edge.join(ok("token", cloud)["token"], name="van")
        edge.twin.report({"hardware": "rev2"})
        edge.sync()
        assert edge.twin.status()["unsent"] is False
        assert ok("twins", "show", cloud, "van")["reported"] == {"hardware": "rev2"}
        assert edge.trust.status() is None
        edge.start_sync()
        edge.twin.report({"mode": "quiet"}, agent="guide")
        eventually(lambda: ok("twins", "show", cloud, "van")["reported"].get("agents") is not None)
        edge.twin.report({"hardware": "rev3"})
        eventually(lambda: ok("twins", "show", cloud, "van")["reported"]["hardware"] == "rev3")
        edge.stop_sync()
