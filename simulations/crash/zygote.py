"""A process that has imported everything and forks a child for each run, and the parent's side of it.

A run under strace needs a fresh process, and a fresh process needs 1.5 s to import LanceDB. The zygote imports it once
and never uses it, so that a fork is as good as new. What is done in a run is told over a socket, message by message, as
it is acknowledged; the parent is the witness, and it keeps what it has heard when the child is killed.

The messages: ``pid N``, then the parent says ``go``; ``did N`` when a step has changed records, ``ack N`` for each step
that is done; ``err N CODE`` for one that raised an
AgentDBError, ``bad N TEXT`` for one that raised anything else; ``end``.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

from simulations.crash.operations import ACK
from simulations.crash.strace import TraceError
from simulations.crash.work import WORKS
from simulations.processes import environment
from sync.errors import AgentDBError

RUN_S_MAX = 30.0
_PR_SET_PTRACER = 0x59616D61
_MESSAGE_BYTES = 8192
_NEEDED = ("lancedb", "numpy", "pyarrow.compute", "edge.link.transport", "edge.storage.exact", "edge.storage.tables")
_PATIENCE_MS = 250  # under strace, a sync takes a tenth of it


class Run(NamedTuple):
    """What the parent heard. ``status`` is as ``os.waitpid`` gives it; ``errors``: step -> code."""

    changed: tuple[int, ...]
    acknowledged: tuple[int, ...]
    errors: dict[int, str]
    bad: str
    ended: bool
    status: int

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


class Hung(Exception):
    """A run did not end in time, and was killed."""


class Zygote:
    """Use it as a context manager, from one thread at a time."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "simulations.crash.zygote", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=environment(),
                start_new_session=True,
            )
        self._ours.settimeout(RUN_S_MAX)
        assert self._ours.recv(_MESSAGE_BYTES) == b"ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ours.close()
        self._process.wait(10)

    def run(
        self,
        work: str,
        base: Path,
        watch: Callable[[int], subprocess.Popen[str] | None] = lambda _pid: None,
        *,
        tolerant: bool = False,
    ) -> Run:
        """One run of a work at ``base``. ``watch`` attaches strace to the process before it begins. ``tolerant``: go on
        after a step that raised. Raises Hung.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                request = json.dumps({"work": work, "base": str(base), "tolerant": tolerant}).encode()
                socket.send_fds(self._ours, [request], [theirs.fileno()])
            ours.settimeout(RUN_S_MAX)
            pid = int(ours.recv(_MESSAGE_BYTES).split()[1])
            tracer: subprocess.Popen[str] | None = None
            try:
                tracer = watch(pid)
                ours.send(b"go")
                heard = _listen(ours)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._ours.recv(_MESSAGE_BYTES)
                raise Hung(f"{work} in {base} did nothing for {RUN_S_MAX:.0f} s") from None
            except TraceError:
                os.kill(pid, signal.SIGKILL)
                self._ours.recv(_MESSAGE_BYTES)
                raise
            finally:
                if tracer is not None:
                    assert tracer.stderr is not None
                    tracer.stderr.close()
                    tracer.wait(RUN_S_MAX)
            status = int(self._ours.recv(_MESSAGE_BYTES))
        return heard._replace(status=status)


def _listen(link: socket.socket) -> Run:
    changed: list[int] = []
    acknowledged: list[int] = []
    errors: dict[int, str] = {}
    bad, ended = "", False
    while message := link.recv(_MESSAGE_BYTES).decode("utf-8", "replace"):
        what, _, rest = message.partition(" ")
        number, _, text = rest.partition(" ")
        if what == "ack":
            acknowledged.append(int(number))
        elif what == "did":
            changed.append(int(number))
        elif what == "err":
            errors[int(number)] = text
        elif what == "bad":
            bad = bad or f"step {number}: {text}"
        else:
            ended = True
    return Run(tuple(changed), tuple(acknowledged), errors, bad, ended, 0)


# -- the zygote's side ------------------------------------------------------------------------------------------------


def main() -> None:
    for name in _NEEDED:
        import_module(name)  # and nothing of it is used in this process
    logging.disable()  # that the disk fails is known
    warnings.simplefilter("ignore")  # lancedb's, that forking is experimental: nothing of it runs here
    orders = socket.socket(fileno=int(sys.argv[1]))
    orders.send(b"ready")
    while True:
        request, handles, _, _ = socket.recv_fds(orders, _MESSAGE_BYTES, 1)
        if not request:
            return
        link = socket.socket(fileno=handles[0])
        child = os.fork()
        if child == 0:
            orders.close()
            _child(link, **json.loads(request))
        link.close()
        _, status = os.waitpid(child, 0)
        try:
            orders.send(str(status).encode())
        except BrokenPipeError:
            return  # nobody is left to be told


def _child(link: socket.socket, work: str, base: str, *, tolerant: bool) -> None:
    try:
        _allow_tracing()
        link.send(f"pid {os.getpid()}".encode())
        if link.recv(_MESSAGE_BYTES) == b"go":
            _do(link, work, Path(base), tolerant=tolerant)
            link.send(b"end")
    finally:
        os._exit(0)


def _do(link: socket.socket, name: str, base: Path, *, tolerant: bool) -> None:
    work = WORKS[name](base)
    if tolerant:
        work.patience_ms = _PATIENCE_MS
    for number, step in enumerate(work.steps, 1):
        work.changed = partial(link.send, f"did {number}".encode())
        try:
            work.do(step)
        except Exception as error:  # noqa: BLE001 - told to the parent, who judges
            if not _report(link, number, error) or not tolerant:
                return
        else:
            link.send(ACK + str(number).encode())
    try:
        work.close()
    except Exception as error:  # noqa: BLE001 - told to the parent, who judges
        _report(link, len(work.steps) + 1, error)


def _report(link: socket.socket, number: int, error: Exception) -> bool:
    """Whether it was one of ours."""
    if isinstance(error, AgentDBError):
        link.send(f"err {number} {error.code}".encode())
        return True
    text = "".join(traceback.format_exception(error))[-4000:]
    link.send(f"bad {number} {text}".encode())
    return False


def _allow_tracing() -> None:
    """Where only a parent may trace (Yama), strace is not our parent. Elsewhere the call does nothing."""
    import ctypes  # noqa: PLC0415

    libc: Any = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)


if __name__ == "__main__":
    main()
