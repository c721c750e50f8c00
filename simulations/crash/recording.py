"""One run of a work under strace, read: what it did, in which order, and between which acknowledgements."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from simulations.crash import strace
from simulations.crash.operations import Operation, Reader
from simulations.crash.strace import Call
from simulations.crash.work import DISK
from simulations.crash.zygote import Zygote

_TOUCHING = {"write", "truncate", "grow", "create", "rename", "link", "unlink", "mkdir", "rmdir", "sync"}


class Recording(NamedTuple):
    """``done`` are the calls that touched ``base/disk`` and what they did, in the order in which they returned.
    ``elsewhere`` are calls of the same kinds (call, its number within its thread) that did something else.
    """

    work: str
    done: tuple[tuple[Call, Operation], ...]
    elsewhere: frozenset[tuple[str, int]]

    def points(self) -> list[tuple[str, int]]:
        """Where the process can be interrupted: (call, its number within its thread), each once, in order."""
        found = {(call.name, call.nth): None for call, operation in self.done if operation.kind in _TOUCHING}
        return list(found)

    def lone_points(self) -> list[tuple[str, int]]:
        """Those of them that no thread reaches with a call that is about something else."""
        return [point for point in self.points() if point not in self.elsewhere]


def record(zygote: Zygote, work: str, base: Path) -> Recording:
    """Raises TraceError; and AssertionError if the work does not run through even when it is left in peace."""
    disk = base / DISK
    disk.mkdir(parents=True)
    trace = base / "trace"
    run = zygote.run(work, base, partial(strace.attach, target=trace))
    assert run.ended, run
    assert not run.errors, run
    calls = list(strace.calls(trace))
    done = tuple(Reader(str(disk)).operations(calls))
    touching = {(call.thread, call.name, call.nth) for call, operation in done if operation.kind in _TOUCHING}
    others = {(call.name, call.nth) for call in calls if (call.thread, call.name, call.nth) not in touching}
    return Recording(work, done, frozenset(others))
