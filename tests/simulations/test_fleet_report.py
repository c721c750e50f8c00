"""The report is made of what the commands kept, and says what they did not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from simulations.__main__ import main
from simulations.fleet import report


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "TARGET", tmp_path / "SIMULATION.md")
    monkeypatch.setattr(report, "ROOT", tmp_path)


def test_it_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["report"]).exit_code == 2
    assert runner.invoke(main, ["sweep", "--seeds", "0..1", "--jobs", "1"]).exit_code == 0
    assert runner.invoke(main, ["scale", "--sizes", "2,4"]).exit_code == 0
    assert runner.invoke(main, ["report"]).exit_code == 0
    text = (tmp_path / "SIMULATION.md").read_text()
    assert "A sweep of 2 seeds" in text
    assert "0 violations; 2 of 2 runs converged (100%)" in text
    assert "| 4 |" in text.partition("## Growth")[2]
    assert "Not measured for this page: `python -m simulations mutants`" in text
    result = {"mutant": "one", "path": "sync/x.py", "caught": True, "seeds": 3, "scenario": "calm", "violation": "a: b"}
    report.keep(report.MUTANTS, [result, {**result, "mutant": "two", "caught": False}])
    report.write()
    text = (tmp_path / "SIMULATION.md").read_text()
    assert "Planted bugs: 1 of 2 caught" in text
    assert "| one | `sync/x.py` | 3 | calm | a |" in text
    assert "not in 3" in text


def test_a_sweep_of_one_scenario_is_not_what_the_page_is_made_from(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["sweep", "--scenario", "calm", "--seeds", "3..3", "--jobs", "1"]).exit_code == 0
    assert runner.invoke(main, ["report"]).exit_code == 2
    assert not (tmp_path / "SIMULATION.md").exists()
