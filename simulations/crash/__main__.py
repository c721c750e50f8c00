"""``python -m simulations.crash PART``: interrupt stores, and see whether they are what was acknowledged."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from simulations.crash import report, strace
from simulations.crash.results import Result, judges, table

_TRACED = {"kills", "power", "faults"}


def main() -> int:
    options = _options()
    parts = {"all": report.PARTS, "none": ()}.get(options.part, (options.part,))
    if _TRACED.intersection(parts):
        strace.require()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", file=sys.stderr, flush=True)
    results: list[Result] = report.read(options.also)
    for result in run(parts, jobs=options.jobs, quick=options.quick, limit=options.limit, seed=seed):
        results.append(result)
        if options.json:
            print(json.dumps(result.line()), flush=True)
    if not options.json:
        print(table(results))
    if options.report:
        print(f"written: {report.write(results)}", file=sys.stderr)
    return 1 if any(result.violations for result in results) else 0


def run(parts: tuple[str, ...], *, jobs: int, quick: bool, limit: int | None, seed: int) -> Iterator[Result]:
    """What each part finds. ``limit``: cases for each store; ``quick``: as many as a test has time for."""
    with judges(jobs) as pool:
        for part in parts:
            module = import_module(f"simulations.crash.{part}")
            most = limit if limit is not None else (module.QUICK if quick else module.FULL)
            yield from module.run(pool, jobs=jobs, limit=most, seed=seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulations.crash", description=__doc__)
    parser.add_argument("part", choices=(*report.PARTS, "all", "none"), help="none: only what --also names")
    parser.add_argument("--json", action="store_true", help="one JSON line for each result, instead of a table")
    parser.add_argument("--quick", action="store_true", help="a random sample, a few seconds long")
    parser.add_argument("--limit", type=int, help="cases for each store")
    parser.add_argument("--jobs", type=int, default=2, help="processes that work at the same time")
    parser.add_argument("--seed", type=int, help="of the random choices; it is printed")
    parser.add_argument("--report", action="store_true", help="write docs/CRASH_TESTS.md from this run")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="--json lines of other parts, for the report")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
