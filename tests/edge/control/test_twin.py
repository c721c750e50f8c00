"""The device's twin: reports are durable, compacted, and arrive whatever is lost on the way."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import AsyncEdge, CorruptStore, Edge, InvalidValue, ReadOnly, TooLarge
from edge.cli import main
from edge.control.twin import Changes, Due, Twin
from edge.storage.control_tables import ASSIGNMENT, ControlNote, ControlTables
from sync import canonical, twins
from tests.sync.test_twins import PATCHES


class FakeCloud:
    """What ``cloud.fleet.twins.take_report`` promises."""

    def __init__(self) -> None:
        self.version = 0
        self.state: dict[str, Any] = {}
        self.acks = 0

    def take(self, due: Due) -> int:
        if due.version in (self.version, self.version + 1):
            self.version, self.acks = due.version, due.acks
            self.state = twins.merge(self.state, twins.read_patch(due.patch))
        return self.version


def desire(edge: Edge, version: int, state: dict[str, Any]) -> None:
    """As ``edge.control.trust`` keeps an assignment that it accepted."""
    assignment = canonical.write({"number": version, "desired": {"version": version, "state": state}})
    ControlTables(edge.log).keep(ControlNote(number=version), {ASSIGNMENT: assignment})


def deliver(twin: Twin, cloud: FakeCloud) -> None:
    for _ in range(3):
        if (due := twin.due()) is None:
            return
        twin.answered(due, cloud.take(due))
    raise AssertionError("it goes on and on")


def test_what_is_reported_outlives_the_process_and_is_sent_once(tmp_path: Path) -> None:
    cloud = FakeCloud()
    with Edge.open(tmp_path / "s") as edge:
        assert edge.twin.due() is None
        edge.twin.report({"hardware": "rev2", "battery": {"percent": 50, "volts": 3.7}})
        edge.twin.report({"battery": {"percent": 40, "volts": None}})
        edge.twin.report({"mode": "quiet"}, agent="guide")
    with Edge.open(tmp_path / "s") as edge:
        assert edge.twin.reported() == {"hardware": "rev2", "battery": {"percent": 40}}
        assert edge.twin.reported("guide") == {"mode": "quiet"}
        assert edge.twin.reported("other") == {}
        due = edge.twin.due()
        assert due is not None
        assert due.version == 1
        deliver(edge.twin, cloud)
        assert cloud.state == {**edge.twin.reported(), "agents": {"guide": {"mode": "quiet"}}}
        edge.twin.report({"hardware": "rev2"})  # nothing new
        assert edge.twin.due() is None


def test_a_day_offline_is_one_patch_no_larger_than_the_state(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        for number in range(300):
            edge.twin.report({"count": number, f"task{number}": {"state": "x" * 200}, f"task{number - 1}": None})
        due = edge.twin.due()
        assert due is not None
        assert len(due.patch) < 64 << 10
        cloud = FakeCloud()
        deliver(edge.twin, cloud)
        assert cloud.state == {"count": 299, "task299": {"state": "x" * 200}}


def test_many_deleted_names_are_sent_as_the_whole_state(tmp_path: Path) -> None:
    cloud = FakeCloud()
    cloud.state, cloud.version = {"old": 1}, 0
    with Edge.open(tmp_path / "s") as edge:
        for number in range(12):
            names = [f"{number}-{at}-{'n' * 90}" for at in range(80)]
            edge.twin.report(dict.fromkeys(names, 1))
            edge.twin.report(dict.fromkeys(names, None))
        edge.twin.report({"a": 1})
        deliver(edge.twin, cloud)
    assert cloud.state == {"a": 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(PATCHES, st.sampled_from(["lost request", "lost answer", "taken", "offline", "restored"]))))
def test_the_cloud_ends_with_what_was_reported_whatever_was_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[str, Any], str]]
) -> None:
    cloud = FakeCloud()
    with Edge.open(tmp_path_factory.mktemp("twin") / "s") as edge:
        for patch, fate in steps:
            edge.twin.report(patch, agent="a")
            due = edge.twin.due()
            if due is None or fate in ("offline", "lost request"):
                continue
            answer = cloud.take(due)
            if fate == "restored":
                cloud.version, cloud.state = 0, {}
            elif fate == "taken":
                edge.twin.answered(due, answer)
        edge.twin.report({"last": 1})
        deliver(edge.twin, cloud)
        assert cloud.state.get("agents", {}).get("a", {}) == edge.twin.reported("a")
        assert cloud.state["last"] == 1


def test_what_is_reported_while_an_answer_is_awaited_is_sent_after_it(tmp_path: Path) -> None:
    cloud = FakeCloud()
    with Edge.open(tmp_path / "s") as edge:
        edge.twin.report({"a": 1})
        due = edge.twin.due()
        assert due is not None
        edge.twin.report({"a": 2})
        assert edge.twin.answered(due, cloud.take(due))
        assert cloud.state == {"a": 1}
        deliver(edge.twin, cloud)
        assert cloud.state == {"a": 2}


def test_the_version_of_desired_is_acknowledged(tmp_path: Path) -> None:
    cloud = FakeCloud()
    with Edge.open(tmp_path / "s") as edge:
        desire(edge, 7, {"level": "debug", "agents": {"guide": {"tone": "calm"}}})
        assert edge.twin.desired() == {"level": "debug"}
        assert edge.twin.desired("guide") == {"tone": "calm"}
        assert edge.twin.delta() == {"level": "debug"}
        deliver(edge.twin, cloud)
        assert cloud.acks == 7
        assert edge.twin.due() is None
        edge.twin.report({"level": "debug"})
        assert edge.twin.delta() == {}


def test_outcomes_are_the_systems_and_the_last_of_a_place_counts(tmp_path: Path) -> None:
    cloud = FakeCloud()
    with Edge.open(tmp_path / "s") as edge:
        edge.twin.note_outcome("models/embed", "models/embed/12.json", "ab" * 32, "committed")
        edge.twin.note_outcome("models/embed", "models/embed/13.json", "cd" * 32, "returned", "slow" * 100)
        deliver(edge.twin, cloud)
        (outcome,) = cloud.state["agentdb"]["outcomes"].values()
        assert outcome["sha256"] == "cd" * 32
        assert len(outcome["reason"]) == 200
        assert edge.twin.reported() == {}
        with pytest.raises(InvalidValue, match="outcome"):
            edge.twin.note_outcome("policy", "p", "ab", "fine")


@pytest.mark.parametrize("patch", [{"agents": {}}, {"agentdb": {}}, {"": None}, {"a": {1}}, {"": 1}])
def test_what_cannot_be_reported(tmp_path: Path, patch: Any) -> None:
    with Edge.open(tmp_path / "s") as edge:
        with pytest.raises(InvalidValue):
            edge.twin.report(patch)
        assert edge.twin.due() is None


def test_a_state_that_is_too_large_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        edge.twin.report({"a": "x" * 40_000})
        with pytest.raises(TooLarge):
            edge.twin.report({"b": "x" * 40_000})
        assert edge.twin.reported().keys() == {"a"}
        edge.twin.report({"a": "y" * 64_000})  # instead of what was there
        deliver(edge.twin, FakeCloud())


def test_a_reader_sees_it_and_reports_nothing(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        edge.twin.report({"a": 1})
        with Edge.open(tmp_path / "s", read_only=True) as reader:
            assert reader.twin.reported() == {"a": 1}
            with pytest.raises(ReadOnly):
                reader.twin.report({"a": 2})


def test_a_large_number_that_is_desired_can_be_reported(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        desire(edge, 1, {"flops": 1e17})
        edge.twin.report(edge.twin.desired())
        assert edge.twin.reported() == {"flops": 1e17}
        assert edge.twin.delta() == {}


def test_watch_yields_what_is_desired_now_and_each_change_until_the_store_closes(tmp_path: Path) -> None:
    seen: list[Any] = []
    heard = threading.Event()
    edge = Edge.open(tmp_path / "s")

    def watch() -> None:
        for state in edge.twin.watch():
            seen.append(state)
            heard.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert heard.wait(5)
    heard.clear()
    desire(edge, 1, {"a": 1})
    assert heard.wait(5)
    edge.close()
    thread.join(5)
    assert not thread.is_alive()
    assert seen == [{}, {"a": 1}]


def test_whoever_is_told_what_is_desired_may_do_with_it_what_he_likes(tmp_path: Path) -> None:
    state = {"net": {"port": 1}, "agents": {"guide": {"tone": "calm"}}}
    with Edge.open(tmp_path / "s") as edge:
        desire(edge, 1, state)
        edge.twin.desired()["net"]["port"] = 2
        edge.twin.desired("guide").clear()
        assert (edge.twin.desired(), edge.twin.desired("guide")) == ({"net": {"port": 1}}, {"tone": "calm"})
        changes = Changes(edge.twin, None)
        first = changes.next()
        assert first is not None
        first["net"]["port"] = 2
        assert changes.next() is None


@pytest.mark.parametrize("data", [b"", b"{", b'{"desired": 5}', b'{"desired": {"version": "x"}}'])
def test_an_assignment_that_the_disk_has_changed_is_a_damaged_store(tmp_path: Path, data: bytes) -> None:
    with Edge.open(tmp_path / "s") as edge:
        desire(edge, 1, {"a": 1})
        edge.twin.desired()
        ControlTables(edge.log).keep(ControlNote(number=2), {ASSIGNMENT: data})
        for ask in (edge.twin.desired, edge.twin.due, edge.twin.status):
            with pytest.raises(CorruptStore, match="assignment"):
                ask()
        desire(edge, 3, {"b": 1})
        assert edge.twin.desired() == {"b": 1}


def test_only_news_wake_the_link(tmp_path: Path) -> None:
    woken: list[int] = []
    with Edge.open(tmp_path / "s") as edge:
        edge.twin.wake = lambda: woken.append(1)
        for count, value in ((1, 1), (1, 1), (2, 2)):
            edge.twin.report({"a": value})
            assert len(woken) == count


def test_awaited(tmp_path: Path) -> None:
    async def work() -> list[Any]:
        seen: list[Any] = []
        async with await AsyncEdge.open(tmp_path / "s") as edge:
            await edge.twin.report({"a": 1})
            assert await edge.twin.reported() == {"a": 1}
            async for state in edge.twin.watch():
                seen.append(state)
                if len(seen) == 2:
                    break
                desire(edge.inner, 3, {"b": 2})
        return seen

    assert asyncio.run(work()) == [{}, {"b": 2}]


def test_cli(tmp_path: Path) -> None:
    store = str(tmp_path / "s")
    with Edge.open(store) as edge:
        desire(edge, 4, {"level": "debug", "net": {"port": 1}})

    def run(*args: str) -> str:
        result = CliRunner().invoke(main, ["twin", *args])
        assert result.exit_code == 0, result.output
        return result.output

    assert "goes out with the next sync" in run("report", store, '{"level": "info"}')
    told = run("show", store)
    assert "net.port" in told
    assert told.count("differs") == 2
    shown = json.loads(run("show", store, "--json"))
    assert shown["delta"] == shown["desired"] == {"level": "debug", "net": {"port": 1}}
    assert (shown["desired_version"], shown["unsent"]) == (4, True)
    assert json.loads(run("report", store, '{"tone": "calm"}', "--agent", "guide", "--json")) == {"tone": "calm"}
    wrong = CliRunner().invoke(main, ["twin", "report", store, "[1]"])
    assert wrong.exit_code == 2
    assert "JSON object" in wrong.stderr
