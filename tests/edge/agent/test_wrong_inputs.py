"""What a caller may get wrong in any store of an agent: a typed error that says what is wanted, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge import (
    CallableEmbedder,
    CallableMediaEmbedder,
    Edge,
    Forgetting,
    InvalidValue,
    NotFound,
    Scoring,
    Splitter,
)


def one(texts: Sequence[Any]) -> list[list[float]]:
    return [[1.0, 2.0]] * len(texts)


class Letters:
    model, dimensions = "letters", 2

    def embed(self, texts: Sequence[Any]) -> list[list[float]]:
        return one(texts)


def calls(edge: Edge) -> dict[str, Callable[[], Any]]:
    guide: Any = edge.agent("guide")
    memory, manuals, photos = guide.memory(), guide.documents(), guide.attachments()
    space, tour = guide.vectors("faces", dimension=2), guide.thread("tour")
    anyhow: Any = edge
    wrong: Any = 5
    anything: Any = Letters
    foreign: Any = {"foo": 1}
    return {
        "a class for an embedder": lambda: guide.memory("n", embedder=Letters),
        "a class for a media embedder": lambda: guide.attachments("n", embedders={"image": Letters}),
        "a class for an embedder's function": lambda: CallableEmbedder(anything, model="m", dimensions=2),
        "a class for an extractor": lambda: memory.consolidate(Letters),
        "a class for a reranker": lambda: manuals.search("gate", reranker=Letters),
        "a class for a chunker": lambda: manuals.add("The gate is green.", id="gate", chunker=Splitter),
        "a class for a policy": lambda: memory.forget(Forgetting),
        "a map for a policy": lambda: memory.forget({"keep": 1}),
        "progress": lambda: manuals.add("The gate is green.", id="gate", on_progress=wrong),
        "progress of vectors": lambda: memory.reembed(Letters(), on_progress=wrong),
        "a measure": lambda: manuals.add("The gate is green.", id="gate", chunker=Splitter(measure=wrong)),
        "a splitter's option": lambda: Splitter(**foreign),
        "a scoring's option": lambda: Scoring(**foreign),
        "a policy's option": lambda: Forgetting(**foreign),
        "how many are similar": lambda: memory.similar(memory.add("the gate is green").id, k="5"),
        "none that are similar": lambda: memory.similar(memory.add("the gate is green").id, k=0),
        "a list of ids": lambda: memory.touch([memory.add("the gate is green").id]),
        "a moment": lambda: memory.search("gate", as_of="now"),
        "a change": lambda: memory.supersede(memory.add("the gate is green").id, "it is red", colour="red"),
        "a document": lambda: manuals.add(None),
        "a scoring": lambda: guide.memory(scoring={"base": 1}),
        "a scoring that is false": lambda: guide.memory(scoring=0),
        "an id": lambda: memory.supersede(None, "the gate is green"),
        "an extractor": lambda: memory.consolidate(None),
        "a mode": lambda: memory.search("gate", mode="fuzzy"),
        "a mode that is false": lambda: memory.search("gate", mode=""),
        "a reranker": lambda: manuals.search("gate", reranker="bm25"),
        "scores": lambda: manuals.search("gate", reranker=lambda _, found: [float("nan") for _ in found]),
        "a chunker": lambda: manuals.add("The gate is green.", id="gate", chunker=0),
        "no parts": lambda: manuals.add("The gate is green.", id="gate", chunker=lambda _: []),
        "None for parts": lambda: manuals.add("The gate is green.", id="gate", chunker=lambda _: None),
        "a text for parts": lambda: manuals.add("The gate is green.", id="gate", chunker=lambda text: text),
        "a title": lambda: manuals.add("The gate is green.", id="gate", title=wrong),
        "a media type": lambda: manuals.add("The gate is green.", id="gate", media_type=wrong),
        "a directory": lambda: manuals.add(Path()),
        "embedders": lambda: guide.attachments(embedders=[CallableEmbedder(one, model="m", dimensions=2)]),
        "vectors": lambda: photos.search("gate", vectors=[1.0, 2.0]),
        "items": lambda: space.upsert_many(None),
        "items of text": lambda: space.upsert_many("ab"),
        "a limit": lambda: tour.history(10**30),
        "an embedder's function": lambda: CallableEmbedder(wrong, model="m", dimensions=2),
        "an embedder's model": lambda: CallableEmbedder(one, model="", dimensions=2),
        "an embedder's dimensions": lambda: CallableEmbedder(one, model="m", dimensions=0),
        "a media embedder's function": lambda: CallableMediaEmbedder(wrong, model="m", dimensions=2),
        "its texts": lambda: CallableMediaEmbedder(one, model="m", dimensions=2, texts=wrong),
        "a file": lambda: guide.export(None),
        "an empty file": lambda: guide.export(""),
        "a file that is not text": lambda: guide.export("\ud800"),
        "a copy": lambda: anyhow.snapshot(""),
        "a store": lambda: Edge.open(wrong),
        "an empty store": lambda: Edge.open(""),
        "an empty store to read": lambda: Edge.open("", read_only=True),
        "a store with NUL": lambda: Edge.open("a\0b"),
    }


def test_a_wrong_input_is_said_and_changes_nothing(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    edge.agent("guide").memory().add("the gate is green")
    edge.agent("guide").documents().add("The gate is grey.", id="gate")
    wrong = calls(edge)
    before = edge.digest()
    for what, call in wrong.items():
        with pytest.raises(InvalidValue) as caught:
            call()
        assert len(str(caught.value)) < 300, what
    assert edge.digest() == before
    assert list(elsewhere.iterdir()) == []


def test_what_helps_is_said(edge: Edge) -> None:
    guide: Any = edge.agent("guide")
    foreign: Any = {"foo": 1}
    helped: list[tuple[Callable[[], Any], str]] = [
        (lambda: guide.memory("n", embedder=Letters), "Letters(…)"),
        (lambda: guide.memory().forget({"keep": 1}), "Forgetting(min_retention="),
        (lambda: guide.documents().add("text", id="gate", chunker=Splitter), "Splitter(size=500"),
        (lambda: Splitter(**foreign), "it has size, overlap"),
        (lambda: guide.memory().touch(["a"]), "touch(*ids)"),
        (lambda: guide.memory().search("gate", as_of="now"), "timestamp() * 1000"),
    ]
    for call, hint in helped:
        with pytest.raises(InvalidValue) as caught:
            call()
        assert hint in caught.value.hint
    for store in (guide.memory().retract, guide.documents().delete):
        with pytest.raises(NotFound) as unknown:
            store("x")
        assert "lists what there is" in unknown.value.hint


def test_a_filter_that_lets_thousands_of_documents_pass(edge: Edge) -> None:
    manuals = edge.agent("guide").documents()
    for number in range(1_100):
        manuals.add(f"gate {number}", metadata={"even": number % 2 == 0, "all": True}, chunker=Splitter(overlap=0))
    assert len(manuals.search("gate", k=1_000, filter={"even": True})) == 550
    assert len(manuals.search("gate", k=1_000, filter={"all": True})) == 1_000
    assert manuals.search("gate 1099", k=1, filter={"all": True})[0].text == "gate 1099"
