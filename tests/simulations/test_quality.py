"""What memory searches find: the set is sound, the scoring costs no recall, and the page shows this code's figures."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulations.__main__ import main
from simulations.quality import measuring
from simulations.quality.measuring import Cost, Figures

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "QUALITY.md").read_text()


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    return measuring.measure()


def test_the_set_is_large_enough_and_every_answer_is_in_it() -> None:
    memories, queries = measuring.lines("memories"), measuring.lines("queries")
    assert len(memories) == len({line["id"] for line in memories}) == len({line["text"] for line in memories}) >= 150
    assert len(queries) == len({line["query"] for line in queries}) >= 60
    assert {answer for line in queries for answer in line["answers"]} <= {line["id"] for line in memories}
    assert len({line["agent"] for line in memories}) == 5
    assert {line["kind"] for line in memories} == {"episodic", "semantic", "procedural", "working"}
    assert min(Counter(line["asks"] for line in queries).values()) >= 30


def test_scoring_costs_no_recall(costs: dict[str, Cost]) -> None:
    assert {mode: cost.recall for mode, cost in costs.items() if cost.recall > measuring.COST_MAX} == {}
    assert costs["text"].scored.words == 1.0
    assert costs["hybrid"].scored.recall >= costs["vector"].scored.recall
    assert any(cost.relevance.mrr != cost.scored.mrr for cost in costs.values()), "the terms have no effect at all"


def test_the_page_shows_the_figures_of_this_code(costs: dict[str, Cost]) -> None:
    """But for ties that fall otherwise."""
    rows = re.findall(r"^\| (\w+) \| (\w+) \| ([\d. |]+) \|$", PAGE.partition("## all-MiniLM")[0], re.MULTILINE)
    shown = {(mode, by): [float(cell) for cell in cells.split(" | ")] for mode, by, cells in rows}
    measured = {(mode, by): [float(cell) for cell in cells] for mode, by, *cells in measuring.table(costs)[1:]}
    assert shown.keys() == measured.keys()
    for row, figures in measured.items():
        assert figures == pytest.approx(shown[row], abs=0.01), row


def test_a_cost_above_the_bound_is_said_and_is_the_exit_code(
    costs: dict[str, Cost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "measure", lambda _: costs)
    done = CliRunner().invoke(main, ["quality", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["modes"].keys() == {"text", "vector", "hybrid"}
    worse = Cost(Figures(0.9, 0.9, 0.9, 0.9), Figures(0.85, 0.9, 0.9, 0.9))
    monkeypatch.setattr(measuring, "measure", lambda _: {**costs, "text": worse})
    done = CliRunner().invoke(main, ["quality"])
    assert done.exit_code == 1
    assert "text        score       0.850" in done.output
