"""The benchmarks' documents are what the contract says they are, and the same everywhere."""

from __future__ import annotations

import re
from statistics import mean

from simulations.embedding import DIMENSIONS, embed
from simulations.workloads import edits, memory_documents, phrases

COUNT = 2_000


def test_memory_documents_are_a_function_of_their_seed() -> None:
    assert memory_documents(50) == memory_documents(50)
    assert memory_documents(50) == memory_documents(60)[:50]
    assert memory_documents(50, seed=1) != memory_documents(50, seed=2)


def test_memory_documents_are_as_the_contract_describes_them() -> None:
    documents = memory_documents(COUNT)
    assert len({document.key for document in documents}) == COUNT
    assert all(re.fullmatch("[0-9a-f]{8}", document.key) for document in documents)
    assert 250 <= mean(len(document.as_json()) for document in documents) <= 320
    fields = [document.fields for document in documents]
    assert len({one["agent"] for one in fields}) == 5
    assert len({one["importance"] for one in fields}) == COUNT
    assert {len(one["tags"]) for one in fields} == {0, 1, 2, 3}
    times = [one["at_ms"] for one in fields]
    assert times == sorted(times)
    words = [one["text"].split() for one in fields]
    assert 19 <= mean(map(len, words)) <= 21
    assert len({word for line in words for word in line}) == 400


def test_edits_change_one_field_of_distinct_documents() -> None:
    documents = memory_documents(COUNT)
    changes = edits(documents, 100)
    assert len({change.key for change in changes} & {document.key for document in documents}) == 100
    assert all(list(change.fields) == ["importance"] for change in changes)


def test_phrases_are_from_the_documents() -> None:
    documents = memory_documents(100)
    texts = " | ".join(document.fields["text"] for document in documents)
    assert all(phrase in texts and len(phrase.split()) == 3 for phrase in phrases(documents, 20))


def test_the_embedder_is_deterministic_and_finds_shared_words() -> None:
    def similarity(one: str, other: str) -> float:
        return sum(x * y for x, y in zip(embed(one), embed(other), strict=True))

    pump = "the pump on the second floor is loud"
    assert embed(pump) == embed(pump)
    assert len(embed(pump)) == DIMENSIONS
    assert abs(similarity(pump, pump) - 1) < 1e-5
    assert similarity(pump, "pumps are loud on this floor") > similarity(pump, "parse a json document") + 0.1
    assert sum(value * value for value in embed("")) == 1
