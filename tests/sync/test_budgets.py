"""Budgets: a day's limit holds whatever is asked, restarted, crashed and set wrong; a bucket lets through no more than
it says.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.budgets import (
    BUDGET,
    DAY_MS,
    LEASE_BYTES_MAX,
    SIZE,
    Bucket,
    DayBudget,
    Granted,
    LinkLimits,
    Note,
    Wait,
)
from sync.lanes import BULK, CONTROL, LANES, NORMAL, URGENT

NOON = 20_000 * DAY_MS + DAY_MS // 2


class Durable:
    """What a disk has of a budget's notes."""

    def __init__(self, limit: int, share: float = 0.2) -> None:
        self.limit, self.share = limit, share
        self.rows: dict[int, dict[str, int]] = {}
        self.start()

    def start(self) -> None:
        self.budget = DayBudget(self.limit, self.share, self.rows)

    def keep(self, note: Note | None) -> None:
        if note is not None:
            self.rows = {day: lanes for day, lanes in self.rows.items() if day <= note.day}
            self.rows[note.day] = {**self.rows.get(note.day, {}), **note.lanes}

    def take(self, lane: str, size: int, now_ms: int) -> Granted | Wait:
        answer = self.budget.take(lane, size, now_ms)
        if isinstance(answer, Granted):
            self.keep(answer.note)
            noted = self.rows.get(answer.day, {})
            for used_lane, used in self.budget.used.items():
                assert noted.get(used_lane, 0) >= used, "used before it was noted"
            assert sum(noted.values()) <= self.limit
        return answer


def granted(answer: Granted | Wait) -> Granted:
    assert isinstance(answer, Granted), answer
    return answer


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from(LANES), st.integers(1, 40_000)),
        st.tuples(st.just("pass"), st.just(""), st.integers(0, DAY_MS // 3)),
        st.tuples(st.just("crash"), st.just(""), st.just(0)),
        st.tuples(st.just("close"), st.just(""), st.just(0)),
        st.tuples(st.just("less"), st.sampled_from(LANES), st.integers(0, 40_000)),
    ),
    max_size=80,
)


