"""Runs of the simulator: seeds hold, repeat themselves exactly, and planted bugs are found.

The sweep that CI makes besides is ``python -m simulations sweep``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from simulations.__main__ import main
from simulations.fleet import scenario
from simulations.fleet.disk import mounted
from simulations.fleet.faults import Faults
from simulations.fleet.fleet import run
from simulations.fleet.planted import ROOT, by_name
from simulations.fleet.violation import Violation

# One of each kind: quick ones, so that the hunt itself is known to work. All of them: python -m simulations mutants.
QUICK_MUTANTS = ["retry-with-new-seq", "cursor-before-the-page", "ack-before-fsync", "tombstones-not-taken"]


@pytest.mark.parametrize("name", scenario.names())
def test_a_run_of_every_scenario_holds(name: str) -> None:
    with mounted():
        outcome = run(11, name)
    assert outcome.held, "\n".join([outcome.violation, *outcome.tail[-60:]])
    assert outcome.counts["writes"]
    assert outcome.counts["messages"]


def test_a_run_over_metered_links_holds_and_waits() -> None:
    with mounted():
        outcome = run(3, "budgets")
    assert outcome.held, "\n".join([outcome.violation, *outcome.tail[-60:]])
    assert outcome.counts["requests that wait, budget"]
    assert outcome.counts["requests that wait, rate"]


@pytest.mark.parametrize("seed", [2, 5])
def test_a_run_of_policies_holds(seed: int) -> None:
    """Whatever operators, a hostile server and power cuts do."""
    with mounted():
        outcome = run(seed, "policies")
    assert outcome.held, "\n".join([outcome.violation, *outcome.tail[-60:]])
    assert outcome.counts["targets signed"]
    assert outcome.counts["fault policy_assigned"]


@pytest.mark.parametrize("seed", [1, 4])
def test_a_run_of_models_holds(seed: int) -> None:
    """Bad ones among them, and deaths at any step."""
    with mounted():
        outcome = run(seed, "models")
    assert outcome.held, "\n".join([outcome.violation, *outcome.tail[-60:]])
    assert outcome.counts["models tried"]
    assert outcome.counts["ranges of packs"]


def test_writes_that_copies_of_a_store_gave_one_name_are_told_apart() -> None:
    """Seed of a run in which a store set back twice wrote the same record again, under the same seq."""
    with mounted():
        outcome = run(640263345453, "copies")
    assert outcome.held, outcome.violation
    assert outcome.counts["stores set back"] == 2


def test_leftovers_of_a_first_archive_run_are_no_archive() -> None:
    """Seed of a run in which nothing but them is there when an object goes: there is nothing to restore or to find."""
    with mounted():
        outcome = run(847751002814, "restores")
    assert outcome.held, outcome.violation
    assert (outcome.counts["archive runs failed"], outcome.counts["objects damaged"]) == (1, 3)


def test_a_seed_is_a_run_whatever_the_hash_seed() -> None:
    said = {_json(["run", "--seed", "5", "--json"], hash_seed)["trace"] for hash_seed in ("0", "1", "4711")}
    assert len(said) == 1


def test_another_seed_is_another_run() -> None:
    with mounted():
        assert run(5).trace != run(6).trace


@pytest.mark.parametrize("name", QUICK_MUTANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    by_name(name)
    done = _python(["-m", "simulations.fleet.planted", name, "0..40"])
    found = json.loads(done.stdout)
    assert found["caught"], found


def test_the_transcript_can_be_followed() -> None:
    result = CliRunner().invoke(main, ["replay", "--seed", "9", "--trace"])
    assert result.exit_code == 0
    assert "sends Hello head" in result.output
    assert "everything is mended" in result.output
    assert result.output.splitlines()[-1].startswith("everything held")


def test_a_violation_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("simulations.fleet.report.RESULTS", tmp_path)
    monkeypatch.setattr("simulations.fleet.checks.check_cloud", _broken)
    result = CliRunner().invoke(main, ["sweep", "--seeds", "3..4", "--jobs", "1"])
    assert result.exit_code == 1
    assert "replay it: python -m simulations replay --seed 3 --scenario" in result.output
    assert "2 violations" in result.output


def _broken(_: object) -> None:
    raise Violation("verify", "planted")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--seed", "1", "--scenario", "no-such"],
        ["sweep", "--seeds", "9..1"],
        ["sweep", "--seeds", "many"],
        ["mutants", "--only", "no-such"],
        ["run", "--scenario", "metered", "--hours", "0.2"],
        ["run", "--scenario", "rollout", "--hours", "1"],
        ["run", "--scenario", "rollout", "--devices", "1"],
        ["replay", "--seed", "1", "--scenario", "rollout"],
    ],
)
def test_a_mistake_of_the_users_is_a_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", scenario.names(hidden=True))
def test_every_scenario_is_complete(name: str) -> None:
    spec = scenario.load(name)
    kinds = set(spec.get("faults", {}))
    assert all(hasattr(Faults, kind) for kind in kinds)
    assert spec.get("steered") or not kinds & scenario.OF_OPERATORS
    assert {*spec.get("always", [])} <= kinds
    plan = scenario.draw(name, Random(1))
    assert plan == scenario.draw(name, Random(1))


def _json(arguments: list[str], hash_seed: str) -> Any:
    return json.loads(_python(["-m", "simulations", *arguments], hash_seed).stdout)


def _python(arguments: list[str], hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(ROOT),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
