"""Erasure: not a byte of it is left in the store's directory, whatever interrupts it, and nothing of it comes back."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from edge import CallableEmbedder, Edge, Erased, InvalidValue, NotFound, StorageError
from edge.storage import erasures
from tests.edge.agent.test_memory import words
from tests.edge.stores import TickingClock

CANARY = "zqxjkvbwcanary"
EMBEDDER = CallableEmbedder(words, model="words", dimensions=32)


def fill(edge: Edge, agent: str, secret: str) -> None:
    """All that an agent can have, in the log, in tables and in matrices, old versions of it among them."""
    one = edge.agent(agent)
    memory = one.memory("visitors", embedder=EMBEDDER)
    for number in range(30):
        memory.add(f"visitor {number} said {secret}", metadata={"note": secret}, importance=0.25)
    memory.update(memory.search("visitor 3")[0].id, text=f"changed {secret}")
    memory.add(f"{secret} first", "semantic", key="fact")
    memory.add(f"{secret} second", "semantic", key="fact")
    documents = one.documents("visitors", embedder=EMBEDDER)
    documents.add(f"about {secret}\n\n" * 300, id="doc", title=secret, metadata={"by": secret})
    documents.search(secret)
    documents.add(f"about {secret} again\n\n" * 300, id="doc")
    thread = one.thread()
    thread.put({"text": secret}, metadata={"why": secret})
    value = bytearray(random.Random(1).randbytes(60_000)) + secret.encode()
    for number in range(4):
        value[number] ^= 1
        thread.put(bytes(value))
    edge.snapshots.take(f"of {agent}", agent=agent)
    edge.snapshots.take("of all")
    memory.search("visitor", mode="vector")
    edge.projections.lance("agent.memories")
    edge.projections.lance("agent.chunks")


def holding(folder: Path, secret: str = CANARY) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.fixture
def filled(edge: Edge) -> Edge:
    fill(edge, "guide", CANARY)
    fill(edge, "cook", "harmless")
    return edge


def test_no_byte_is_left(filled: Edge) -> None:
    folder = Path(filled.path)
    assert len(holding(folder)) >= 4, "else the test would see nothing"
    cook = filled.agent("cook").memory("visitors").search("visitor", k=30)
    receipt = filled.agent("guide").erase()
    assert holding(folder) == []
    assert receipt.deleted["agent.memories"] == 32
    assert receipt.deleted["_checkpoints"] == 5
    assert receipt.bytes_after < receipt.bytes_before
    assert receipt.device == filled.device.hex()
    assert filled.verify() == []
    assert filled.agents() == ["cook"]
    assert [one.name for one in filled.snapshots.all()] == ["of all", "of cook"]
    assert [one.threads for one in filled.snapshots.all()] == [1, 1]
    again = filled.agent("cook").memory("visitors").search("visitor", k=30)
    assert {one.id: one.text for one in again} == {one.id: one.text for one in cook}
    assert filled.agent("cook").thread().get() is not None
    filled.close()
    assert holding(folder) == []
    with Edge.open(folder) as opened:
        assert opened.agent("guide").memory("visitors").search("visitor") == []
        assert opened.erasures() == [(receipt.erasure, receipt.at_ms, True, True)]


def test_a_namespace_alone(filled: Edge) -> None:
    filled.agent("guide").memory("others").add("stays")
    filled.agent("guide").erase("visitors")
    filled.agent("guide").thread().delete()
    filled.snapshots.delete("of guide")
    filled.snapshots.delete("of all")
    assert [one.text for one in filled.agent("guide").memory("others").all()] == ["stays"]
    assert list(filled.agent("guide").memory("visitors").all(ended=True)) == []
    assert list(filled.agent("guide").documents("visitors").all()) == []
    rest = [fields for name in ("agent.memories", "agent.documents", "agent.chunks")
            for _, fields in filled.collection(name).scan()]  # fmt: skip
    assert CANARY not in str(rest)
    filled.agent("guide").memory("others").add("and takes more")


def test_it_is_shut_until_it_is_lifted(edge: Edge) -> None:
    agent = edge.agent("guide")
    memory = agent.memory("visitors")
    memory.add("one")
    agent.erase("visitors")
    writes: list[Callable[[], Any]] = [
        lambda: memory.add("two"),
        lambda: agent.documents("visitors").add("a text", id="d"),
        lambda: edge.collection("agent.memories").put("guide/visitors/episodic/x", {"text": "by hand"}),
    ]
    for write in writes:
        with pytest.raises(Erased, match="namespace 'visitors' of agent 'guide' was erased") as refused:
            write()
        assert refused.value.hint.endswith("edge.agent('guide').lift_erasure('visitors')")
    with edge.batch(), pytest.raises(InvalidValue, match="batch"):
        agent.erase()
    agent.thread().put("not of the namespace")
    agent.lift_erasure("visitors")
    for write in writes[:2]:
        write()
    assert [one.shut for one in edge.erasures()] == [False]
    with pytest.raises(NotFound):
        agent.lift_erasure()
    agent.erase()
    with pytest.raises(Erased):
        agent.thread().put("of the agent")
    with pytest.raises(Erased, match="agent 'guide' was erased"):
        memory.add("of its namespace")


def test_scopes_are_not_confused(edge: Edge) -> None:
    """Names with slashes; a type of thread that is called as a namespace is; an agent that begins like another."""
    for agent in ("a", "a/b", "ab", "context"):
        edge.agent(agent).memory("context").add("m")
        edge.agent(agent).thread("context").put("s")
    edge.agent("a").erase("context")
    assert [thread.get() for thread in edge.agent("a").threads()] == ["s"]
    edge.agent("a").erase()
    for agent in ("a/b", "ab", "context"):
        assert len(list(edge.agent(agent).memory("context").all())) == 1
        assert [thread.get() for thread in edge.agent(agent).threads()] == ["s"]
    assert edge.agent("a").threads() == []


class Stop(Exception):
    pass


@pytest.mark.parametrize("step", ["purge", "vacuum", "note_done"])
@pytest.mark.parametrize("before", [True, False])
def test_what_is_interrupted_is_carried_out_later(
    filled: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    done = getattr(erasures, step)

    def stopping(*given: Any) -> None:
        if not before:
            done(*given)
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(erasures, step, stopping)
        with pytest.raises(Stop):
            filled.agent("guide").erase()
        with pytest.raises(Erased):
            filled.agent("guide").thread().put("meanwhile")
        filled.close()
    assert_carried_out(tmp_path / "store")


def assert_carried_out(folder: Path) -> None:
    with Edge.open(folder, clock=TickingClock()) as edge:
        for _ in range(400):
            if all(one.here for one in edge.erasures()):
                break
            sleep(0.05)
        assert [one.here for one in edge.erasures()] == [True]
        assert holding(folder) == []
        assert edge.verify() == []
        assert edge.agents() == ["cook"]


_ERASING = """
import sys
from edge import Edge
with Edge.open(sys.argv[1], create=False) as edge:
    print("go", flush=True)
    edge.agent("guide").erase()
    print("done", flush=True)
