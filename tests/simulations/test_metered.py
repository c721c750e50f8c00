"""The scenario ``metered``: no day over its budget, urgent records in time; and it would see it if that were not so."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.storage.budget_rows import BudgetRows
from simulations.fleet.disk import mounted
from simulations.fleet.world import World
from simulations.metered.week import ALARMS, HOUR, LIMITS, WEEK, Fleet, problems, run
from sync.budgets import DAY_MS, Note

BAD_DAY = WEEK._replace(days=1.0, kills=150)


def test_a_week_with_kills_and_power_cuts_stays_within_the_budget_of_every_day() -> None:
    outcome = run(2, WEEK, devices=1)
    assert problems(WEEK, outcome) == []
    assert outcome.kills > 15
    assert len(outcome.days) == 8
    assert outcome.missing[ALARMS] == 0
    assert outcome.bulk_bytes > 10 << 20, "and bulk was not shut out"


def test_without_lanes_urgent_records_wait_for_the_next_day() -> None:
    """What the figures of the scenario are compared with."""
    alone = run(2, WEEK._replace(days=2.0, kills=0), devices=2, lanes=False)
    assert alone.waits[ALARMS][-1] > 3_600_000
    assert problems(WEEK, alone)


def test_in_a_busy_hour_urgent_records_do_not_wait_behind_bulk() -> None:
    with_lanes, alone = run(2, HOUR, devices=1), run(2, HOUR, devices=1, lanes=False)
    assert problems(HOUR, with_lanes) == []
    assert with_lanes.waits[ALARMS][-1] * 4 < alone.waits[ALARMS][-1]
    assert with_lanes.bulk_bytes > 0.9 * alone.bulk_bytes


def test_a_day_of_many_deaths_is_within_its_budget() -> None:
    outcome = run(3, BAD_DAY, devices=1)
    assert max(outcome.days) <= LIMITS.bytes_per_day


def test_a_device_that_was_killed_on_a_used_up_day_wakes_on_the_next(tmp_path: Path) -> None:
    """Nothing is written any more: only its own timer can wake it."""
    world = World(1)
    plan = WEEK._replace(days=0.01, limits=LIMITS._replace(bytes_per_day=60_000), reading_s=10, bulk_per_day=0, kills=0)
    with mounted():
        fleet = Fleet(world, tmp_path, 1, plan, lanes=True)
        world.run_until(fleet.end_ms + 60_000)
        assert fleet.written, "the day is used up"
        fleet.devices[0].kill(power_cut=False, down_ms=1_000)
        world.run_until(DAY_MS)
        assert not fleet.written
        fleet.drop()


def test_a_lease_that_is_not_noted_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(_self: BudgetRows, _link_class: str, _note: Note) -> None:
        """The planted bug."""

    monkeypatch.setattr(BudgetRows, "note", forget)
    assert any("bytes on a day" in problem for problem in problems(BAD_DAY, run(3, BAD_DAY, devices=1)))
