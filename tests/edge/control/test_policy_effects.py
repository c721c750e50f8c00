"""What the active policy does on its device besides what syncs: room, logs, forgetting, staleness. Real stores,
signatures, and a real control plane where another policy comes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge import Edge, EdgeConfig, Memory
from edge.link.gate import Ticket
from edge.link.slices import Slices
from edge.storage import kept_back, policy_row
from edge.storage.policy_row import PolicyRow
from sync.budgets import STALE, Wait
from sync.errors import Deferred, NotAllowed, QuotaExceeded, StorageError
from sync.lanes import BULK, CONTROL, NORMAL, URGENT
from sync.policy import Policy
from tests.control_world import DOCUMENTS, MODEL, ControlWorld
from tests.edge.control.trust_device import Device

MIB = 1 << 20
HOUR_MS = 3_600_000
LOG = logging.getLogger("agentdb.edge")
KEEP_ONE: dict[str, Any] = {"agent": "gui*", "kinds": ["episodic"], "keep": 1, "every_hours": 2}
POLICIES: list[dict[str, Any]] = [
    {},
    {"store": {"quota_mib": 8}, "log": {"level": "debug"}},
    {"store": {"quota_mib": 64}, "log": {"level": "error"}},
    {"forget": [KEEP_ONE]},
    {"forget": [KEEP_ONE | {"every_hours": 1}], "agent": [{"name": "guide", "deny": {"read": ["*"], "write": ["*"]}}]},
    {"forget": [KEEP_ONE], "sync": [{"agents": ["guide"], "direction": "down"}]},
    {"forget": [KEEP_ONE | {"namespaces": ["lab"]}]},
    {"staleness": [{"after_hours": 24, "do": "report"}, {"after_hours": 72, "do": "bulk-off"}]},
    {"staleness": [{"after_hours": 96, "do": "writes-local"}]},
]
PATHS = [f"policies/kiosk/{number}.json" for number in range(1, len(POLICIES) + 1)]


def document(tables: dict[str, Any]) -> bytes:
    return Policy.from_document({"schema": 1, "name": "kiosk", **tables}).to_json()


@pytest.fixture
def world(unpublished: ControlWorld) -> ControlWorld:
    documents = {path: document(tables) for path, tables in zip(PATHS, POLICIES, strict=True)}
    unpublished.operators = unpublished.operators.but(documents={**documents, MODEL: DOCUMENTS[MODEL]})
    unpublished.publish()
    return unpublished


@pytest.fixture
def options() -> dict[str, Any]:
    return {"config": EdgeConfig(quota_bytes=32 * MIB)}


def run(device: Device, number: int | None) -> None:
    device.world.plane.assign(device.world.fleet, "policy", "" if number is None else PATHS[number])
    assert device.update() == ("policy",)


def activated(path: Path, tables: dict[str, Any]) -> None:
    """As a process that was killed after it had accepted a policy leaves a store."""
    data = document(tables)
    with Edge.open(path) as edge:
        policy_row.store(edge.log, PolicyRow(PATHS[0], 1, sha256(data).digest(), 1_000, 1, data))


# -- room -------------------------------------------------------------------------------------------------------------


def test_the_lesser_quota_holds_and_is_given_back(device: Device) -> None:
    for number, wanted in ((0, 32), (1, 8), (2, 32), (1, 8), (None, 32)):
        run(device, number)
        assert device.edge.cache.status().quota_bytes == wanted * MIB
        device.again()
        assert device.edge.cache.quota_bytes == wanted * MIB
    assert device.edge.status()["cache"]["quota_bytes"] == 32 * MIB


def test_a_quota_of_the_policy_alone_holds_and_says_what_to_do(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.agent("guide").attachments().add(bytes(9 * MIB))
        assert edge.cache.quota_bytes == 0
    activated(tmp_path, POLICIES[1])
    with Edge.open(tmp_path) as edge, Edge.open(tmp_path, read_only=True) as reader:
        assert (edge.cache.quota_bytes, reader.cache.quota_bytes) == (8 * MIB, 8 * MIB)
        with pytest.raises(QuotaExceeded, match="over the quota of 8,388,608") as caught:
            edge.agent("guide").attachments().add(bytes(1_000))
        assert "quota_mib" in caught.value.hint


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def level() -> Iterator[int]:
    before = LOG.level
    LOG.setLevel(logging.WARNING)
    yield logging.WARNING
    LOG.setLevel(before)


def test_the_level_of_logs_is_the_policys_for_as_long_as_it_holds(device: Device, level: int) -> None:
    for number, wanted in ((0, level), (1, logging.DEBUG), (2, logging.ERROR), (0, level), (1, logging.DEBUG)):
        run(device, number)
        assert LOG.level == wanted
        device.again()
        assert LOG.level == wanted
    device.edge.close()
    assert LOG.level == level
    device.open()
    assert LOG.level == logging.DEBUG
    run(device, None)
    assert LOG.level == level


def test_of_two_stores_the_more_talkative_level_holds_and_the_programs_own_is_left(tmp_path: Path, level: int) -> None:
    for name, said in (("a", "info"), ("b", "debug")):
        activated(tmp_path / name, {"log": {"level": said}})
    with Edge.open(tmp_path / "a"):
        assert LOG.level == logging.INFO
        with Edge.open(tmp_path / "b"):
            assert LOG.level == logging.DEBUG
        assert LOG.level == logging.INFO
        LOG.setLevel(logging.CRITICAL)
    assert LOG.level == logging.CRITICAL


# -- forgetting -------------------------------------------------------------------------------------------------------


def living(edge: Edge, agent: str = "guide", namespace: str = "default") -> list[str]:
    shelf = edge._shelf.of_the_owner()  # whatever the policy lets the agent do
    return sorted(one.text for one in Memory(shelf, agent, namespace).all())


def remember(edge: Edge, *texts: str, agent: str = "guide", namespace: str = "default") -> None:
    memory = edge.agent(agent).memory(namespace)
    for importance, text in enumerate(texts, 1):
        memory.add(text, kind="episodic", importance=importance / 10)


def test_memories_are_forgotten_in_rounds_by_a_time_that_outlasts_the_process(device: Device) -> None:
    remember(device.edge, "rain", "sun", "storm")
    remember(device.edge, "a", "b", agent="other")
    device.edge.agent("guide").memory().add("water is wet", kind="semantic")
    device.edge.maintain()
    assert len(living(device.edge)) == 4
    run(device, 3)
    device.edge.maintain()
    assert living(device.edge) == ["storm", "water is wet"]
    assert living(device.edge, "other") == ["a", "b"]

    remember(device.edge, "hail")
    for passed_ms, wanted in ((0, ["hail", "storm", "water is wet"]), (2 * HOUR_MS, ["storm", "water is wet"])):
        device.world.clock.now_ms += passed_ms
        device.again()
        device.edge.maintain()
        assert living(device.edge) == wanted

    remember(device.edge, "snow")  # the one that comes asks for the same, more often
    run(device, 4)
    device.edge.maintain()
    assert "snow" in living(device.edge)
    device.world.clock.now_ms += HOUR_MS
    device.edge.maintain()
    assert living(device.edge) == ["storm", "water is wet"], "though the agent may not do so itself"


def test_what_is_only_received_is_not_forgotten_here_nor_other_namespaces(device: Device) -> None:
    for namespace in ("lab", "home"):
        remember(device.edge, "rain", "storm", namespace=namespace)
    run(device, 5)
    device.edge.maintain()
    assert living(device.edge, namespace="lab") == ["rain", "storm"]
    run(device, 6)
    device.edge.maintain()
    assert living(device.edge, namespace="lab") == ["storm"]
    assert living(device.edge, namespace="home") == ["rain", "storm"]
    run(device, None)
    remember(device.edge, "hail", namespace="lab")
    device.world.clock.now_ms += 99 * HOUR_MS
    device.edge.maintain()
    assert living(device.edge, namespace="lab") == ["hail", "storm"]


def test_the_background_does_it_without_being_asked(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        remember(edge, "rain", "sun", "storm")
    activated(tmp_path, POLICIES[3])
    with Edge.open(tmp_path, config=EdgeConfig(flush_interval_ms=50)) as edge:
        deadline = edge._clock.monotonic_ms() + 20_000
        while len(living(edge)) > 1 and edge._clock.monotonic_ms() < deadline:
            threading.Event().wait(0.02)
        assert living(edge) == ["storm"]


# -- staleness --------------------------------------------------------------------------------------------------------


def test_bulk_waits_while_nothing_fresh_is_heard_and_nothing_else_does(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    edge, clock = device.edge, device.world.clock
    edge.agent("guide").attachments().add(bytes(1_000))
    gate = edge._link.gate
    run(device, 7)
    for passed_h, wanted in ((0, []), (25, ["report"]), (48, ["report", "bulk-off"])):
        clock.now_ms += passed_h * HOUR_MS
        assert edge.status()["policy"]["stale"] == wanted
        with caplog.at_level(logging.WARNING, LOG.name):
            edge.maintain()
            edge.maintain()
        told = [one.getMessage() for one in caplog.records if "fresh word" in one.msg]
        assert len(told) == bool(wanted)
        assert all(one.endswith(": " + ", ".join(wanted)) for one in told)
        caplog.clear()
        assert (gate.limits is None) == ("bulk-off" not in wanted)
    answer = gate.take(BULK, 1_000)
    assert isinstance(answer, Wait)
    assert answer.why == STALE
    for lane in (CONTROL, URGENT, NORMAL):
        passed = gate.take(lane, 1 << 30)
        assert isinstance(passed, Ticket)
        gate.land(passed, 1)
    (waiting,) = edge.status()["deferred"]
    assert (waiting["lane"], waiting["records"], waiting["why"], waiting["until_ms"]) == (BULK, 1, STALE, 0)
    with pytest.raises(Deferred, match="nothing fresh was heard"), Slices.of(gate, BULK, 1_000, 0, lambda: False):
        pass
    device.again()
    assert device.edge.status()["policy"]["stale"] == ["report", "bulk-off"]
    device.world.plane.control.timestamp_again(device.world.fleet)
    device.update()
    assert device.edge.status()["policy"]["stale"] == []
    assert device.edge._link.gate.limits is None
    assert device.edge.status()["deferred"] == []


def test_snapshots_are_the_owners_whatever_an_agent_may_do(device: Device) -> None:
    guide = device.edge.agent("guide")
    guide.thread("tour").put({"stop": 1})
    run(device, 4)
    taken = device.edge.snapshots.take("before")
    assert taken.threads == 1
    (thread,) = device.edge.snapshots.restore("before").threads
    with pytest.raises(NotAllowed):
        thread.get()
    with pytest.raises(NotAllowed):
        guide.thread("tour").get()


def test_what_is_written_stays_here_while_nothing_fresh_is_heard(device: Device) -> None:
    """Declarations go all the same; so does what was written before. With fresh word all of it is due."""
    clock = device.world.clock
    run(device, 8)
    notes = device.edge.collection("notes")
    notes.put("before", {"n": 1})
    clock.now_ms += 95 * HOUR_MS
    device.edge.maintain()
    head = device.edge.log.head_seq
    notes.put("sent", {"n": 1})
    assert device.edge.log.head_seq == head + 1
    clock.now_ms += 2 * HOUR_MS
    device.edge.maintain()
    notes.put("kept", {"n": 1})
    notes.patch("before", {"n": 2})
    device.edge.agent("guide").memory().add("tea")
    assert device.edge.log.head_seq - head < 6, "what an agent's stores declare"
    declared = device.edge.log.head_seq
    device.again()
    notes = device.edge.collection("notes")
    notes.patch("kept", {"n": 3})
    assert device.edge.log.head_seq == declared, "a restart changes nothing"
    waiting = device.edge.status()["deferred"]
    assert [(row["why"], row["records"], row["rule"]) for row in waiting] == [("stale", 3, 0)]
    with Edge.open(device.path, read_only=True, clock=clock) as reader:
        assert reader.status()["deferred"] == waiting
    changes = device.edge.log.kept.changes
    device.world.plane.control.timestamp_again(device.world.fleet)
    device.update()
    device.edge.maintain()
    assert device.edge.log.kept.changes > changes
    assert device.edge.status()["deferred"] == []
    notes.put("fresh", {"n": 1})
    assert device.edge.log.head_seq == declared + 1
    operations, _, _ = kept_back.load(device.edge.log, None, 100, 1 << 20)
    assert {(one.shape.collection, one.key) for one in operations} >= {("notes", "before"), ("notes", "kept")}
    assert len(operations) == 3


def failing(*_: object) -> None:
    raise StorageError("the disk")


def test_a_policy_that_the_disk_kept_from_being_obeyed_is_when_it_is_told_again(
    device: Device, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as disk:
        disk.setattr("edge.control.policy.keeper_of", failing)
        run(device, 1)
    assert (LOG.level, device.edge.log.kept.keeper) == (level, None)
    device.update()
    assert LOG.level == logging.DEBUG
    assert device.edge.log.kept.keeper is not None
    held = device.edge.policy.describe()
    device.world.clock.now_ms += 1_000
    device.trust.tell_again("policy")
    device.update()
    assert device.edge.policy.describe() == held, "it is carried out"
    device.again()
    assert device.edge.policy.describe() == held


def test_nothing_fresh_was_heard_and_the_disk_failed_as_that_was_noted(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(device, 8)
    notes, policies = device.edge.collection("notes"), device.edge._policies
    with monkeypatch.context() as disk:
        disk.setattr("edge.control.policy.keeper_of", failing)
        device.world.clock.now_ms += 97 * HOUR_MS
        for _ in range(2):
            with pytest.raises(StorageError):
                policies.writes_local(stale=True)
    policies.writes_local(stale=True)
    head, changes = device.edge.log.head_seq, device.edge.log.kept.changes
    notes.put("kept", {"n": 1})
    policies.writes_local(stale=True)
    assert device.edge.log.head_seq == head
    assert device.edge.log.kept.changes == changes, "nothing is new"


def test_what_is_written_stays_here_if_the_disk_fails_where_it_is_asked_what_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("notes")
    activated(tmp_path, POLICIES[8])
    with monkeypatch.context() as disk:
        disk.setattr("edge.control.policy.keeper_of", failing)
        edge = Edge.open(tmp_path)
    with edge:
        head = edge.log.head_seq
        edge.collection("notes").put("kept", {"n": 1})
        assert (edge.log.head_seq, edge.status()["kept_back"]["records"]) == (head, 1)
