"""Many seeds on several cores, and what they come to."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from simulations.fleet.disk import mounted
from simulations.fleet.fleet import Outcome, run

CHUNK = 4
YEAR_MS = 365.25 * 86_400_000
_stack = ExitStack()


@dataclass
class Tally:
    """The sum of runs."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    scenarios: Counter[str] = field(default_factory=Counter)
    device_ms: int = 0
    heal_ms: list[int] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.counts.update(outcome.counts)
        self.scenarios[outcome.plan.scenario] += 1
        self.device_ms += outcome.virtual_ms * outcome.plan.devices * outcome.plan.fleets
        if outcome.held:
            self.heal_ms.append(outcome.heal_ms)
        else:
            self.failed.append(outcome)

    @property
    def device_years(self) -> float:
        return self.device_ms / YEAR_MS

    def as_json(self) -> dict[str, Any]:
        """For machines; ``heal_ms_max`` is the virtual time that the slowest fleet needed to become equal."""
        return {
            "seeds": self.seeds,
            "violations": len(self.failed),
            "converged": len(self.heal_ms),
            "device_years": round(self.device_years, 3),
            "heal_ms_max": max(self.heal_ms, default=0),
            "scenarios": dict(sorted(self.scenarios.items())),
            "counts": dict(sorted(self.counts.items())),
            "failed": [
                {"seed": one.seed, "scenario": one.plan.scenario, "violation": one.violation, "broken": one.broken}
                for one in self.failed
            ],
        }


def sweep(
    seeds: Sequence[int], *, jobs: int, scenario: str = "", on_outcome: Callable[[Outcome], None] | None = None
) -> Tally:
    """Run them all. Which process runs a seed does not matter: a run depends on nothing but its seed."""
    tally = Tally()
    for outcome in _outcomes(seeds, jobs, scenario):
        tally.add(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    tally.failed.sort(key=lambda one: one.seed)
    return tally


def _outcomes(seeds: Sequence[int], jobs: int, scenario: str) -> Iterator[Outcome]:
    if jobs <= 1:
        with mounted():
            yield from (_light(run(seed, scenario)) for seed in seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_mount) as pool:
        chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
        for done in as_completed([pool.submit(_chunk, chunk, scenario) for chunk in chunks]):
            yield from done.result()


def _mount() -> None:
    """For the life of a worker."""
    _stack.enter_context(mounted())


def _chunk(seeds: Iterable[int], scenario: str) -> list[Outcome]:
    return [_light(run(seed, scenario)) for seed in seeds]


def _light(outcome: Outcome) -> Outcome:
    if outcome.held:
        outcome.tail.clear()
    return outcome
