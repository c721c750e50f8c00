"""Probes: whether a model does what its manifest says, measured in a process of its own (ADR 25).

The process (``probe_child``) is a session of its own and is killed with all it has started: at its deadline, when it
takes more memory than it may, when the store is closed, and when this process ends. It runs the agent's own function,
``[models.runners]`` in edge.toml: ``run(path, input) -> output``; a manifest brings no code. What always holds: nothing
of a model, and no code that reads it, comes into the agent's process; no network is needed; the first probe that fails
ends it.

Memory is bounded by what is resident, not by address space: a model that is mapped, and CUDA, take address space by
tens of gigabytes that are no memory. The kernel's own high-water mark decides (VmHWM, of the process and what it
started), so nothing is missed between two looks; looking is for killing in time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from edge.ports import SystemClock
from edge.storage.durable import storage_error
from sync.models import Errors, Golden, Latency, Loads, Manifest, Memory

LOOKS_MS = 20
_LOOKS_FOR_ALL = 5
_GOLDEN_MS = 60_000
_LATENCY_FACTOR = 10  # of what its runs may take; then it is too slow whatever the p95 would be
_LATENCY_SLACK_MS = 10_000
_START_MS = 60_000  # an interpreter, on a busy device
_STDERR_BYTES = 4_000
_PARTS_MAX = 64  # of what a pipe holds
_LINE_BYTES_MAX = 64 << 10
_CHILD = "edge.control.probe_child"


class Outcome(NamedTuple):
    """``why``: what was wrong, empty if nothing was. ``measured``: by the kind of probe, what was found; under
    ``unprobed`` the kinds that could not be tried without a runner.
    """

    why: str
    measured: dict[str, Any]


def run_probes(folder: Path, manifest: Manifest, runner: str | None, stopped: Callable[[], bool]) -> Outcome | None:
    """Try what is in ``folder``. ``runner``: ``module:function``, or None, and then only the headers of files whose
    format is known are read. None if ``stopped()``. Blocks. Raises StorageError if no process can be had.
    """
    steps = [*_steps(manifest, runner)]
    spec = {
        "folder": str(folder),
        "files": [file.path for file in manifest.files],
        "runner": runner,
        "path": [entry or str(Path.cwd()) for entry in sys.path],
        "steps": [{name: value for name, value in step.items() if name != "within_ms"} for step in steps],
    }
    peak_max = next((probe.peak_bytes for probe in manifest.probes if isinstance(probe, Memory)), None)
    process = _Process(spec)
    try:
        why = process.watch(steps, peak_max, stopped)
    finally:
        process.end()
    if why is None:
        return None
    measured = process.measured
    if process.peak_bytes:
        measured["memory"] = {"peak_bytes": process.peak_bytes}
    if runner is None and (left := sorted({_kind(probe) for probe in manifest.probes} - {"loads", "errors"})):
        measured["unprobed"] = left
    return Outcome(why, measured)


def _steps(manifest: Manifest, runner: str | None) -> Iterator[dict[str, Any]]:
    """What the child is to do, in this order, and how long each may take: ``loads`` always comes first."""
    golden = [probe for probe in manifest.probes if isinstance(probe, Golden)]
    within_ms = next((probe.within_ms for probe in manifest.probes if isinstance(probe, Loads)), Loads().within_ms)
    yield {"kind": "loads", "input": golden[0].input if golden else None, "within_ms": within_ms}
    if runner is None:
        return
    for probe in golden:
        yield {
            "kind": "golden",
            "input": probe.input,
            "output": probe.output,
            "tolerance": probe.tolerance,
            "within_ms": _GOLDEN_MS,
        }
    for latency in manifest.probes:
        if isinstance(latency, Latency):
            within_ms = int(_LATENCY_FACTOR * latency.runs * latency.p95_ms) + _LATENCY_SLACK_MS
            yield {
                "kind": "latency",
                "inputs": [probe.input for probe in golden] or [None],
                "runs": latency.runs,
                "p95_ms": latency.p95_ms,
                "within_ms": within_ms,
            }


def _kind(probe: Loads | Golden | Latency | Memory | Errors) -> str:
    return str(type(probe).__struct_config__.tag)


class _Process:
    """The child. It writes a line for each step to a pipe of its own: what runs in it may print."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.measured: dict[str, Any] = {}
        self.peak_bytes = 0
        self._clock = SystemClock()
        self._buffer = b""
        self._said = b""
        self._looks = 0
        self._under_way = "loads"
        ours, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-m", _CHILD, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(spec["path"])},
                start_new_session=True,
            )
        except OSError as error:
            os.close(ours)
            raise storage_error("starting a process for probes", error) from error
        finally:
            os.close(theirs)
        self._results = ours
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._stdin, self._stderr = self._process.stdin, self._process.stderr
        with suppress(BrokenPipeError):  # it has ended: its status says how
            self._stdin.write(json.dumps(spec).encode() + b"\n")
            self._stdin.flush()

    def watch(self, steps: list[dict[str, Any]], peak_max: int | None, stopped: Callable[[], bool]) -> str | None:
        """Until it has done every step, or one was not well. Returns what was wrong, or ""; None if ``stopped()``."""
        if (line := self._line(_START_MS, peak_max, stopped)) is not None and line.get("begun"):
            for step in steps:
                self._under_way = step["kind"]
                line = self._line(step["within_ms"], peak_max, stopped)
                if line is None or "why" in line:
                    break
                self._measured(line["kind"], line["measured"])
            else:
                line = self._line(_START_MS, peak_max, stopped)  # its high-water mark, at the end
        return None if line is None else str(line.get("why", ""))

    def _measured(self, kind: str, measured: dict[str, Any]) -> None:
        """Of several golden outputs, the one that is off the most."""
        before = self.measured.get(kind)
        if kind != "golden" or before is None or measured["off_by"] > before["off_by"]:
            self.measured[kind] = measured

    def _line(self, within_ms: int, peak_max: int | None, stopped: Callable[[], bool]) -> dict[str, Any] | None:
        """What it says next, or what is wrong with it, as ``why``; None if ``stopped()``."""
        started = self._clock.monotonic_ms()
        handles = [self._results, self._stderr.fileno()]
        while b"\n" not in self._buffer:
            if stopped():
                return None
            ready, _, _ = select.select(handles, [], [], LOOKS_MS / 1000)
            if self._stderr.fileno() in ready:
                part = os.read(self._stderr.fileno(), 1 << 16)
                self._said = (self._said + part)[-_STDERR_BYTES:]
                if not part:
                    handles.remove(self._stderr.fileno())
            self._look()
            if peak_max is not None and self.peak_bytes > peak_max:
                return {"why": f"memory: took {self.peak_bytes:,} bytes, {peak_max:,} may be"}
            if self._results in ready:
                part = os.read(self._results, 1 << 16)
                self._buffer += part
                if not part or len(self._buffer) > _LINE_BYTES_MAX:
                    return {"why": self._how_it_ended()}
            if b"\n" not in self._buffer and self._clock.monotonic_ms() - started > within_ms:
                return {"why": f"{self._under_way}: not done within {within_ms:,} ms"}
        text, _, self._buffer = self._buffer.partition(b"\n")
        try:
            line: dict[str, Any] = json.loads(text)
        except ValueError:
            return {"why": f"{self._under_way}: the probing process wrote {text[:80]!r}"}
        self.peak_bytes = max(self.peak_bytes, int(line.get("peak_bytes", 0)))
        if "why" not in line and peak_max is not None and self.peak_bytes > peak_max:
            return {"why": f"memory: took {self.peak_bytes:,} bytes, {peak_max:,} may be"}
        return line

    def _look(self) -> None:
        """At its own memory each time, seldomer at that of what it has started: for that all processes are listed."""
        own = _peak_bytes(str(self._process.pid))
        self._looks += 1
        if self._looks % _LOOKS_FOR_ALL == 0:
            own = group_peak_bytes(self._process.pid)
        self.peak_bytes = max(self.peak_bytes, own)

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(LOOKS_MS * 50 / 1000)
        except subprocess.TimeoutExpired:
            return f"{self._under_way}: the probing process closed its pipe"
        self._kill()
        self._hear()
        last = self._said.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        return f"{self._under_way}: the process ended by {how} {last[0]}".rstrip()

    def _hear(self) -> None:
        """What is in the pipe now: who has left the group may have it open for ever."""
        handle = self._stderr.fileno()
        with suppress(OSError):
            for _ in range(_PARTS_MAX):
                if not select.select([handle], [], [], 0)[0] or not (part := os.read(handle, 1 << 16)):
                    return
                self._said = (self._said + part)[-_STDERR_BYTES:]

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """It and all that it has started are gone when this returns, but for what has left its session."""
        self._kill()
        self._process.wait()
        for pipe in (self._stdin, self._stderr):
            with suppress(OSError):
                pipe.close()
        os.close(self._results)


def group_peak_bytes(group: int) -> int:
    """The most that the processes of a session had resident at a time, each by itself, added; 0 where the system does
    not say.
    """
    total = 0
    for entry in _processes():
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == group:  # its session
                total += _peak_bytes(entry)
    return total


def _processes() -> list[str]:
    with suppress(OSError):
        return [name for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - a name is what is wanted
    return []


def _peak_bytes(entry: str) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{entry}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
