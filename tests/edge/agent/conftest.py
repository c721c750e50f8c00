"""A store, and what tests of agents use in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.agent.documents import Documents
from edge.agent.memory import Memory
from edge.agent.thread import Thread
from edge.node import Edge
from tests.edge.stores import TickingClock


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def edge(tmp_path: Path, clock: TickingClock) -> Iterator[Edge]:
    with Edge.open(tmp_path / "store", clock=clock) as edge:
        yield edge


@pytest.fixture
def thread(edge: Edge) -> Thread:
    return edge.agent("guide").thread("tour")


@pytest.fixture
def memory(edge: Edge) -> Memory:
    return edge.agent("guide").memory("visitors")


@pytest.fixture
def manuals(edge: Edge) -> Documents:
    return edge.agent("guide").documents("manuals")