@given(_steps, st.integers(20_000, 600_000), st.floats(0, 0.4))
def test_no_day_has_more_than_its_limit(steps: list[tuple[str, str, int]], limit: int, share: float) -> None:
    disk, now = Durable(limit, share), NOON
    sent: dict[int, int] = {}
    shared: dict[int, int] = {}
    for what, lane, number in steps:
        if what == "pass":
            now += number
        elif what == "crash":
            disk.start()
        elif what == "close":
            disk.keep(disk.budget.rest())
            disk.start()
        else:
            size = max(1, number)
            answer = disk.take(lane, size, now)
            if isinstance(answer, Wait):
                assert answer.why in (BUDGET, SIZE)
                assert (now + answer.ms) % DAY_MS == 0 or (now + answer.ms) // DAY_MS == now // DAY_MS + 1
                continue
            if what == "less":  # the answer was smaller than it might have been
                disk.keep(disk.budget.settle(lane, answer, size, size // 2, now))
                size //= 2
            day = now // DAY_MS
            sent[day] = sent.get(day, 0) + size
            if lane in (NORMAL, BULK):
                shared[day] = shared.get(day, 0) + size
    assert all(size <= limit for size in sent.values())
    assert all(size <= limit - int(limit * share) for size in shared.values())


@given(st.lists(st.tuples(st.integers(-3 * DAY_MS, 3 * DAY_MS), st.booleans()), max_size=30))
def test_a_clock_that_jumps_ahead_and_back_once_spends_no_day_twice(jumps: list[tuple[int, bool]]) -> None:
    """Within one true day, whatever the clock says between: at most what the days it showed may have."""
    disk, shown = Durable(100_000), set()
    sent = 0
    for jump, crash in jumps:
        if crash:
            disk.start()
        while isinstance(disk.take(NORMAL, 10_000, NOON + jump), Granted):
            sent += 10_000
        shown.add(disk.budget.day)
    assert sent <= 100_000 * max(1, len(jumps))
    assert sent >= (80_000 if jumps else 0)
    assert all(sum(lanes.values()) <= 100_000 or day == disk.budget.day for day, lanes in disk.rows.items())


def test_the_day_does_not_go_back_by_less_than_a_day() -> None:
    disk = Durable(1_000_000)
    granted(disk.take(NORMAL, 800_000, NOON + DAY_MS))
    disk.start()
    assert isinstance(disk.take(NORMAL, 10_000, NOON), Wait)
    assert isinstance(disk.take(NORMAL, 10_000, NOON + 2 * DAY_MS), Granted)


def test_a_clock_that_was_years_ahead_is_put_right_and_what_was_spent_counts_for_today() -> None:
    disk, years = Durable(1_000_000), 1_500 * DAY_MS
    granted(disk.take(NORMAL, 300_000, NOON))
    granted(disk.take(NORMAL, 400_000, NOON + years))
    disk.start()
    assert disk.budget.left(NORMAL, NOON) <= 100_000
    granted(disk.take(NORMAL, 50_000, NOON))
    assert max(disk.rows) == NOON // DAY_MS, "the day that never was is forgotten"
    assert disk.budget.left(NORMAL, NOON + DAY_MS) == 800_000


def test_what_a_crash_leaves_of_a_lease_counts_as_used() -> None:
    disk = Durable(10_000_000)
    granted(disk.take(NORMAL, 1_000, NOON))
    assert disk.rows[NOON // DAY_MS] == {NORMAL: 1_000 + LEASE_BYTES_MAX}
    disk.start()
    assert disk.budget.used == {NORMAL: 1_000 + LEASE_BYTES_MAX}


def test_an_orderly_end_gives_the_rest_of_the_lease_back() -> None:
    disk = Durable(10_000_000)
    granted(disk.take(NORMAL, 1_000, NOON))
    disk.keep(disk.budget.rest())
    assert disk.budget.rest() is None
    disk.start()
    assert disk.budget.used == {NORMAL: 1_000}


def test_a_lease_serves_many_requests() -> None:
    disk = Durable(10_000_000)
    notes = sum(granted(disk.take(NORMAL, 1_000, NOON)).note is not None for _ in range(640))
    assert notes <= 12


def test_the_urgent_share_is_kept_free_for_control_and_urgent() -> None:
    disk = Durable(1_000_000, 0.2)
    while isinstance(disk.take(BULK, 10_000, NOON), Granted):
        pass
    assert disk.budget.used == {BULK: 600_000}, "and as much again for normal"
    while isinstance(disk.take(NORMAL, 10_000, NOON), Granted):
        pass
    waits = disk.take(NORMAL, 10_000, NOON)
    assert isinstance(waits, Wait)
    assert waits.why == BUDGET
    assert waits.ms == DAY_MS // 2
    granted(disk.take(CONTROL, 100_000, NOON))
    granted(disk.take(URGENT, 100_000, NOON))
    assert isinstance(disk.take(URGENT, 1, NOON), Wait)


def test_what_no_day_can_carry_says_so() -> None:
    disk = Durable(1_000_000, 0.2)
    for lane, most in ((BULK, 600_000), (NORMAL, 800_000), (URGENT, 1_000_000)):
        waits = disk.take(lane, most + 1, NOON)
        assert isinstance(waits, Wait)
        assert waits.why == SIZE
        granted(Durable(1_000_000, 0.2).take(lane, most, NOON))


def test_an_answer_larger_than_was_asked_for_comes_off_what_is_left() -> None:
    disk = Durable(1_000_000, 0.2)
    first = granted(disk.take(NORMAL, 10_000, NOON))
    disk.keep(disk.budget.settle(NORMAL, first, 10_000, 250_000, NOON))
    disk.start()
    assert disk.budget.left(NORMAL, NOON) <= 550_000


def test_what_runs_past_midnight_counts_for_both_days() -> None:
    disk = Durable(1_000_000, 0.2)
    first = granted(disk.take(NORMAL, 10_000, NOON))
    disk.keep(disk.budget.settle(NORMAL, first, 10_000, 7_000, NOON + DAY_MS))
    assert disk.budget.used == {NORMAL: 7_000}
    assert disk.rows[NOON // DAY_MS][NORMAL] >= 10_000


@given(
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 5_000)), max_size=60),
    st.integers(1, 100_000),
    st.integers(1, 4_000),
)
def test_a_bucket_lets_through_what_flowed_in_and_one_burst(
    asked: list[tuple[int, int]], rate: int, burst: int
) -> None:
    bucket, now = Bucket(rate, burst, 0), 0
    gone: list[tuple[int, int]] = []
    for pause, size in asked:
        now += pause
        wait = bucket.wait_ms(size, now)
        now += wait
        assert bucket.wait_ms(size, now) == 0, "who waited as long as was said may go"
        if wait:
            assert bucket.wait_ms(size, now - 1) == 0 or wait >= 1
        bucket.take(size, now)
        gone.append((now, size))
    for at, (since, _) in enumerate(gone):
        through = 0
        for until, size in gone[at:]:
            through += size
            assert through * 1000 <= (max(burst, 5_000) + 5_000) * 1000 + rate * (until - since)


def test_a_bucket_pays_for_answers_larger_than_was_asked_for() -> None:
    bucket = Bucket(1_000, 10_000, 0)
    bucket.take(1_000, 0)
    bucket.give_back(-19_000)
    assert bucket.wait_ms(1_000, 0) == 11_000
    bucket.give_back(19_000)
    assert bucket.wait_ms(1_000, 0) == 0


@pytest.mark.parametrize(
    "limits",
    [
        LinkLimits(""),
        LinkLimits(bytes_per_day=1),
        LinkLimits(bytes_per_s=1),
        LinkLimits(burst_bytes=0),
        LinkLimits(urgent_share=0.5),
        LinkLimits(lanes=()),
        LinkLimits(lanes=("control",)),
    ],
)
def test_impossible_limits_are_named(limits: LinkLimits) -> None:
    assert limits.problem()
    assert not LinkLimits("metered", 20_000_000, 50_000, 262_144, 0.2, ("urgent", "normal")).problem()
