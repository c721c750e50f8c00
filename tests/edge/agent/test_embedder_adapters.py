"""Embedders of libraries and of servers: a real HTTP server answers well and badly; the key is told to nobody else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge import (
    Edge,
    HttpEmbedder,
    InvalidValue,
    ProtocolError,
    Refused,
    SentenceTransformerEmbedder,
    SyncError,
    Unauthenticated,
    Unreachable,
)
from edge.agent import embedder_adapters
from edge.agent.embedder_adapters import TRIES_MAX
from tests.edge.agent.embedding_server import Server, embeddings

KEY = "sk-very-secret-0123"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_adapters, "_WAIT_S", 0.01)


def test_texts_go_in_batches_and_come_back_in_their_order(server: Server) -> None:
    def backwards(asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = embeddings([[float(len(text)), 1.0] for text in asked["input"]])
        told = json.loads(body)
        told["data"].reverse()
        return status, headers, json.dumps(told).encode()

    server.answer = backwards
    embedder = HttpEmbedder(server.url, "small", dimensions=2, api_key=KEY, batch=3)
    texts = ["a" * size for size in range(1, 9)]
    assert embedder.embed(texts) == [[float(size), 1.0] for size in range(1, 9)]
    assert [len(asked["input"]) for asked in server.asked] == [3, 3, 2]
    assert {(asked["model"], asked["path"]) for asked in server.asked} == {("small", "/v1/embeddings")}
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert embedder.embed([]) == []
    assert KEY not in repr(embedder)
    HttpEmbedder(server.url, "small", dimensions=2).embed(["x"])
    assert server.keys[-1] is None


def test_memories_by_a_server(server: Server, edge: Edge) -> None:
    memory = edge.agent("guide").memory(embedder=HttpEmbedder(server.url, "small", dimensions=2))
    memory.add("a")
    memory.add("a much longer memory than that")
    assert memory.search("b", 1, mode="vector")[0].text == "a"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((401, {}, f"no such key: {KEY}".encode()), Unauthenticated, "status 401 no such key: …"),
        ((403, {}, b""), Unauthenticated, "status 403"),
        ((404, {}, b'{"error": "no\nsuch model"}'), Refused, "such model"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), Refused, "elsewhere"),
        ((200, {}, b"not json"), ProtocolError, "without data"),
        ((200, {}, b'{"data": 3}'), ProtocolError, "without data"),
        ((200, {}, b'{"data": [{"vector": [1, 2]}]}'), ProtocolError, "without data"),
        ((200, {}, b'{"data": [{"index": 7, "embedding": [1, 2]}]}'), ProtocolError, "indexes"),
        (embeddings([[1.0, 2.0], [1.0, 2.0]]), ProtocolError, "2 vectors for 1 texts"),
        (embeddings([]), ProtocolError, "0 vectors for 1 texts"),
        (embeddings([[1.0, 2.0, 3.0]]), ProtocolError, "of 3 instead of 2"),
        (embeddings(["AAAA"]), ProtocolError, "of str instead of 2"),
        (embeddings([[1.0, float("nan")]]), ProtocolError, "finite"),
        (embeddings([[1.0, float("inf")]]), ProtocolError, "finite"),
        (embeddings([[1.0, "2"]]), ProtocolError, "finite"),
        (embeddings([[1.0, True]]), ProtocolError, "finite"),
    ],
)
def test_what_is_not_an_answer_is_said_once_and_typed(
    server: Server, answer: tuple[int, dict[str, str], bytes], error: type[SyncError], said: str
) -> None:
    server.answer = lambda _: answer
    with pytest.raises(error, match=said) as caught:
        HttpEmbedder(server.url, "small", dimensions=2, api_key=KEY).embed(["x"])
    assert len(server.asked) == 1
    assert "127.0.0.1" in str(caught.value)
    assert caught.value.hint
    assert KEY not in f"{caught.value}{caught.value.hint}{caught.value!r}{caught.value.__cause__}"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again_and_not_for_ever(server: Server, status: int) -> None:
    server.answer = lambda _: (status, {"Retry-After": "0"}, b"later")
    with pytest.raises(Unreachable, match=f"status {status} later"):
        HttpEmbedder(server.url, "small", dimensions=2, api_key=KEY).embed(["x"])
    assert len(server.asked) == TRIES_MAX
    good = embeddings([[1.0, 2.0]])
    server.answer = lambda _: (status, {}, b"") if len(server.asked) < TRIES_MAX + 3 else good
    assert HttpEmbedder(server.url, "small", dimensions=2).embed(["x"]) == [[1.0, 2.0]]


def test_the_server_s_own_waiting_time_is_heard(server: Server) -> None:
    good = embeddings([[1.0, 2.0]])
    server.answer = lambda _: (429, {"Retry-After": "1"}, b"") if len(server.asked) == 1 else good
    started = time.monotonic()
    assert HttpEmbedder(server.url, "small", dimensions=2).embed(["x"]) == [[1.0, 2.0]]
    assert time.monotonic() - started >= 1


def test_nobody_there_and_nobody_answering(server: Server) -> None:
    held = threading.Event()

    def silent(_: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        held.wait(20)
        return embeddings([[1.0, 2.0]])

    server.answer = silent
    with pytest.raises(Unreachable, match="4 tries"):
        HttpEmbedder(server.url, "small", dimensions=2, timeout_s=0.1).embed(["x"])
    held.set()
    with pytest.raises(Unreachable, match="refused"):
        HttpEmbedder("http://127.0.0.1:1/v1/embeddings", "small", dimensions=2).embed(["x"])


def test_an_answer_without_end_is_not_read_to_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_adapters, "_ANSWER_BYTES_MAX", 1 << 20)
    server.answer = lambda _: (200, {}, b" " * (2 << 20))
    with pytest.raises(ProtocolError, match="more than 1 MiB"):
        HttpEmbedder(server.url, "small", dimensions=2).embed(["x"])


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://localhost/x"},
        {"url": "localhost:8080"},
        {"url": "http://"},
        {"url": "http://me:secret@localhost/"},
        {"url": "http://models.example/v1/embeddings", "api_key": KEY},
        {"url": None},
        {"model": ""},
        {"dimensions": 0},
        {"dimensions": "2"},
        {"timeout_s": 0},
        {"batch": 0},
        {"api_key": "two\nlines"},
    ],
    ids=str,
)
def test_mistakes_are_said_before_anything_is_sent(options: dict[str, Any]) -> None:
    given = {"url": "http://localhost/v1/embeddings", "model": "small", "dimensions": 2, **options}
    with pytest.raises(InvalidValue) as caught:
        HttpEmbedder(given.pop("url"), given.pop("model"), **given)
    assert KEY not in str(caught.value)
    assert "secret@" not in str(caught.value)


class Transformer:
    """As sentence-transformers' models: an array for a list of texts."""

    def __init__(self, size: int | None = 3) -> None:
        self._size = size

    def get_sentence_embedding_dimension(self) -> int | None:
        return self._size

    def encode(self, texts: list[str]) -> Any:
        assert isinstance(texts, list)
        return np.array([[len(text), 1.0, 0.0] for text in texts], np.float32)


def test_a_sentence_transformer(edge: Edge) -> None:
    embedder = SentenceTransformerEmbedder(Transformer(), model="tiny")
    assert (embedder.model, embedder.dimensions) == ("tiny", 3)
    memory = edge.agent("guide").memory(embedder=embedder)
    memory.add("a")
    memory.add("a much longer memory than that")
    assert memory.search("b", 1, mode="vector")[0].text == "a"
    assert SentenceTransformerEmbedder(Transformer(None), model="tiny", dimensions=3).dimensions == 3
    for transformer, model in ((object(), "x"), (Transformer(None), "x"), (Transformer(), "")):
        with pytest.raises(InvalidValue):
            SentenceTransformerEmbedder(transformer, model=model)
