"""The gate of a real log: what it lets through, what it notes, and what a restart finds of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from edge.config import EdgeConfig
from edge.control.model_fetch import ModelFetch
from edge.control.model_filling import Filling
from edge.control.policy import activate
from edge.link.gate import Gate, LinkRules, Ticket
from edge.link.intervals import unsent
from edge.link.model_client import ModelClient
from edge.linking import rules_of
from edge.node import Edge
from edge.storage import policy_row
from edge.storage.budget_rows import BudgetRows
from edge.storage.delta_log import DeltaLog
from edge.storage.policy_row import PolicyRow
from sync.budgets import BUDGET, CLASS, DAY_MS, LANE, RATE, LinkLimits, Note, Wait
from sync.errors import Deferred, DiskFull
from sync.lanes import BULK, CONTROL, NORMAL, URGENT
from sync.policy import Policy
from tests.contracts.body_world import some_bytes
from tests.edge.control.fetch_world import FetchWorld, contents, digests
from tests.edge.stores import DEVICE, SeededRandom

NOON = 20_000 * DAY_MS + DAY_MS // 2
METERED = LinkLimits("metered", 1_000_000, 50_000, 100_000, 0.2, (URGENT, NORMAL))


class Clock:
    now_ms = NOON

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms


class Device:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self._folder = folder
        self.open()

    def open(self) -> None:
        self.log = DeltaLog.open(
            str(self._folder / "log.db"), clock=self.clock, random=SeededRandom(), device=DEVICE, durability="relaxed"
        )

    def gate(self, *limits: LinkLimits, link_class: str = "metered") -> Gate:
        return Gate(self.log, LinkRules(limits, link_class), self.clock)

    def noted(self) -> dict[int, dict[str, int]]:
        return BudgetRows(self.log).load("metered")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.log.close()


def ticket(answer: Ticket | Wait) -> Ticket:
    assert isinstance(answer, Ticket), answer
    return answer


def wait(answer: Ticket | Wait | None) -> Wait:
    assert isinstance(answer, Wait), answer
    return answer


def test_without_limits_everything_passes_and_nothing_is_written(device: Device) -> None:
    gate, before = device.gate(), device.log.size_bytes()
    for lane in (CONTROL, URGENT, NORMAL, BULK):
        one = ticket(gate.take(lane, 1 << 30))
        gate.land(one, 1 << 30, 10)
    assert gate.left(NORMAL) is None
    assert device.log.size_bytes() == before
    assert device.noted() == {}


def test_a_class_that_is_not_known_has_the_limits_of_default_or_none(device: Device) -> None:
    assert device.gate(METERED, link_class="wifi").limits is None
    default = LinkLimits("default", 600_000)
    assert device.gate(METERED, default, link_class="wifi").limits == default
    assert device.gate(METERED, default, link_class="metered").limits == METERED


def test_the_class_may_change_from_one_request_to_the_next(device: Device) -> None:
    gate = device.gate(METERED)
    gate.rules.link_class = lambda: "wifi" if device.clock.now_ms > NOON else "metered"
    assert wait(gate.take(BULK, 1_000)).why == CLASS
    device.clock.now_ms += 1
    assert ticket(gate.take(BULK, 1 << 30)).of is None


def test_a_class_that_cannot_be_told_is_default_and_that_is_said_once(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    gate = device.gate(METERED, LinkLimits("default", 600_000))

    def broken() -> str:
        raise OSError("no modem")

    gate.rules.link_class = broken
    assert [gate.left(CONTROL), gate.left(CONTROL)] == [600_000, 600_000]
    assert caplog.text.count("the link's class cannot be told") == 1


def test_bytes_are_noted_before_they_are_used_and_a_kill_counts_the_lease(device: Device) -> None:
    gate = device.gate(METERED)
    ticket(gate.take(NORMAL, 30_000))
    assert device.noted() == {NOON // DAY_MS: {NORMAL: 40_000}}
    device.log.close()  # nothing else is told: as after a kill
    device.open()
    assert device.gate(METERED).left(URGENT) == 960_000
    assert device.gate(METERED).left(NORMAL) == 760_000


def test_an_orderly_end_gives_back_what_was_not_used(device: Device) -> None:
    gate = device.gate(METERED)
    one = ticket(gate.take(NORMAL, 30_000))
    gate.land(one, 4_000, 10)
    gate.rest()
    assert device.noted() == {NOON // DAY_MS: {NORMAL: 4_000}}
    assert device.gate(METERED).left(URGENT) == 996_000


def test_a_note_that_cannot_be_written_grants_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = device.gate(METERED)

    def full(*_: object) -> None:
        raise DiskFull("full")

    with monkeypatch.context() as patched:
        patched.setattr(BudgetRows, "note", full)
        with pytest.raises(DiskFull):
            gate.take(NORMAL, 30_000)
    assert gate.left(NORMAL) == 800_000
    ticket(gate.take(NORMAL, 30_000))


def test_rows_of_long_ago_go_and_so_do_those_of_days_that_never_were(device: Device) -> None:
    rows = BudgetRows(device.log)
    for day in range(100, 140):
        rows.note("metered", Note(day, {NORMAL: day}))
    rows.note("other", Note(1, {NORMAL: 1}))
    assert sorted(rows.load("metered")) == list(range(109, 140))
    rows.note("metered", Note(120, {NORMAL: 7, URGENT: 8}))
    assert max(rows.load("metered")) == 120
    assert rows.load("metered")[120] == {NORMAL: 7, URGENT: 8}
    assert rows.load("other") == {1: {NORMAL: 1}}


def test_the_rate_holds_and_an_urgent_request_goes_before_a_normal_one_that_waits(device: Device) -> None:
    gate = device.gate(METERED)
    first = ticket(gate.take(NORMAL, 90_000))
    gate.land(first, 90_000, 100)
    waits = wait(gate.take(NORMAL, 60_000))
    assert (waits.why, waits.ms) == (RATE, 1_000)
    ticket(gate.take(URGENT, 5_000))
    device.clock.now_ms += waits.ms
    assert wait(gate.take(NORMAL, 60_000)).ms == 100, "the urgent one went first"
    assert wait(gate.take(URGENT, 70_000)).why == RATE
    assert wait(gate.take(NORMAL, 1_000)).why == LANE, "what is urgent waits for the rate: nobody takes it away"


def test_bulk_waits_for_everybody_but_a_long_poll(device: Device) -> None:
    gate = device.gate(LinkLimits("metered", bytes_per_s=1_000_000))
    poll = ticket(gate.take(NORMAL, 1_000, idle=True))
    bulk = ticket(gate.take(BULK, 100_000, sliced=True))
    assert gate.slice(bulk, 10_000) is None
    assert wait(gate.slice(bulk, 10_000)).why == LANE, "one at a time"
    gate.land_slice(bulk, 0)
    push = ticket(gate.take(NORMAL, 1_000))
    assert wait(gate.slice(bulk, 10_000)).why == LANE
    gate.land(push, 1_000, 5)
    assert gate.slice(bulk, 10_000) is None
    gate.land_slice(bulk, 0)
    gate.land(poll, 700)
    gate.land(bulk, 100_000, sliced=True)


def test_who_waits_is_told_when_somebody_landed(device: Device) -> None:
    gate = device.gate(METERED)
    told: list[str] = []
    gate.listeners.append(lambda: told.append("go"))
    gate.land(ticket(gate.take(NORMAL, 1_000)), 1_000, 1)
    assert told == ["go"]


def test_limits_that_a_policy_replaces_hold_from_then_on_for_the_same_day(device: Device) -> None:
    gate = device.gate(METERED)
    gate.land(ticket(gate.take(NORMAL, 700_000)), 700_000)
    gate.rules.limits = (METERED._replace(bytes_per_day=600_000),)
    assert wait(gate.take(CONTROL, 1)).why == BUDGET
    gate.rules.limits = ()
    assert ticket(gate.take(NORMAL, 1 << 30)).of is None


def test_what_was_under_way_when_limits_changed_counts_with_what_came_after(device: Device) -> None:
    gate = device.gate(METERED)
    before = ticket(gate.take(NORMAL, 30_000))
    gate.rules.limits = (METERED._replace(bytes_per_day=900_000),)
    after = ticket(gate.take(NORMAL, 50_000))
    gate.land(before, 45_000)
    gate.land(after, 50_000)
    assert device.noted()[NOON // DAY_MS][NORMAL] >= 45_000 + 50_000
    gate.rest()
    assert 95_000 <= device.noted()[NOON // DAY_MS][NORMAL] <= 95_000 + 10_000, "with what was noted ahead at the most"


def test_other_limits_are_not_one_more_burst(device: Device) -> None:
    gate = device.gate(METERED)
    under_way = ticket(gate.take(NORMAL, 100_000))
    assert wait(gate.take(URGENT, 50_000)).why == RATE
    for day in (900_000, 800_000, 700_000):  # a policy, and others after it
        gate.rules.limits = (METERED._replace(bytes_per_day=day),)
        assert wait(gate.ask(URGENT, 50_000)) == Wait(1_000, RATE)
    gate.land(under_way, 60_000)
    assert wait(gate.ask(URGENT, 50_000)) == Wait(200, RATE), "what was not used is given back to it"
    gate.rules.limits = (METERED._replace(burst_bytes=20_000),)
    device.clock.now_ms += 60_000
    assert gate.ask(URGENT, 50_000) is None, "it is full"
    gate.rules.limits = (METERED,)
    assert wait(gate.ask(URGENT, 50_000)) == Wait(600, RATE), "it held no more than it may"
    gate.rules.limits = (METERED._replace(bytes_per_s=0),)
    gate.land(ticket(gate.take(NORMAL, 500_000)), 500_000)
    gate.rules.limits = (METERED,)
    assert gate.ask(URGENT, 100_000) is None, "without a bound nothing is owed"


def test_ranges_of_models_are_bulk_and_counted(device: Device, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    world = FetchWorld(tmp_path / "models")
    gate = device.gate(LinkLimits("metered", 20_000_000, 0, 262_144, 0.2))
    fetch = ModelFetch(lambda: ModelClient(world.server.url, world.key, world.nonces, gate=gate), lambda: world.ring)
    files = {"weights": some_bytes(3_000_000)}
    with closing(world), world.server:
        model = world.publish("m", "1", files)
        fetch(Filling(world.slot("a"), model))
        assert contents(world.slot("a")) == digests(files)
        gate.rest()
        assert 3_000_000 < device.noted()[NOON // DAY_MS][BULK] < 3_100_000
        gate.rules.limits = (LinkLimits("metered", 20_000_000, lanes=(URGENT, NORMAL)),)
        with pytest.raises(Deferred, match="class"):
            fetch(Filling(world.slot("b"), model))


def test_the_active_policy_gives_limits_and_says_what_is_urgent(tmp_path: Path) -> None:
    config = EdgeConfig(links=(LinkLimits("metered", 600_000), LinkLimits("roaming", 700_000)))
    document = {
        "schema": 1,
        "name": "kiosk",
        "link": [{"class": "metered", "bytes_per_day": 900_000, "lanes": ["urgent"]}],
        "sync": [
            {"collections": ["notes"], "urgent_when": {"field": "importance", "at_least": 8}, "priority": "bulk"},
            {"collections": ["alarms"], "priority": "urgent"},
        ],
    }
    with Edge.open(tmp_path / "store", config=config) as edge:
        data = Policy.from_document(document).to_json()
        activate(edge.log, PolicyRow("policies/kiosk/1.json", 1, sha256(data).digest(), 1_000, 1, data))
        edge.link_class = "metered"
        rules = rules_of(edge)
        assert rules.current() == LinkLimits("metered", 900_000, urgent_share=0.0, lanes=("urgent",))
        edge.link_class = lambda: "roaming"
        assert rules.current() == LinkLimits("roaming", 700_000)
        for collection, importance in (("notes", 9), ("notes", 3), ("alarms", 0), ("others", 0)):
            edge.collection(collection).put("k", {"importance": importance})
        lanes = [one.lane for one in unsent(edge.log, rules)]
        assert [lane for lane in lanes if lane != NORMAL] == [URGENT, BULK, URGENT]
        assert edge.status()["deferred"] == []
        edge.link_class = "metered"
        waiting = {row["lane"]: row["why"] for row in edge.status()["deferred"]}
        assert waiting == {NORMAL: CLASS, BULK: CLASS}


def test_a_policy_that_cannot_be_read_leaves_the_limits_of_the_configuration(tmp_path: Path) -> None:
    config = EdgeConfig(links=(LinkLimits("metered", 600_000),), sync_link_class="metered")
    with Edge.open(tmp_path / "store", config=config) as edge:
        data = Policy.from_document({"schema": 1, "name": "kiosk"}).to_json()
        policy_row.store(edge.log, PolicyRow("policies/kiosk/1.json", 1, b"0" * 32, 1_000, 1, data))
        assert rules_of(edge).current() == LinkLimits("metered", 600_000)
