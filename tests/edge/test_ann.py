"""Approximate indexes: one serves only when its recall was measured, never answers worse than that, and is no worse
than none when it is damaged, out of date or gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import Edge, EdgeConfig, Vectors
from edge.agent.vectors import collection_name
from edge.storage import tables_ann
from edge.storage.tables_ann import K_MAX, AnnIndexes

ROWS, DIMENSIONS = 20_000, 32
NAME = collection_name("guide", "s")
CONFIG = EdgeConfig(exact_mib_max=0, ann_rows_min=10_000, durability="relaxed", flush_interval_ms=3_600_000)


def _clustered(count: int, seed: int, dimensions: int = DIMENSIONS) -> Any:
    centres = np.random.default_rng(1).standard_normal((200, dimensions))
    rng = np.random.default_rng(seed)
    spread = 0.5 * rng.standard_normal((count, dimensions))
    return (centres[rng.integers(200, size=count)] + spread).astype(np.float32)


def _fill(space: Vectors, rows: Any, first: int = 0) -> None:
    space.upsert_many((f"k{at:06}", row, {"odd": at % 2}) for at, row in enumerate(rows, first))


def _attended(edge: Edge) -> None:
    """A round of background care, and what it began brought to its end."""
    edge.projections.attend()
    assert _indexes(edge).wait(120)


def _indexes(edge: Edge) -> AnnIndexes:
    return edge.projections.tables().near.ann


def _recall(space: Vectors, stored: dict[str, Any], queries: Any, k: int = 10, **options: Any) -> tuple[float, int]:
    """Of the nearest ``k`` by numpy, how many are found; and how many of the searches the index answered."""
    keys = list(stored)
    wide = np.stack(list(stored.values())).astype(np.float64)
    found = approximate = 0
    for query in queries:
        nearest = np.argsort(((wide - query) ** 2).sum(axis=1))[:k]
        hits = space.knn(query, k, explain=True, **options)
        approximate += "approximate" in hits[0].why
        found += len({keys[at] for at in nearest} & {hit.key for hit in hits})
        assert all(abs(hit.distance - np.linalg.norm(stored[hit.key] - query)) < 1e-4 for hit in hits)
    return found / k / len(queries), approximate


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 20,000 clustered vectors and an index of them; tests work with copies."""
    folder = tmp_path_factory.mktemp("filled")
    with Edge.open(folder / "store", config=CONFIG) as edge:
        space = edge.agent("guide").vectors("s", dimension=DIMENSIONS, metric="l2")
        _fill(space, _clustered(ROWS, 2))
        assert space.knn(np.zeros(DIMENSIONS), 3, explain=True)[0].why.endswith("is 0"), "nothing measured, so exact"
        assert "no index has been made" in space.status()["why"]
        _attended(edge)
        assert space.status()["approximate"], space.status()
    return folder / "store"


@pytest.fixture
def edge(filled: Path, tmp_path: Path) -> Iterator[Edge]:
    shutil.copytree(filled, tmp_path / "store")
    with Edge.open(tmp_path / "store", config=CONFIG) as edge:
        yield edge


@pytest.fixture
def space(edge: Edge) -> Vectors:
    return edge.agent("guide").vectors("s")


@pytest.fixture
def stored() -> dict[str, Any]:
    return {f"k{at:06}": row for at, row in enumerate(_clustered(ROWS, 2))}


def test_it_serves_as_well_as_was_measured(space: Vectors, stored: dict[str, Any]) -> None:
    index = space.status()["index"]
    assert (index["rows"], index["sample"], index["refused"], index["problem"]) == (ROWS, 128, "", "")
    assert index["recall"] >= 0.95
    for k in (1, 10, K_MAX):
        recall, approximate = _recall(space, stored, _clustered(60, 9), k)
        assert approximate == 60
        assert recall >= 0.95
    assert "recall@10 was" in space.knn(stored["k000001"], 1, explain=True)[0].why


def test_more_than_was_measured_and_ranges_are_exact(space: Vectors, stored: dict[str, Any]) -> None:
    assert _recall(space, stored, _clustered(5, 9), K_MAX + 1) == (1.0, 0)
    query = stored["k000007"]
    distances = sorted(float(np.linalg.norm(row - query)) for row in stored.values())
    assert len(space.range(query, radius=(distances[300] + distances[301]) / 2)) == 301


