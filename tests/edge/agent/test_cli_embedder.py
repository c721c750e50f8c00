"""``memory`` and ``documents`` with an embedder that the command line names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cli.embedder import KEY
from tests.edge.agent.embedding_server import Server
from tests.edge.agent.test_cli_agents import call, said, told


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    assert call("init", path).exit_code == 0
    return path


def named(server: Server, model: str = "small") -> list[str]:
    return ["--embedder-url", server.url, "--embedder-model", model, "--embedder-dimensions", "2"]


def test_memories_get_vectors_and_then_those_of_another_model(
    store: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    for text in ("a pump", "a lamp that has a very long name"):
        told("memory", "add", store, "guide", text)
    assert told("memory", "reembed", store, "guide", *named(server)) == {"vectors": 2}
    assert server.keys == ["Bearer sk-secret"]
    found = told("memory", "search", store, "guide", "a pond", *named(server))
    assert found[0]["text"] == "a pump"
    assert said("memory", "reembed", store, "guide", *named(server)) == "0 vectors made\n"
    done = call("memory", "reembed", store, "guide", *named(server, "other"))
    assert done.exit_code == 0
    assert done.stdout == "2 vectors made\n"
    assert {asked["model"] for asked in server.asked} == {"small", "other"}
    wrong = call("memory", "search", store, "guide", "pump", *named(server))
    assert wrong.exit_code == 2
    assert "'other'" in wrong.stderr
    assert "`reembed`" in wrong.stderr
    assert "pump" in said("memory", "search", store, "guide", "pump"), "without one, by its words"


def test_documents_too(store: str, server: Server, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Pump\n\nThe pump is in the cellar.\n")
    told("documents", "add", store, "guide", str(page))
    assert told("documents", "reembed", store, "guide", *named(server))["vectors"] == 1
    (found,) = told("documents", "search", store, "guide", "cellar", *named(server))
    assert "cellar" in found["text"]


def test_what_is_missing_and_what_does_not_answer(store: str, server: Server) -> None:
    for words in (["reembed", store, "guide"], ["search", store, "guide", "x", "--embedder-url", server.url]):
        done = call("memory", *words)
        assert done.exit_code == 2
        assert "--embedder-model" in done.stderr
    told("memory", "add", store, "guide", "a pump")
    server.answer = lambda _: (401, {}, b"")
    done = call("memory", "reembed", store, "guide", *named(server))
    assert done.exit_code == 1
    assert "status 401" in done.stderr
    assert "Traceback" not in done.output
