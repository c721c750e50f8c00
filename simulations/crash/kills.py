"""SIGKILL at every system call that changes the store's files.

A recorded run tells which calls there are. Each is met in a run of its own, in which strace kills the process when it
enters that call; so the state before each call is tried, and with the next call the state after it. Then the store is
opened by another process and judged. strace counts the calls of each thread by themselves: where LanceDB's threads
divide their work otherwise than in the recorded run, a call may be missed, and is tried again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from simulations.crash import strace
from simulations.crash.judge import judged, scratch
from simulations.crash.recording import record
from simulations.crash.results import Result, Tally
from simulations.crash.work import DISK
from simulations.crash.zygote import Hung, Zygote

QUICK, FULL = 10, None
_TRIES = 3


def run(pool: ProcessPoolExecutor, *, jobs: int, limit: int | None, seed: int) -> Iterator[Result]:
    with ExitStack() as stack:
        zygotes: SimpleQueue[Zygote] = SimpleQueue()
        for _ in range(jobs):
            zygotes.put(stack.enter_context(Zygote()))
        for work in ("device", "cloud"):
            folder = stack.enter_context(scratch())
            first = zygotes.get()
            points = record(first, work, folder / "recorded").points()
            zygotes.put(first)
            chosen = points if limit is None else random.Random(seed).sample(points, min(limit, len(points)))
            yield _all(pool, zygotes, jobs, work, folder, chosen)._replace(possible=len(points))


def _all(
    pool: ProcessPoolExecutor,
    zygotes: SimpleQueue[Zygote],
    jobs: int,
    work: str,
    folder: Path,
    points: Sequence[tuple[str, int]],
) -> Result:
    tally = Tally("kills", work, "SIGKILL at a call", len(points))

    def one(number: int) -> tuple[str, list[str]]:
        zygote = zygotes.get()
        try:
            return _kill(pool, zygote, work, folder / str(number), *points[number])
        finally:
            zygotes.put(zygote)

    with ThreadPoolExecutor(jobs) as threads:
        for number, (outcome, problems) in enumerate(threads.map(one, range(len(points)))):
            tally.count(outcome, problems, f"{points[number][0]} {points[number][1]}")
    return tally.result()


def _kill(
    pool: ProcessPoolExecutor, zygote: Zygote, work: str, base: Path, call: str, nth: int
) -> tuple[str, list[str]]:
    """The outcome of one kill, and what was wrong after it."""
    inject = f"{call}:signal=SIGKILL:when={nth}"
    for attempt in range(_TRIES):
        place = base / str(attempt)
        (place / DISK).mkdir(parents=True)
        try:
            run = zygote.run(work, place, partial(strace.attach, inject=inject))
        except Hung as error:
            return "hung", [str(error)]
        if run.bad or run.errors or run.acknowledged != tuple(range(1, len(run.acknowledged) + 1)):
            return "ended", [f"it was not killed, but failed: {run}"]
        if run.killed:
            problems = pool.submit(judged, work, place, len(run.acknowledged), {}).result()
            return "as acknowledged", problems
    return "not met", []
