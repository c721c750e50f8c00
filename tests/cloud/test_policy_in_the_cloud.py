"""What the cloud does by the fleet's policy: conflicts by its [[merge]], deletes by its [[retention]]. Real signatures,
a real control plane and store; the devices speak the protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.control_plane import ControlPlane
from cloud.fleet.publishing import Repository
from cloud.fleet.rollouts import DONE, Spec, Stage, pack_spec, spec_of
from cloud.fleet.signing import SigningKey
from cloud.stream import retention
from sync.policy import Policy
from tests.cloud.conflict_world import longest, pair, settle
from tests.cloud.stream_world import Fleet
from tests.trust_world import NOW_MS, PrivateKey
from tests.trust_world import World as Operators

DAY_MS = 86_400_000
POLICIES: list[dict[str, Any]] = [
    {"merge": [{"collection": "notes", "conflict": "priority"}]},
    {"merge": [{"collection": "notes", "conflict": "manual"}]},
    {"merge": [{"collection": "notes", "conflict": "resolver:longest"}]},
    {"merge": [{"collection": "other", "conflict": "manual"}]},
    {"retention": [{"collection": "notes", "delete_days": 30}, {"collection": "readings", "delete_days": 7}]},
]
PATHS = [f"policies/kiosk/{number}.json" for number in range(1, len(POLICIES) + 1)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, resolvers={"longest": longest})
    fleet.clock.now_ms = NOW_MS
    again(fleet)
    documents = {
        path: Policy.from_document({"schema": 1, "name": "kiosk", **tables}).to_json()
        for path, tables in zip(PATHS, POLICIES, strict=True)
    }
    operators = Operators(fleet=fleet.id, documents=documents)
    fleet.plane.publish(fleet.id, Repository([operators.root()], operators.offer(1).roles, operators.documents))
    yield fleet
    fleet.close()


def again(fleet: Fleet) -> None:
    """What a new process has."""
    online = SigningKey(PrivateKey(40).private)
    options: dict[str, Any] = {"resolvers": {"longest": longest}, "online_key": lambda: online}
    fleet.plane = ControlPlane(fleet.store, fleet.keys, fleet.clock, fleet.random, **options)


def assign(fleet: Fleet, number: int | None) -> None:
    fleet.plane.assign(fleet.id, "policy", "" if number is None else PATHS[number])


def contradict(fleet: Fleet, declared: str = "latest") -> tuple[str, str, str]:
    """The van, of the higher priority, writes first: (what notes/k shows, the conflict's rule, its note)."""
    van, kiosk = pair(fleet, declared) if not fleet.devices else (fleet.devices["van"], fleet.devices["kiosk"])
    settle(fleet)
    known = len(fleet.conflicts())
    van.patch("notes", "k", text=f"of the van, {known}, at length")
    kiosk.patch("notes", "k", text=f"of the kiosk, {known}")
    van.push()
    kiosk.push()
    conflict = fleet.conflicts()[-1]
    assert len(fleet.conflicts()) == known + 1
    shown = settle(fleet)
    assert shown is not None
    return shown["text"].split(",")[0], f"{conflict.rule} {conflict.state}", conflict.note


def test_the_policys_rule_decides_from_the_next_conflict_on_and_says_so(fleet: Fleet) -> None:
    assert contradict(fleet) == ("of the kiosk", "latest resolved", "")
    assign(fleet, 0)
    assert contradict(fleet) == ("of the van", "priority resolved", f"rule of {PATHS[0]}")
    assign(fleet, 1)
    assert contradict(fleet) == ("of the kiosk", "manual open", f"rule of {PATHS[1]}")
    assign(fleet, 2)
    again(fleet)
    assert contradict(fleet) == ("of the van", "resolver:longest resolved", f"rule of {PATHS[2]}")
    for number in (3, None):
        assign(fleet, number)
        assert contradict(fleet) == ("of the kiosk", "latest resolved", "")


def test_it_overrules_what_was_declared_and_why_it_fell_back_stays_said(fleet: Fleet) -> None:
    assert contradict(fleet, "manual") == ("of the kiosk", "manual open", "")
    assign(fleet, 0)
    fleet.plane.enrollment.set_priority(fleet.id, fleet.devices["van"].key.device_id, 1)
    said = f"equal priority: the later stamp; rule of {PATHS[0]}"
    assert contradict(fleet) == ("of the kiosk", "priority resolved", said)


def test_a_policy_that_cannot_be_read_holds_up_no_push(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assign(fleet, 0)
    monkeypatch.setattr(Policy, "parse", staticmethod(lambda data: Policy.from_document({"schema": 2})))
    assert contradict(fleet) == ("of the kiosk", "latest resolved", "")
    with pytest.raises(Exception, match="schema of the policy is 2"):
        fleet.plane.retention.run(fleet.id)


def test_a_rollout_counts_once_it_has_brought_it_to_all(fleet: Fleet) -> None:
    pair(fleet)
    assign(fleet, 3)
    spec = Spec(PATHS[0], [Stage(50.0), Stage(100.0)])
    row = fleet.plane.rollouts.create(fleet.id, spec)
    assert contradict(fleet)[1] == "latest resolved"
    with fleet.store.writing() as tx:
        tx.put_rollouts(fleet.id, [row._replace(state=DONE)])
    assert contradict(fleet)[1] == "priority resolved"
    some = spec_of(row.spec)
    with fleet.store.writing() as tx:
        packed = pack_spec(Spec(some.path, some.stages, group='labels.site = "north"'))
        tx.put_rollouts(fleet.id, [row._replace(state=DONE, spec=packed)])
    assert contradict(fleet)[1] == "latest resolved", "of some devices it is not the fleet's"


# -- retention --------------------------------------------------------------------------------------------------------


def test_what_was_not_written_to_for_so_long_is_deleted_everywhere(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    van.declare("readings")
    van.declare("kept")
    for number in range(7):
        van.put("readings", f"r{number}", n=number)
        van.put("kept", f"r{number}", n=number)
    settle(fleet)
    assert fleet.plane.retention.run(fleet.id) == 0
    assign(fleet, 4)
    fleet.clock.now_ms += 6 * DAY_MS
    van.patch("readings", "r3", n=33)
    van.push()
    assert fleet.plane.retention.run(fleet.id) == 0
    fleet.clock.now_ms += 2 * DAY_MS
    assert fleet.plane.retention.run(fleet.id) == 6
    assert fleet.plane.retention.run(fleet.id) == 0
    settle(fleet)
    assert [key for n in range(7) if kiosk.get("readings", key := f"r{n}")] == ["r3"]
    assert kiosk.get("readings", "r3") == {"n": 33}
    assert all(kiosk.get("kept", f"r{n}") for n in range(7))
    assert kiosk.get("notes", "k") == {"text": "old", "n": 1}
    assert fleet.conflicts() == []
    fleet.clock.now_ms += 30 * DAY_MS
    assert fleet.plane.retention.run(fleet.id) == 2
    assert settle(fleet) is None


@pytest.mark.parametrize("rule", ["latest", "priority", "manual"])
def test_what_a_device_wrote_meanwhile_comes_back_whole(fleet: Fleet, rule: str) -> None:
    van, kiosk = pair(fleet, rule)
    settle(fleet)
    assign(fleet, 4)
    fleet.clock.now_ms += 29 * DAY_MS
    kiosk.patch("notes", "k", text="written offline")
    fleet.clock.now_ms += 2 * DAY_MS
    assert fleet.plane.retention.run(fleet.id) == 1
    van.pull()
    assert van.get("notes", "k") is None
    assert settle(fleet) == {"text": "written offline", "n": 1}
    (conflict,) = fleet.conflicts()
    assert (conflict.field, conflict.held.delete, conflict.winner) == ("", True, "came")
    van.put("notes", "k", text="and on")
    assert settle(fleet) == {"text": "and on"}


def test_a_run_is_bounded_goes_on_and_is_taken_up_by_the_next_process(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    monkeypatch.setattr(retention, "LOOKED_AT_MAX", 6)
    van = fleet.device("van")
    van.declare("notes")
    van.declare("readings")
    for number in range(10):
        van.put("notes", f"n{number}", n=number)
        van.put("readings", f"r{number}", n=number)
    van.push()
    assign(fleet, 4)
    fleet.clock.now_ms += 31 * DAY_MS
    assert fleet.plane.retention.run(fleet.id) == 6
    again(fleet)
    runs = [fleet.plane.retention.run(fleet.id) for _ in range(5)]
    assert runs[0] == 0, "a new process begins at the beginning, where all is deleted"
    assert sum(runs) == 14
    assert max(runs) <= 9
    van.pull()
    assert [van.get("notes", f"n{n}") or van.get("readings", f"r{n}") for n in range(10)] == [None] * 10
    assert van.digest() == fleet.digest()
