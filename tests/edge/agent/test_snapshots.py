"""Named snapshots: what they hold is kept, and comes back as new checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import Edge, InvalidValue, NotFound
from edge.agent.names import key_of
from edge.storage.transaction import Write
from sync.operations import Kind
from tests.edge.stores import TickingClock


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with Edge.open(tmp_path / "store", clock=TickingClock()) as edge:
        for agent in ("guide", "cook"):
            for thread in ("one", "two"):
                edge.agent(agent).thread(thread).put([agent, thread, "old"])
        yield edge


def stands(edge: Edge) -> list[Any]:
    return [thread.get() for agent in edge.agents() for thread in edge.agent(agent).threads()]


def test_what_was_taken_comes_back(edge: Edge) -> None:
    before = stands(edge)
    taken = edge.snapshots.take("monday")
    assert (taken.name, taken.agent, taken.threads) == ("monday", "", 4)
    large = {"v": bytes(range(256)) * 1000}
    for agent in edge.agents():
        for thread in edge.agent(agent).threads():
            thread.put(large)
    newer = edge.agent("cook").thread("three")
    newer.put("new")
    restored = edge.snapshots.restore("monday")
    assert len(restored.threads) == 4
    assert [thread.name for thread in restored.newer] == ["three"]
    newer.delete()
    assert stands(edge) == before
    thread = edge.agent("cook").thread("one")
    head = thread.head()
    assert head is not None
    assert thread.get(head.parent) == large, "nothing was taken away"
    assert head.metadata["restored"][0] == "monday"


def test_one_agent(edge: Edge) -> None:
    edge.snapshots.take("mine", agent="cook")
    for agent in edge.agents():
        edge.agent(agent).thread("one").put("changed")
    edge.snapshots.restore("mine")
    assert edge.agent("cook").thread("one").get() == ["cook", "one", "old"]
    assert edge.agent("guide").thread("one").get() == "changed"


def test_a_restore_that_changes_nothing_writes_nothing(edge: Edge) -> None:
    edge.snapshots.take("now")
    position = edge.log.position
    edge.snapshots.restore("now")
    assert edge.log.position == position


def test_prune_and_delete_leave_what_a_snapshot_names(edge: Edge) -> None:
    thread = edge.agent("cook").thread("one")
    large = {"v": bytes(range(256)) * 1000}
    thread.put(large)
    edge.snapshots.take("kept")
    thread.put(2)
    thread.put(3)
    assert thread.prune(keep_latest=1) == 2
    assert thread.delete() == 1
    edge.snapshots.restore("kept")
    assert thread.get() == large
    edge.snapshots.delete("kept")
    assert edge.snapshots.all() == []
    thread.put(4)
    thread.prune(keep_latest=1)
    assert edge.log.count("_values") == 0


def test_what_was_pruned_elsewhere_is_missing_and_the_rest_restored(edge: Edge) -> None:
    edge.snapshots.take("x", agent="cook")
    thread = edge.agent("cook").thread("one")
    head = thread.head()
    assert head is not None
    for name in ("one", "two"):
        edge.agent("cook").thread(name).put("changed")
    key = key_of(thread.prefix, head.id)
    edge.log.submit([Write(Kind.DELETE, "_checkpoints", key)])
    restored = edge.snapshots.restore("x")
    assert [one.name for one in restored.threads] == ["two"]
    assert [one.name for one in restored.missing] == ["one"]
    assert edge.agent("cook").thread("two").get() == ["cook", "two", "old"]
    with edge.batch(), pytest.raises(InvalidValue, match="not inside of a batch"):
        edge.snapshots.restore("x")


def test_errors(edge: Edge, tmp_path: Path) -> None:
    for attempt in (edge.snapshots.restore, edge.snapshots.delete):
        with pytest.raises(NotFound, match="no snapshot 'x'"):
            attempt("x")
    with pytest.raises(NotFound, match="'nobody'"):
        edge.snapshots.take("x", agent="nobody")
    with pytest.raises(InvalidValue):
        edge.snapshots.take("")
    with Edge.open(tmp_path / "empty") as empty, pytest.raises(NotFound, match="no agent"):
        empty.snapshots.take("x")


def test_a_name_that_begins_another(edge: Edge) -> None:
    edge.snapshots.take("ab")
    with pytest.raises(NotFound):
        edge.snapshots.restore("a")
    edge.agent("cook").thread("one").put("changed")
    edge.snapshots.take("a")
    assert [one.name for one in edge.snapshots.all()] == ["a", "ab"]
    edge.snapshots.restore("ab")
    assert edge.agent("cook").thread("one").get() == ["cook", "one", "old"]