def test_filters_are_answered_while_enough_candidates_pass(space: Vectors, stored: dict[str, Any]) -> None:
    odd = {key: row for key, row in stored.items() if int(key[1:]) % 2}
    recall, approximate = _recall(space, odd, _clustered(40, 9), filter={"odd": 1})
    assert approximate == 40
    assert recall >= 0.95
    space.upsert("k000003", stored["k000003"], {"odd": 7})
    assert [hit.key for hit in space.knn(stored["k000009"], 3, filter={"odd": 7})] == ["k000003"]


def test_what_is_written_later_is_found(edge: Edge, space: Vectors, stored: dict[str, Any]) -> None:
    new = _clustered(2_500, 4)
    _fill(space, new[:1_500], ROWS)
    edge.projections.tables().flush()  # in the table, but not in the index
    _fill(space, new[1_500:], ROWS + 1_500)  # in the log only
    stored.update((f"k{at:06}", row) for at, row in enumerate(new, ROWS))
    moved = np.full(DIMENSIONS, 0.25, dtype=np.float32)
    queries = _clustered(40, 9)
    for flush in (True, False):  # a whole neighbourhood is deleted, and another one moves away
        for query in queries[:2] if flush else queries[2:4]:
            near = [hit.key for hit in space.knn(query, 30)]
            space.delete(*near[:15])
            for at, key in enumerate(near[15:]):
                stored[key] = moved + at
                space.upsert(key, stored[key])
            for key in near[:15]:
                del stored[key]
        if flush:
            edge.projections.tables().flush()
    recall, approximate = _recall(space, stored, queries)
    assert recall >= 0.95
    assert approximate > 30
    assert _recall(space, stored, queries[:4])[0] >= 0.95, "also where its candidates have moved or gone"
    assert [hit.key for hit in space.knn(new[7], 1)] == [f"k{ROWS + 7:06}"]


def test_it_is_made_anew_after_growth(edge: Edge, space: Vectors) -> None:
    _fill(space, _clustered(3_000, 4), ROWS)
    _attended(edge)
    assert space.status()["index"]["rows"] == ROWS, "15 % more is not much"
    _fill(space, _clustered(3_000, 5), ROWS + 3_000)
    _attended(edge)
    index = space.status()["index"]
    assert index["rows"] == ROWS + 6_000
    assert index["recall"] >= 0.95
    assert len(list((Path(edge.path) / "ann" / NAME).iterdir())) == 1
    space.delete(*(f"k{at:06}" for at in range(20_000)))
    for _ in range(5):  # the background thread may have begun one more just before
        _attended(edge)
    assert not space.status()["approximate"], "few are left: no index is worth it"
    assert "fewer than 10000" in space.status()["why"]
    assert not (Path(edge.path) / "ann" / NAME).exists()


def test_data_that_no_index_serves_well_stays_exact(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).standard_normal((12_000, 64)).astype(np.float32)
    with Edge.open(tmp_path, config=CONFIG) as edge:
        space = edge.agent("guide").vectors("s", dimension=64, metric="l2", precision="int8")
        _fill(space, rows)
        edge.projections.tables()
        _attended(edge)
        status = space.status()
        assert status["approximate"] is False
        assert 0 < status["index"]["recall"] < 0.95
        assert "below 0.95 no index serves" in status["why"]
        assert list((tmp_path / "ann" / NAME).iterdir()) == []
        held = {one.key: np.asarray(one.vector) for one in space.all()}
        assert _recall(space, held, rows[:5]) == (1.0, 0)
        _attended(edge)
        assert not _indexes(edge)._building, "it is not tried again before the data has changed"


def test_memory_for_making_it_is_bounded(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "store")
    with Edge.open(tmp_path / "store", config=CONFIG._replace(ann_mib_max=4)) as edge:
        space = edge.agent("guide").vectors("s")
        space.knn(np.ones(DIMENSIONS), 1)
        _attended(edge)
        assert not space.status()["approximate"]
        assert "takes 5120000 bytes, ann_mib_max is 4" in space.status()["why"]
        assert not (tmp_path / "store" / "ann" / NAME).exists()


