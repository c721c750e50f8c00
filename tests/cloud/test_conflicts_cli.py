"""``agentdb-cloud conflicts``: machines are told the outcome in the words that the table uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloud.rows import Claim, Conflict
from cloud.server.home import Home
from tests.cloud.test_cli import ok, run


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory)
    held, came = Claim(b"h" * 16, 1, 5, "van", "old"), Claim(b"c" * 16, 1, 6, "kiosk", "new")
    with Home.open(directory) as home, home.store.writing() as tx:
        for winner in ("held", "came", "resolved"):
            row = Conflict(0, 0, 1, "notes", "k", "text", held, came, winner, "latest", "resolved", 0, "")
            tx.add_conflict(home.fleet.fleet, row)
    return directory


def test_who_won_and_who_lost(fleet: Path) -> None:
    rows = ok("conflicts", fleet)
    assert [row["winner"] for row in rows] == ["held", "came", "resolved"]
    told = [(row["won"] and row["won"]["device"], row["lost"] and row["lost"]["value"]) for row in rows]
    assert told == [("van", "new"), ("kiosk", "old"), (None, None)]
    for row in rows:
        assert (row["held"]["device"], row["came"]["device"]) == ("van", "kiosk")
        assert ok("conflicts", fleet, "--show", row["number"]) == row
    lines = run("conflicts", fleet).stdout.splitlines()[1:]
    for row, line in zip(rows[:2], lines[:2], strict=True):
        assert line.index(json.dumps(row["won"]["value"])) < line.index(json.dumps(row["lost"]["value"]))


def test_a_value_for_a_record_that_was_deleted_or_edited(fleet: Path) -> None:
    held, came = Claim(b"h" * 16, 1, 5, "van", None, True), Claim(b"c" * 16, 1, 6, "kiosk", {"text": "new"})
    with Home.open(fleet) as home, home.store.writing() as tx:
        row = Conflict(0, 0, 1, "notes", "k", "", held, came, "came", "manual", "open", 0, "")
        number = tx.add_conflict(home.fleet.fleet, row)
    result = run("conflicts", fleet, "--resolve", number, "--take", "value", "--value", '"x"')
    assert result.exit_code == 2
    assert "about a whole record" in result.stderr
    assert "--value null to delete it" in result.stderr
    assert "(delete or edit)" in run("conflicts", fleet).stdout
