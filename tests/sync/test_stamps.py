"""The hybrid clock never goes back, whatever the wall clock does, and stamps order everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import FutureStamp
from sync.limits import FUTURE_MS_MAX, STAMP_MAX
from sync.stamps import (
    NEVER,
    HybridClock,
    Stamp,
    check_not_future,
    device_of,
    incarnation_of,
    replica_id,
    timestamp_of,
    wall_ms_of,
)

NOW = 1_700_000_000_000
WALLS = st.one_of(st.integers(NOW - 5, NOW + 5), st.integers(-(10**15), 10**14))


class Wall:
    """A wall clock that says what it is told to say."""

    def __init__(self, ms: int = NOW) -> None:
        self.ms = ms

    def wall_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("now"), WALLS),
            st.tuples(st.just("take"), st.integers(1, 100_000)),
            st.tuples(st.just("observe"), st.integers(0, timestamp_of(NOW + 10**6))),
            st.tuples(st.just("offset"), st.integers(-(10**12), 10**12)),
            st.tuples(st.just("restart"), st.just(0)),
        ),
        max_size=30,
    )
)
def test_it_rises_whatever_happens(steps: list[tuple[str, int]]) -> None:
    wall = Wall()
    clock = HybridClock(wall)
    largest = 0
    for what, value in steps:
        if what == "observe":
            clock.observe(value)
            largest = max(largest, value)
        elif what == "offset":
            clock.offset_ms = value
        elif what == "restart":  # all that is kept is `last`
            clock = HybridClock(wall, clock.last, clock.offset_ms)
        elif what == "take":
            first = clock.take(value)
            assert first > largest
            largest = first + value - 1
        else:
            wall.ms = value
            ts = clock.now()
            assert ts > largest
            largest = ts
        assert clock.last == largest


def test_it_follows_the_wall_clock_when_that_goes_forward() -> None:
    wall = Wall()
    clock = HybridClock(wall, offset_ms=250)
    assert clock.now() == timestamp_of(NOW + 250)
    assert clock.now() == timestamp_of(NOW + 250) + 1
    wall.ms += 7
    assert clock.now() == timestamp_of(NOW + 257)
    wall.ms -= 10_000
    assert clock.now() == timestamp_of(NOW + 257) + 1
    clock.observe(5)
    assert clock.now() == timestamp_of(NOW + 257) + 2


def test_more_timestamps_in_a_millisecond_than_the_counter_holds() -> None:
    clock = HybridClock(Wall())
    first = clock.take(70_000)
    assert wall_ms_of(first) == NOW
    assert clock.now() == first + 70_000
    assert wall_ms_of(clock.last) == NOW + 1


def test_a_clock_that_ran_out_of_range_recovers_when_it_is_set() -> None:
    """It used to keep what it could not hand out, and so refused for ever."""
    wall = Wall(1 << 47)
    clock = HybridClock(wall, 17)
    for attempt in (clock.now, lambda: clock.take(3)):
        with pytest.raises(FutureStamp):
            attempt()
    assert clock.last == 17
    wall.ms = NOW
    assert clock.now() == timestamp_of(NOW)
    at_the_end = HybridClock(wall, STAMP_MAX - 2)
    with pytest.raises(FutureStamp):
        at_the_end.take(3)
    assert at_the_end.take(2) == STAMP_MAX - 1
    with pytest.raises(FutureStamp):
        at_the_end.now()
    assert at_the_end.last == STAMP_MAX


@given(st.integers(0, (1 << 47) - 1), st.integers(0, 0xFFFF))
def test_a_timestamp_is_milliseconds_and_a_counter(ms: int, counter: int) -> None:
    ts = timestamp_of(ms) + counter
    assert wall_ms_of(ts) == ms
    assert ts <= STAMP_MAX


@given(st.binary(min_size=12, max_size=12), st.integers(0, 2**32 - 1))
def test_a_replica_is_a_device_and_an_incarnation(device: bytes, incarnation: int) -> None:
    replica = replica_id(device, incarnation)
    assert len(replica) == 16
    assert (device_of(replica), incarnation_of(replica)) == (device, incarnation)


@given(st.integers(1, STAMP_MAX), st.integers(1, STAMP_MAX), st.binary(min_size=16, max_size=16))
def test_stamps_are_ordered_by_time_then_by_replica(one: int, other: int, replica: bytes) -> None:
    assert (Stamp(one, replica) < Stamp(other, replica)) == (one < other)
    assert NEVER < Stamp(one, bytes(16)) <= Stamp(one, replica)
    assert Stamp(one, b"\xff" * 16) >= Stamp(one, replica)


def test_the_bound_on_the_future() -> None:
    check_not_future(timestamp_of(NOW + FUTURE_MS_MAX) + 0xFFFF, NOW)
    check_not_future(1, NOW)
    with pytest.raises(FutureStamp, match="121 s ahead"):
        check_not_future(timestamp_of(NOW + FUTURE_MS_MAX + 1000), NOW)
    with pytest.raises(FutureStamp):
        check_not_future(timestamp_of(NOW + FUTURE_MS_MAX + 1), NOW)
    with pytest.raises(FutureStamp):
        check_not_future(timestamp_of(NOW + 11), NOW, bound_ms=10)
