"""Filters over metadata: what few memories pass is found by reading few."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from edge import CallableEmbedder, Edge
from edge.storage.delta_log import DeltaLog

RANDOM = Random(1)
GIVEN: list[tuple[dict[str, Any], int]] = [
    ({"floor": 7}, 3),
    ({"floor": {"$in": [7, 8.0]}}, 6),
    ({"floor": {"$gte": 999}, "tags": {"$contains": "499"}}, 3),
    ({"tags": {"$contains": "9"}}, 6),
    ({"place": 'hall "7", \\ é'}, 1),
    ({"place": {"$exists": True}}, 1),
    ({"floor": -1}, 0),
    ({"$or": [{"floor": 7}, {"place": {"$exists": True}}]}, 4),
]


def anything(texts: Sequence[str]) -> list[list[float]]:
    return [[RANDOM.gauss(0, 1) for _ in range(8)] for _ in texts]


def test_of_3000_memories_little_more_than_the_answer_is_read(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = edge.agent("guide").memory(embedder=CallableEmbedder(anything, model="any", dimensions=8))
    with edge.batch():
        for number in range(3_000):
            memory.add(f"pump {number}", metadata={"floor": number % 1_000, "tags": [str(number % 500)]})
        memory.add("the pump in the hall", metadata={"place": 'hall "7", \\ é'})
    read: list[int] = []
    images = DeltaLog.images

    def counted(log: DeltaLog, collection: str, keys: Sequence[str]) -> dict[str, bytes]:
        read.append(len(keys))
        return images(log, collection, keys)

    memory.search("pump")
    monkeypatch.setattr(DeltaLog, "images", counted)
    for mode, most in (("text", 200), ("vector", 1_200), ("hybrid", 1_400)):
        for given, count in GIVEN:
            read.clear()
            found = memory.search("pump", 10, mode=mode, filter=given, touch=False)
            assert len(found) == count, (mode, given)
            assert sum(read) < most, (mode, given, read)


def test_scalars_of_numpy_are_numbers(edge: Edge) -> None:
    import numpy as np

    memory = edge.agent("guide").memory()
    added = memory.add("the pump is loud", importance=np.float32(0.25), metadata={"floor": np.int64(2)})  # type: ignore[arg-type]
    assert [(one.importance, one.metadata) for one in memory.all()] == [(0.25, {"floor": 2})]
    for asked in ({"floor": np.int64(2)}, {"floor": {"$in": [np.int8(3), np.int64(2)]}}):
        assert [found.id for found in memory.search("pump", filter=asked)] == [added.id]
    assert memory.search("pump", filter={"importance": {"$gt": np.float64(0.5)}}) == []
    space = edge.agent("guide").vectors("faces", dimension=2)
    space.upsert("ada", [1, 0])
    assert [one.key for one in space.range([1, 0], radius=np.float32(0.1))] == ["ada"]  # type: ignore[arg-type]
    assert [one.key for one in space.range([1, 0], min_score=np.float64(0.9))] == ["ada"]
    counts = edge.collection("counts", fields={"n": "counter"})
    counts.put("a", {"n": 1})
    counts.increment("a", "n", np.int64(2))  # type: ignore[arg-type]
    assert counts.get("a") == {"n": 3}
