"""Who uses a model while versions change: readers in other processes' place, watchers, threads, tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edge import AsyncEdge, Edge, EdgeConfig
from edge.storage.delta_log import DeltaLog
from sync.activation import COMMITTED, FETCHING
from sync.errors import InvalidValue, ReadOnly
from sync.models import Soak
from tests.edge.control.care_world import FILES, World
from tests.edge.control.model_world import Shelf, assign, contents, settle


@pytest.fixture
def world(cared: World) -> World:
    return cared


def test_a_reader_beside_it_holds_its_slot(world: World) -> None:
    world.install(1)
    world.keep()
    with Edge.open(world.store, read_only=True) as reader:
        first = reader.models.path("embed")
        world.install(2)
        world.keep()
        world.install(3)
        assert world.state == FETCHING
        assert contents(first) == FILES[1]
        assert contents(reader.models.path("embed")) == FILES[2], "it is given the newer one, and lets the older one go"
        settle(world.models)
        assert contents(reader.models.path("embed")) == FILES[3]
        assert [one.number for one in reader.models.status()] == [3]
        assert reader.models.verify() == []
        documents = world.shelf.publish(4, FILES[4])
        writing: list[Callable[[], object]] = [
            lambda: reader.models.report_use("embed"),
            lambda: reader.models.remove("embed"),
            lambda: reader.models.retry("embed"),
            lambda: assign(reader.models, 4, documents),
            reader.models.fetch,
            reader.models.advance,
        ]
        for one in writing:
            with pytest.raises(ReadOnly):
                one()


def test_watchers_hear_of_each_new_version_and_of_none(world: World) -> None:
    heard: list[int | None] = []
    moved = threading.Condition()

    def listen() -> None:
        for path in world.models.watch("embed"):
            with moved:
                heard.append(None if path is None else next(n for n, f in FILES.items() if f == contents(path)))
                moved.notify()

    thread = threading.Thread(target=listen)
    thread.start()
    for number in (1, 2):
        world.install(number)
        with moved:
            assert moved.wait_for(partial(_last_is, heard, number), 10)
        world.keep()
    world.verdicts[3] = "bad"
    world.install(3)
    (world.store / "models/embed/b/model.safetensors").write_bytes(b"")
    (world.store / "models/embed/a/model.safetensors").write_bytes(b"")
    assert len(world.models.verify()) >= 1
    with moved:
        assert moved.wait_for(partial(_last_is, heard, None), 10)
    world.models.close()
    thread.join(10)
    assert heard == [1, 2, None]


def _last_is(heard: list[int | None], number: int | None) -> bool:
    return heard[-1:] == [number]


def test_a_watcher_ends_when_nothing_comes_and_a_bad_timeout_is_an_error(world: World) -> None:
    assert list(world.models.watch("embed", timeout_s=0)) == []
    world.install(1)
    assert [contents(path) for path in world.models.watch("embed", timeout_s=0) if path] == [FILES[1]]
    with pytest.raises(InvalidValue, match="timeout_s"):
        world.models.watch("embed", timeout_s=-1)
    with Edge.open(world.store, read_only=True) as reader:
        assert len(list(reader.models.watch("embed", timeout_s=0.01))) == 1


def test_many_threads_ask_while_versions_change(world: World) -> None:
    world.install(1, Soak())
    done = threading.Event()
    wrong: list[object] = []

    def ask() -> None:
        while not done.is_set():
            with world.models.use("embed") as path:
                found = contents(path)
                if found not in FILES.values():
                    wrong.append(sorted(found))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(12):
        number = 2 + turn % 4
        world.give(number, Soak())
        for _ in range(2_000):
            settle(world.models)
            if world.state == COMMITTED:
                break
    done.set()
    for thread in threads:
        thread.join(20)
    assert wrong == []
    assert len(world.tried) > 6


def test_by_itself_in_the_background_and_awaited(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    config = EdgeConfig(models_runners={"toy": "tests.edge.control.runner:run"})

    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "store", config=config) as edge:
            models = edge.models
            models.inner.connect(shelf.fill)
            assign(models.inner, 1, shelf.publish(1, FILES[1], soak=Soak(uses=1)))
            async for path in models.watch("embed", timeout_s=60):
                assert path == await models.path("embed")
                break
            async with models.use("embed") as path:
                assert contents(path) == FILES[1]
            await models.report_use("embed", ok=True)
            (status,) = await models.status()
            assert (status.state, status.number, status.measured["loads"]["headers"]) == (COMMITTED, 1, 1)
            assert await edge.verify() == []
            seen = [path async for path in models.watch("embed", timeout_s=0.3)]
            assert len(seen) == 1

    asyncio.run(work())
    with Edge.open(tmp_path / "store", config=config) as edge:
        assert contents(edge.models.path("embed")) == FILES[1]
        assert edge.cache.status().by_kind["models"] > 3_000
    assert isinstance(edge.log, DeltaLog)
