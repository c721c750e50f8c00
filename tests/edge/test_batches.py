"""Whose writes a batch takes: those of its own thread or task, while it is open, and of nobody else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

from edge import AsyncEdge
from edge.node import Edge
from edge.storage.batch import Batch
from sync.errors import InvalidValue


class Trouble(Exception):
    pass


def stored(folder: Path) -> set[str]:
    with Edge.open(folder) as edge:
        return {key for key, _ in edge.collection("n").scan()}


def test_a_task_does_not_write_into_anothers_batch(tmp_path: Path) -> None:
    edge = Edge.open(tmp_path)
    n = edge.collection("n")

    async def with_a_batch(started: asyncio.Event, done: asyncio.Event) -> None:
        with edge.batch():
            n.put("mine", {})
            inner = asyncio.create_task(alone("begun inside"))
            await inner
            await asyncio.to_thread(n.put, "in a thread", {})
            started.set()
            await done.wait()
            raise Trouble

    async def alone(key: str) -> None:
        n.put(key, {})

    async def main() -> None:
        started, done = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(with_a_batch(started, done))
        await started.wait()
        n.put("elsewhere", {})
        done.set()
        with pytest.raises(Trouble):
            await task

    asyncio.run(main())
    edge.close()
    assert stored(tmp_path) == {"begun inside", "in a thread", "elsewhere"}


def test_a_thread_that_ends_leaves_its_batch_to_nobody(tmp_path: Path) -> None:
    edge = Edge.open(tmp_path)
    n = edge.collection("n")
    suspended = []

    def halfway() -> Generator[None]:
        with edge.batch():
            n.put("never committed", {})
            yield

    def begins() -> None:
        generator = halfway()
        next(generator)
        suspended.append(generator)

    for work in (begins, lambda: n.put("later", {}), lambda: n.put("later still", {})):
        thread = Thread(target=work)
        thread.start()
        thread.join()
    n.put("here", {})
    with pytest.raises(Trouble):
        suspended[0].throw(Trouble)
    edge.close()
    assert stored(tmp_path) == {"later", "later still", "here"}


def test_a_batch_that_an_interrupt_left_takes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler raises on the way into ``__exit__``: before its first step, so that nothing in it has run."""
    edge = Edge.open(tmp_path)
    n = edge.collection("n")
    real = Batch.__exit__

    def interrupted(batch: Batch, *_: object) -> None:
        self = batch  # noqa: F841 - what is_over looks for in the frames of the exception
        raise KeyboardInterrupt

    monkeypatch.setattr(Batch, "__exit__", interrupted)
    monkeypatch.setattr("edge.storage.batch._BATCH_CODE", (interrupted.__code__,))
    kept = None
    try:
        with edge.batch():
            n.put("discarded", {})
    except KeyboardInterrupt as error:
        kept = error
        n.put("in the handler", {})
    monkeypatch.setattr(Batch, "__exit__", real)
    del kept
    n.put("after it", {})
    with edge.batch():
        n.put("in a batch", {})
    edge.close()
    assert stored(tmp_path) == {"in the handler", "after it", "in a batch"}


def test_a_batch_in_a_batch_joins_the_outer_one(tmp_path: Path) -> None:
    edge = Edge.open(tmp_path)
    n = edge.collection("n")
    with suppress(Trouble), edge.batch():
        n.put("a", {})
        with edge.batch():
            n.put("b", {})
        assert n.count() == 0
        raise Trouble
    with edge.batch():
        n.put("c", {})
        with edge.batch():
            n.put("d", {})
    edge.close()
    assert stored(tmp_path) == {"c", "d"}


def test_a_batch_is_open_once(tmp_path: Path) -> None:
    """Whoever entered it twice would leave it before its end: what came after would go nowhere."""
    edge = Edge.open(tmp_path)
    n = edge.collection("n")
    batch = edge.batch()

    def elsewhere() -> None:
        with pytest.raises(InvalidValue, match="open already"), batch:
            n.put("never", {})

    with batch:
        n.put("a", {})
        with pytest.raises(InvalidValue, match="open already"), batch:
            n.put("never", {})
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
    with batch:
        n.put("b", {})
    n.put("c", {})
    edge.close()
    assert stored(tmp_path) == {"a", "b", "c"}


def test_a_batch_while_another_thread_is_importing_asyncio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the background work does, with lancedb: half of the module is there."""
    monkeypatch.setitem(sys.modules, "asyncio", ModuleType("asyncio"))
    edge = Edge.open(tmp_path)
    n = edge.collection("n")
    with edge.batch():
        n.put("a", {})
    edge.close()
    assert stored(tmp_path) == {"a"}


def test_an_awaited_batch_is_entered_once(tmp_path: Path) -> None:
    """Whoever left it would commit it before its end, and write by itself from there on."""

    async def main() -> None:
        async with await AsyncEdge.open(tmp_path) as edge:
            n = await edge.collection("n")
            batch = edge.batch()
            with suppress(Trouble):
                async with batch:
                    await n.put("discarded", {})
                    with pytest.raises(InvalidValue, match="entered before"):
                        await batch.__aenter__()
                    await n.put("discarded as well", {})
                    raise Trouble
            with pytest.raises(InvalidValue, match="entered before"):
                await batch.__aenter__()
            await n.put("later", {})

    asyncio.run(main())
    assert stored(tmp_path) == {"later"}
