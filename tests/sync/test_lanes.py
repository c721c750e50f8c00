"""Lanes are in strict order, bulk waits for everybody, and a request is as large as the link carries in a quarter of a
second.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.lanes import (
    BULK,
    CONTROL,
    LANES,
    NORMAL,
    OFFER_MS,
    REQUEST_BYTES_MAX,
    REQUEST_BYTES_MIN,
    REQUEST_MS_MAX,
    URGENT,
    Batches,
    Lanes,
)


@given(st.sets(st.sampled_from(LANES), min_size=1), st.sets(st.sampled_from(LANES)))
def test_the_first_lane_that_wants_to_goes(wanting: set[str], flying: set[str]) -> None:
    lanes = Lanes()
    for lane in flying:
        lanes.depart(lane)
    for lane in sorted(wanting):
        lanes.offer(lane, 100, 0)
    first = next(lane for lane in LANES if lane in wanting)
    assert lanes.next(0) == (None if first == BULK and flying else first)


def test_bulk_waits_for_whoever_is_sending_and_is_one_at_a_time() -> None:
    lanes = Lanes()
    lanes.offer(BULK, 100, 0)
    lanes.depart(NORMAL)
    assert lanes.next(0) is None
    lanes.land(NORMAL)
    assert lanes.next(0) == BULK
    lanes.depart(BULK)
    lanes.offer(BULK, 100, 0)
    assert lanes.next(0) is None
    lanes.offer(URGENT, 100, 0)
    assert lanes.next(0) == URGENT


def test_what_is_not_due_holds_up_nobody() -> None:
    lanes = Lanes()
    lanes.offer(URGENT, 100, 50)
    lanes.offer(BULK, 100, 0)
    assert lanes.next(0) == BULK
    assert lanes.next(50) == URGENT
    lanes.withdraw(URGENT)
    assert lanes.next(50) == BULK


def test_an_offer_that_nobody_repeats_is_forgotten() -> None:
    lanes = Lanes()
    lanes.offer(CONTROL, 100, 0)
    assert lanes.next(OFFER_MS) == CONTROL
    assert lanes.next(OFFER_MS + 1) is None


@pytest.mark.parametrize("bytes_per_s", [1_000, 50_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize("trip_ms", [0, 20, 600])
def test_the_next_request_takes_a_quarter_of_a_second(bytes_per_s: int, trip_ms: int) -> None:
    batches = Batches()
    batches.took(500, trip_ms + 500 * 1000 // bytes_per_s)
    for _ in range(40):
        batches.took(batches.size, trip_ms + batches.size * 1000 // bytes_per_s)
    wanted = min(max(bytes_per_s * REQUEST_MS_MAX // 1000, REQUEST_BYTES_MIN), REQUEST_BYTES_MAX)
    assert 0.8 * wanted <= batches.size <= max(wanted * 1.5, REQUEST_BYTES_MIN)


def test_a_link_that_slows_down_gets_smaller_requests() -> None:
    batches = Batches()
    for _ in range(20):
        batches.took(batches.size, 1)
    assert batches.size == REQUEST_BYTES_MAX
    for _ in range(20):
        batches.took(batches.size, batches.size * 1000 // 100_000)
    assert batches.size <= 30_000


def test_a_limit_bounds_the_size_from_the_beginning() -> None:
    batches = Batches(100_000)
    assert batches.size == 25_000
    batches.took(25_000, 1)
    assert batches.size == 25_000
    assert Batches(1_000).size == REQUEST_BYTES_MIN


@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(0, 100_000)), max_size=50))
def test_the_size_is_always_within_its_bounds(took: list[tuple[int, int]]) -> None:
    batches = Batches()
    for size, ms in took:
        batches.took(size, ms)
        assert REQUEST_BYTES_MIN <= batches.size <= REQUEST_BYTES_MAX
