"""What a caller must not do: each is a typed error with a hint where one helps, and changes nothing at all."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import Collection, Edge
from sync.errors import AgentDBError, InvalidFilter, InvalidValue, NotFound, SchemaMismatch, TooLarge
from tests.edge.stores import SeededRandom, TickingClock


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Text(str):
    __slots__ = ()


FIELDS: list[tuple[Any, type[AgentDBError]]] = [
    ({"x" * 65: 1}, TooLarge),
    ({"é" * 33: 1}, TooLarge),
    ({"": 1}, InvalidValue),
    ({"_mine": 1}, InvalidValue),
    ({"a\0b": 1}, InvalidValue),
    ({7: 1}, InvalidValue),
    ({"\ud800": 1}, InvalidValue),
    ({"x": math.nan}, InvalidValue),
    ({"x": -math.inf}, InvalidValue),
    ({"x": [1, {"y": math.nan}]}, InvalidValue),
    ({"x": 1 << 63}, InvalidValue),
    ({"x": -(1 << 63) - 1}, InvalidValue),
    ({"x": "\udcff"}, InvalidValue),
    ({"x": ["fine", "\ud83d"]}, InvalidValue),
    ({"x": {"\ud83d": 1}}, InvalidValue),
    ({"x": {1: 2}}, InvalidValue),
    ({"x": object()}, InvalidValue),
    ({"x": {1, 2}}, InvalidValue),
    ({"x": 1 + 2j}, InvalidValue),
    ({"x": _nested(17)}, InvalidValue),
    ({"x": _nested(5000)}, InvalidValue),
    ({"x": "y" * (256 << 10)}, TooLarge),
    ({"x": "y" * (100 << 10), "z": b"y" * (160 << 10)}, TooLarge),
    ({f"f{n}": n for n in range(257)}, TooLarge),
    ([("x", 1)], InvalidValue),
    (None, InvalidValue),
    ("text", InvalidValue),
    ({"age": "four"}, SchemaMismatch),
    ({"age": True}, SchemaMismatch),
    ({"age": 1.5}, SchemaMismatch),
    ({"body": 7}, SchemaMismatch),
    ({"visits": "many"}, SchemaMismatch),
    ({"visits": None}, InvalidValue),
    ({"tags": "text"}, InvalidValue),
    ({"tags": [1.5]}, InvalidValue),
    ({"tags": ["\ud800"]}, InvalidValue),
    ({"tags": [f"t{n}" for n in range(4097)]}, TooLarge),
    ({"v": [1.0, 2.0]}, SchemaMismatch),
    ({"v": [1.0, 2.0, 3.0, 4.0]}, SchemaMismatch),
    ({"v": [1.0, math.nan, 2.0]}, InvalidValue),
    ({"v": [1.0, math.inf, 2.0]}, InvalidValue),
    ({"v": [1e300, 0.0, 0.0]}, InvalidValue),
    ({"v": ["a", "b", "c"]}, InvalidValue),
    ({"v": "text"}, InvalidValue),
    ({"v": b"123"}, InvalidValue),
    ({"v": array("b", [1, 2, 3])}, InvalidValue),
    ({"v": 5}, InvalidValue),
]

KEYS: list[tuple[Any, type[AgentDBError]]] = [
    ("", InvalidValue),
    ("k" * 513, TooLarge),
    ("é" * 257, TooLarge),
    ("a\0b", InvalidValue),
    ("\ud800", InvalidValue),
    (7, InvalidValue),
    (None, InvalidValue),
    (b"bytes", InvalidValue),
    (["list"], InvalidValue),
    (Text("text"), InvalidValue),
]

SEARCHES: list[tuple[dict[str, Any], type[AgentDBError]]] = [
    ({}, InvalidValue),
    ({"vector": [1.0]}, SchemaMismatch),
    ({"vector": [math.nan, 0.0, 0.0]}, InvalidValue),
    ({"vector": [0.0, 0.0, 0.0]}, InvalidValue),
    ({"vector": "text"}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "k": 0}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "k": 10_001}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "k": True}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "k": "ten"}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "mode": "magic"}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "mode": "hybrid"}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "mode": "text"}, InvalidValue),
    ({"text": "  "}, InvalidValue),
    ({"text": 7}, InvalidValue),
    ({"text": "pump \ud800"}, InvalidValue),
    ({"text": "pump", "mode": "vector"}, InvalidValue),
    ({"vector": [1.0, 0.0, 0.0], "filter": {"x": {"$where": "1"}}}, InvalidFilter),
    ({"vector": [1.0, 0.0, 0.0], "filter": "x = 1"}, InvalidFilter),
]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with Edge.open(tmp_path / "store", clock=TickingClock(), random=SeededRandom()) as edge:
        yield edge


@pytest.fixture
def notes(edge: Edge) -> Collection:
    notes = edge.collection(
        "notes", fields={"age": "int", "visits": "counter", "tags": "set"}, text=["body"], vector=("v", 3)
    )
    notes.put("known", {"body": "the pump", "v": [1, 0, 0], "visits": 1, "tags": ["a"]})
    return notes


@pytest.fixture
def refused(edge: Edge) -> Callable[[type[AgentDBError], Callable[[], Any]], None]:
    def check(kind: type[AgentDBError], action: Callable[[], Any]) -> None:
        log = edge.log
        before = (log.head_seq, log.position, log.digest(), edge.collections())
        with pytest.raises(kind) as caught:
            action()
        assert str(caught.value)
        assert len(str(caught.value)) < 600, "the message quotes no more than a part of what was wrong"
        assert (log.head_seq, log.position, log.digest(), edge.collections()) == before
        assert edge.verify() == []

    return check


Refused = Callable[[type[AgentDBError], Callable[[], Any]], None]


@pytest.mark.parametrize(("fields", "kind"), FIELDS)
def test_fields(edge: Edge, notes: Collection, refused: Refused, fields: Any, kind: type[AgentDBError]) -> None:
    refused(kind, lambda: notes.put("new", fields))
    refused(kind, lambda: notes.put("known", fields))
    refused(kind, lambda: notes.patch("known", fields))

    def batch() -> None:
        with edge.batch():
            notes.put("fine", {"x": 1})
            notes.put("new", fields)

    refused(kind, batch)
    assert "fine" not in notes


@pytest.mark.parametrize(("key", "kind"), KEYS)
def test_keys(notes: Collection, refused: Refused, key: Any, kind: type[AgentDBError]) -> None:
    refused(kind, lambda: notes.put(key, {"x": 1}))
    refused(kind, lambda: notes.get(key))
    refused(kind, lambda: notes.patch(key, {"x": 1}))
    refused(kind, lambda: notes.increment(key, "visits"))
    refused(kind, lambda: notes.add(key, "tags", "b"))
    refused(kind, lambda: notes.remove(key, "tags", "a"))
    refused(kind, lambda: notes.delete(key))
    refused(kind, lambda: key in notes)


@pytest.mark.parametrize(("query", "kind"), SEARCHES)
def test_searches(notes: Collection, refused: Refused, query: dict[str, Any], kind: type[AgentDBError]) -> None:
    refused(kind, lambda: notes.search(**query))


def test_searches_that_the_schema_does_not_have(edge: Edge, refused: Refused) -> None:
    plain = edge.collection("plain")
    refused(SchemaMismatch, lambda: plain.search(text="pump"))
    refused(SchemaMismatch, lambda: plain.search(vector=[1.0]))


def test_scans(notes: Collection, refused: Refused) -> None:
    refused(InvalidValue, lambda: notes.scan("\ud800"))
    refused(InvalidValue, lambda: notes.scan(prefix=b"x"))  # type: ignore[arg-type]
    refused(InvalidValue, lambda: notes.scan(after=7))  # type: ignore[arg-type]
    refused(InvalidValue, lambda: notes.scan(limit=0))
    refused(InvalidFilter, lambda: notes.scan(filter={"$or": []}))


def test_changes_of_the_wrong_kind(notes: Collection, refused: Refused) -> None:
    refused(SchemaMismatch, lambda: notes.increment("known", "age"))
    refused(SchemaMismatch, lambda: notes.increment("known", "undeclared"))
    refused(InvalidValue, lambda: notes.increment("known", "visits", math.nan))
    refused(InvalidValue, lambda: notes.increment("known", "visits", "1"))  # type: ignore[arg-type]
    refused(InvalidValue, lambda: notes.increment("known", "visits", 1 << 64))
    refused(SchemaMismatch, lambda: notes.add("known", "visits", "a"))
    refused(InvalidValue, lambda: notes.add("known", "tags"))
    refused(InvalidValue, lambda: notes.add("known", "tags", 1.5))  # type: ignore[arg-type]
    refused(InvalidValue, lambda: notes.remove("known", "tags", None))  # type: ignore[arg-type]
    refused(InvalidValue, lambda: notes.patch("known", {}))
    refused(NotFound, lambda: notes.patch("missing", {"x": 1}))
    refused(NotFound, lambda: notes.increment("missing", "visits"))
    refused(NotFound, lambda: notes.delete("missing"))


def test_a_counter_that_leaves_64_bits(notes: Collection, refused: Refused) -> None:
    notes.increment("known", "visits", (1 << 63) - 5)
    refused(InvalidValue, lambda: notes.increment("known", "visits", 100))
    refused(InvalidValue, lambda: notes.put("known", {"visits": -(1 << 63) - 1}))


def test_a_record_that_grows_too_large_by_and_by(notes: Collection, refused: Refused) -> None:
    notes.put("big", {"a": "x" * (120 << 10)})
    notes.patch("big", {"b": "x" * (120 << 10)})
    refused(TooLarge, lambda: notes.patch("big", {"c": "x" * (120 << 10)}))
    notes.patch("big", {"a": None, "c": "x" * (100 << 10)})


@pytest.mark.parametrize(
    "name", ["", "_own", "a b", "a/b", "..", "é", "x" * 65, 7, None, "a\0", "\ud800", "_collections"]
)
def test_collection_names(edge: Edge, refused: Refused, name: Any) -> None:
    refused(InvalidValue, lambda: edge.collection(name))


@pytest.mark.parametrize(
    "declaration",
    [
        {"fields": {"x": "colour"}},
        {"fields": {"x": ("str", "counter")}},
        {"fields": {"_x": "int"}},
        {"vector": ("v", 0)},
        {"vector": ("v", 3, "hamming")},
        {"vector": ("v", 3.5)},
        {"text": ["visits"], "fields": {"visits": "counter"}},
        {"conflict": "coin"},
        {"fields": {"v": "vector"}},
    ],
    ids=repr,
)
def test_declarations(edge: Edge, refused: Refused, declaration: dict[str, Any]) -> None:
    def declared() -> None:
        edge.collection("other", **declaration)

    refused(AgentDBError, declared)


def test_contradictions(edge: Edge, notes: Collection, refused: Refused) -> None:
    refused(SchemaMismatch, lambda: edge.collection("notes", fields={"age": "counter"}))
    refused(SchemaMismatch, lambda: edge.collection("notes", vector=("v", 4)))
    strict = edge.collection("strict", fields={"y": "int"}, strict=True)
    refused(SchemaMismatch, lambda: strict.put("a", {"x": 1}))


def test_an_exception_in_a_batch_discards_it(edge: Edge, notes: Collection, refused: Refused) -> None:
    def interrupted() -> None:
        with edge.batch():
            notes.put("b", {"x": 1})
            raise InvalidValue("the user's own")

    refused(InvalidValue, interrupted)
    notes.put("c", {"x": 1})
    assert "b" not in notes


def test_values_at_the_limits_are_accepted(notes: Collection) -> None:
    notes.put("k" * 512, {"x" * 64: 1, "é" * 32: _nested(16), "n": (1 << 63) - 1, "m": -(1 << 63)})
    notes.put("é" * 256, {"x": "y" * ((256 << 10) - 1200), "s": "\U0001f600", "b": b"\xff\x00", "t": (1, 2)})
    notes.put("t", {"tags": {f"t{n}" for n in range(4096)}} | {f"f{n}": n for n in range(255)})
    assert notes.get("k" * 512) == {"x" * 64: 1, "é" * 32: _nested(16), "n": (1 << 63) - 1, "m": -(1 << 63)}
    shown = notes.get("é" * 256)
    assert shown is not None
    assert shown["t"] == [1, 2]
    assert notes.count() == 4
