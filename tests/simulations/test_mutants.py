"""The planted bugs can be planted: each where its text is, and what comes of it is Python."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from simulations.mutants import Mutant
from simulations.mutants.catalogue import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
AREAS = (
    "sync/",
    "edge/",
    "cloud/stream/",
    "cloud/storage/",
    "cloud/storage/archive/",
    "cloud/identity/",
    "cloud/fleet/",
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted(mutant: Mutant) -> None:
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, f"{mutant.path} has its text {source.count(mutant.old)} times"
    assert mutant.new != mutant.old
    compile(source.replace(mutant.old, mutant.new), mutant.path, "exec")
    assert len(mutant.new.splitlines()) <= 10
    assert mutant.why


def test_there_are_enough_of_them_everywhere() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)
    assert len(names) == len(MUTANTS) >= 45
    for area in AREAS:
        assert sum(mutant.path.startswith(area) for mutant in MUTANTS) >= 4, area


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.test], ids=lambda mutant: mutant.name)
def test_the_test_that_is_named_exists(mutant: Mutant) -> None:
    path, _, name = mutant.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8")


def test_most_of_them_are_for_the_fleet_to_find() -> None:
    """Forty at least (docs/SIMULATION.md has the table); a test of its own is for what no run can show."""
    assert sum(not mutant.test for mutant in MUTANTS) >= 60
