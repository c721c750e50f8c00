"""What a device is told to run: signed when it asks, with a number that only rises, and only what both sides name."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.control_rows import AssignmentRow
from cloud.fleet import control_desk
from cloud.fleet.assignments import LIFE_MS
from cloud.fleet.publishing import _LOST_MAX, Repository
from cloud.fleet.rollouts import Spec, Stage
from cloud.fleet.signing import SigningKey
from sync.assignments import Assignment, Signed, agreed, open_assignment
from sync.errors import NotFound, Refused, StaleWrite, TooLarge
from sync.limits import AHEAD_MAX, ROOTS_MAX
from sync.manifests import Offer, TrustedSet, pinned
from sync.messages import Control, Hello, Pull, PullPage, Welcome
from tests.control_world import DOCUMENTS, MODEL, POLICY, POLICY_2, ControlWorld
from tests.trust_world import PrivateKey


@pytest.fixture
def world(tmp_path: Path) -> ControlWorld:
    world = ControlWorld(tmp_path)
    world.publish()
    return world


def trusted_by(world: ControlWorld, control: Control) -> TrustedSet:
    """By a device that has nothing but the first root's digest."""
    first = world.operators.root()
    held = pinned(control.roots[0], sha256(first).digest(), world.fleet)
    roles = {role.name: role.data for role in control.roles}
    return held.update(Offer(control.roots[1:], control.timestamp, control.snapshot, roles), world.clock.now_ms)


def opened(world: ControlWorld, control: Control, trusted: TrustedSet, held: int = 0) -> Assignment:
    signed = Signed(control.assignment, control.signature)
    return open_assignment(signed, trusted, world.fleet, world.device.device_id, held, world.clock.now_ms)


def announced(world: ControlWorld, held: int = 0) -> int:
    """At a handshake; a page says the same of one that is not restored."""
    caller = world.caller()
    hello = Hello([3], world.fleet, caller.device + b"\0\0\0\1", 0, 0, b"", 0, b"", [], held)
    welcome = world.plane.handle(hello, caller)
    assert isinstance(welcome, Welcome)
    if not held:
        page = world.plane.handle(Pull(hello.replica, 0, 1, 1, 0, welcome.incarnation), caller)
        assert isinstance(page, PullPage)
        assert page.assignment == welcome.assignment
    return welcome.assignment


def test_a_device_that_has_nothing_is_given_all_of_it(world: ControlWorld) -> None:
    world.plane.assign(world.fleet, "policy", POLICY)
    world.plane.assign(world.fleet, "models/embed", MODEL)
    control = world.fetch()
    trusted = trusted_by(world, control)
    assignment = opened(world, control, trusted)
    assert (assignment.number, assignment.snapshot) == (1, 1)
    assert assignment.expires_ms == world.clock.now_ms + LIFE_MS
    assert [target.path for target in agreed(assignment, trusted)] == [POLICY, MODEL]


def test_only_what_it_has_not(world: ControlWorld) -> None:
    world.fetch()
    have: dict[str, Any] = {"timestamp": 1, "snapshot": 1, "targets": 1, "policies": 1, "models": 1}
    assert world.fetch(1, 1, **have) == Control([], b"", b"", [], b"", b"")
    documents = {**DOCUMENTS, "policies/kiosk/3.json": DOCUMENTS[POLICY_2]}
    world.publish(2, documents=documents)
    control = world.fetch(1, 1, **have)
    assert control.roots == []
    assert sorted(role.name for role in control.roles) == ["models", "policies", "targets"]
    assert json.loads(control.assignment)["number"] == 2, "beside another snapshot"


def test_a_number_is_announced_before_it_is_signed(world: ControlWorld) -> None:
    assert announced(world) == 1
    world.fetch()
    assert announced(world) == 1
    world.plane.assign(world.fleet, "policy", POLICY)
    assert announced(world) == 2
    assert json.loads(world.fetch(1, 1).assignment)["number"] == 2
    assert announced(world) == 2
    world.plane.assign(world.fleet, "policy", POLICY)
    assert announced(world) == 2, "nothing has changed"
    world.plane.assign(world.fleet, "policy", "")
    assert announced(world) == 3
    assert "policy" not in json.loads(world.fetch(2, 1).assignment)


