"""A live link that something ended which trying again does not mend."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from edge.cli import main
from edge.link import live
from edge.link.body_care import BodyCare
from edge.link.control import ControlCare
from edge.link.live import LiveLink
from edge.link.replicator import Replicator
from edge.node import Edge
from sync.errors import AgentDBError, CorruptStore, ReadOnly, Unreachable
from tests.edge.link.joined import join_nowhere

OURS = ("agentdb-sync", "agentdb-bodies", "agentdb-control")


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    join_nowhere(path)
    return path


def damaged(_: Replicator) -> bool:
    raise CorruptStore("the log is damaged", hint="restore it")


@pytest.fixture
def dead(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edge]:
    """A store whose live link has died of its log."""
    edge = Edge.open(store)
    with monkeypatch.context() as patched:
        patched.setattr(Replicator, "_step", damaged)
        edge.start_sync()
        live = edge._live
        assert live is not None
        live._thread.join(10)
        assert not edge.is_syncing
    yield edge
    edge.close()


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name in OURS)


def test_what_ended_it_is_what_sync_and_stop_raise(dead: Edge) -> None:
    with pytest.raises(CorruptStore, match="damaged"):
        dead.sync(timeout_s=5)
    with pytest.raises(CorruptStore, match="damaged"):
        dead.stop_sync()
    assert threads() == []
    dead.stop_sync()


def test_who_waits_for_it_as_it_is_stopped_is_told(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[AgentDBError] = []
    waiting, hurry = threading.Semaphore(0), Replicator.hurry

    def hurries(replicator: Replicator) -> None:
        hurry(replicator)
        waiting.release()

    def waits(edge: Edge) -> None:
        try:
            edge.sync(timeout_s=None)
        except AgentDBError as error:
            said.append(error)

    monkeypatch.setattr(Replicator, "hurry", hurries)
    with Edge.open(store) as edge:
        edge.start_sync()
        callers = [threading.Thread(target=waits, args=(edge,), daemon=True) for _ in range(3)]
        for caller in callers:
            caller.start()
            assert waiting.acquire(timeout=20)
        edge.stop_sync()
        for caller in callers:
            caller.join(20)
    assert [str(error) for error in said] == ["the link was stopped"] * 3
    assert threads() == []


def test_the_next_one_takes_its_place_and_leaves_no_thread_of_it(dead: Edge) -> None:
    dead.start_sync()
    assert threads() == ["agentdb-bodies", "agentdb-sync"]
    dead.stop_sync()
    assert threads() == []


def test_a_store_that_is_only_read_is_not_syncing_after_it_was_asked_to(store: str) -> None:
    with Edge.open(store, read_only=True) as edge:
        with pytest.raises(ReadOnly):
            edge.sync()
        assert edge._syncing == 0


def test_the_command_ends_with_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(Replicator, "_step", damaged)
    done = CliRunner().invoke(main, ["run", store])
    assert done.exit_code == 1
    assert "error: the log is damaged" in done.stderr
    assert threads() == []


def test_it_is_not_idle_when_what_it_was_given_to_run_wants_more_here() -> None:
    """A policy, which was taken after the replicator was looked at."""
    replicator = SimpleNamespace(idle=True)

    class Takes:
        @property
        def idle(self) -> bool:
            replicator.idle = False
            return True

    link = object.__new__(LiveLink)
    vars(link).update(_replicator=replicator, _bodies=SimpleNamespace(idle=True), _control=Takes())
    assert not link.idle


def test_all_its_threads_are_told_to_end_before_any_is_waited_for(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told, ended = threading.Event(), ControlCare.stop

    def stop(care: ControlCare) -> None:
        ended(care)
        told.set()

    monkeypatch.setattr(ControlCare, "stop", stop)
    monkeypatch.setattr(BodyCare, "_round", lambda _: float(not told.wait(60)))  # which no abort ends
    began = time.monotonic()
    with Edge.open(store) as edge:
        edge.start_sync()
        edge.stop_sync()
    assert time.monotonic() - began < 20
    assert threads() == []


def test_they_have_one_time_to_end_in(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped, over = threading.Event(), threading.Event()

    def stuck(_: Replicator) -> bool:
        stepped.set()
        return not over.wait(60)

    monkeypatch.setattr(live, "STOP_MS_MAX", 300)
    monkeypatch.setattr(BodyCare, "_round", lambda _: float(not over.wait(60)))
    monkeypatch.setattr(Replicator, "_step", stuck)
    with Edge.open(store) as edge:
        edge.start_sync()
        assert stepped.wait(20)
        began = time.monotonic()
        with pytest.raises(Unreachable, match="did not stop in time"):
            edge.stop_sync()
        assert time.monotonic() - began < 20
        over.set()
        for thread in threading.enumerate():
            if thread.name in OURS:
                thread.join(20)
    assert threads() == []
