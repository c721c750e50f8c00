"""Vector spaces: what is stored is what its precision leaves, and what is found is what numpy finds."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import (
    Edge,
    EdgeConfig,
    Erased,
    InvalidFilter,
    InvalidValue,
    NotFound,
    SchemaMismatch,
    TooLarge,
    Vector,
    Vectors,
)
from edge.agent.vectors import collection_name
from sync.precisions import PRECISIONS
from sync.schema import METRICS, declare
from tests.edge.stores import TickingClock


def _reference(space: Vectors, query: Any, metric: str) -> list[tuple[float, str]]:
    """(distance, key) of all that is stored, by numpy in float64, nearest first."""
    wide = np.asarray(query, dtype=np.float32).astype(np.float64)
    out = []
    for one in space.all():
        row = np.asarray(one.vector, dtype=np.float64)
        if metric == "cosine":
            distance = 1 - row @ wide / np.linalg.norm(row) / np.linalg.norm(wide)
        elif metric == "dot":
            distance = -(row @ wide)
        else:
            distance = np.linalg.norm(row - wide)
        out.append((float(distance), one.key))
    return sorted(out)


def _of(space: Vectors, key: str) -> Vector:
    found = space.get(key)
    assert found is not None
    return found


def _agree(found: list[Any], reference: list[tuple[float, str]]) -> None:
    assert [hit.key for hit in found] == [key for _, key in reference]
    np.testing.assert_allclose([hit.distance for hit in found], [distance for distance, _ in reference], atol=2e-6)


@pytest.mark.parametrize("mib", [150, 0], ids=["exact", "lance"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_found_is_what_numpy_finds(tmp_path: Path, metric: str, precision: str, mib: int) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((300, 12)).astype(np.float32)
    with Edge.open(tmp_path, clock=TickingClock(), config=EdgeConfig(exact_mib_max=mib)) as edge:
        space = edge.agent("guide").vectors("images", dimension=12, metric=metric, precision=precision)
        items = [(f"k{at:03}", row, {"even": at % 2 == 0}) for at, row in enumerate(rows)]
        assert space.upsert_many(items) == 300
        for _ in range(3):
            space.delete(f"k{rng.integers(100):03}") if space.get("k007") else None
        space.upsert("k250", rows[3], {"even": True})
        for _ in range(4):
            query = rng.standard_normal(12)
            reference = _reference(space, query, metric)
            hits = space.knn(query, 7)
            _agree(hits, reference[:7])
            assert [list(hit.vector) for hit in hits] == [list(_of(space, hit.key).vector) for hit in hits]
            middle = (reference[40][0] + reference[41][0]) / 2
            within: dict[str, Any] = {"min_score": -middle} if metric == "dot" else {"radius": middle}
            inside = space.range(query, **within)
            _agree(inside, reference[:41])
            assert [hit.key for hit in space.range(query, min_score=inside[-1].score - 1e-9, limit=5)] == [
                key for _, key in reference[:5]
            ]
            even = [pair for pair in reference if _of(space, pair[1]).metadata["even"]]
            _agree(space.knn(query, 5, filter={"even": True}), even[:5])
            near = [pair for pair in even if pair[0] <= reference[6][0] + 1e-6]
            _agree(space.range(query, min_score=hits[-1].score - 1e-9, filter={"even": True}), near)
        status = space.status()
        assert (status["precision"], status["metric"], status["dimension"]) == (precision, metric, 12)
        assert (status["count"], status["approximate"]) == (space.count(), False)
        assert status["tier"] == ("lance" if mib == 0 else "exact")


numbers = st.floats(-100, 100, width=16)


@settings(max_examples=40)
@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=30), st.sampled_from(PRECISIONS))
def test_the_nearest_of_any_numbers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]], precision: str
) -> None:
    with Edge.open(tmp_path_factory.mktemp("s"), clock=TickingClock()) as edge:
        space = edge.agent("a").vectors("s", dimension=3, metric="l2", precision=precision)
        space.upsert_many((f"{at:02}", row) for at, row in enumerate(rows))
        stored = {one.key: np.asarray(one.vector, dtype=np.float64) for one in space.all()}
        worst = {"float32": 0.0, "float16": 100 * 2.0**-11, "int8": 100 / 127 / 2 * 1.001}[precision]
        assert all(np.abs(stored[f"{at:02}"] - row).max() <= worst for at, row in enumerate(rows))
        distances = sorted((float(((row - [1, 2, 3]) ** 2).sum()), key) for key, row in stored.items())
        found = space.knn([1.0, 2.0, 3.0], 5)
        np.testing.assert_allclose([-hit.score for hit in found], [one for one, _ in distances[:5]], rtol=1e-9)


def test_a_space_is_as_it_was_declared(edge: Edge) -> None:
    agent = edge.agent("guide")
    with pytest.raises(NotFound, match="has no space 'images'"):
        agent.vectors("images")
    space = agent.vectors("images", dimension=4, metric="l2", precision="int8")
    space.upsert("k", [1, 2, 3, 4])
    again = agent.vectors("images")
    assert (again.dimension, again.metric, again.precision) == (4, "l2", "int8")
    assert agent.vectors("images", dimension=4, precision="int8").get("k") == space.get("k")
    others: list[dict[str, Any]] = [{"dimension": 5}, {"metric": "dot"}, {"precision": "float32"}]
    for other in others:
        with pytest.raises(SchemaMismatch, match="not "):
            agent.vectors("images", **other)
    edge.log.declare(declare(collection_name("guide", "images"), vector=("vector", 4, "dot", "", "int8")))
    with pytest.raises(SchemaMismatch, match="has metric 'dot', not 'l2'"):  # another device's declaration has come
        space.knn([1, 2, 3, 4])
    with pytest.raises(SchemaMismatch):
        space.upsert("k2", [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"metric": "hamming"}, InvalidValue), ({"precision": "f8"}, InvalidValue), ({"precision": 8}, InvalidValue),
        ({"dimension": 0}, SchemaMismatch), ({"dimension": 3.5}, SchemaMismatch), ({"dimension": 9**9}, SchemaMismatch),
    ],
)  # fmt: skip
def test_a_wrong_declaration_declares_nothing(edge: Edge, arguments: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        edge.agent("guide").vectors("images", **{"dimension": 4, **arguments})
    assert edge.agent("guide").spaces() == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_wrong_vector_is_a_typed_error_and_changes_nothing(edge: Edge, precision: str) -> None:
    space = edge.agent("guide").vectors("images", dimension=3, precision=precision)
    space.upsert("k", [1.0, 0.0, 0.5], {"floor": 2})
    before = edge.digest()
    wrong: list[tuple[Any, type]] = [
        ([1.0, 2.0], SchemaMismatch), ([1.0, float("nan"), 0.0], InvalidValue), ([float("inf"), 1, 1], InvalidValue),
        ("abc", InvalidValue), (None, InvalidValue), ([0.0, 0.0, 0.0], InvalidValue), ([0, -0.0, 1e-46], InvalidValue),
        (np.zeros((3, 1)), InvalidValue), ([1e300, 1, 1], InvalidValue),
    ]  # fmt: skip
    for vector, error in wrong:
        for call in (space.upsert, lambda key, vector: space.upsert_many([(key, vector)])):
            with pytest.raises(error):
                call("k", vector)
        with pytest.raises(error):
            space.knn(vector)
        with pytest.raises(error):
            space.range(vector, radius=0.5)
    for metadata in ({"vector": 1}, [1], {"_x": 1}):
        with pytest.raises(InvalidValue):
            space.upsert("k", [1, 2, 3], metadata)  # type: ignore[arg-type]
    for key in ("", None, 5):
        with pytest.raises(InvalidValue):
            space.upsert(key, [1, 2, 3])  # type: ignore[arg-type]
    items: list[Any] = [("k",), "k", ("a", [1, 2, 3], {}, 4)]
    for item in items:
        with pytest.raises(InvalidValue):
            space.upsert_many([item])
    wrong_ranges: list[dict[str, Any]] = [
        {},
        {"radius": 1, "min_score": 1},
        {"radius": -1},
        {"radius": float("nan")},
        {"radius": "x"},
    ]
    for arguments in wrong_ranges:
        with pytest.raises(InvalidValue):
            space.range([1, 2, 3], **arguments)
    for limit in (0, 10_001, 1.5):
        with pytest.raises(InvalidValue):
            space.range([1, 2, 3], radius=1, limit=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidFilter):
        space.knn([1, 2, 3], filter={"floor": {"$near": 1}})
    with pytest.raises(NotFound, match="has no vector"):
        space.delete("k", "none")
    assert edge.digest() == before
    assert space.get("none") is None


def test_float16_says_what_it_cannot_hold(edge: Edge) -> None:
    space = edge.agent("guide").vectors("images", dimension=2, metric="l2", precision="float16")
    with pytest.raises(InvalidValue, match="65,504"):
        space.upsert("k", [1e6, 0])
    space.upsert("zero", [0, 0])  # l2 knows where it is
    (hit,) = space.knn([3, 4], 1)
    assert (hit.key, hit.distance, hit.score) == ("zero", 5.0, -25.0)
    tiny = edge.agent("guide").vectors("tiny", dimension=2, precision="float16")
    with pytest.raises(InvalidValue, match="all zeros as float16"):
        tiny.upsert("k", [1e-9, 0])


def test_a_dot_product_has_no_radius(edge: Edge) -> None:
    space = edge.agent("guide").vectors("images", dimension=2, metric="dot")
    space.upsert_many([("a", [1, 0]), ("b", [3, 0]), ("c", [0, 9])])
    with pytest.raises(InvalidValue, match="no radius"):
        space.range([1, 0], radius=1)
    assert [(hit.key, hit.distance) for hit in space.range([1, 0], min_score=1)] == [("b", -3.0), ("a", -1.0)]


def test_agents_have_spaces_of_their_own(edge: Edge) -> None:
    names = ["images", "user@example.com", "Größe", "a.b", "a_b", "a-b", "%2F/", "x" * 40]
    for at, name in enumerate(names):
        edge.agent("guide").vectors(name, dimension=2 + at).upsert("k", [1.0] * (2 + at))
    edge.agent("guide.a").vectors("b", dimension=2).upsert("k/1", [1, 2])
    edge.agent("other").vectors("images", dimension=9).upsert("k", list(range(9)))
    edge.agent("other").vectors("empty", dimension=9)
    assert [space.space for space in edge.agent("guide").spaces()] == sorted(names)
    assert edge.agent("guide").vectors("images").dimension == 2
    assert [space.dimension for space in edge.agent("other").spaces()] == [9]
    (space,) = edge.agent("guide.a").spaces()
    assert ([one.key for one in space.all("k")], space.knn([1, 2])[0].key) == (["k/1"], "k/1")
    with pytest.raises(TooLarge, match="over 128 bytes"):
        edge.agent("guide").vectors("x" * 160, dimension=2)
    with pytest.raises(TooLarge, match="over 512 bytes"):
        space.upsert("k" * 510, [1, 2])


def test_an_erased_agent_leaves_no_vector(edge: Edge) -> None:
    space = edge.agent("guide").vectors("faces", dimension=4)
    kept = edge.agent("other").vectors("faces", dimension=4)
    vector = [0.123, 0.456, 0.789, 0.1011]
    space.upsert("k", vector, {"who": "canary-9876"})
    kept.upsert("k", [1, 2, 3, 4])
    assert space.knn(vector, 1)[0].key == "k"
    receipt = edge.agent("guide").erase()
    assert receipt.deleted == {collection_name("guide", "faces"): 1}
    assert edge.agent("guide").spaces() == []
    assert [one.key for one in edge.agent("other").vectors("faces").all()] == ["k"]
    packed = array("f", vector).tobytes()
    for file in (path for path in Path(edge.path).rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert packed not in content, file
        assert b"canary-9876" not in content, file
    with pytest.raises(Erased):
        space.upsert("k2", vector)


def test_a_batch_is_one_transaction(edge: Edge) -> None:
    space = edge.agent("guide").vectors("images", dimension=2)
    with edge.batch():
        space.upsert("a", [1, 0])
        space.upsert_many([("b", [0, 1])])
        assert space.get("a") is None
    assert [one.key for one in space.all()] == ["a", "b"]
    assert _of(space, "a").vector == array("f", [1, 0])
    assert space.knn([1, 0], 1, explain=True)[0].why.startswith("the vectors take")
