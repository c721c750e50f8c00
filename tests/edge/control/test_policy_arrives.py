"""A policy that operators signed and a fleet assigned: it holds on a real device from the moment that it was accepted,
after a restart, and until another does; the real control plane filters by it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from click.testing import CliRunner

from cloud.fleet import publishing
from cloud.fleet.policies import PolicyScopes
from edge.cli import main
from edge.control.policy import ActivePolicy, Policies
from edge.linking import rules_of
from edge.storage import policy_row
from edge.storage.delta_log import DeltaLog
from sync.errors import CorruptStore, InvalidPolicy, NotAllowed
from sync.messages import Hello, Pull, PullPage, Welcome
from sync.policy import Policy
from tests.control_world import MODEL, ControlWorld, model_document
from tests.edge.control.trust_device import Device

NAMES = ["open", "shut", "cedar", "wrong", "other"]
PATHS = {name: f"policies/kiosk/{at}.json" for at, name in enumerate(NAMES, 1)}


def document(name: str = "kiosk", **tables: Any) -> bytes:
    return Policy.from_document({"schema": 1, "name": name, **tables}).to_json()


SHUT: dict[str, Any] = {
    "sync": [{"collections": ["settings"], "direction": "down"}, {"collections": ["logs"], "direction": "absent"}],
    "agent": [{"name": "guide", "allow": {"read": ["*"]}}],
    "link": [{"class": "metered", "bytes_per_day": 1_000_000}],
}
DOCUMENTS = {
    PATHS["open"]: document(),
    PATHS["shut"]: document(**SHUT),
    PATHS["cedar"]: document(cedar={"text": "permit(everything)"}),
    PATHS["wrong"]: b'{"name":"kiosk","schema":2}',
    PATHS["other"]: document("gateway"),
    MODEL: model_document("embed", 3),
}


@pytest.fixture
def world(unpublished: ControlWorld, monkeypatch: pytest.MonkeyPatch) -> ControlWorld:
    unpublished.operators = unpublished.operators.but(documents=DOCUMENTS)
    with monkeypatch.context() as careless:  # a control plane that publishes what no device takes
        careless.setattr(publishing, "_check_runs", lambda *_: None)
        unpublished.publish()
    return unpublished


def assign(device: Device, name: str) -> None:
    device.world.plane.assign(device.world.fleet, "policy", PATHS[name] if name else "")


def test_it_holds_at_once_after_a_restart_and_until_none_is_assigned(device: Device) -> None:
    settings, guide = device.edge.collection("settings"), device.edge.agent("guide").memory()
    guide.add("before")
    assert device.edge.policy.describe() == {}
    assign(device, "shut")
    assert device.update() == ("policy",)
    for _ in range(2):
        said = device.edge.policy.describe()
        assert (said["path"], said["number"], said["assignment"]) == (PATHS["shut"], 2, 1)
        assert device.edge.status()["policy"]["name"] == "kiosk"
        with pytest.raises(NotAllowed):
            settings.put("k", {"n": 1})
        with pytest.raises(NotAllowed):
            guide.add("after")
        assert [one.memory.text for one in guide.search("before")] == ["before"]
        device.again()
        settings, guide = device.edge.collection("settings"), device.edge.agent("guide").memory()
    assign(device, "")
    assert device.update() == ("policy",)
    assert device.edge.policy.describe() == {}
    settings.put("k", {"n": 1})
    guide.add("after")
    device.again()
    assert device.edge.policy.describe() == {}
    device.edge.collection("settings").put("k", {"n": 2})


@pytest.mark.parametrize("name", ["cedar", "wrong", "other"])
def test_what_cannot_hold_here_leaves_what_does_and_is_told(device: Device, name: str) -> None:
    assign(device, "shut")
    device.update()
    assign(device, name)
    with pytest.raises(InvalidPolicy):
        device.update()
    assert device.refused == InvalidPolicy.code
    for _ in range(2):
        assert device.edge.policy.describe()["path"] == PATHS["shut"]
        with pytest.raises(NotAllowed):
            device.edge.agent("guide").memory().add("tea")
        device.again()
    assign(device, "open")
    assert device.update() == ("policy",)
    assert device.refused == ""
    assert device.edge.agent("guide").memory().add("tea").id


@pytest.mark.parametrize("name", ["cedar", "wrong"])
def test_a_policy_that_cannot_hold_here_keeps_no_model_from_coming_or_going(device: Device, name: str) -> None:
    """A bad model could not be taken back otherwise, for as long as the policy is assigned."""
    plane, fleet = device.world.plane, device.world.fleet
    assign(device, "shut")
    plane.assign(fleet, "models/embed", MODEL)
    device.update()
    assert device.runs().keys() == {"policy", "models/embed"}
    assign(device, name)
    plane.assign(fleet, "models/embed", "")
    for _ in range(2):  # and again, as it may be understood some day
        with pytest.raises(InvalidPolicy):
            device.update()
        assert device.runs() == {"policy": DOCUMENTS[PATHS["shut"]]}
        assert device.refused
        device.again()
    assign(device, "open")
    assert device.update() == ("policy",)
    assert (device.refused, device.runs()) == ("", {"policy": DOCUMENTS[PATHS["open"]]})


@pytest.mark.parametrize("data", [b'{"name":"kiosk","schema":2}', b'{"name":"kiosk","new":1,"schema":1}', b"["])
def test_a_store_with_a_policy_of_later_software_opens_and_takes_another(device: Device, data: bytes) -> None:
    assign(device, "shut")
    device.update()
    digest, log = sha256(data).digest(), device.edge.log
    with log.writer.lock, log.transact() as db:
        db.execute("UPDATE policy SET data = ?, sha256 = ?", (data, digest))
        db.execute("UPDATE targets SET data = ?, sha256 = ?", (data, digest))
        db.execute("UPDATE agreed SET sha256 = ?", (digest,))
    device.again()
    edge = device.edge
    with pytest.raises(CorruptStore, match="not understood") as raised:
        edge.agent("guide").memory().add("tea")
    assert "update" in raised.value.hint
    notes = edge.collection("notes")
    head = edge.log.head_seq
    notes.put("n", {"a": 1})
    assert (notes.get("n"), edge.log.head_seq) == ({"a": 1}, head), "its owner goes on, and nothing of it is sent"
    said = edge.status()["policy"]
    assert said["writes"] == "kept here"
    assert "not understood" in said["problem"]
    assert "update" in said["hint"]
    shown = CliRunner().invoke(main, ["status", edge.path])
    assert "not understood" in shown.stdout
    assert "what is written stays here; update this device's software" in shown.stdout
    assign(device, "open")
    device.update()
    assert edge.agent("guide").memory().add("tea").id
    notes.put("m", {"a": 1})
    assert "problem" not in edge.status()["policy"]
    assert [row for row in edge.status()["deferred"] if row["why"] == "unread"] == []


def test_a_power_cut_between_what_was_agreed_and_the_activation(device: Device, monkeypatch: Any) -> None:
    assign(device, "open")
    device.update()
    assign(device, "shut")
    monkeypatch.setattr(Policies, "activated", lambda *_: None)
    device.update()
    row = policy_row.load(device.edge.log)
    assert row is not None
    assert row.path == PATHS["open"]
    monkeypatch.undo()
    device.again()
    assert device.edge.policy.describe()["path"] == PATHS["shut"]
    with pytest.raises(NotAllowed):
        device.edge.agent("guide").memory().add("tea")


def test_the_cloud_filters_by_what_a_device_is_to_run_now(device: Device) -> None:
    world = device.world
    world.plane._scopes = PolicyScopes(world.plane.control.choosing.policy)
    caller = world.caller(device.key)
    hello = Hello([3], world.fleet, caller.device + b"\0\0\0\1", 0, 0, b"", 0, b"")
    welcome = world.plane.handle(hello, caller)
    assert isinstance(welcome, Welcome)

    def narrowed() -> bool:
        page = world.plane.handle(Pull(hello.replica, 0, 1, 1, 0, welcome.incarnation), caller)
        assert isinstance(page, PullPage)
        return page.narrowed

    assert not narrowed(), "no policy yet"
    assign(device, "shut")
    assert narrowed(), "before the device has asked for it"
    assign(device, "open")
    assert not narrowed()


def test_limits_of_links_change_with_the_policy_while_the_link_is_up(device: Device) -> None:
    rules = rules_of(device.edge)
    device.edge.link_class = "metered"
    assert rules.current() is None
    assign(device, "shut")
    device.update()
    limits = rules.current()
    assert limits is not None
    assert limits.bytes_per_day == 1_000_000
    assign(device, "open")
    device.update()
    assert rules.current() is None
    assign(device, "shut")
    device.update()
    assert rules.current() == limits
    assign(device, "")
    device.update()
    assert rules.current() is None


def test_a_policy_that_comes_while_the_one_before_is_read_holds(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ActivePolicy.of

    def slowly(log: DeltaLog) -> ActivePolicy:
        monkeypatch.undo()
        before = read(log)
        assign(device, "shut")
        device.update()
        return before

    monkeypatch.setattr(ActivePolicy, "of", staticmethod(slowly))
    assert device.edge.policy.name == "kiosk"