def test_what_is_too_large_to_be_told_holds_up_nothing_else(world: ControlWorld) -> None:
    """Of a rollout's patch and of what is desired of the device alone, each is within the bound."""
    world.fetch()
    device = world.device.device_id
    world.plane.twins.set_desired(world.fleet, device, {"own": "x" * 40_000})
    world.fetch(1)
    everybody = Spec({"desired": {"all": "x" * 40_000}}, [Stage(100)])
    world.plane.rollouts.create(world.fleet, everybody)
    assert announced(world) == 3
    with pytest.raises(TooLarge):
        world.fetch(2)
    world.plane.twins.set_desired(world.fleet, device, {"own": None})
    assert json.loads(world.fetch(2).assignment)["number"] == 3
    assert announced(world) == 3


def test_desired_is_set_for_who_has_seen_what_is_shown(world: ControlWorld) -> None:
    device = world.device.device_id
    world.plane.rollouts.create(world.fleet, Spec({"desired": {"all": 1}}, [Stage(100)]))
    (shown,) = world.plane.twins.look(world.fleet, "")
    assert shown.twin.desired_version == 1, "not asked for yet"
    row = world.plane.twins.set_desired(world.fleet, device, {"own": 1}, expected=1)
    assert (row.desired_version, row.desired) == (2, b'{"all":1,"own":1}')
    with pytest.raises(StaleWrite):
        world.plane.twins.set_desired(world.fleet, device, {"own": 2}, expected=1)


def test_a_fleet_without_trust_hears_of_nothing(tmp_path: Path) -> None:
    world = ControlWorld(tmp_path)
    assert announced(world) == 0
    with pytest.raises(NotFound, match="no root"):
        world.fetch()


def test_it_is_signed_again_when_half_of_its_time_is_over(world: ControlWorld) -> None:
    first = world.fetch()
    world.clock.now_ms += LIFE_MS // 2
    assert world.fetch(1, 1).assignment == b""
    world.clock.now_ms += 1
    control = world.fetch(1, 1)
    assert json.loads(control.assignment)["number"] == 2
    assert opened(world, control, trusted_by(world, first), held=1).number == 2


def test_and_under_a_new_key(world: ControlWorld) -> None:
    world.fetch()
    operators, new = world.operators, PrivateKey(41)
    world.online = SigningKey(new.private)
    second = operators.but(online=new).root(2, by=operators.roots)
    world.plane.publish(world.fleet, Repository([second], {}, {}))
    control = world.fetch(1, 1)
    assert len(control.roots) == 1
    assert len(control.roles) == 3, "what it has may be no floor any more: all of it comes"
    assert json.loads(control.assignment)["number"] == 2


def test_a_restored_control_plane_goes_on_from_what_the_device_holds(world: ControlWorld) -> None:
    with world.store.writing() as tx:
        tx.put_assignment(world.fleet, AssignmentRow(world.device.device_id, 7))
    assert announced(world) == 8
    assert announced(world, held=812) == 813
    assert json.loads(world.fetch(812, 1).assignment)["number"] == 813
    assert announced(world, held=813) == 813
    assert json.loads(world.fetch(813 + AHEAD_MAX + 1, 1).assignment)["number"] == 814, "within reason"


def versions(world: ControlWorld) -> tuple[int, int]:
    with world.store.reading() as view:
        held = dict(view.trust_versions(world.fleet))
    return held["timestamp"], held["snapshot"]


def test_and_from_the_versions_that_it_has_seen(world: ControlWorld) -> None:
    """Once for all: another device may have seen later ones."""
    world.fetch(0, 1, timestamp=5, snapshot=3, targets=1, policies=1, models=1)
    assert versions(world) == (1 + _LOST_MAX + 1, 1 + _LOST_MAX + 1)
    other = world.joined("kiosk-2")
    control = world.fetch(0, 1, key=other, timestamp=900, snapshot=700)
    assert control.timestamp
    assert control.snapshot
    assert json.loads(control.assignment)["snapshot"] == versions(world)[1]


def test_and_from_one_that_was_far_ahead(world: ControlWorld) -> None:
    world.fetch(0, 1, timestamp=1 + AHEAD_MAX, snapshot=1)
    assert versions(world) == (1 + AHEAD_MAX + 1, 1 + _LOST_MAX + 1)


def test_nobody_pushes_them_up_without_end(world: ControlWorld) -> None:
    before = versions(world)
    world.fetch(0, 1, timestamp=1 + AHEAD_MAX + 1, snapshot=1)
    world.fetch(0, 1, timestamp=1, snapshot=1 + AHEAD_MAX + 1)
    assert versions(world) == before


