"""Memory: adding, finding, superseding, forgetting; and what no call may lose."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge import (
    AsyncEdge,
    CallableEmbedder,
    Edge,
    Forgetting,
    InvalidFilter,
    InvalidValue,
    Memory,
    NotFound,
    Scoring,
    TooLarge,
)
from edge.agent.scoring import DAY_MS, KINDS
from tests.edge.stores import TickingClock


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


def test_no_period_of_a_fact_is_lost(memory: Memory, clock: TickingClock) -> None:
    start = clock._now_ms
    for text in ("at home", "away", "at home", "on a trip"):
        memory.add(text, key="where")
        clock._now_ms += DAY_MS
    last = next(iter(memory.all()))
    story = memory.history(last.id)
    assert [one.text for one in story] == ["at home", "away", "at home", "on a trip"]
    assert [one.text for one in memory.history(story[0].id)] == ["at home", "away", "at home", "on a trip"]
    for day, text in enumerate(("at home", "away", "at home", "on a trip")):
        at = start + day * DAY_MS + DAY_MS // 2
        found = [one.text for one in memory.all(ended=True) if one.valid_at <= at < (one.invalid_at or at + 1)]
        assert found == [text]


def test_a_retracted_period_stays_what_it_was(memory: Memory, clock: TickingClock) -> None:
    start = clock._now_ms
    keyed = memory.add("the code is 1", key="code").id
    plain = memory.add("the bridge is open").id
    clock._now_ms = start + 1000
    memory.retract(keyed)
    memory.retract(plain)
    clock._now_ms = start + 9000
    memory.add("the code is 2", key="code")
    assert not memory.add("the bridge is open").merged
    for query in ("code", "bridge"):
        assert len(texts(memory, query, as_of=start + 500)) == 1
        assert texts(memory, query, as_of=start + 5000) == []
        assert len(texts(memory, query)) == 1


def test_a_text_that_was_changed_is_not_overwritten_by_its_old_one(memory: Memory) -> None:
    changed = memory.add("Ada takes the stairs").id
    memory.update(changed, text="Bob takes the lift")
    added = memory.add("Ada takes the stairs")
    assert (added.merged, added.id == changed) == (False, False)
    assert {one.text for one in memory.all()} == {"Ada takes the stairs", "Bob takes the lift"}
    assert memory.add("Ada takes the stairs") == (added.id, True)


def test_superseding_keeps_key_and_end_and_merges_with_what_is_there(memory: Memory, clock: TickingClock) -> None:
    home = memory.add("Rome", key="home", ttl_s=60).id
    assert memory.supersede(home, "Paris").id == home
    memory.add("Oslo", key="home")
    assert [one.text for one in memory.all()] == ["Oslo"]
    short = memory.add("soup", ttl_s=60).id
    held = memory.get(memory.supersede(short, "stew").id)
    assert held is not None
    assert held.expires_at is not None
    lift = memory.add("the lift", importance=0.9).id
    stairs = memory.add("the stairs").id
    assert memory.supersede(stairs, "the lift") == (lift, True)
    kept = memory.get(lift)
    assert kept is not None
    assert kept.importance == 0.9
    with pytest.raises(InvalidValue, match="superseded already"):
        memory.supersede(stairs, "the ramp")


def test_the_same_text_without_an_end_does_not_end(memory: Memory, clock: TickingClock) -> None:
    memory.add("soup", ttl_s=1)
    assert memory.add("soup").merged
    memory.add("stew")
    assert memory.add("stew", ttl_s=1).merged
    clock._now_ms += 5000
    assert {one.text for one in memory.all()} == {"soup", "stew"}


def test_what_begins_to_hold_later_is_not_shown_yet(memory: Memory, clock: TickingClock) -> None:
    memory.add("the fair is on", valid_at=clock._now_ms + 1000)
    assert (list(memory.all()), texts(memory, "fair")) == ([], [])
    clock._now_ms += 1000
    assert len(list(memory.all())) == len(texts(memory, "fair")) == 1


def test_threads_that_add_one_key_lose_no_text(memory: Memory) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: memory.add(f"text {number}", key="k"), range(40)))
    assert len(list(memory.all())) == 1
    assert {one.text for one in memory.all(ended=True)} == {f"text {number}" for number in range(40)}


def test_threads_that_add_the_same_texts_make_one_memory_of_each(memory: Memory, edge: Edge) -> None:
    texts = [f"text {number}" for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda text: memory.add(text, metadata={"from": "a thread"}), texts * 8))
    assert sorted(one.id for one in added if not one.merged) == sorted({one.id for one in added})
    assert edge.log.head_seq == edge.log.position == 1 + len(texts)  # a merge that changes nothing writes nothing


def test_what_reads_before_it_writes_is_not_for_batches(memory: Memory, edge: Edge) -> None:
    added = memory.add("x").id
    with edge.batch():
        memory.add("plain")
        for refused in (
            lambda: memory.add("y", key="k"),
            lambda: memory.add("y", "working"),
            lambda: memory.supersede(added, "z"),
            lambda: memory.forget(Forgetting()),
        ):
            with pytest.raises(InvalidValue, match="not inside of a batch"):
                refused()
    assert {one.text for one in memory.all()} == {"x", "plain"}


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


def test_near_duplicates_of_what_was_added_are_reported(edge: Edge, memory: Memory, tmp_path: Path) -> None:
    first = memory.add("the pump in hall 2 is loud")
    memory.add("Bob is late")
    again = memory.add("the pump in hall 2 is loud at night")
    assert not again.merged, "reported, not dropped"
    assert [near.id for near in memory.similar(again)] == [first.id]
    assert [near.id for near in memory.similar(first)] == [again.id] == [near.id for near in memory.similar(first.id)]
    with edge.batch():
        later = memory.add("the pump in hall 3 is loud")
        with pytest.raises(NotFound):  # it is not there before the batch's end
            memory.similar(later)
    assert {near.id for near in memory.similar(later)} == {first.id, again.id}

    async def awaited() -> list[str]:
        async with await AsyncEdge.open(tmp_path / "other") as other:
            held = await other.agent("guide").memory()
            await held.add("the gate is green")
            return [near.text for near in await held.similar(await held.add("the gate is green again"))]

    assert asyncio.run(awaited()) == ["the gate is green"]
