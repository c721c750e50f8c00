"""What a memory was: histories of facts that come back, ends that were known already, keys, filters."""

from __future__ import annotations

from typing import Any

import pytest

from edge import InvalidFilter, Memory
from tests.edge.stores import TickingClock


def told(memory: Memory, name: str) -> list[str]:
    return [one.text for one in memory.history(name)]


def test_a_text_that_comes_back_keeps_its_history(memory: Memory) -> None:
    first = memory.add("the door is red", "semantic")
    second = memory.supersede(first.id, "the door is green")
    third = memory.supersede(second.id, "the door is blue")
    back = memory.supersede(third.id, "the door is red")
    whole = ["the door is red", "the door is green", "the door is blue", "the door is red"]
    for name in (back.id, second.id, third.id, memory.history(back.id)[0].id):
        assert told(memory, name) == whole
    assert [one.text for one in memory.all()] == ["the door is red"]


def test_a_text_that_is_added_anew_follows_nothing_that_replaced_it(memory: Memory) -> None:
    first = memory.add("Ada is away", "semantic")
    second = memory.supersede(first.id, "Ada is back")
    assert memory.add("Ada is away", "semantic").id == first.id
    assert told(memory, second.id) == ["Ada is away", "Ada is back"]
    assert told(memory, first.id) == ["Ada is away"]
    assert {one.text for one in memory.all()} == {"Ada is away", "Ada is back"}


def test_superseding_what_was_retracted_leaves_its_end(memory: Memory, clock: TickingClock) -> None:
    start = clock.wall_ms() - 10_000
    rome = memory.add("Bob lives in Rome", "semantic", valid_at=start)
    memory.retract(rome.id, invalid_at=start + 1_000)
    memory.supersede(rome.id, "Bob lives in Oslo", valid_at=start + 5_000)
    said = [[one.text for one in memory.search("Bob lives", as_of=start + after)] for after in (500, 3_000, 6_000)]
    assert said == [["Bob lives in Rome"], [], ["Bob lives in Oslo"]]


def test_what_will_have_expired_does_not_hold_then(memory: Memory, clock: TickingClock) -> None:
    memory.add("the soup is hot", ttl_s=10)
    now = clock.wall_ms()
    assert [len(memory.search("soup", as_of=now + after)) for after in (5_000, 20_000)] == [1, 0]


def test_a_key_names_one_fact_whatever_its_kind(memory: Memory) -> None:
    first = memory.add("the code is 1", key="code")
    second = memory.add("the code is 2", "semantic", key="code")
    third = memory.add("the code is 3", key="code")
    assert [one.text for one in memory.all()] == ["the code is 3"]
    assert first.id == third.id
    for name in (second.id, third.id):
        assert told(memory, name) == ["the code is 1", "the code is 2", "the code is 3"]


def test_filters_are_over_metadata_and_what_a_memory_shows(memory: Memory) -> None:
    for number in range(300):
        memory.add(f"a needle, number {number}", metadata={"number": number, "name": f"n{number % 3}"})
    memory.add("a needle of its own", "semantic", key="own", importance=0.9)

    def found(given: Any, k: int = 10) -> list[str]:
        return sorted(one.text.rpartition(" ")[2] for one in memory.search("needle", k, filter=given))

    assert found({"number": 222}) == ["222"]
    assert found({"number": {"$gte": 297}, "name": {"$ne": "n0"}}) == ["298", "299"]
    assert found({"$or": [{"number": 7}, {"$not": {"kind": "episodic"}}]}) == ["7", "own"]
    assert found({"key": "own"}) == found({"importance": {"$gt": 0.8}}) == ["own"]
    assert found({"metadata.number": 3}) == ["3"]
    assert len(found({"name": "n1"}, k=1_000)) == 100
    for wrong in ({"number": {"$near": 1}}, {"number": [1]}, {"deep": {"x": 1}}, {"$and": 3}, {"kind": 3}):
        with pytest.raises(InvalidFilter):
            found(wrong)
