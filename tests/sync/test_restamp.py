"""Restamping: which timestamps move where, and that an image with other timestamps is what merging would have made."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sync.operations import Kind, Operation, Shape
from sync.records import Record, fold
from sync.restamp import Bounds, Drift, heard_in, plan, restamp, restamp_image
from sync.stamps import timestamp_of

MINE, OTHER = b"m" * 16, b"o" * 16
NOW = 1_000_000


def at(ms: int) -> int:
    return timestamp_of(ms)


def bounds(fixed: int = 0, heard: int = 0, known: int = 0) -> Bounds:
    return Bounds(at(NOW), at(NOW + 120_000), at(fixed), at(heard), at(known))


def planned(stamps_ms: list[int], drifts: list[Drift], where: Bounds) -> list[float]:
    """Milliseconds, ticks as fractions."""
    moved = plan([at(ms) for ms in stamps_ms], drifts, where)
    return [moved.get(at(ms), at(ms)) / (1 << 16) for ms in stamps_ms]


def test_a_drift_moves_what_it_stamped_and_nothing_else() -> None:
    drift = Drift(-400_000, at(600_000), at(1_300_000))
    assert planned([500_000, 1_200_000, 1_300_000], [drift], bounds()) == [500_000, 800_000, 900_000]
    assert planned([100, 200], [Drift(500_000, 0, at(150))], bounds()) == [500_100, 500_100 + 2**-16]


def test_what_cannot_be_stays_or_goes_before_what_follows() -> None:
    early = Drift(-900_000, 0, at(2_000_000))
    assert planned([500_000], [early], bounds(known=400_000)) == [500_000], "it would be before the time was known"
    assert planned([500_000], [Drift(600_000, 0, at(900_000))], bounds()) == [500_000], "it would be after now"
    ahead = planned([5_000_000, 6_000_000], [], bounds())
    assert ahead[0] < ahead[1] <= NOW
    drift = Drift(-5_200_000, at(5_000_000), at(6_000_000))
    before = planned([4_000_000, 6_000_000], [drift], bounds())
    assert before == [800_000 - 2**-16, 800_000], "the first is only known to be wrong, and was before the second"


def test_nothing_that_moves_goes_below_what_is_fixed_or_was_heard() -> None:
    drift = Drift(-900_000, 0, at(5_000_000))
    assert planned([950_000], [drift], bounds(fixed=700_000)) == [700_000 + 2**-16]
    assert planned([950_000], [drift], bounds(heard=800_000)) == [800_000 + 2**-16]
    assert planned([600_000], [drift], bounds(fixed=700_000)) == [600_000], "the cloud took a later one: it stays"


@given(
    st.lists(st.integers(1, 3_000_000), unique=True, max_size=8).map(sorted),
    st.lists(
        st.tuples(st.integers(-2_000_000, 2_000_000), st.integers(0, 10**6), st.integers(0, 3 * 10**6)), max_size=2
    ),
    st.tuples(*[st.integers(0, 1_100_000)] * 3),
)
def test_order_is_kept_and_nothing_is_left_in_the_future(
    stamps: list[int], drifts: list[tuple[int, int, int]], where: tuple[int, int, int]
) -> None:
    new = planned(stamps, [Drift(ms, at(after), at(until)) for ms, after, until in drifts], bounds(*where))
    assert all(a < b for a, b in pairwise(new))
    assert max(new, default=0) <= NOW + 120_001


def test_tags_of_moved_additions_move_with_them() -> None:
    add = Operation(MINE, 1, 10, 0, Shape(Kind.ADD, "notes", ("t",), "s"), "k", ([["x"], []],))
    remove = Operation(
        MINE, 2, 20, 0, Shape(Kind.REMOVE, "notes", ("t",), "s"), "k", ([[], [["x", [[MINE, 10], [OTHER, 10]]]]],)
    )
    keep = Operation(
        MINE, 3, 30, 0, Shape(Kind.PATCH, "notes", ("all",), "k"), "k", (["v", [[OTHER, 10], [MINE, 20]]],)
    )
    moved = {10: 11, 20: 21, 30: 31}
    assert restamp(add, moved).ts == 11
    assert restamp(remove, moved).values == ([[], [["x", [[MINE, 11], [OTHER, 10]]]]],)
    assert restamp(keep, moved).values == (["v", [[OTHER, 10], [MINE, 21]]],)
    image = None
    for operation in (add, remove, keep):
        image = fold(image, operation)
    assert image is not None
    expected = None
    for operation in (add, remove, keep):
        expected = fold(expected, restamp(operation, moved))
    assert restamp_image(image, MINE, moved) == expected


def test_a_floor_that_moves_up_deletes_what_it_now_stands_above() -> None:
    put = Operation(OTHER, 1, 50, 0, Shape(Kind.PUT, "notes", ("x",), "l"), "k", (1,))
    delete = Operation(MINE, 1, 10, 0, Shape(Kind.DELETE, "notes"), "k", ())
    image = fold(fold(None, delete), put)
    assert not Record.decode(restamp_image(image, MINE, {10: 60})).alive
    assert Record.decode(restamp_image(image, MINE, {10: 40})).values() == {"x": 1}


def test_what_is_too_far_ahead_is_not_followed() -> None:
    put = Operation(OTHER, 1, 50, 0, Shape(Kind.PUT, "notes", ("x",), "l"), "k", (1,))
    assert heard_in([put, put._replace(ts=70)], 100) == (70, 0)
    assert heard_in([put, put._replace(ts=70)], 60) == (50, 70)
    assert heard_in([], 60) == (0, 0)
