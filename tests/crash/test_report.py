"""What a run found is what is printed and reported, and a violation cannot be overlooked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.crash.report import PARTS, read, render
from simulations.crash.results import Result, Tally, table

FOUND = tuple(Result(part, "device", "a case", 7, 7, {"as acknowledged": 7}) for part in PARTS)
BROKEN = Result("kills", "cloud", "a case", 3, 9, {"as acknowledged": 2, "violation": 1}, ("write 4: k1 is lost",))


def test_the_page_has_every_part_and_all_figures() -> None:
    page = render([*FOUND, BROKEN])
    assert "**31 cases, 1 violations.**" in page
    assert all(f"## {part}\n" in page for part in PARTS)
    assert "| kills | cloud | a case | 3 of 9 | as acknowledged 2 | 1 |" in page
    with pytest.raises(ValueError, match="not complete: faults"):
        render(FOUND[:-1])


def test_results_are_read_back_as_they_were_printed(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(json.dumps(result.line()) + "\n" for result in (*FOUND, BROKEN)))
    assert table(read([lines])) == table([*FOUND, BROKEN])


def test_a_problem_makes_a_violation_whatever_else_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally("power", "log.db", "a case", 2)
    tally.count("as acknowledged")
    tally.count("as acknowledged", ["k1 is lost"], "cut 3")
    result = tally.result()
    assert (result.cases, result.outcomes) == (2, {"as acknowledged": 1, "violation": 1})
    assert result.violations == ("cut 3: k1 is lost",)
    said = capsys.readouterr().err
    assert "2 of 2, 1 violations" in said
    assert "VIOLATION power log.db a case: cut 3: k1 is lost" in said
