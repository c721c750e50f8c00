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
    """``done`` are the calls that touched ``base/disk`` and what they did, in the order in which they returned."""

    work: str
    done: tuple[tuple[Call, Operation], ...]

    def points(self) -> list[tuple[str, int]]:
        """Where the process can be interrupted: (call, its number within its thread), each once, in order."""
        found = {(call.name, call.nth): None for call, operation in self.done if operation.kind in _TOUCHING}
        return list(found)


def record(zygote: Zygote, work: str, base: Path) -> Recording:
    """Raises TraceError; and AssertionError if the work does not run through even when it is left in peace."""
    disk = base / DISK
    disk.mkdir(parents=True)
    trace = base / "trace"
    run = zygote.run(work, base, partial(strace.attach, target=trace))
    assert run.ended, run
    assert not run.errors, run
    return Recording(work, tuple(Reader(str(disk)).operations(strace.calls(trace))))