def _cut(folder: Path) -> None:
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-10])


def _flip(folder: Path) -> None:
    for file in (path for path in folder.rglob("*") if path.is_file() and "_indices" in path.parts):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x55
        file.write_bytes(content)


@pytest.mark.parametrize("harm", [_cut, _flip, shutil.rmtree], ids=["cut", "flipped", "missing"])
def test_a_damaged_index_is_dropped_and_made_again(
    filled: Path, tmp_path: Path, stored: dict[str, Any], harm: Callable[[Path], object]
) -> None:
    shutil.copytree(filled, tmp_path / "store")
    (folder,) = (tmp_path / "store" / "ann" / NAME).iterdir()
    harm(folder)
    with Edge.open(tmp_path / "store", config=CONFIG) as edge:
        space = edge.agent("guide").vectors("s")
        assert _recall(space, stored, _clustered(5, 9)) == (1.0, 0)
        assert space.status()["index"]["problem"]
        _attended(edge)
        assert space.status()["approximate"]
        assert space.status()["index"]["problem"] == ""


def test_one_that_goes_missing_in_use_is_no_error(edge: Edge, space: Vectors, stored: dict[str, Any]) -> None:
    assert _recall(space, stored, _clustered(1, 9))[1] == 1
    (folder,) = (Path(edge.path) / "ann" / NAME).iterdir()
    shutil.rmtree(folder / "index.lance" / "data")
    shutil.rmtree(folder / "index.lance" / "_indices")
    assert _recall(space, stored, _clustered(5, 9)) == (1.0, 0)
    assert space.status()["index"]["index"] is False
    assert "Not found" in space.status()["why"]


def test_verify_finds_an_altered_index(edge: Edge, space: Vectors, stored: dict[str, Any]) -> None:
    assert edge.verify() == []
    (folder,) = (Path(edge.path) / "ann" / NAME).iterdir()
    _flip(folder)
    (problem,) = edge.verify()
    assert f"index of '{NAME}'" in problem
    assert "altered; dropped" in problem
    assert space.status()["index"]["index"] is False
    assert edge.verify() == []


def test_a_failure_is_shown_and_the_search_goes_on(
    edge: Edge, space: Vectors, stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _indexes(edge).drop(NAME)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables_ann, "build", full)
    _attended(edge)
    assert "the disk is full" in space.status()["why"]
    assert _recall(space, stored, _clustered(3, 9)) == (1.0, 0)
    monkeypatch.undo()
    _fill(space, _clustered(1_200, 6), ROWS)
    _attended(edge)
    assert space.status()["approximate"], "it is tried again when there is more"


def test_a_store_that_closes_leaves_one_that_is_being_made(edge: Edge, tmp_path: Path) -> None:
    indexes = _indexes(edge)
    indexes.drop(NAME)
    edge.projections.attend()
    edge.close()
    assert indexes.wait(60)
    with Edge.open(tmp_path / "store", config=CONFIG) as again:
        space = again.agent("guide").vectors("s")
        assert not space.status()["approximate"]
        _attended(again)
        assert space.status()["approximate"]


def test_an_erasure_takes_the_index_with_it(edge: Edge, space: Vectors) -> None:
    folder = Path(edge.path) / "ann" / NAME
    assert folder.exists()
    _fill(space, _clustered(6_000, 5), ROWS)
    edge.projections.attend()  # one more is being made
    edge.agent("guide").erase()
    assert not folder.exists()
    assert edge.agent("guide").spaces() == []
    assert not space.status()["approximate"]


def test_vectors_within_the_budget_need_no_index(edge: Edge, tmp_path: Path) -> None:
    edge.close()
    with Edge.open(tmp_path / "store", config=CONFIG._replace(exact_mib_max=10)) as again:
        space = again.agent("guide").vectors("s")
        assert (space.status()["tier"], space.status()["approximate"]) == ("exact", False)
        assert "approximate" not in space.knn(np.ones(DIMENSIONS), 3, explain=True)[0].why
