"""Memories with an embedder, and what is made of many of them in the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edge import CallableEmbedder, Edge, InvalidValue, Memory, SchemaMismatch
from tests.edge.agent.test_memory import WORDS, texts, words


def test_vectors_and_words_together(edge: Edge) -> None:
    memory = edge.agent("guide").memory("v", embedder=WORDS)
    for text in ("the pump is loud", "the lamp is bright", "a loud bang at the pump"):
        memory.add(text)
    assert texts(memory, "loud pump", mode="vector", k=2) == ["the pump is loud", "a loud bang at the pump"]
    assert set(texts(memory, "loud pump", k=2)) == {"the pump is loud", "a loud bang at the pump"}
    assert [recall.text for recall in memory.similar(memory.search("lamp")[0].id, 1)] != ["the lamp is bright"]
    found = memory.search("loud pump", mode="vector", explain=True)
    assert all(recall.terms and 0 <= recall.terms.relevance <= 1.000001 for recall in found)


def test_vectors_for_what_was_added_without(edge: Edge) -> None:
    plain = edge.agent("guide").memory("v")
    plain.add("the pump is loud")
    with pytest.raises(InvalidValue, match="no embedder"):
        plain.search("pump", mode="vector")
    memory = edge.agent("guide").memory("v", embedder=WORDS)
    assert texts(memory, "pump", mode="vector") == []
    steps: list[tuple[int, int]] = []
    assert memory.reembed(on_progress=lambda *step: steps.append(step)) == 1
    assert steps == [(1, 1)]
    assert memory.reembed() == 0
    assert texts(memory, "pump", mode="vector") == ["the pump is loud"]
    other = CallableEmbedder(words, model="other", dimensions=32)
    with pytest.raises(SchemaMismatch, match="words-32"):
        edge.agent("guide").memory("v", embedder=other)
    with pytest.raises(InvalidValue, match="no embedder"):
        edge.agent("guide").memory("v").reembed()


def test_an_embedder_that_fails_writes_nothing(edge: Edge) -> None:
    def broken(texts: Sequence[str]) -> list[list[float]]:
        raise ConnectionError("no model")

    memory = edge.agent("a").memory(embedder=CallableEmbedder(broken, model="m", dimensions=3))
    with pytest.raises(ConnectionError):
        memory.add("x")
    few = edge.agent("a").memory(embedder=CallableEmbedder(lambda texts: [], model="m", dimensions=3))
    with pytest.raises(InvalidValue, match="0 vectors for 1 texts"):
        few.add("x")
    assert list(memory.all(ended=True)) == []


def test_consolidation_is_the_users_and_in_the_background(memory: Memory) -> None:
    for number in range(3):
        memory.add(f"Ada came on day {number}")
    asked: list[list[str]] = []

    def extract(found: Sequence[Any]) -> list[Any]:
        asked.append([one.text for one in found])
        return ["Ada comes every day", {"text": "water the plants", "kind": "procedural", "importance": 0.9}]

    made = memory.consolidate(extract).result(30)
    assert asked == [["Ada came on day 0", "Ada came on day 1", "Ada came on day 2"]]
    held = [memory.get(one) for one in made]
    assert [(one.kind, one.text) for one in held if one] == [
        ("semantic", "Ada comes every day"),
        ("procedural", "water the plants"),
    ]
    assert held[0] is not None
    assert len(held[0].metadata["from"]) == 3
    assert memory.consolidate(extract).result(30) == [], "each memory once"
    assert len(asked) == 1


def test_an_extractor_that_fails_changes_nothing(memory: Memory, edge: Edge) -> None:
    memory.add("Ada came")
    position = edge.log.position

    def extract(found: Sequence[Any]) -> list[Any]:
        raise TimeoutError("the model does not answer")

    with pytest.raises(TimeoutError):
        memory.consolidate(extract).result(30)
    with pytest.raises(InvalidValue):
        memory.consolidate(lambda found: ["good", ""]).result(30)
    for bad in (None, "text", [5], [{"no": "text"}], [{"text": "x", "mood": 1}], [{"text": "x", "metadata": 3}]):
        with pytest.raises(InvalidValue):
            memory.consolidate(lambda found, bad=bad: bad).result(30)  # type: ignore[misc]
    assert edge.log.position == position
    assert memory.consolidate(lambda found: []).result(30) == []


def test_the_vector_of_an_old_text_does_not_stay(edge: Edge) -> None:
    memory = edge.agent("guide").memory("v", embedder=WORDS)
    added = memory.add("the pump is loud").id
    edge.agent("guide").memory("v").update(added, text="the lamp is bright")
    assert texts(memory, "pump", mode="vector") == []
    assert memory.reembed() == 1
    assert texts(memory, "lamp", mode="vector", k=1) == ["the lamp is bright"]


def test_a_model_that_was_changed_meanwhile_is_an_error(edge: Edge) -> None:
    memory = edge.agent("guide").memory("v", embedder=WORDS)
    memory.add("the pump is loud")
    schema = edge.log.schemas["agent.memories"]
    assert schema.vector is not None
    edge.log.declare(schema._replace(vector=schema.vector._replace(model="other")))
    with pytest.raises(SchemaMismatch, match="other"):
        memory.search("pump")
    with pytest.raises(SchemaMismatch, match="other"):
        memory.add("more")
