"""``agentdb-edge vectors``: every command, for people and for machines, and what is typed wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge import Edge
from tests.edge.agent.test_cli_agents import call, said, told


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    assert call("init", path).exit_code == 0
    for key, vector, floor in (("a", "[1, 0]", 1), ("b", "[0.8, 0.6]", 2), ("c", "[0, 1]", 2)):
        words = ("vectors", "upsert", path, "guide", "images", key, vector, "--metadata", json.dumps({"floor": floor}))
        assert told(*words) == {"stored": 1}
    return path


def test_spaces_from_the_shell(store: str) -> None:
    at = (store, "guide", "images")
    assert [(one["key"], one["distance"]) for one in told("vectors", "knn", *at, "[2, 0]", "-k", "2")] == [
        ("a", 0.0),
        ("b", pytest.approx(0.2, abs=1e-6)),
    ]
    (hit,) = told("vectors", "knn", *at, "-", "--where", '{"floor": 2}', "-k", "1", given="[2, 0]")
    assert (hit["key"], hit["metadata"]) == ("b", {"floor": 2})
    assert "0.2000" in said("vectors", "knn", *at, "[2, 0]", "--explain")
    assert "the budget is" in said("vectors", "knn", *at, "[2, 0]", "--explain")
    assert [one["key"] for one in told("vectors", "range", *at, "[2, 0]", "--radius", "0.5")] == ["a", "b"]
    assert [one["key"] for one in told("vectors", "range", *at, "[2, 0]", "--min-score", "0.9")] == ["a"]
    assert "b" in said("vectors", "range", *at, "[2, 0]", "--radius", "0.5", "--limit", "2")
    assert [one["key"] for one in told("vectors", "list", *at, "--limit", "2")] == ["a", "b"]
    assert "floor: 2" in said("vectors", "list", *at, "--prefix", "c")
    assert told("vectors", "delete", *at, "a", "b") == {"deleted": ["a", "b"]}
    assert "1 vector deleted" in said("vectors", "delete", *at, "c")
    assert told("vectors", "list", *at) == []


def test_a_space_says_what_it_is(store: str) -> None:
    status = told("vectors", "status", store, "guide", "images")
    assert (status["count"], status["dimension"], status["precision"], status["tier"]) == (3, 2, "float32", "exact")
    lines = said("vectors", "status", store, "guide", "images").splitlines()
    assert ["search", "exact"] in [line.split() for line in lines]
    options = ("--dimension", "2", "--metric", "l2", "--precision", "int8")
    assert "1 vector stored" in said("vectors", "upsert", store, "guide", "other", "k", "[5, 0.1]", *options)
    spaces = told("vectors", "list", store, "guide")
    assert [(one["space"], one["metric"], one["precision"], one["count"]) for one in spaces] == [
        ("images", "cosine", "float32", 3),
        ("other", "l2", "int8", 1),
    ]
    assert "int8" in said("vectors", "list", store, "guide")


def test_spaces_are_read_while_another_process_writes(store: str) -> None:
    with Edge.open(store) as edge:
        edge.agent("guide").vectors("images").upsert("d", [2, 0])
        at = (store, "guide", "images")
        assert {one["key"] for one in told("vectors", "knn", *at, "[2, 0]", "-k", "2")} == {"a", "d"}
        assert {one["key"] for one in told("vectors", "range", *at, "[2, 0]", "--radius", "0.1")} == {"a", "d"}
        assert len(told("vectors", "list", *at)) == 4
        assert told("vectors", "list", store, "guide")[0]["count"] == told("vectors", "status", *at)["count"] == 4


def test_many_from_standard_input(store: str) -> None:
    lines = "\n".join(json.dumps({"key": f"k{at}", "vector": [at, 1], "metadata": {"n": at}}) for at in range(2_500))
    assert told("vectors", "upsert", store, "guide", "many", "-", "--metric", "l2", given=lines) == {"stored": 2_500}
    (hit,) = told("vectors", "knn", store, "guide", "many", "[1234, 1]", "-k", "1")
    assert (hit["key"], hit["distance"], hit["metadata"]) == ("k1234", 0.0, {"n": 1234})
    for wrong in ('{"key": "a"}', "[1]", "{", '{"key": "a", "vector": "x"}', '{"key": "a", "vector": [1, 2], "z": 1}'):
        result = call(
            "vectors", "upsert", store, "guide", "many", "-", given='{"key": "z", "vector": [1, 2]}\n' + wrong
        )
        assert (result.exit_code, "line 2" in result.stderr) == (2, True), result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("knn", "images", "[1, 2, 3]"), "has 2 dimensions"),
        (("knn", "images", "[0, 0]"), "no direction"),
        (("knn", "images", "{}"), "VECTOR is a JSON list"),
        (("knn", "images", "[1, NaN]"), "not JSON"),
        (("knn", "nowhere", "[1]"), "has no space 'nowhere'"),
        (("range", "images", "[1, 2]"), "a radius or a min_score"),
        (("upsert", "images", "k"), "a VECTOR is missing"),
        (("upsert", "images", "k", "[1, 2]", "--precision", "int8"), "has precision 'float32', not 'int8'"),
        (("upsert", "new", "k", "[1, 2]", "--precision", "int4"), "unknown precision 'int4'"),
        (("delete", "images", "none"), "none"),
        (("status", "nowhere"), "has no space 'nowhere'"),
    ],
)
def test_what_is_typed_wrong_is_a_line_and_a_hint(store: str, words: tuple[str, ...], message: str) -> None:
    result = call("vectors", words[0], store, "guide", *words[1:])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") <= 2
    assert [one["space"] for one in told("vectors", "list", store, "guide")] == ["images"]
