"""How things are measured here: medians of rounds in which the product and its baseline take turns.

The machine is not ours alone: disks and neighbours change from second to second. So value and baseline are measured in
short, alternating rounds, the order of a round is turned each time, and the medians of both are compared. A single good
or bad second touches neither.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from simulations.processes import environment

_LAUNCHER = Path(__file__).with_name("launcher.py")


class Goal(NamedTuple):
    """``what`` is "value", "ratio" or one of the extra figures; ``sign`` is "<=" or ">="."""

    what: str
    sign: str
    bound: float

    def holds(self, figures: dict[str, Any]) -> bool:
        figure = figures[self.what]
        return figure is not None and (figure <= self.bound if self.sign == "<=" else figure >= self.bound)

    def __str__(self) -> str:
        return f"{self.what} {self.sign} {self.bound:,g}"


class Measurement(NamedTuple):
    """``ratio`` is value / baseline. ``goals`` must all hold, or any of them if ``any_goal``. ``extra``: further
    figures, ``baseline_is``: what the baseline is, in a few words for the report.
    """

    name: str
    value: float
    unit: str
    runs: int
    baseline: float | None = None
    goals: tuple[Goal, ...] = ()
    any_goal: bool = False
    extra: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    baseline_is: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    def line(self) -> dict[str, Any]:
        """As it is printed: figures to four significant digits."""
        figures = {"value": self.value, "ratio": self.ratio, **self.extra}
        out: dict[str, Any] = {
            "name": self.name,
            "value": shown(self.value),
            "unit": self.unit,
            "baseline": shown(self.baseline),
            "ratio": shown(self.ratio),
            "runs": self.runs,
            **{name: shown(figure) for name, figure in self.extra.items()},
        }
        if self.baseline_is:
            out["baseline_is"] = self.baseline_is
        if self.goals:
            held = [goal.holds(figures) for goal in self.goals]
            out["target"] = (" or " if self.any_goal else " and ").join(map(str, self.goals))
            out["met"] = any(held) if self.any_goal else all(held)
        return out


def shown(figure: Any) -> Any:
    """Four significant digits: what lies beyond is noise."""
    if not isinstance(figure, float):
        return figure
    rounded = float(f"{figure:.4g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) >= 1000 else rounded


def timed(action: Callable[[], object]) -> float:
    """Seconds, without a garbage collection from before in them."""
    gc.collect()
    started = perf_counter()
    action()
    return perf_counter() - started


def alternate(rounds: int, *actions: Callable[[], float]) -> list[float]:
    """Run each action once a round, in turning order; the medians of what they returned, but for a first round."""
    results: list[list[float]] = [[] for _ in actions]
    for number in range(rounds + 1):
        turn = list(enumerate(actions))
        for place, action in turn if number % 2 else reversed(turn):
            result = action()
            if number:
                results[place].append(result)
    return [median(values) for values in results]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on a real disk, removed afterwards. ``TMPDIR`` chooses which disk is measured."""
    with tempfile.TemporaryDirectory(prefix="agentdb-bench-") as name:
        yield Path(name)


class ProcessRun(NamedTuple):
    """A whole process, seen from outside: wall time from before its start to after its end, peak resident memory."""

    wall_ms: float
    rss_mb: float


def whole_processes(rounds: int, *commands: Sequence[str]) -> list[ProcessRun]:
    """Medians for each command (arguments for this Python), run in turn; two rounds before warm the bytecode."""
    request = json.dumps({"rounds": rounds + 2, "commands": [[sys.executable, *command] for command in commands]})
    answer = subprocess.run(
        [sys.executable, "-S", "-E", str(_LAUNCHER)],
        input=request,
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    runs: list[list[list[float]]] = json.loads(answer.stdout)
    return [ProcessRun(median(wall for wall, _ in run[2:]), median(rss for _, rss in run[2:])) for run in runs]


def probe(name: str) -> str:
    """The path of a script in ``probes/``: what runs as a whole process."""
    return str(Path(__file__).parent / "probes" / f"{name}.py")
