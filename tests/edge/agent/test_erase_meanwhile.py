"""Erasure while somebody writes, fetches or reads in what is being erased, and with records that cannot go yet."""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge import Edge, Erased, NotFound, StorageError
from edge.storage import cache, seldomer
from tests.edge.agent.test_erase import CANARY, holding
from tests.edge.stores import TickingClock

DAY_MS = 86_400_000


def everything(edge: Edge) -> list[Any]:
    return edge.log.pending(0, 1_000, 1 << 20)


def test_a_write_that_comes_to_its_commit_after_the_erasure_is_refused(edge: Edge) -> None:
    edge.agent("cook").erase()
    memory = edge.agent("guide").memory()
    memory.add("first")
    run, begun, go = edge.log._group.run, threading.Event(), threading.Event()
    outcome: list[Any] = []

    def late(writes: Any) -> Any:
        if threading.current_thread().name == "late":
            begun.set()
            assert go.wait(30)
        return run(writes)

    def write() -> None:
        try:
            outcome.append(memory.add(CANARY))
        except Erased as error:
            outcome.append(error)

    edge.log._group.run = late  # type: ignore[method-assign]
    writer = threading.Thread(target=write, name="late")
    writer.start()
    assert begun.wait(30)
    edge.agent("guide").erase()
    go.set()
    writer.join()
    assert [type(one) for one in outcome] == [Erased]
    assert list(memory.all()) == []
    assert holding(Path(edge.path)) == []


