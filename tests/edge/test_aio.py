"""AsyncEdge: the same names and results as Edge, without holding up the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge import (
    Agent,
    AsyncAgent,
    AsyncAttachments,
    AsyncCache,
    AsyncCollection,
    AsyncDocuments,
    AsyncEdge,
    AsyncMemory,
    AsyncModels,
    AsyncSnapshots,
    AsyncThread,
    AsyncTwin,
    AsyncVectors,
    Attachments,
    Cache,
    CallableEmbedder,
    Collection,
    Documents,
    Edge,
    InvalidValue,
    Memory,
    ModelStore,
    NotFound,
    Snapshots,
    StaleWrite,
    StorageError,
    Thread,
    Twin,
    Vectors,
)
from edge.agent.vectors import collection_name

PAIRS = [
    (Edge, AsyncEdge),
    (Collection, AsyncCollection),
    (Agent, AsyncAgent),
    (Thread, AsyncThread),
    (Memory, AsyncMemory),
    (Documents, AsyncDocuments),
    (Snapshots, AsyncSnapshots),
    (Attachments, AsyncAttachments),
    (Cache, AsyncCache),
    (Vectors, AsyncVectors),
    (Twin, AsyncTwin),
    (ModelStore, AsyncModels),
]
# Of Memory, for what is done to many at once; of Cache, for the stores of agents and the link.
INNER = {"held", "patch_of", "fields_of", "prepared", "ranked"}
# Of ModelStore, for the control plane's side and for what cares for models.
INNER |= {
    "assigned",
    "connect",
    "fetch",
    "advance",
    "due_ms",
    "is_fetching",
    "note",
    "notes",
    "slots",
    "taken",
    "close",
}
INNER |= {"await_another", "p95_ms", "ran", "tell_outcomes"}
INNER |= {"body", "keeping", "room", "is_concerned", "collect", "collected", "replaced"}
INNER |= {"pending", "settle", "used_bytes"}
INNER |= {"note", "note_outcome", "due", "answered", "end", "system"}


@pytest.mark.parametrize(("sync", "awaited"), PAIRS)
def test_both_have_the_same_names(sync: type, awaited: type) -> None:
    wanted = {name for name, _ in inspect.getmembers(sync, callable) if not name.startswith("_")} - INNER
    wanted -= {"look_at", "problem", "unread"} if sync is ModelStore else set()  # of ``status``
    assert [name for name in sorted(wanted) if not hasattr(awaited, name)] == []


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_what_is_awaited_is_what_edge_does(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s") as edge:
            notes = await edge.collection("notes", fields={"n": "counter"}, vector=("v", 2))
            await asyncio.gather(*(notes.put(f"k{number:03}", {"v": [number, 1.0]}) for number in range(450)))
            await notes.increment("k001", "n", 2)
            assert await notes.get("k001") is not None
            assert [key async for key, _ in notes.scan()] == [f"k{number:03}" for number in range(450)]
            (hit,) = await notes.search(vector=[0.0, 1.0], k=1)
            assert hit.key == "k000"
            with pytest.raises(NotFound):
                await notes.patch("none", {"a": 1})
            thread = edge.agent("a").thread("t")
            first = await thread.put(1)
            with pytest.raises(StaleWrite):
                await thread.put(2, expected=None)
            await thread.put(2, expected=first.id)
            assert [one.id async for one in thread.history(before=(await thread.heads())[0].id)] == [first.id]
            assert await (await thread.fork("f", at=first.id)).get() == 1
            assert (await edge.snapshots.take("x")).threads == 2
            memory = await edge.agent("a").memory("m")
            added = await memory.add("Ada likes tea")
            assert [one.id async for one in memory.all()] == [added.id]
            assert len(await memory.consolidate(lambda found: ["fact"])) == 1
            photos = await edge.agent("a").attachments("p")
            attached = await photos.add(b"png", text="a pump")
            assert await photos.read(attached.id) == b"png"
            assert [one.id async for one in photos.all()] == [attached.id]
            assert (await photos.search("pump"))[0].attachment == attached
            assert (await edge.cache.status()).unconfirmed.count == 1
            assert (await edge.cache.evict(0)).bodies == 0
            assert await edge.verify() == []
            images = await edge.agent("a").vectors("images", dimension=2, precision="int8")
            await images.upsert("k", [1.0, 0.5], {"floor": 2})
            (near,) = await images.knn([1.0, 0.0], 1)
            assert (near.key, [one.key async for one in images.all()]) == ("k", ["k"])
            assert [one.inner.space for one in await edge.agent("a").spaces()] == ["images"]
            assert await edge.verify() == []
            assert edge.collections() == [
                "agent.attachments",
                "agent.memories",
                collection_name("a", "images"),
                "notes",
            ]
            assert await edge.agents() == ["a"]

    run(work())
    with Edge.open(tmp_path / "s") as edge:
        assert edge.collection("notes").count() == 450


def test_batches_are_of_their_task(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s") as edge:
            notes = await edge.collection("notes")
            thread = edge.agent("a").thread()
            inside = asyncio.Event()
            done = asyncio.Event()

            async def other() -> None:
                await inside.wait()
                await notes.put("other", {"a": 1})
                assert await notes.get("other") == {"a": 1}, "another task's write is no part of the batch"
                assert await notes.get("mine") is None
                done.set()

            task = asyncio.create_task(other())
            async with edge.batch():
                await notes.put("mine", {"a": 1})
                first = await thread.put(1)
                second = await thread.put(2)
                assert second.parent == first.id
                inside.set()
                await done.wait()
            await task
            assert await notes.get("mine") == {"a": 1}
            assert await thread.head() == second
            with suppress(ZeroDivisionError):
                async with edge.batch():
                    await notes.put("never", {"a": 1})
                    _ = 1 // 0
            assert await notes.get("never") is None

    run(work())


def test_something_slow_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    """The loop goes on while a call waits: shown by order, not by a clock."""

    async def work() -> None:
        release = threading.Event()

        def slow(texts: Sequence[str]) -> list[list[float]]:
            assert release.wait(30)
            return [[1.0, 0.0] for _ in texts]

        async with await AsyncEdge.open(tmp_path / "s") as edge:
            memory = await edge.agent("a").memory(embedder=CallableEmbedder(slow, model="m", dimensions=2))
            waiting = asyncio.create_task(memory.add("x"))
            notes = await edge.collection("notes")
            await notes.put("a", {"b": 1})
            assert await notes.get("a") == {"b": 1}
            assert not waiting.done()
            release.set()
            assert not (await waiting).merged

    run(work())


def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    async def work() -> None:
        edge = await AsyncEdge.open(tmp_path / "s")
        notes = await edge.collection("notes")
        puts = [asyncio.create_task(notes.put(f"k{number}", {"a": 1})) for number in range(100)]
        await asyncio.sleep(0)
        await edge.close()
        await asyncio.gather(*puts)

    run(work())
    with Edge.open(tmp_path / "s") as edge:
        assert edge.collection("notes").count() == 100


def test_a_cancelled_call_leaves_the_store_usable(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s", workers=1) as edge:
            notes = await edge.collection("notes")

            def hold() -> None:
                time.sleep(0.05)

            blocker = asyncio.create_task(edge.store.run(hold))
            put = asyncio.create_task(notes.put("a", {"b": 1}))
            await asyncio.sleep(0)
            put.cancel()
            await blocker
            await notes.put("c", {"d": 1})
            assert await notes.get("a") in (None, {"b": 1})
            assert await edge.verify() == []

    run(work())


def test_a_batch_whose_end_is_cancelled_takes_no_later_write(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s", workers=1) as edge:
            notes = await edge.collection("notes")
            release = threading.Event()

            async def batch() -> None:
                async with edge.batch():
                    await notes.put("in", {"a": 1})
                    edge.store.pool.submit(release.wait, 30)

            task = asyncio.create_task(batch())
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.sleep(0.05)
            release.set()
            with suppress(asyncio.CancelledError):
                await task
            await notes.put("after", {"a": 1})
            assert await notes.get("after") == {"a": 1}

    run(work())
    with Edge.open(tmp_path / "s") as edge:
        assert "after" in edge.collection("notes")


def test_a_call_that_is_cancelled_in_a_batch_goes_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s") as edge:
            notes = await edge.collection("notes")
            started, release = threading.Event(), threading.Event()

            def slow(texts: Sequence[str]) -> list[list[float]]:
                started.set()
                assert release.wait(30)
                return [[1.0, 0.0] for _ in texts]

            memory = await edge.agent("a").memory(embedder=CallableEmbedder(slow, model="m", dimensions=2))

            async def batch() -> None:
                async with edge.batch():
                    await notes.put("in", {"a": 1})
                    await memory.add("half")

            task = asyncio.create_task(batch())
            await asyncio.to_thread(started.wait, 30)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done(), "the call is under way, and nothing goes on behind its back"
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await notes.get("in") is None
            assert [one async for one in memory.all()] == []

            async with edge.batch():  # caught inside: the batch goes on, and is whole
                await notes.put("x", {"a": 1})
                release.clear()
                started.clear()
                call = asyncio.create_task(memory.add("cut short"))
                await asyncio.to_thread(started.wait, 30)
                call.cancel()
                release.set()
                with suppress(asyncio.CancelledError):
                    await call
                await notes.put("y", {"a": 1})
                assert await notes.get("y") is None
            assert await notes.get("y") == {"a": 1}

    run(work())


def test_what_is_gathered_in_a_batch_is_part_of_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s") as edge:
            notes = await edge.collection("notes")
            with suppress(ZeroDivisionError):
                async with edge.batch():
                    await asyncio.gather(*(notes.put(f"g{number}", {"a": 1}) for number in range(20)))
                    await asyncio.wait_for(notes.put("w", {"a": 1}), 30)
                    async with edge.batch():
                        await notes.put("inner", {"a": 1})
                    _ = 1 // 0
            assert await notes.count() == 0
            async with edge.batch():
                await asyncio.gather(*(notes.put(f"g{number}", {"a": 1}) for number in range(20)))
            assert await notes.count() == 20

    run(work())


def test_opening_that_fails_leaves_the_store_free(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(InvalidValue):
            await AsyncEdge.open(tmp_path / "s", workers=0)
        opening = asyncio.create_task(AsyncEdge.open(tmp_path / "s"))
        await asyncio.sleep(0)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await (await opening).close()
        edge = await AsyncEdge.open(tmp_path / "s", wait_s=10.0)
        notes = await edge.collection("notes")
        await edge.close()
        with pytest.raises(StorageError, match="closed"):
            await notes.put("a", {"b": 1})

    run(work())


def test_watching_a_twin_ends_with_the_store(tmp_path: Path) -> None:
    async def work() -> None:
        edge = await AsyncEdge.open(tmp_path / "s")

        async def watch() -> list[dict[str, Any]]:
            return [seen async for seen in edge.twin.watch()]

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.1)
        await edge.close()
        assert await watching == [{}]

    run(work())


def test_what_is_made_at_first_use_is_made_on_a_thread_of_the_stores(tmp_path: Path) -> None:
    late = ("trust", "models", "twin", "policy", "cache")
    made: dict[str, str] = {}

    def seen(name: str, make: Any) -> Any:
        def get(edge: Edge) -> Any:
            made.setdefault(name, threading.current_thread().name)
            return make.__get__(edge, Edge)

        return property(get)

    async def work(edge: AsyncEdge) -> None:
        parts = [getattr(edge, name) for name in late]
        assert (made, [repr(part)[:12] for part in parts]) == ({}, ["<async Async"] * len(late))
        assert await edge.trust.status() is None
        assert await edge.models.status() == []
        assert await edge.twin.desired() == {}
        assert await edge.policy.describe() == {}
        assert await edge.policy.may("guide", "write", "agent.memories")
        assert (await edge.policy.rule("notes", "n1")).direction == "both"
        assert (await edge.cache.status()).quota_bytes == 0
        with suppress(NotFound):
            await edge.models.path("embed")

    async def main() -> None:
        async with await AsyncEdge.open(tmp_path / "store") as edge:
            await work(edge)

    with pytest.MonkeyPatch.context() as patched:
        for name in late:
            patched.setattr(Edge, name, seen(name, inspect.getattr_static(Edge, name)))
        asyncio.run(main())
    assert set(late) <= made.keys()
    assert [name for name in made.values() if not name.startswith("agentdb-aio")] == []
