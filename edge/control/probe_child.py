"""The process that probes run in: ``python -m edge.control.probe_child FD``; ``probing`` starts it and kills it.

It reads one line of JSON from its standard input, does the steps in it one after the other, and writes a line for each
to FD: ``{"kind", "measured"}``, or ``{"why"}`` and ends. Its standard input stays open for as long as its parent lives:
when it ends, this process kills its whole group. If the memory of the device runs out, it is the first to go.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.control.model_headers import check_headers
from edge.ports import SystemClock
from sync.errors import AgentDBError

_WHY_CHARACTERS_MAX = 400
_SHOWN = 40
Runner = Callable[[str, Any], Any]


class _Bad(Exception):
    """A probe has found something."""


def main() -> None:
    results = int(sys.argv[1])
    _go_first()
    spec = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _say(results, {"begun": True})
    try:
        _do(results, spec)
    except (_Bad, AgentDBError) as error:
        _say(results, {"why": str(error)[:_WHY_CHARACTERS_MAX]})
    _say(results, {"peak_bytes": _peak_bytes()})
    os._exit(0)  # whatever threads the runner has


def _do(results: int, spec: dict[str, Any]) -> None:
    sys.path[:] = spec["path"]
    run: Runner | None = None
    for step in spec["steps"]:
        kind = step["kind"]
        try:
            if kind == "loads":
                checked = check_headers(Path(spec["folder"]), spec["files"])
                measured: dict[str, Any] = {"headers": checked}
                if spec["runner"] is not None:
                    clock = SystemClock()
                    began = clock.monotonic_us()
                    run = _runner(spec["runner"])
                    run(spec["folder"], step["input"])
                    measured["ms"] = (clock.monotonic_us() - began) / 1000
            elif kind == "golden":
                assert run is not None
                measured = {"off_by": _compare(_plain(run(spec["folder"], step["input"])), step)}
            else:
                assert run is not None
                measured = _latency(run, spec["folder"], step)
        except (_Bad, AgentDBError) as error:
            raise _Bad(f"{kind}: {error}") from error
        except BaseException as error:
            raise _Bad(f"{kind}: {type(error).__name__}: {error}") from error
        _say(results, {"kind": kind, "measured": measured})


def _runner(name: str) -> Runner:
    module, _, function = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise _Bad(f"{name} in [models.runners] is no function")
    run: Runner = found
    return run


def _latency(run: Runner, folder: str, step: dict[str, Any]) -> dict[str, Any]:
    clock, took = SystemClock(), []
    for at in range(step["runs"]):
        given = step["inputs"][at % len(step["inputs"])]
        began = clock.monotonic_us()
        run(folder, given)
        took.append((clock.monotonic_us() - began) / 1000)
    took.sort()
    p95_ms = took[-(-len(took) * 95 // 100) - 1]
    if p95_ms > step["p95_ms"]:
        raise _Bad(f"p95 is {p95_ms:.1f} ms, {step['p95_ms']:g} may be")
    return {"p95_ms": p95_ms, "runs": len(took)}


# -- golden outputs ---------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """As JSON would have it: arrays of numpy and its like by their ``tolist``."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value


def _compare(found: Any, step: dict[str, Any]) -> float:
    """The largest difference of two numbers. Raises _Bad if it is over the tolerance, or something else differs."""
    return _differs(found, step["output"], step["tolerance"], "output")


def _differs(found: Any, right: Any, tolerance: float, where: str) -> float:
    if _is_number(right) and _is_number(found):
        off = abs(found - right)
        if not (off <= tolerance or (math.isinf(right) and found == right)):  # NaN is none
            raise _Bad(f"{where} is {found:.6g} instead of {right:.6g}, {tolerance:g} off may be")
        return float(off)
    if isinstance(right, list) and isinstance(found, list):
        if len(right) != len(found):
            raise _Bad(f"{where} has {len(found)} items instead of {len(right)}")
        pairs = zip(found, right, strict=True)
        return max(
            (_differs(one, other, tolerance, f"{where}[{at}]") for at, (one, other) in enumerate(pairs)), default=0
        )
    if isinstance(right, dict) and isinstance(found, dict):
        if right.keys() != found.keys():
            raise _Bad(f"{where} has other names: {', '.join(sorted(right.keys() ^ found.keys()))[:_SHOWN]}")
        return max(
            (_differs(found[name], right[name], tolerance, f"{where}.{name}") for name in sorted(right)), default=0
        )
    if type(found) is not type(right) or found != right:
        raise _Bad(f"{where} is {str(found)[:_SHOWN]!r} instead of {str(right)[:_SHOWN]!r}")
    return 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# -- this process -----------------------------------------------------------------------------------------------------


def _say(results: int, line: dict[str, Any]) -> None:
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(results, data) :]


def _go_first() -> None:
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _end_with_parent() -> None:
    with suppress(OSError, ValueError):
        while sys.stdin.buffer.read(1):
            pass
    os.killpg(0, signal.SIGKILL)


def _peak_bytes() -> int:
    """What this process had resident at most, as the kernel counted it. A process begins with the count of the one it
    was forked from where only ``getrusage`` tells, so that is the last resort.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


if __name__ == "__main__":
    main()
