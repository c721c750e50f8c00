"""What a device accepts and keeps: a real store, a real control plane's bytes. Attacks are in ``tests/attacks``."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.fleet.assignments import LIFE_MS
from cloud.fleet.publishing import TIMESTAMP_MS, Repository
from cloud.fleet.signing import SigningKey
from edge.control.trust import MODELS, POLICY
from edge.storage.control_tables import Document
from sync.assignments import Agreed
from sync.errors import (
    AgentDBError,
    Expired,
    InvalidValue,
    NotFound,
    Refused,
    Unreachable,
    Untrusted,
)
from sync.limits import ROOTS_MAX
from sync.messages import Control, RoleBytes
from tests.control_world import DOCUMENTS, MODEL, POLICY_2, ControlWorld
from tests.control_world import POLICY as POLICY_1
from tests.edge.control.trust_device import Device, everything
from tests.trust_world import DAY_MS, PrivateKey, flipped

pytestmark = pytest.mark.usefixtures("assigned")


def test_what_both_sides_name_is_kept_and_there_after_a_restart(device: Device) -> None:
    assert device.update() == ("policy",)
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    before = everything(device)
    device.again()
    assert everything(device) == before
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    assert device.update() == ()
    status = device.trust.status()
    assert status is not None
    assert (status.assignment, status.refused, status.expired, status.staleness_ms) == (1, None, [], 0)
    assert status.places == {"policy": POLICY_1}
    assert status.pin == sha256(device.world.operators.root()).hexdigest()
    assert device.trust.verify() == []


def test_only_what_is_new_is_fetched_and_what_ran_before_stays(device: Device) -> None:
    world = device.world
    device.update()
    world.plane.assign(world.fleet, "models/embed", MODEL)
    assert device.update() == ("models/embed",)
    world.plane.assign(world.fleet, "policy", POLICY_2)
    assert device.update() == ("policy",)
    world.plane.assign(world.fleet, "policy", POLICY_1)
    assert device.update() == ("policy",)
    assert device.fetched == [POLICY_1, MODEL, POLICY_2], "the first policy was still here"
    world.plane.assign(world.fleet, "models/embed", "")
    assert device.update() == ("models/embed",)
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}


def test_a_fleet_without_trust_keeps_nothing(tmp_path: Path) -> None:
    world = ControlWorld(tmp_path)
    device = Device(tmp_path / "device", world)
    assert device.trust.status() is None
    assert device.trust.staleness_ms() is None
    assert device.trust.documents(POLICY) == []
    assert device.edge.status()["trust"] is None
    assert device.edge.verify() == []
    tables = device.edge.log.reader.all("SELECT name FROM sqlite_schema WHERE name IN ('trust', 'targets', 'agreed')")
    assert tables == []
    device.edge.close()


def test_who_joined_by_a_token_without_a_root_pins_it_by_hand(tmp_path: Path) -> None:
    world = ControlWorld(tmp_path)
    device = Device(tmp_path / "device", world)
    world.publish()
    with pytest.raises(NotFound, match="root"):
        device.ask()
    assert device.refused == "not-found"
    for wrong in ("", "00", "zz" * 32, None, b"x"):
        with pytest.raises(InvalidValue):
            device.trust.pin(wrong)  # type: ignore[arg-type]
    device.trust.pin("ab" * 32)
    with pytest.raises(Untrusted, match="digest"):
        device.update()
    device.trust.pin(sha256(world.operators.root()).hexdigest())
    device.update()
    assert device.refused == ""
    device.edge.close()


def test_another_pin_forgets_what_was_trusted_and_leaves_what_runs(device: Device) -> None:
    device.update()
    device.trust.pin("ab" * 32)
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    assert device.trust.tables.note() is not None
    with pytest.raises(Untrusted):
        device.update()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}


# -- the order of acceptance -------------------------------------------------------------------------------------------


def change(**fields: Any) -> Callable[[Control], Control]:
    return lambda control: Control(
        *(fields.get(name, getattr(control, name)) for name in Control.__struct_fields__),
    )


def test_each_step_refuses_and_leaves_what_runs(device: Device) -> None:
    world = device.world
    device.update()
    ran = device.trust.tables.documents()
    documents = {**DOCUMENTS, "policies/kiosk/3.json": b'{"log":{"level":"error"},"name":"kiosk","schema":1}'}
    world.publish(2, documents=documents)
    world.plane.assign(world.fleet, "policy", "policies/kiosk/3.json")
    good = device.ask()
    other = world.joined("other")
    theirs = world.fetch(key=other)
    assignment = json.loads(good.assignment)
    spaced = json.dumps(assignment).encode()
    steps: list[tuple[str, Control]] = [
        ("too-large", change(timestamp=b"{" * (8 << 10) + b" ")(good)),
        ("untrusted", change(roots=[world.operators.but(roots=(PrivateKey(9),), root_threshold=1).root(2)])(good)),
        ("untrusted", change(timestamp=flipped(good.timestamp, 2000))(good)),
        ("untrusted", change(snapshot=b"")(good)),
        ("untrusted", change(roles=good.roles[:1])(good)),
        ("untrusted", change(signature=flipped(good.signature, 7))(good)),
        ("untrusted", change(assignment=theirs.assignment, signature=theirs.signature)(good)),
        (
            "malformed",
            change(assignment=spaced, signature=world.operators.online.sign(b"agentdb.assignment.v1" + spaced))(good),
        ),
    ]
    for code, control in steps:
        with pytest.raises(AgentDBError) as caught:
            device.trust.accept(control, lambda _: pytest.fail("nothing is fetched before"))
        assert caught.value.code == code
        assert device.refused == code
        assert device.trust.tables.documents() == ran
    with pytest.raises(Untrusted, match="not the bytes"):
        device.trust.accept(good, lambda _: b"{}")
    with pytest.raises(Unreachable):
        device.trust.accept(good, lambda _: (_ for _ in ()).throw(Unreachable("gone")))
    assert device.refused == "", "the network's failure is nobody's refusal"
    assert device.trust.tables.documents() == ran
    assert device.trust.tables.note().versions["snapshot"] == 2  # type: ignore[union-attr]
    device.trust.accept(good, lambda target: documents[target.path])
    assert device.runs() == {"policy": b'{"log":{"level":"error"},"name":"kiosk","schema":1}'}


def test_highest_versions_and_times_are_kept_across_restarts(device: Device) -> None:
    world = device.world
    old = device.ask()
    world.publish(2)
    device.update()
    number = device.trust.tables.note().number  # type: ignore[union-attr]
    device.again()
    with pytest.raises(Untrusted):
        device.trust.accept(change(roots=[])(old), device.fetch)
    assert device.trust.tables.note().number == number  # type: ignore[union-attr]
    world.clock.now_ms -= 400 * DAY_MS  # a clock that is set back lets nothing old in
    status = device.trust.status()
    assert status is not None
    assert status.staleness_ms == 0


def test_expiry_blocks_what_is_new_and_never_what_runs(device: Device) -> None:
    world = device.world
    device.update()
    world.clock.now_ms += TIMESTAMP_MS + DAY_MS
    device.again()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    status = device.trust.status()
    assert status is not None
    assert status.expired == ["timestamp"]
    assert status.staleness_ms == TIMESTAMP_MS + DAY_MS
    with pytest.raises(Expired, match="timestamp"):
        device.update()  # the same timestamp for ever: a freeze
    assert device.refused == "expired"
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    world.plane.control.timestamp_again(world.fleet)
    device.update()
    assert (device.refused, device.trust.staleness_ms()) == ("", 0)


def test_an_assignment_that_is_late_is_refused_and_its_metadata_kept(device: Device) -> None:
    world = device.world
    late = device.ask()
    world.clock.now_ms += LIFE_MS
    with pytest.raises(Expired, match="assignment"):
        device.trust.accept(late, device.fetch)
    note = device.trust.tables.note()
    assert note is not None
    assert (note.number, note.versions["timestamp"]) == (0, 1)
    device.update()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}


def test_a_fast_forward_by_a_stolen_key_ends_with_a_new_root(device: Device) -> None:
    world = device.world
    device.update()
    operators = world.operators
    far = operators.offer(10**9)
    roles = [RoleBytes(name, data) for name, data in far.roles.items()]
    stolen = operators.sealed(
        10**6, device=device.key.device_id.hex(), fleet=world.fleet.hex(), snapshot=10**9, policy=None,
        time_ms=world.clock.now_ms + 300 * DAY_MS, expires_ms=world.clock.now_ms + 400 * DAY_MS,
    )  # fmt: skip
    control = Control([], far.timestamp, far.snapshot, roles, stolen.data, stolen.signature)
    assert device.trust.accept(control, device.fetch).number == 10**6
    assert device.runs() == {}, "it may withhold"
    new = PrivateKey(41)
    world.online = SigningKey(new.private)
    second = operators.but(online=new).root(2, by=operators.roots)
    world.plane.publish(world.fleet, Repository([second], operators.offer(10**9).roles, DOCUMENTS))
    device.update()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    note = device.trust.tables.note()
    assert note is not None
    assert note.seen_ms == world.clock.now_ms, "nor is its time one any more"


def test_roots_come_in_several_answers(device: Device) -> None:
    world, operators = device.world, device.world.operators
    roots = [operators.root(version, by=operators.roots) for version in range(1, 2 * ROOTS_MAX + 3)]
    world.plane.publish(world.fleet, Repository(roots, {}, {}))
    answers = [device.trust.accept(device.ask(), device.fetch) for _ in range(3)]
    assert [answer.more for answer in answers] == [True, True, False]
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
    assert device.trust.tables.note().versions["root"] == 2 * ROOTS_MAX + 2  # type: ignore[union-attr]


# -- who runs it -------------------------------------------------------------------------------------------------------


class Runner:
    def __init__(self) -> None:
        self.heard: list[list[str]] = []
        self.error: Exception | None = None
        self.needs: list[bytes] = []

    def check(self, target: Agreed, data: bytes) -> None:
        assert sha256(data).digest() == target.sha256
        if self.error is not None:
            raise self.error

    def activated(self, documents: list[Document]) -> None:
        self.heard.append([one.path for one in documents])

    def wanted(self) -> Collection[bytes]:
        return self.needs


def test_who_runs_it_checks_it_first_and_hears_of_it_afterwards(device: Device) -> None:
    world = device.world
    policies, models = Runner(), Runner()
    device.trust.on_activated(POLICY, policies)
    device.trust.on_activated(MODELS, models)
    policies.error = Refused("a schema that is not known here", hint="update")
    with pytest.raises(Refused):
        device.update()
    assert (device.runs(), device.refused, policies.heard) == ({}, "refused", [])
    policies.error = None
    device.update()
    assert (policies.heard, models.heard) == ([[POLICY_1]], [])
    world.plane.assign(world.fleet, "models/embed", MODEL)
    device.update()
    assert (policies.heard, models.heard) == ([[POLICY_1]], [[MODEL]])
    device.update()
    assert len(models.heard) == 1
    models.needs = [sha256(DOCUMENTS[MODEL]).digest()]
    for place, path in (("models/embed", ""), ("policy", POLICY_2), ("policy", "")):
        world.plane.assign(world.fleet, place, path)
        device.update()
    assert (policies.heard, models.heard) == ([[POLICY_1], [POLICY_2], []], [[MODEL], []])
    assert device.trust.tables.target(sha256(DOCUMENTS[MODEL]).digest()) == DOCUMENTS[MODEL], "it is still wanted"
    assert device.trust.tables.target(sha256(DOCUMENTS[POLICY_1]).digest()) is None


def test_one_whose_check_fails_keeps_no_other_and_no_later_one_back(
    device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plane, fleet = device.world.plane, device.world.fleet
    plane.assign(fleet, "models/embed", MODEL)
    runner = Runner()
    device.trust.on_activated(POLICY, runner)
    with monkeypatch.context() as broken:
        broken.setattr(runner, "check", lambda *_: 1 / 0)
        with pytest.raises(Refused, match="cannot be checked here: ZeroDivisionError"):
            device.update()
    assert device.runs() == {"models/embed": DOCUMENTS[MODEL]}
    assert device.refused == "refused"
    assert "could not be checked" in caplog.text
    plane.assign(fleet, "policy", POLICY_2)
    assert device.update() == ("policy",)
    assert device.refused == ""


def test_one_that_fails_to_begin_is_logged_and_stops_nothing(
    device: Device, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner()
    device.trust.on_activated(POLICY, runner)
    monkeypatch.setattr(runner, "activated", lambda _: 1 / 0)
    assert device.update() == ("policy",)
    assert "could not be begun" in caplog.text
    assert device.runs() == {"policy": DOCUMENTS[POLICY_1]}
