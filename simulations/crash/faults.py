"""A disk that is full or fails, at every call that needs it: once, or from then on.

The calls are those at which ``kills`` kills; here they return ENOSPC or EIO, and the work goes on with its next step.
What must hold: an error is one of ours; what it says has failed has changed nothing; when the disk works again, so
does the store, in the same process or in the next. One exception is counted by itself (``typed error, and written``):
a commit that was written and could not be synced is an error and not to be seen in this process, but may be there in
the next. Calls that other things make as well (``write`` wakes LanceDB's threads, ``openat`` also reads) are only
made to fail once.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from simulations.crash import strace
from simulations.crash.judge import RETURNED, judged, scratch
from simulations.crash.recording import record
from simulations.crash.results import Result, Tally
from simulations.crash.steps import RECORDS, State, Step, change
from simulations.crash.work import DISK, WORKS
from simulations.crash.zygote import Hung, Run, Zygote

QUICK, FULL = 1, 150
_LASTING = frozenset({"pwrite64", "fsync", "fdatasync", "ftruncate"})
_FAILING = _LASTING | {"write", "writev", "openat", "mkdir", "rename", "renameat2", "link", "linkat", "fallocate"}
# What a failed disk may be called, and what follows from a write that failed: its record is not there.
_OF_THE_DISK = frozenset({"disk-full", "storage", "invalid-config", "unreachable"})
_FOLLOWING = frozenset({"not-found"})


_PUSHING = RECORDS | {"join", "second"}  # steps of the cloud's work after which it has all that the device has


class Fault(NamedTuple):
    call: str
    nth: int
    error: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.error} at {self.call} {self.nth}{' and from then on' if self.lasting else ''}"


def run(pool: ProcessPoolExecutor, *, jobs: int, limit: int | None, seed: int) -> Iterator[Result]:
    with ExitStack() as stack:
        zygotes: SimpleQueue[Zygote] = SimpleQueue()
        for _ in range(jobs):
            zygotes.put(stack.enter_context(Zygote()))
        for work in ("device", "cloud"):
            folder = stack.enter_context(scratch())
            first = zygotes.get()
            points = record(first, work, folder / "recorded").lone_points()
            points = [point for point in points if point[0] in _FAILING]
            zygotes.put(first)
            for what, error, lasting in (
                ("disk full once", "ENOSPC", False),
                ("disk full from then on", "ENOSPC", True),
                ("I/O error once", "EIO", False),
                ("I/O errors from then on", "EIO", True),
            ):
                every = [Fault(*point, error, lasting) for point in points if not lasting or point[0] in _LASTING]
                chosen = every if limit is None else random.Random(seed).sample(every, min(limit, len(every)))
                tally = Tally("faults", work, what, len(chosen))
                _all(pool, zygotes, jobs, work, folder / what, chosen, tally)
                yield tally.result(len(every))


def _all(
    pool: ProcessPoolExecutor,
    zygotes: SimpleQueue[Zygote],
    jobs: int,
    work: str,
    folder: Path,
    faults: Sequence[Fault],
    tally: Tally,
) -> None:
    def one(number: int) -> tuple[str, list[str]]:
        zygote = zygotes.get()
        try:
            return _fail(pool, zygote, work, folder / str(number), faults[number])
        except Hung as error:
            return "hung", [str(error)]
        finally:
            zygotes.put(zygote)

    with ThreadPoolExecutor(jobs) as threads:
        for number, (outcome, problems) in enumerate(threads.map(one, range(len(faults)))):
            tally.count(outcome, problems, str(faults[number]))


def _fail(pool: ProcessPoolExecutor, zygote: Zygote, work: str, base: Path, fault: Fault) -> tuple[str, list[str]]:
    """The outcome of one run on a failing disk, and what was wrong during it or after it."""
    (base / DISK).mkdir(parents=True)
    trace = base / "trace"
    inject = f"{fault.call}:error={fault.error}:when={fault.nth}{'+' if fault.lasting else ''}"
    run = zygote.run(work, base, partial(strace.attach, target=trace, inject=inject), tolerant=True)
    hits = strace.injected(trace)
    inside = [line for line in hits if f"{base / DISK}" in line]
    if not inside or (len(inside) < len(hits) and not fault.lasting):
        return "not met", []  # another thread made that call, and for something else than the store
    steps = WORKS[work](base).steps
    problems = _unlike_us(run, steps, len(hits), lasting=fault.lasting)
    outcome = "typed error" if run.errors else "nothing to tell"
    states = _states(run, steps)
    if work == "device":
        how = {"heals": True, "copies": False, "returned": _unsynced(run, steps, states[-1], fault)}
        problems += pool.submit(judged, work, base, states[-1:], how).result()
        if RETURNED in problems:
            problems.remove(RETURNED)
            outcome = "typed error, and written"
    else:
        pushed = max((number for number in run.acknowledged if steps[number - 1].kind in _PUSHING), default=0)
        least = sum(number <= pushed for number in run.changed)
        how = {"archives": states, "made": 1 in run.acknowledged}
        problems += pool.submit(judged, work, base, states[least:], how).result()
    shutil.rmtree(base)
    return outcome, problems


def _unsynced(run: Run, steps: Sequence[Step], state: State, fault: Fault) -> tuple[State, ...]:
    """What a store may be when it is next opened after a commit that was written and could not be synced: nobody can
    take it back, and whether the disk has it nobody knows. Only the last one: each is written over the one before. Who
    finds the store closed and cannot open it writes nothing.
    """
    failed = [number for number, code in run.errors.items() if code in _OF_THE_DISK and number <= len(steps)]
    closed = min((number for number in failed if steps[number - 1].kind == "open"), default=len(steps) + 1)
    written = [steps[number - 1] for number in failed if number < closed and steps[number - 1].kind in RECORDS]
    if not fault.call.endswith("sync") or not written:
        return ()
    last = written[-1]
    possible = last.kind in ("put", "batch") or last.key in state
    return (change(state, last),) if possible else ()


def _states(run: Run, steps: Sequence[Step]) -> tuple[State, ...]:
    """The state of the records before and after each change that was made."""
    states: list[State] = [{}]
    for number in run.changed:
        states.append(change(states[-1], steps[number - 1]))
    return tuple(states)


def _unlike_us(run: Run, steps: Sequence[Step], hits: int, *, lasting: bool) -> list[str]:
    """What no store of ours does on a disk that fails."""
    problems = [f"not an error of ours: {run.bad}"] if run.bad else []
    if not run.ended:
        problems.append(f"it ended by itself, with status {run.status}")
    failed = [number for number, code in run.errors.items() if code in _OF_THE_DISK]
    for number, code in run.errors.items():
        kind = steps[number - 1].kind if number <= len(steps) else "the end"
        if code not in _OF_THE_DISK | _FOLLOWING:
            problems.append(f"{kind} (step {number}) failed with {code!r}")
    if not lasting and len(failed) > 2 * hits:
        problems.append(f"the disk failed {hits} times, and the steps {failed} failed")
    return problems
