"""What a part of the crash tests found, and how it is shown; and the processes in which states are judged."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

_VIOLATIONS_SHOWN = 20
_IN_FLIGHT = 8  # states handed out for each process that judges them: they lie in memory


class Result(NamedTuple):
    """``what`` was done to ``store`` ``cases`` times, out of ``possible``; ``outcomes`` counts how they ended."""

    part: str
    store: str
    what: str
    cases: int
    possible: int
    outcomes: dict[str, int]
    violations: tuple[str, ...] = ()
    seconds: float = 0.0

    def line(self) -> dict[str, Any]:
        """As it is printed with ``--json``."""
        return {
            **self._asdict(),
            "violations": len(self.violations),
            "violation": list(self.violations[:_VIOLATIONS_SHOWN]),
            "seconds": round(self.seconds, 1),
        }


class Tally:
    """Counts while a part runs, and says on stderr how far it is."""

    def __init__(self, part: str, store: str, what: str, total: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.violations: list[str] = []
        self.cases = 0
        self._names = part, store, what
        self._total = total
        self._started = self._said = time.monotonic()

    def count(self, outcome: str, problems: Iterable[str] = (), where: str = "") -> None:
        """One case. With problems it is a violation, whatever its outcome would have been."""
        self.cases += 1
        found = [f"{where}: {problem}" if where else problem for problem in problems]
        for violation in found[: max(0, _VIOLATIONS_SHOWN - len(self.violations))]:
            print(f"VIOLATION {' '.join(self._names)}: {violation}", file=sys.stderr, flush=True)
        self.violations += found
        self.outcomes["violation" if found else outcome] += 1
        now = time.monotonic()
        if now - self._said > 5 or self.cases == self._total:
            self._said = now
            print(
                f"{' '.join(self._names)}: {self.cases} of {self._total}, {self.outcomes['violation']} violations",
                file=sys.stderr,
                flush=True,
            )

    def result(self, possible: int | None = None) -> Result:
        seconds = time.monotonic() - self._started
        return Result(
            *self._names,
            self.cases,
            self._total if possible is None else possible,
            dict(sorted(self.outcomes.items())),
            tuple(self.violations),
            seconds,
        )


@contextmanager
def judges(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of their own, never forked: LanceDB has threads."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def spread(
    pool: ProcessPoolExecutor, jobs: int, work: Any, cases: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[Any, Any]]:
    """(case, what ``work(*case)`` returned), as they are done; only so many cases are drawn as are under way."""
    running: dict[Future[Any], tuple[Any, ...]] = {}
    for case in cases:
        running[pool.submit(work, *case)] = case
        if len(running) >= jobs * _IN_FLIGHT:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def table(results: Sequence[Result]) -> str:
    """For people, as Markdown: a row for each result."""
    rows = ["| part | store | what | cases | outcomes | violations |", "|---|---|---|---:|---|---:|"]
    for result in results:
        outcomes = ", ".join(f"{name} {count:,}" for name, count in result.outcomes.items() if name != "violation")
        cases = f"{result.cases:,}" if result.cases == result.possible else f"{result.cases:,} of {result.possible:,}"
        rows.append(
            f"| {result.part} | {result.store} | {result.what} | {cases} | {outcomes} | {len(result.violations):,} |"
        )
    return "\n".join(rows)
