"""Two stores of one name whose clocks stand still stamp different values alike: replicas must still agree.

Stamps of different operations are distinct (``sync.stamps``) as long as a name has one writer. Copies of a store share
theirs until one of them learns of it, so merging must not depend on it. The larger bytes stand.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloud.storage.fold import fold_row
from sync.images import fold as short_fold
from sync.images import plain_image, replaced_fields
from sync.operations import Kind, Operation, Shape
from sync.records import Record, fold

NAME = b"\x01" * 16
OTHER = b"\x02" * 16
TS = 1_700_000_000_000 << 16
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, -0.0, 1.0]), st.text("ab", max_size=2),
    st.lists(st.integers(0, 1), max_size=2),
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-2, 2), st.sampled_from([0.0, 1.0, 1.5]))
ELEMENTS = st.lists(st.sampled_from("ef"), unique=True).map(sorted)


@st.composite
def operations(draw: Any) -> Operation:
    """One of very few stamps; the field's name is its rule."""
    ts = TS + draw(st.integers(0, 1))
    replica = draw(st.sampled_from([NAME, NAME, OTHER]))
    kind = draw(st.sampled_from([Kind.PUT, Kind.PATCH, Kind.PATCH, Kind.DELETE]))
    rules = "" if kind == Kind.DELETE else "".join(sorted(draw(st.sets(st.sampled_from("lmcxnsk"), min_size=1))))
    values = tuple(draw(_value(rule)) for rule in rules)
    shape = Shape(kind, "things", tuple(rules), rules.replace("m", "l"))
    return Operation(replica, 1, ts, 0, shape, "key", values)


def _value(rule: str) -> st.SearchStrategy[Any]:
    tags = st.lists(st.tuples(st.sampled_from([NAME, OTHER]), st.just(TS - 1)).map(list), max_size=1)
    if rule in "lm":
        return VALUES
    if rule in "cxn":
        return NUMBERS
    if rule == "s":
        return st.tuples(ELEMENTS, st.lists(st.tuples(st.sampled_from("ef"), tags).map(list), max_size=1)).map(list)
    return st.tuples(VALUES.filter(lambda value: value is not None), tags).map(list)


def folded(parts: list[Operation]) -> Record:
    record = Record()
    for operation in parts:
        record.apply(operation)
    return record


@given(st.lists(operations(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_equal_stamps_merge_to_the_same_in_every_order(parts: list[Operation], dice: Any) -> None:
    expected = folded(parts).encode()
    shuffled = dice.sample(parts, len(parts))
    assert folded(shuffled).encode() == expected
    assert folded(shuffled + parts).encode() == expected
    thirds = [folded(shuffled[place::3]) for place in range(3)]
    left, right = Record(), Record()
    for third in thirds:
        left.join(Record.decode(third.encode()))
    for third in reversed(thirds):
        right.join(Record.decode(third.encode()))
    assert left.encode() == right.encode() == expected
    assert not left.join(right)


@given(st.lists(operations(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_every_short_cut_says_the_same(parts: list[Operation], dice: Any) -> None:
    expected = folded(parts).encode()
    shuffled = dice.sample(parts, len(parts))
    image: bytes | None = None
    short: bytes | None = None
    row = None
    for position, operation in enumerate(shuffled, 1):
        image = fold(image, operation)
        short = short_fold(short, operation)
        row = fold_row(row, operation, position) or row
        assert short == image
    assert image == expected
    assert row is not None
    assert row.image == expected


@given(VALUES, VALUES)
def test_a_put_as_late_as_what_it_replaces_takes_no_short_cut(one: Any, other: Any) -> None:
    first, second = (Operation(NAME, 1, TS, 0, Shape(Kind.PUT, "c", ("l",), "l"), "k", (it,)) for it in (one, other))
    image = short_fold(None, first)
    assert short_fold(image, second) == short_fold(short_fold(None, second), first)
    assert image[:1] == plain_image(TS, NAME, b"\x80")[:1]
    assert replaced_fields(image, {"l": other}, TS) is None