def test_devices_that_lie_cost_one_snapshot_a_day(world: ControlWorld) -> None:
    honest, liars = world.joined("kiosk-2"), [world.joined(f"liar-{number}") for number in range(3)]
    world.fetch(key=honest)

    def lie() -> None:
        for liar in liars:
            timestamp, snapshot = versions(world)
            world.fetch(0, 1, key=liar, timestamp=timestamp + 1, snapshot=snapshot + 1)

    lie()
    once, number = versions(world), json.loads(world.fetch(1, 1, key=honest).assignment)["number"]
    assert once[1] > 1
    for _ in range(5):
        world.clock.now_ms += 3_600_000
        lie()
        assert world.fetch(number, 1, key=honest).assignment == b"", "theirs is not signed anew for that"
    assert versions(world) == once
    world.clock.now_ms += 20 * 3_600_000
    lie()
    assert versions(world)[1] == once[1] + _LOST_MAX + 1, "a day later it may be true"
    world.plane = world.new_plane()
    timestamp, snapshot = versions(world)
    lie()
    assert versions(world) > (timestamp, snapshot), "and where the store was opened anew"


def test_what_was_not_committed_was_not_believed(world: ControlWorld) -> None:
    world.plane.twins.set_desired(world.fleet, world.device.device_id, {"own": "x" * 40_000})
    world.plane.rollouts.create(world.fleet, Spec({"desired": {"all": "x" * 40_000}}, [Stage(100)]))
    with pytest.raises(TooLarge):
        world.fetch(0, 1, timestamp=5, snapshot=3)
    assert versions(world) == (1, 1)
    world.fetch(0, 1, key=world.joined("kiosk-2"), timestamp=5, snapshot=3)
    assert versions(world)[1] > 3


def test_nothing_is_signed_by_a_key_that_the_root_does_not_name(world: ControlWorld) -> None:
    world.fetch()
    world.online = SigningKey(PrivateKey(41).private)
    world.plane.assign(world.fleet, "policy", POLICY_2)
    for _ in range(2):
        with pytest.raises(Refused, match="another key") as raised:
            world.fetch(1)
        assert "--online-key" in raised.value.hint
    with world.store.reading() as view:
        assert [row.number for row in view.assignments(world.fleet)] == [1]


def test_each_device_has_its_own(world: ControlWorld) -> None:
    other = world.joined("kiosk-2")
    mine, theirs = world.fetch(), world.fetch(key=other)
    assert json.loads(mine.assignment)["device"] == world.device.device_id.hex()
    assert json.loads(theirs.assignment)["device"] == other.device_id.hex()
    with world.store.reading() as view:
        rows = view.assignments(world.fleet)
    assert {row.device: row.served_ms for row in rows} == {
        key.device_id: world.clock.now_ms for key in (world.device, other)
    }


def test_without_its_key_it_hands_out_what_was_signed(world: ControlWorld) -> None:
    world.fetch()
    world.plane.assign(world.fleet, "policy", POLICY_2)
    world.online = None
    control = world.fetch(0, 0)
    assert json.loads(control.assignment)["number"] == 1
    assert opened(world, control, trusted_by(world, control)).policy is None


def test_without_its_key_it_announces_nothing_new(world: ControlWorld) -> None:
    """A device asks for a number once: for one that nobody could sign it would not ask again when somebody can."""
    online, world.online = world.online, None
    world.plane.assign(world.fleet, "policy", POLICY)
    assert announced(world) == 0
    world.online = online
    assert announced(world) == 1
    world.fetch()
    world.online = None
    world.plane.assign(world.fleet, "policy", POLICY_2)
    assert announced(world) == 1
    world.online = online
    assert announced(world) == 2


def test_many_roots_take_many_answers(world: ControlWorld) -> None:
    operators = world.operators
    roots = [operators.root(version, by=operators.roots) for version in range(1, ROOTS_MAX + 3)]
    world.plane.publish(world.fleet, Repository(roots, {}, {}))
    first = world.fetch()
    assert first == Control(roots[:ROOTS_MAX], b"", b"", [], b"", b"")
    assert world.fetch(0, ROOTS_MAX).roots == roots[ROOTS_MAX:]


def test_roots_that_leave_no_room_for_the_rest_come_first(world: ControlWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    operators = world.operators
    roots = [operators.root(version, by=operators.roots) for version in (1, 2)]
    world.plane.publish(world.fleet, Repository(roots, {}, {}))
    whole = world.fetch()
    assert len(whole.roots) == 2
    monkeypatch.setattr(control_desk, "ROLES_BYTES_MAX", sum(len(role.data) for role in whole.roles))
    assert world.fetch() == Control(roots, b"", b"", [], b"", b"")
    rest = world.fetch(0, 2)
    assert (rest.roots, rest.roles, bool(rest.assignment)) == ([], whole.roles, True)
