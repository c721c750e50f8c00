"""``python -m simulations.benchmarks [--only name,name] [--report]``: one JSON line for each measurement.

The same lines go to ``build/bench.jsonl``, anew with each invocation. A measurement that misses its target says so
(``"met": false``) and is no failure: benchmarks are not timed tests. A benchmark that breaks is one: the others still
run, and the exit code is 1. ``--report`` writes the figures of a complete run to ``docs/BENCHMARKS.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from time import perf_counter
from typing import Any

from simulations.benchmarks import registry, report
from simulations.processes import ROOT

OUTPUT = ROOT / "build" / "bench.jsonl"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulations.benchmarks", description="Measure it here, as JSON.")
    parser.add_argument("--only", metavar="NAME,NAME", help=f"one or more of: {', '.join(registry.NAMES)}")
    parser.add_argument("--report", action="store_true", help="write docs/BENCHMARKS.md from this run (of everything)")
    options = parser.parse_args(arguments)
    if options.only and options.report:
        parser.error("--report is about everything: leave out --only")
    try:
        chosen = registry.select(options.only)
    except LookupError as error:
        parser.error(str(error.args[0]))
    busy = os.getloadavg()[0]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text("")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that scratch directories are removed
    try:
        broken = [module for module, wanted in chosen.items() if not _run(module, wanted)]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
        return 1
    if options.report:
        print(f"written: {report.write(_lines(), busy)}", file=sys.stderr)
    return 0


def _run(module: str, wanted: frozenset[str]) -> bool:
    """Whether it ran through. Its lines are out as soon as they are known."""
    started = perf_counter()
    print(f"{module} …", file=sys.stderr, flush=True)
    try:
        for measurement in registry.run(module, wanted):
            line = json.dumps(measurement.line())
            print(line, flush=True)
            with OUTPUT.open("a") as file:
                file.write(line + "\n")
    except Exception:  # noqa: BLE001 - one broken benchmark must not hide the figures of the others
        traceback.print_exc()
        return False
    print(f"{module}: {perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return True


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUTPUT.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
