"""Memory: adding, finding, superseding, forgetting; and what no call may lose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge import (
    CallableEmbedder,
    Edge,
    Forgetting,
    InvalidFilter,
    InvalidValue,
    Memory,
    NotFound,
    SchemaMismatch,
    Scoring,
    TooLarge,
)
from edge.agent.scoring import DAY_MS, KINDS
from tests.edge.stores import TickingClock


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def edge(tmp_path: Path, clock: TickingClock) -> Iterator[Edge]:
    with Edge.open(tmp_path / "store", clock=clock) as edge:
        yield edge


@pytest.fixture
def memory(edge: Edge) -> Memory:
    return edge.agent("guide").memory("visitors")


def words(texts: Sequence[str]) -> list[list[float]]:
    """Bags of words, hashed: texts that share words are near each other."""
    out = []
    for text in texts:
        vector = [0.0] * 32
        for word in text.lower().split():
            vector[zlib.crc32(word.encode()) % 32] += 1.0
        out.append(vector)
    return out


WORDS = CallableEmbedder(words, model="words-32", dimensions=32)


def texts(memory: Memory, query: str, **options: Any) -> list[str]:
    return [recall.text for recall in memory.search(query, **options)]


def test_what_is_added_is_found(memory: Memory) -> None:
    for kind in KINDS:
        memory.add(f"the pump of hall {kind} is loud", kind, importance=0.25, metadata={"hall": kind})
    memory.add("the door is green")
    found = memory.search("loud pump", k=10)
    assert {recall.memory.kind for recall in found} == set(KINDS)
    assert found[0].memory.metadata == {"hall": found[0].memory.kind}
    assert texts(memory, "pump", kinds=["semantic"]) == ["the pump of hall semantic is loud"]
    assert len(texts(memory, "pump", filter={"importance": {"$lt": 0.3}}, k=2)) == 2
    assert texts(memory, "window") == []


def test_namespaces_and_agents_are_apart(edge: Edge) -> None:
    places = [("guide", "a"), ("guide", "b"), ("guide/a", "b"), ("cook", "a")]
    for agent, namespace in places:
        edge.agent(agent).memory(namespace).add(f"secret of {agent} {namespace}")
    for agent, namespace in places:
        memory = edge.agent(agent).memory(namespace)
        assert texts(memory, "secret") == [f"secret of {agent} {namespace}"]
        assert [one.text for one in memory.all()] == [f"secret of {agent} {namespace}"]
    mine = edge.agent("guide").memory("a").add("mine").id
    with pytest.raises(NotFound):
        edge.agent("cook").memory("a").touch(mine)
    assert edge.agent("cook").memory("a").get(mine) is None


def test_the_same_text_is_one_memory(memory: Memory, edge: Edge) -> None:
    first = memory.add("Ada likes tea", importance=0.2)
    again = memory.add("Ada likes tea", importance=0.9, metadata={"from": "chat"})
    less = memory.add("Ada likes tea", importance=0.1)
    assert (first.merged, again.merged, less.merged) == (False, True, True)
    assert first.id == again.id == less.id
    held = memory.get(first.id)
    assert held is not None
    assert (held.importance, held.metadata) == (0.9, {"from": "chat"})
    assert memory.add("Ada likes tea", "semantic").id != first.id
    assert edge.log.count("agent.memories") == 2


def test_a_key_names_a_fact(memory: Memory) -> None:
    old = memory.add("the code is 1234", key="code")
    new = memory.add("the code is 9999", key="code")
    assert (old.id, new.merged) == (new.id, False)
    assert texts(memory, "code") == ["the code is 9999"]
    assert [one.text for one in memory.history(new.id)] == ["the code is 1234", "the code is 9999"]
    assert memory.add("the code is 9999", key="code").merged
    memory.add("the code is 1234", key="code")
    assert [one.text for one in memory.history(new.id)][-2:] == ["the code is 9999", "the code is 1234"]


def test_to_supersede_is_to_end_and_to_begin(memory: Memory, clock: TickingClock) -> None:
    began = clock._now_ms
    old = memory.add("Ada takes the stairs", "semantic", importance=0.9, metadata={"a": 1})
    clock._now_ms += DAY_MS
    new = memory.supersede(old.id, "Ada takes the lift")
    assert texts(memory, "Ada takes") == ["Ada takes the lift"]
    assert texts(memory, "Ada takes", as_of=began + DAY_MS // 2) == ["Ada takes the stairs"]
    assert texts(memory, "Ada takes", as_of=began - DAY_MS) == []
    held = memory.get(new.id)
    assert held is not None
    assert (held.kind, held.importance, held.metadata, held.supersedes) == ("semantic", 0.9, {"a": 1}, old.id)
    assert [one.id for one in memory.history(old.id)] == [one.id for one in memory.history(new.id)] == [old.id, new.id]
    clock._now_ms += DAY_MS
    assert memory.add("Ada takes the stairs", "semantic") == (old.id, False), "it holds again"
    assert len(texts(memory, "Ada takes")) == 2
    with pytest.raises(InvalidValue, match="itself"):
        memory.supersede(new.id, "Ada takes the lift")


def test_retracted_is_gone_from_now_on(memory: Memory, clock: TickingClock) -> None:
    added = memory.add("the bridge is open")
    clock._now_ms += 10
    memory.retract(added.id)
    clock._now_ms += 10
    assert texts(memory, "bridge") == []
    held = memory.get(added.id)
    assert held is not None
    assert texts(memory, "bridge", as_of=held.created_at) == ["the bridge is open"]


def test_it_expires(memory: Memory, clock: TickingClock) -> None:
    added = memory.add("the soup is hot", ttl_s=60)
    assert texts(memory, "soup") == ["the soup is hot"]
    clock._now_ms += 61_000
    assert texts(memory, "soup") == []
    assert list(memory.all()) == []
    assert memory.forget(Forgetting()) == ([], [added.id])
    assert memory.get(added.id) is None


def test_the_score_is_what_the_terms_say(memory: Memory, clock: TickingClock) -> None:
    memory.add("a red door", importance=0.0)
    clock._now_ms += 30 * DAY_MS
    memory.add("a red gate", importance=1.0)
    recalls = memory.search("red", explain=True, touch=False)
    assert [recall.text for recall in recalls] == ["a red gate", "a red door"]
    for recall in recalls:
        assert recall.terms is not None
        relevance, retention, importance, score = recall.terms
        assert score == recall.score == pytest.approx(relevance * (0.7 + 0.2 * retention + 0.1 * importance))
    stability = 7.0
    assert recalls[1].terms is not None
    assert recalls[1].terms.retention == pytest.approx((1 + 19 / 81 * 30 / stability) ** -0.5, rel=1e-6)
    assert memory.search("red")[0].terms is None


def test_what_is_recalled_is_retained(memory: Memory, edge: Edge, clock: TickingClock, tmp_path: Path) -> None:
    often = memory.add("the blue valve")
    memory.add("the blue switch")
    for _ in range(5):
        memory.touch(often.id)
    clock._now_ms += 20 * DAY_MS
    position = edge.log.position
    assert texts(memory, "blue")[0] == "the blue valve"
    assert edge.log.position == position, "a search writes nothing"
    edge.close()
    with Edge.open(tmp_path / "store", clock=clock) as again:
        clock._now_ms += 20 * DAY_MS
        recalls = again.agent("guide").memory("visitors").search("blue", explain=True)
        kept = {recall.text: recall.terms.retention for recall in recalls if recall.terms}
        assert kept["the blue valve"] > kept["the blue switch"]


def test_forgetting_archives_the_least_retained_and_they_come_back(memory: Memory, clock: TickingClock) -> None:
    old = [memory.add(f"old {number}", importance=number / 10).id for number in range(4)]
    fact = memory.add("a fact", "semantic", importance=0.0).id
    clock._now_ms += 300 * DAY_MS
    new = memory.add("new").id
    planned = memory.forget(Forgetting(min_retention=0.2), dry_run=True)
    assert memory.forget(Forgetting(min_retention=0.2)) == planned
    assert planned.archived == old
    assert {one.id for one in memory.all()} == {fact, new}
    assert texts(memory, "old") == []
    assert len(texts(memory, "old", archived=True)) == 4
    assert memory.restore(*old[:2], new) == 2
    assert {one.id for one in memory.all()} == {fact, new, *old[:2]}
    assert memory.forget(Forgetting(keep=1)).archived == old[:2]


def test_working_memory_has_a_capacity(edge: Edge) -> None:
    memory = edge.agent("guide").memory("w", capacity=3)
    kept = memory.add("important", "working", importance=1.0).id
    ids = [memory.add(f"thought {number}", "working", importance=0.1).id for number in range(5)]
    assert {one.id for one in memory.all()} == {kept, *ids[-2:]}
    assert len(list(memory.all(ended=True))) == 6
    memory.add("thought 0", "working", importance=0.1)
    assert {one.text for one in memory.all()} == {"important", "thought 0", "thought 4"}


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
    assert edge.log.position == position
    assert memory.consolidate(lambda found: []).result(30) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"text": ""}, InvalidValue),
        ({"text": "  "}, InvalidValue),
        ({"text": 3}, InvalidValue),
        ({"text": "\ud800"}, InvalidValue),
        ({"text": "x" * 70_000}, TooLarge),
        ({"kind": "mood"}, InvalidValue),
        ({"importance": 1.5}, InvalidValue),
        ({"importance": float("nan")}, InvalidValue),
        ({"importance": True}, InvalidValue),
        ({"valid_at": -1}, InvalidValue),
        ({"valid_at": 1.5}, InvalidValue),
        ({"ttl_s": 0}, InvalidValue),
        ({"ttl_s": float("inf")}, InvalidValue),
        ({"key": ""}, InvalidValue),
        ({"key": "a\0b"}, InvalidValue),
        ({"metadata": [1]}, InvalidValue),
        ({"metadata": {"a": object()}}, InvalidValue),
    ],
)
def test_bad_input_changes_nothing(memory: Memory, edge: Edge, options: dict[str, Any], error: type) -> None:
    position = edge.log.position
    with pytest.raises(error):
        memory.add(**{"text": "x", **options})
    assert edge.log.position == position


def test_bad_questions(memory: Memory) -> None:
    memory.add("x")
    bad: list[dict[str, Any]] = [
        {"query": ""},
        {"k": 0},
        {"k": 10_000},
        {"as_of": "now"},
        {"mode": "magic"},
        {"kinds": [3]},
    ]
    for options in bad:
        with pytest.raises((InvalidValue, InvalidFilter)):
            memory.search(**{"query": "x", **options})
    with pytest.raises(InvalidFilter):
        memory.search("x", filter={"importance": {"$near": 1}})
    for attempt in (memory.touch, memory.history, memory.retract, memory.similar, memory.restore):
        with pytest.raises(NotFound):
            attempt("guide/visitors/semantic/none")
    with pytest.raises(InvalidValue):
        memory.update(memory.add("x").id, kind="semantic")
    for policy in (Forgetting(min_retention=2), Forgetting(keep=-1), Forgetting(kinds=("mood",))):
        with pytest.raises(InvalidValue):
            memory.forget(policy)


@pytest.mark.parametrize("scoring", [Scoring(base=-1), Scoring(0, 0, 0), Scoring(stability_days={"episodic": 1})])
def test_bad_weights(edge: Edge, scoring: Scoring) -> None:
    with pytest.raises(InvalidValue):
        edge.agent("a").memory(scoring=scoring)