def test_writers_of_one_commit_are_refused_each_for_itself(edge: Edge) -> None:
    edge.agent("guide").erase()
    edge.agent("cook").memory().add("known")
    outcome: dict[str, str] = {}
    start = threading.Barrier(8)

    def write(agent: str, number: int) -> None:
        start.wait()
        try:
            edge.agent(agent).memory().add(f"{agent} {number}")
            outcome[f"{agent} {number}"] = "written"
        except Erased:
            outcome[f"{agent} {number}"] = "refused"

    threads = [threading.Thread(target=write, args=(agent, at)) for at in range(4) for agent in ("guide", "cook")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert outcome == {
        f"{agent} {at}": how for at in range(4) for agent, how in (("guide", "refused"), ("cook", "written"))
    }
    assert len(list(edge.agent("cook").memory().all())) == 5


def test_a_record_of_a_clock_that_is_ahead_goes_when_its_time_has_come(tmp_path: Path) -> None:
    clock = TickingClock()
    ahead = TickingClock(clock.wall_ms() + 3 * DAY_MS)
    folder = tmp_path / "a"
    with Edge.open(folder, clock=clock) as edge, Edge.open(tmp_path / "b", clock=ahead) as other:
        edge.agent("guide").memory().add(f"{CANARY} of its own")
        other.agent("guide").memory().add(f"{CANARY} ahead")
        edge.log.apply(everything(other), cursor=5)
        edge.agent("waiter").memory().add("of another erasure")
        with pytest.raises(StorageError, match="can be deleted yet"):
            edge.agent("guide").erase()
        left = [fields["text"] for _, fields in edge.collection("agent.memories").scan("guide/")]
        assert left == [f"{CANARY} ahead"], "the others are gone"
        edge.agent("waiter").erase()
        with pytest.raises(StorageError):
            edge.carry_out_erasures()
    with Edge.open(folder, clock=clock) as edge:
        assert [one.here for one in edge.erasures()] == [False, True], "it opens, and one holds up no other"
        assert len(holding(folder)) >= 1
    with Edge.open(folder, clock=TickingClock(clock.wall_ms() + 4 * DAY_MS)) as edge:
        assert [one.here for one in edge.erasures()] == [True, True]
        assert holding(folder) == []


def test_what_was_written_on_both_sides_of_a_lift_is_the_same_for_all(tmp_path: Path) -> None:
    clock = TickingClock()
    with Edge.open(tmp_path / "a", clock=clock) as a, Edge.open(tmp_path / "b", clock=clock) as b:
        notes = b.collection("agent.notes")
        notes.put("guide/x/1", {"body": f"{CANARY} before"})
        a.agent("guide").erase()
        a.agent("guide").lift_erasure()
        notes.patch("guide/x/1", {"mood": "after"})
        b.log.apply(everything(a), cursor=9)
        b.carry_out_erasures()
        assert dict(notes.scan()) == {"guide/x/1": {"mood": "after"}}
        assert holding(tmp_path / "b") == []
        assert b.verify() == []
        a.log.apply(everything(b), cursor=9)
        a.carry_out_erasures()
        assert dict(a.collection("agent.notes").scan()) == dict(notes.scan())
        assert a.digest() == b.digest()
        notes.put("guide/x/2", {"body": "goes on"})


@pytest.mark.parametrize("ends", ["in time", "late"])
def test_a_body_that_is_being_fetched_goes_too(edge: Edge, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    folder = Path(edge.path)
    photos = edge.agent("guide").attachments("photos")
    digest = bytes.fromhex(photos.add(CANARY.encode() * 100, id="it").digest)
    path = edge.cache.bodies.path(digest)
    data = path.read_bytes()
    path.unlink()
    begun, go = threading.Event(), threading.Event()

    class Slow:
        def fetch_body(self, digest: bytes, size: int) -> None:
            with edge.cache.bodies.partial(digest) as file:
                file.write(data[:500])
                begun.set()
                assert go.wait(30)
                file.write(data[500:])
            edge.cache.bodies.arrived(digest)

    monkeypatch.setattr(edge.cache, "_link", Slow)
    reader = threading.Thread(target=photos.read, args=("it",))
    reader.start()
    assert begun.wait(30)
    if ends == "late":
        monkeypatch.setattr(cache, "_USES_S", 0.05)
        with pytest.raises(StorageError, match="read, sent or fetched"):
            edge.agent("guide").erase()
        assert [one.here for one in edge.erasures()] == [False]
        go.set()
        reader.join()
        edge.carry_out_erasures()
    else:
        threading.Timer(0.2, go.set).start()
        edge.agent("guide").erase()
        reader.join()
    assert [one.here for one in edge.erasures()] == [True]
    assert holding(folder) == []
    assert edge.cache.status().bodies.count == 0
    with pytest.raises(NotFound):
        photos.read("it")


def test_a_body_whose_record_goes_before_it_is_fetched_does_not_stay(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = edge.agent("guide").attachments("photos")
    digest = bytes.fromhex(photos.add(CANARY.encode(), id="it").digest)
    edge.cache.bodies.path(digest).unlink()

    class Link:
        def fetch_body(self, digest: bytes, size: int) -> None:
            with edge.cache.bodies.partial(digest) as file:
                file.write(CANARY.encode())
            edge.cache.bodies.arrived(digest)

    body = edge.cache.body

    def after_the_delete(digest: bytes, size: int) -> Any:
        photos.delete("it")
        return body(digest, size)

    monkeypatch.setattr(edge.cache, "_link", Link)
    monkeypatch.setattr(edge.cache, "body", after_the_delete)
    assert photos.read("it") == CANARY.encode(), "it was there when the read began"
    assert edge.cache.bodies.all() == []


def test_care_goes_on_while_an_erasure_cannot_be_carried_out(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def held(erasure: str, _: Any) -> None:
        tries.append(erasure)
        raise StorageError("a reader keeps the log")

    memory = edge.agent("cook").memory()
    memory.add("one")
    monkeypatch.setattr(edge, "_purge", held)
    with pytest.raises(StorageError):
        edge.agent("guide").erase()
    edge.projections.tables()
    memory.add("two")
    with pytest.raises(StorageError, match="keeps the log"):
        edge.projections.attend()
    assert edge.projections.position() == edge.log.position, "the tables follow, and the log can be trimmed"
    before = len(tries)
    for _ in range(20):
        edge.projections.attend()
    assert len(tries) == before, "and it does not copy the log again with every round"


def test_what_fails_is_tried_seldomer_and_seldomer() -> None:
    clock, tries = TickingClock(0), []

    def fail() -> None:
        tries.append(clock.wall_ms())
        if len(tries) < 20:
            raise StorageError("not yet")

    work = seldomer.Seldomer(fail, clock)
    while len(tries) < 20:
        with suppress(StorageError):
            work()
    pauses = [after - before for before, after in pairwise(tries)]
    assert [round(pause / 1_000) for pause in pauses] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *[600] * 9]
    work()
    work()
    assert len(tries) == 22, "it has gone well: whenever it is asked for"
