"""What an agent's step costs: ``memory_add_us`` and ``state_put_us`` (a value of 2 KB), each durable, medians of single
calls; ``state_get_us``; ``checkpoints_mb``: a store after 1,000 checkpoints of 1 MB of which 1% changes a step, in ten
random places; ``async_stall_ms``: the longest time between two turns of an event loop while 200 tasks write.

Baseline of the writes: one durable commit of raw SQLite of the same text or value (WAL, ``synchronous=FULL``), in turn
with ours, and packed in the round, as ours is (``ratio_packed``: against that of bytes that were packed before). Of the
event loop: the same tasks without the store.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import msgpack

from edge import AsyncEdge, Edge
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch
from simulations.workloads import memory_documents

CALLS = 200
ROUNDS = 15
CHECKPOINTS = 1_000
STATE_BYTES = 1 << 20
WRITERS = 200
PUTS_EACH = 10
_RAW = "raw SQLite, synchronous=FULL, one row"


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    with scratch() as folder:
        if wanted & {"memory_add_us", "state_put_us", "state_get_us"}:
            yield from _calls(folder)
        if "checkpoints_mb" in wanted:
            yield _checkpoints(folder)
        if "async_stall_ms" in wanted:
            yield _stall(folder)


def _calls(folder: Path) -> Iterator[Measurement]:
    texts = iter([document.fields["text"] for document in memory_documents(CALLS * (ROUNDS + 1) * 2)])
    value = {"messages": [{"role": "user", "content": f"message {number} of a talk"} for number in range(45)]}
    with Edge.open(folder / "calls") as edge:
        memory = edge.agent("guide").memory()
        thread = edge.agent("guide").thread()
        thread.put(value)
        db = raw_sqlite.connect(folder / "raw.db")
        numbers = iter(range(1 << 30))

        def raw(body: bytes) -> None:
            db.execute(raw_sqlite.INSERT, (f"k{next(numbers)}", body))

        packed = msgpack.packb(value)
        add, add_raw = alternate(
            ROUNDS,
            lambda: _median_us(lambda: memory.add(f"{next(texts)} {next(numbers)}")),
            lambda: _median_us(lambda: raw(next(texts).encode())),
        )
        put, put_raw, put_packed, get = alternate(
            ROUNDS,
            lambda: _median_us(lambda: thread.put(value)),
            lambda: _median_us(lambda: raw(msgpack.packb(value))),
            lambda: _median_us(lambda: raw(packed)),
            lambda: _median_us(thread.get),
        )
        db.close()
    goal = (Goal("ratio", "<=", 1.3),)
    yield Measurement("memory_add_us", add, "us", ROUNDS, add_raw, goal, baseline_is=_RAW)
    extra = {"value_bytes": len(packed), "ratio_packed": put / put_packed}
    yield Measurement("state_put_us", put, "us", ROUNDS, put_raw, goal, extra=extra, baseline_is=_RAW)
    yield Measurement("state_get_us", get, "us", ROUNDS, None, (Goal("value", "<=", 60),))


def _median_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
    return median(times) * 1e6


def _checkpoints(folder: Path) -> Measurement:
    rng = random.Random(1)
    value = bytearray(rng.randbytes(STATE_BYTES))
    changed = STATE_BYTES // 100 // 10
    with Edge.open(folder / "checkpoints") as edge:
        thread = edge.agent("guide").thread()
        started = perf_counter()
        for _ in range(CHECKPOINTS):
            for _ in range(10):
                at = rng.randrange(STATE_BYTES - changed)
                value[at : at + changed] = rng.randbytes(changed)
            thread.put({"state": bytes(value)})
        seconds = perf_counter() - started
        oldest = list(thread.history())[-1].id
        started = perf_counter()
        if thread.get() != {"state": bytes(value)} or len(thread.get(oldest)["state"]) != STATE_BYTES:
            raise AssertionError("a checkpoint does not read back")
    taken = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    return Measurement(
        "checkpoints_mb",
        taken / 1e6,
        "MB",
        1,
        CHECKPOINTS * STATE_BYTES / 1e6,
        (Goal("value", "<=", 40),),
        extra={"put_ms": seconds / CHECKPOINTS * 1e3},
        baseline_is="each checkpoint whole",
    )


def _stall(folder: Path) -> Measurement:
    async def measured(write: Callable[[int, int], Awaitable[Any]]) -> float:
        longest, stop = 0.0, False

        async def watch() -> None:
            nonlocal longest
            last = perf_counter()
            while not stop:
                await asyncio.sleep(0)
                now = perf_counter()
                longest, last = max(longest, now - last), now

        async def writer(number: int) -> None:
            for count in range(PUTS_EACH):
                await write(number, count)

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(writer(number) for number in range(WRITERS)))
        stop = True
        await watcher
        return longest * 1e3

    async def ours() -> float:
        async with await AsyncEdge.open(folder / f"async{os.urandom(4).hex()}") as edge:
            notes = await edge.collection("notes")
            return await measured(lambda number, count: notes.put(f"{number}-{count}", {"n": count}))

    value, baseline = alternate(
        3, lambda: asyncio.run(ours()), lambda: asyncio.run(measured(lambda *_: asyncio.sleep(0)))
    )
    return Measurement(
        "async_stall_ms",
        value,
        "ms",
        3,
        baseline,
        (Goal("value", "<=", 20),),
        baseline_is="the same tasks that write nothing",
    )
