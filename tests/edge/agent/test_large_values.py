"""Large values of checkpoints: patches, what is collected, and what is damaged or missing."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest

from edge import Edge, NotFound, Thread
from edge.agent.thread import INLINE_BYTES_MAX
from sync.errors import CorruptStore
from tests.edge.agent.test_thread import large


def test_a_collection_that_is_interrupted_leaves_nothing_unreadable(
    edge: Edge, thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.agent.large_values._DELETES", 1)
    value = bytearray(random.Random(1).randbytes(500_000))
    values = []
    for number in range(5):
        value[number] ^= 1
        values.append(bytes(value))
        thread.put(bytes(value))
    thread.put("small")
    shelf = edge.agent("x")._shelf
    submit = shelf.large._submit
    for fails_at in range(1, 8):
        calls = iter(range(100))

        def failing(writes: Any, calls: Any = calls, fails_at: int = fails_at) -> None:
            if next(calls) == fails_at:
                raise OSError("the disk is gone")
            submit(writes)

        monkeypatch.setattr(shelf.large, "_submit", failing)
        with suppress(OSError):
            thread.prune(keep_latest=1)
            shelf.collect("guide")
        monkeypatch.setattr(shelf.large, "_submit", submit)
        for held in values:
            shelf.large._cache.clear()
            made = edge.agent("guide").thread(f"t{fails_at}").put(held)
            shelf.large._cache.clear()
            assert edge.agent("guide").thread(f"t{fails_at}").get(made.id) == held
        edge.agent("guide").thread(f"t{fails_at}").delete()
    assert edge.log.count("_values") == 0


def test_a_power_cut_between_the_declarations(edge: Edge, thread: Thread) -> None:
    from sync.schema import declare

    edge.log.declare(declare("_checkpoints"))
    thread.put(large(1))
    assert thread.get() == large(1)


def test_a_large_value_that_changes_little_costs_little(edge: Edge, thread: Thread) -> None:
    value = bytearray(random.Random(1).randbytes(1 << 20))
    thread.put(bytes(value))
    for number in range(20):
        value[number * 1000 : number * 1000 + 10_000] = random.Random(number).randbytes(10_000)
        thread.put(bytes(value))
    patches = [len(fields["data"]) for _, fields in edge.agent("x")._shelf.records("_values") if fields.get("base")]
    assert len(patches) == 20
    assert sum(patches) < 20 * 12_000
    assert thread.get() == bytes(value)


def test_the_same_value_is_stored_once(edge: Edge, thread: Thread) -> None:
    thread.put(large(1))
    parts = edge.log.count("_values")
    for name in ("a", "b"):
        edge.agent("guide").thread(name).put(large(1))
    thread.put(large(1))
    assert edge.log.count("_values") == parts
    edge.agent("other").thread().put(large(1))
    assert edge.log.count("_values") == 2 * parts, "an agent that is erased takes all of its values along"


def test_chains_are_bounded_and_pruning_leaves_what_the_rest_needs(
    edge: Edge, thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.agent.large_values.CHAIN_MAX", 5)
    value = bytearray(random.Random(1).randbytes(50_000))
    kept: dict[str, bytes] = {}
    for number in range(30):
        value[number * 10] ^= 1
        kept[thread.put(bytes(value)).id] = bytes(value)
    depths = [fields["depth"] for _, fields in edge.agent("x")._shelf.records("_values") if "depth" in fields]
    assert max(depths) == 5
    edge.agent("x")._shelf.large._cache.clear()
    assert [thread.get(one) for one in kept] == list(kept.values())
    assert thread.prune(keep_latest=2) == 28
    assert [thread.get(one.id) for one in thread.history()] == list(kept.values())[:-3:-1]
    assert edge.log.count("_values") <= 7
    assert thread.delete() == 2
    assert edge.log.count("_values") == 0
    assert edge.verify() == []


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX - 3, INLINE_BYTES_MAX - 2, 700_000])
def test_sizes_around_the_bounds(edge: Edge, thread: Thread, size: int) -> None:
    value = random.Random(size).randbytes(size)
    made = thread.put(value)
    edge.agent("x")._shelf.large._cache.clear()
    assert thread.get(made.id) == value


def test_a_value_that_is_not_what_was_stored_is_not_shown(edge: Edge, thread: Thread) -> None:
    from edge.storage.transaction import Write
    from sync.operations import Kind

    for value in ("small", large(1)):
        made = thread.put(value)
        (name, key), *_ = [
            (name, key)
            for name in ("_values", "_checkpoints")
            for key, fields in edge.agent("x")._shelf.records(name)
            if ("data" if name == "_values" else "value") in fields
        ]
        field = "data" if name == "_values" else "value"
        edge.agent("x")._shelf.large._cache.clear()
        edge.log.submit([Write(Kind.PATCH, name, key, {field: b"\x01"})])
        with pytest.raises(CorruptStore):
            thread.get(made.id)


def test_a_value_of_which_a_part_is_missing(edge: Edge, thread: Thread) -> None:
    from edge.storage.transaction import Write
    from sync.operations import Kind

    made = thread.put(large(1, 500_000))
    edge.agent("x")._shelf.large._cache.clear()
    keys = [key for key, _ in edge.agent("x")._shelf.records("_values")]
    assert len(keys) == 3
    for key in keys[::-1]:
        edge.log.submit([Write(Kind.DELETE, "_values", key)])
        with pytest.raises(NotFound, match="not arrived"):
            thread.get(made.id)
