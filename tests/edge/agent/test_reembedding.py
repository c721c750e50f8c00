"""Going over to another model: resumable, by the old vectors until it is done, never two models in one ranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edge import CallableEmbedder, Edge, EdgeConfig, InvalidValue, Memory, SchemaMismatch
from edge.agent.embedders import vector_field, vector_fields
from sync.schema import VectorSpec
from tests.edge.stores import TickingClock

TOPICS = ("pump", "lamp", "door", "lift")


def _by_topic(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0 + 9.0 * (topic in text) for topic in TOPICS] for text in texts]


def _backwards(texts: Sequence[str]) -> list[list[float]]:
    """Another model of the same size: what it says of a pump the first says of a lift."""
    return [vector[::-1] for vector in _by_topic(texts)]


OLD = CallableEmbedder(_by_topic, model="topics", dimensions=4)
SAME_SIZE = CallableEmbedder(_backwards, model="backwards", dimensions=4)
WIDER = CallableEmbedder(lambda texts: [[*it, 1.0, 1.0] for it in _backwards(texts)], model="wide", dimensions=6)


def best(memory: Memory, query: str) -> str:
    return memory.search(query, 1, mode="vector", touch=False)[0].text


def fill(memory: Memory, each: int = 3) -> None:
    for topic in TOPICS:
        for number in range(each):
            memory.add(f"the {topic} of room {number}")


def held_fields(edge: Edge) -> set[str]:
    return {name for _, fields in edge.collection("agent.memories").scan() for name in vector_fields(fields)}


@pytest.mark.parametrize("new", [SAME_SIZE, WIDER], ids=["of the same size", "wider"])
@pytest.mark.parametrize("exact_mib_max", [150, 0], ids=["exact", "lance"])
def test_another_model_takes_over(tmp_path: Path, new: CallableEmbedder, exact_mib_max: int) -> None:
    with Edge.open(tmp_path / "s", clock=TickingClock(), config=EdgeConfig(exact_mib_max=exact_mib_max)) as edge:
        memory = edge.agent("guide").memory("rooms", embedder=OLD)
        fill(memory)
        other = edge.agent("porter").memory(embedder=OLD)
        other.add("the lamp of the porter")
        assert best(memory, "where is the pump?").startswith("the pump")
        steps: list[tuple[int, int]] = []
        assert memory.reembed(new, on_progress=lambda *step: steps.append(step)) == 13
        assert steps == [(13, 13)]
        assert best(memory, "where is the pump?").startswith("the pump")
        assert best(edge.agent("porter").memory(embedder=new), "lamp") == "the lamp of the porter"
        assert held_fields(edge) == {vector_field(new)}, "the old vectors are gone"
        spec = edge.log.schemas["agent.memories"].vector
        assert spec == VectorSpec(vector_field(new), new.dimensions, "cosine", new.model)
        with pytest.raises(SchemaMismatch, match=new.model):
            other.search("lamp")
        with pytest.raises(SchemaMismatch, match=new.model) as caught:
            other.add("more")
        assert "reembed" in caught.value.hint
        assert memory.reembed() == 0
        memory.add("the door of the roof")
        assert best(memory, "door") in {"the door of the roof", *(f"the door of room {n}" for n in range(3))}
        assert edge.verify() == []


def test_the_old_vectors_serve_until_the_end_and_another_call_goes_on(edge: Edge) -> None:
    memory = edge.agent("guide").memory("rooms", embedder=OLD)
    fill(memory, each=200)
    asked = 0

    def breaking(texts: Sequence[str]) -> list[list[float]]:
        nonlocal asked
        asked += len(texts)
        if asked > 600:
            raise ConnectionError("the model has gone")
        return _backwards(texts)

    with pytest.raises(ConnectionError):
        memory.reembed(CallableEmbedder(breaking, model="backwards", dimensions=4))
    assert memory.embedder is OLD
    assert best(memory, "pump").startswith("the pump"), "no vector of the new model is in this ranking"
    assert held_fields(edge) == {vector_field(OLD), vector_field(SAME_SIZE)}
    added = memory.add("the lift that came meanwhile")
    memory.update(memory.search("lamp", 1, mode="text")[0].id, text="a lamp with another text")
    assert 0 < memory.reembed(SAME_SIZE) <= 302, "what was done is not done again"
    assert held_fields(edge) == {vector_field(SAME_SIZE)}
    assert best(memory, "lift").startswith("the lift")
    fields = edge.collection("agent.memories").get(added.id)
    assert fields is not None
    assert fields[vector_field(SAME_SIZE)].tolist() == [10.0, 1.0, 1.0, 1.0]
    assert "a lamp with another text" in [hit.text for hit in memory.search("lamp", 1_000, mode="vector")]


def test_a_text_that_changes_while_it_is_embedded_gets_no_vector_of_the_old_one(edge: Edge) -> None:
    memory = edge.agent("guide").memory("rooms")
    added = memory.add("the pump of room 1")

    def slow(texts: Sequence[str]) -> list[list[float]]:
        if texts == ["the pump of room 1"]:
            memory.update(added.id, text="the lamp of room 1")
        return _by_topic(texts)

    embedder = CallableEmbedder(slow, model="topics", dimensions=4)
    memory.reembed(embedder)
    assert memory.embedder is embedder
    fields = edge.collection("agent.memories").get(added.id)
    assert fields is not None
    assert fields[vector_field(embedder)].tolist() == [1.0, 10.0, 1.0, 1.0]


def test_documents_go_over_too(edge: Edge) -> None:
    manuals = edge.agent("guide").documents("manuals", embedder=OLD)
    manuals.add("# Pump\n\nThe pump is in the cellar.", id="a")
    manuals.add("# Lamp\n\nThe lamp is on the roof.", id="b")
    assert manuals.reembed(WIDER) == 2
    assert manuals.search("lamp", 1, mode="vector")[0].document.id == "b"
    assert manuals.add("# Lamp\n\nThe lamp is on the roof.", id="b").written == 0, "its vector is there"
    assert manuals.add("# Door\n\nThe door is green.", id="c").written == 1
    assert manuals.search("door", 1, mode="vector")[0].document.id == "c"
    with pytest.raises(SchemaMismatch, match="wide"):
        edge.agent("guide").documents("manuals", embedder=OLD)
    with pytest.raises(InvalidValue, match="no embedder"):
        edge.agent("guide").documents("manuals").reembed()


def test_what_is_no_embedder_changes_nothing(edge: Edge) -> None:
    memory = edge.agent("guide").memory("rooms", embedder=OLD)
    fill(memory)
    before = edge.digest()
    for wrong in ("a name", CallableEmbedder(lambda texts: [[1.0]] * len(texts), model="short", dimensions=3)):
        with pytest.raises((InvalidValue, SchemaMismatch)):
            memory.reembed(wrong)  # type: ignore[arg-type]
    with edge.batch(), pytest.raises(InvalidValue, match="batch"):
        memory.reembed(WIDER)
    assert edge.digest() == before
    assert memory.embedder is OLD


def test_a_store_whose_vectors_are_in_the_field_of_the_first_builds(edge: Edge) -> None:
    memory = edge.agent("guide").memory("rooms")
    schema = edge.log.schemas["agent.memories"]
    fields = {name: (rule.type, rule.merge) for name, rule in schema.fields.items()}
    edge.collection("agent.memories", fields=fields, text=["text"], vector=("embedding", 4, "cosine", "topics"))
    memory = edge.agent("guide").memory("rooms", embedder=OLD)
    fill(memory)
    assert held_fields(edge) == {"embedding"}
    assert best(memory, "pump").startswith("the pump")
    memory.reembed(WIDER)
    assert held_fields(edge) == {vector_field(WIDER)}
    assert best(memory, "pump").startswith("the pump")