"""


@pytest.mark.parametrize("after_ms", [0, 20, 60, 150, 400, 900])
def test_killed_at_any_moment(filled: Edge, tmp_path: Path, after_ms: int) -> None:
    filled.close()
    with subprocess.Popen([sys.executable, "-c", _ERASING, filled.path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        sleep(after_ms / 1000)
        process.kill()
    with Edge.open(filled.path, clock=TickingClock()) as edge:
        if not edge.erasures():  # it had not begun: nothing was promised
            edge.agent("guide").erase()
    assert_carried_out(tmp_path / "store")


def test_a_reader_of_another_process_only_delays_it(filled: Edge, tmp_path: Path) -> None:
    import apsw

    reader = apsw.Connection(str(tmp_path / "store" / "log.db"), flags=apsw.SQLITE_OPEN_READONLY, vfs="cksmvfs")
    reader.execute("BEGIN; SELECT count(*) FROM meta").fetchall()
    with pytest.raises(StorageError, match="read by another process"):
        filled.agent("guide").erase()
    assert [one.here for one in filled.erasures()] == [False]
    reader.close(True)
    filled.close()
    assert_carried_out(tmp_path / "store")


def test_nothing_to_erase(edge: Edge) -> None:
    receipt = edge.agent("nobody").erase()
    assert receipt.deleted == {}
    assert len(edge.erasures()) == 1


@pytest.fixture
def unsent(edge: Edge) -> Edge:
    edge.agent("guide").memory().add(CANARY)
    return edge


def test_what_was_never_sent_says_nothing_when_it_is(unsent: Edge) -> None:
    head = unsent.log.head_seq
    unsent.agent("guide").erase()
    sent = unsent.log.pending(0, 1_000, 1 << 20)
    assert [one.seq for one in sent] == list(range(1, unsent.log.head_seq + 1))
    assert unsent.log.head_seq > head
    assert CANARY not in str(sent)
