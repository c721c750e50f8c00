"""What every tier that answers a vector search must do: the exact matrix and the Lance table pass the same tests.

The reference is a brute-force ranking in float64. A tier must return exactly its keys, in its order: recall is 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from edge.storage.delta_log import DeltaLog
from edge.storage.exact import ExactIndex
from edge.storage.filters import Filter, parse
from edge.storage.search import Candidates, Scored
from edge.storage.tables import LanceTables
from sync.errors import InvalidValue
from sync.images import image_values
from sync.schema import METRICS, CollectionSchema, declare, pack_vector
from tests.edge.stores import delete, open_log, put

DIMENSIONS = 12


class Tier(NamedTuple):
    """One implementation over one log. ``settle`` moves everything to disk; ``reopen`` starts anew from there."""

    log: DeltaLog
    schema: CollectionSchema
    search: Callable[[list[float], int, Filter | None], list[Scored]]
    settle: Callable[[], Any]
    reopen: Callable[[], None]


def _exact(folder: Path, log: DeltaLog, schema: CollectionSchema) -> Tier:
    held = [ExactIndex(folder, log, schema)]

    def search(vector: list[float], k: int, where: Filter | None) -> list[Scored]:
        passing = None if where is None else Candidates(log, schema.name, where).of
        return held[0].search(pack_vector(vector, DIMENSIONS), k, passing)

    def fold() -> None:
        held[0].fold()

    def reopen() -> None:
        held[0] = ExactIndex(folder, log, schema)

    return Tier(log, schema, search, fold, reopen)


def _lance(folder: Path, log: DeltaLog, schema: CollectionSchema) -> Tier:
    held = [LanceTables(folder, log)]

    def search(vector: list[float], k: int, where: Filter | None) -> list[Scored]:
        return held[0].search_vector(schema.name, pack_vector(vector, DIMENSIONS), k, where)

    def flush() -> None:
        held[0].flush()

    def reopen() -> None:
        held[0] = LanceTables(folder, log)

    return Tier(log, schema, search, flush, reopen)


@pytest.fixture(params=METRICS)
def schema(request: pytest.FixtureRequest) -> CollectionSchema:
    return declare("things", fields={"n": "int", "tags": "set"}, vector=("v", DIMENSIONS, request.param))


@pytest.fixture(params=[_exact, _lance], ids=["exact", "lance"])
def tier(request: pytest.FixtureRequest, tmp_path: Path, schema: CollectionSchema) -> Iterator[Tier]:
    log = open_log(tmp_path, schema, declare("others"))
    yield request.param(tmp_path, log, schema)
    log.close()


def _vector(random: Random, scale: float = 1.0) -> list[float]:
    return [scale * random.gauss(0, 1) for _ in range(DIMENSIONS)]


def _score(metric: str, row: list[float], query: list[float]) -> float | None:
    inner = sum(a * b for a, b in zip(row, query, strict=True))
    if metric == "dot":
        return inner
    if metric == "l2":
        return -sum((a - b) ** 2 for a, b in zip(row, query, strict=True))
    length = sqrt(sum(a * a for a in row)) * sqrt(sum(b * b for b in query))
    return inner / length if length else None


def _expected(tier: Tier, query: list[float], k: int, where: Filter | None = None) -> list[Scored]:
    assert tier.schema.vector is not None
    query = list(memoryview(pack_vector(query, DIMENSIONS)).cast("f"))
    found = []
    for key, image in tier.log.scan(tier.schema.name, limit=100_000):
        values = image_values(image)
        assert values is not None
        if "v" in values and (where is None or where.matches(values)):
            score = _score(tier.schema.vector.metric, list(memoryview(values["v"]).cast("f")), query)
            if score is not None:
                found.append(Scored(key, score))
    return sorted(found, key=lambda hit: (-hit.score, hit.key))[:k]


def _check(tier: Tier, query: list[float], k: int, where: Filter | None = None) -> list[Scored]:
    found, expected = tier.search(query, k, where), _expected(tier, query, k, where)
    assert [hit.key for hit in found] == [hit.key for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], rel=1e-5, abs=1e-5)
    return found


def _fill(tier: Tier, random: Random, count: int) -> None:
    records = {f"k{n:04}": {"n": n, "tags": [f"t{n % 7}"], "v": _vector(random)} for n in range(count)}
    put(tier.log, tier.schema.name, records)


def test_nothing_is_found_where_nothing_is(tier: Tier) -> None:
    assert tier.search([1.0] * DIMENSIONS, 5, None) == []


def test_it_is_exact(tier: Tier) -> None:
    random = Random(1)
    _fill(tier, random, 300)
    tier.settle()
    for _ in range(20):
        _check(tier, _vector(random), 10)
    _check(tier, _vector(random), 300)
    _check(tier, _vector(random), 1000)


def test_it_sees_each_write_at_once(tier: Tier) -> None:
    random = Random(2)
    _fill(tier, random, 200)
    tier.settle()
    for step in range(60):
        key = f"k{random.randrange(220):04}"
        kind = random.randrange(4)
        if kind == 0 and tier.log.image(tier.schema.name, key) is not None:
            put(tier.log, tier.schema.name, {key: {"n": step}})  # the vector goes, the record stays
        elif kind == 1:
            put(tier.log, tier.schema.name, {key: {"n": step, "v": _vector(random)}})
            delete(tier.log, tier.schema.name, key)
        else:
            put(tier.log, tier.schema.name, {key: {"n": step, "v": _vector(random)}})
        put(tier.log, "others", {f"o{step}": {"x": step}})
        _check(tier, _vector(random), 12)
        if step % 20 == 19:
            tier.settle()
            _check(tier, _vector(random), 250)


def test_a_new_record_that_changes_again_before_it_is_on_disk(tier: Tier) -> None:
    name, query = tier.schema.name, [1.0] * DIMENSIONS
    put(tier.log, name, {"old": {"v": [-1.0] * DIMENSIONS}})
    tier.search(query, 5, None)
    tier.settle()
    put(tier.log, name, {key: {"v": query} for key in "abc"})
    assert [hit.key for hit in tier.search(query, 3, None)] == ["a", "b", "c"]
    delete(tier.log, name, "a")
    put(tier.log, name, {"b": {"n": 1}, "c": {"v": [-1.0] * DIMENSIONS}})
    _check(tier, query, 5)
    put(tier.log, name, {key: {"v": query} for key in "ba"})
    _check(tier, query, 5)
    tier.settle()
    _check(tier, query, 5)


def test_it_survives_being_reopened(tier: Tier) -> None:
    random = Random(3)
    _fill(tier, random, 150)
    tier.settle()
    put(tier.log, tier.schema.name, {"k0003": {"v": _vector(random)}, "new": {"v": _vector(random)}})
    delete(tier.log, tier.schema.name, "k0004", "k0005")
    tier.reopen()
    _check(tier, _vector(random), 200)
    tier.settle()
    tier.reopen()
    _check(tier, _vector(random), 200)


def test_ties_are_in_order_of_key_even_across_the_boundary(tier: Tier) -> None:
    random = Random(4)
    same = _vector(random)
    keys = [f"k{n:03}" for n in range(120)]
    random.shuffle(keys)
    put(tier.log, tier.schema.name, {key: {"v": same} for key in keys[:80]})
    tier.settle()
    put(tier.log, tier.schema.name, {key: {"v": same} for key in keys[80:]})
    found = tier.search(same, 7, None)
    assert [hit.key for hit in found] == sorted(keys)[:7]
    assert len({hit.score for hit in found}) == 1


def test_filters_do_not_cost_recall(tier: Tier) -> None:
    random = Random(5)
    _fill(tier, random, 300)
    tier.settle()
    put(tier.log, tier.schema.name, {f"k{n:04}": {"n": n + 1000, "v": _vector(random)} for n in range(0, 300, 10)})
    for expression in (
        {"n": {"$lt": 30}},
        {"n": {"$gte": 1000}},
        {"tags": {"$contains": "t3"}, "n": {"$gt": 100}},
        {"$or": [{"n": 7}, {"tags": {"$contains": "t1"}}]},
        {"free": {"$exists": False}, "n": {"$in": [1, 2, 3]}},
        {"n": -1},
    ):
        _check(tier, _vector(random), 10, parse(expression, tier.schema))


def test_vectors_of_very_different_lengths(tier: Tier) -> None:
    random = Random(6)
    records = {f"k{n}": {"v": _vector(random, 10.0 ** random.uniform(-12, 12))} for n in range(100)}
    put(tier.log, tier.schema.name, records)
    tier.settle()
    for _ in range(5):
        query = _vector(random)
        found = tier.search(query, 10, None)
        assert [hit.key for hit in found] == [hit.key for hit in _expected(tier, query, 10)]


def test_vectors_of_zeros(tier: Tier) -> None:
    assert tier.schema.vector is not None
    put(tier.log, tier.schema.name, {"zero": {"v": [0.0] * DIMENSIONS}, "one": {"v": [1.0] * DIMENSIONS}})
    tier.settle()
    _check(tier, [1.0] * DIMENSIONS, 5)
    if tier.schema.vector.metric == "cosine":
        with pytest.raises(InvalidValue):
            tier.search([0.0] * DIMENSIONS, 5, None)
    else:
        _check(tier, [0.0] * DIMENSIONS, 5)


def test_a_vector_written_before_the_schema_said_so_is_passed_over(tier: Tier) -> None:
    """Values of a declared field can be of any type: written elsewhere, or under an earlier schema."""
    log, name = tier.log, tier.schema.name
    for key, value in {"short": b"\0\0\0\0", "text": "v", "nan": b"\xff" * 4 * DIMENSIONS}.items():
        log.submit([_unchecked(name, key, {"v": value})])
    put(log, name, {"good": {"v": [1.0] * DIMENSIONS}})
    for _ in range(2):
        assert [hit.key for hit in tier.search([1.0] * DIMENSIONS, 5, None)] == ["good"]
        tier.settle()


def _unchecked(collection: str, key: str, fields: dict[str, Any]) -> Any:
    from edge.storage.transaction import Write
    from sync.operations import Kind

    return Write(Kind.PUT, collection, key, fields)


def test_short_vectors_are_ranked_like_long_ones(tier: Tier) -> None:
    """Their scores are less than float32 can tell apart where Lance computes them, or their products vanish."""
    assert tier.schema.vector is not None
    random = Random(7)
    for scale in (1e-4, 1e-8, 1e-10 if tier.schema.vector.metric == "cosine" else 3e-23):
        put(tier.log, "things", {f"k{number:03}": {"v": _vector(random, scale)} for number in range(120)})
        tier.settle()
        query = _vector(random, scale)
        assert [hit.key for hit in tier.search(query, 3, None)] == [hit.key for hit in _expected(tier, query, 3)]
