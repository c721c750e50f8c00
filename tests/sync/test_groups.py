"""Groups: the query, what it means, and what is said of one that is wrong."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import InvalidFilter, TooLarge
from sync.groups import CONDITIONS_MAX, parse, parse_needs, parse_path

DEVICE: dict[str, Any] = {
    "labels": {"site": "north", "floor": 2, "lab": True},
    "reported": {"hardware": "rev1", "battery": {"percent": 40}, "list": [1], "version": "1.10"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  \n", True),
        ('labels.site = "north"', True),
        ('labels.site != "north"', False),
        ('labels.site = "north" and reported.hardware != "rev2"', True),
        ('labels.site = "south" or reported.battery.percent <= 40', True),
        ("reported.battery.percent < 40", False),
        ("reported.battery.percent<4.5e1", True),
        ("not reported.battery.percent <= 39", True),
        ('labels.site in ("south", "north")', True),
        ("labels.floor in (1, 3)", False),
        ("labels.lab = true", True),
        ("labels.lab = 1", False),
        ("labels.floor = 2.0", True),
        ('labels.floor = "2"', False),
        ('labels.floor < "3"', False),
        ('reported.version < "1.9"', True),
        ("reported.list = 1", False),
        ("reported.missing = 1", False),
        ("reported.missing != 1", True),
        ("reported.missing < 1", False),
        ("not reported.missing < 1", True),
        ("reported.battery.percent.deeper != 1", True),
        ('labels.site = "south" and labels.lab = true or labels.floor = 2', True),
        ('labels.site = "south" and (labels.lab = true or labels.floor = 2)', False),
        ("not not labels.lab = true", True),
        ('reported.hardware = "rev\\u0031"', True),
    ],
)
def test_meaning(text: str, expected: bool) -> None:
    assert parse(text).matches(DEVICE) is expected


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("labels.site", 12, "=, !=, <, <= or in should be there, not the end"),
        ("labels.site = north", 15, '"text", a number'),
        ("site = 1", 1, "labels.NAME or reported.NAME"),
        ("labels.a.b = 1", 1, "labels.NAME"),
        ("labels.a > 1", 10, "=, !="),
        ("labels.a == 1", 10, "=, !="),
        ("labels.a = 1 labels.b = 2", 14, "'and', 'or' or the end"),
        ("(labels.a = 1", 14, "')'"),
        ("labels.a in 1", 13, "'('"),
        ("labels.a in ()", 14, '"text"'),
        ("labels.a = 1 and", 17, "labels.NAME"),
        ("labels.a < true", 12, "no order"),
        ("labels.a = 007", 12, "a number"),
        ("labels.a = 1e999", 12, "a number"),
        ('labels.a = "open', 12, '"text"'),
        ('labels.a = "\\x"', 12, "JSON"),
        ("labels.a = 1; drop", 13, "'and'"),
        ("reported. = 1", 1, "labels.NAME"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, at: int, said: str) -> None:
    with pytest.raises(InvalidFilter) as failure:
        parse(text)
    assert said in failure.value.message, failure.value.message
    assert f"at {at}:" in failure.value.message, failure.value.message


def test_hints_say_what_to_write_instead() -> None:
    for text, hint in (("labels.a > 1", "not x <= 3"), ("labels.a = north", "double quotes")):
        with pytest.raises(InvalidFilter) as failure:
            parse(text)
        assert hint in failure.value.hint


def test_bounds() -> None:
    parse(" or ".join(["labels.a = 1"] * CONDITIONS_MAX))
    with pytest.raises(TooLarge, match="conditions"):
        parse(" or ".join(["labels.a = 1"] * (CONDITIONS_MAX + 1)))
    with pytest.raises(InvalidFilter, match="deeper"):
        parse("(" * 17 + "labels.a = 1" + ")" * 17)
    with pytest.raises(InvalidFilter, match="deeper"):
        parse("not " * 900 + "labels.a = 1")
    with pytest.raises(TooLarge, match="bytes"):
        parse(" " * 4097)


def test_a_place_in_a_twin() -> None:
    assert parse_path("reported.a.b-c") == ("reported", "a", "b-c")
    for wrong in ("", "labels", "labels.a.b", "reported", "reported..a", "desired.a", 'reported.a"'):
        with pytest.raises(InvalidFilter):
            parse_path(wrong)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["1", "x"]), st.lists(st.integers()))
QUERIES = st.recursive(
    st.sampled_from(["labels.a = 1", 'labels.a < "x"', "labels.b <= 0", "labels.a in (true, 2)", "labels.b != false"]),
    lambda below: st.one_of(
        below.map(lambda one: f"not ({one})"),
        st.tuples(below, below).map(lambda two: f"({two[0]}) and ({two[1]})"),
        st.tuples(below, below).map(lambda two: f"({two[0]}) or ({two[1]})"),
    ),
    max_leaves=5,
)


@given(QUERIES, QUERIES, st.dictionaries(st.sampled_from("ab"), VALUES))
def test_logic_holds_for_whatever_is_reported(one: str, two: str, labels: dict[str, Any]) -> None:
    device: dict[str, Any] = {"labels": labels, "reported": {}}

    def holds(text: str) -> bool:
        return parse(text).matches(device)

    assert holds(f"not ({one})") is not holds(one)
    assert holds(f"({one}) and ({two})") is (holds(one) and holds(two))
    assert holds(f"not (({one}) or ({two}))") is holds(f"not ({one}) and not ({two})")


@given(st.text(alphabet='labels.report =!<()",in1tu\\ ', max_size=40))
def test_whatever_is_typed_is_a_query_or_a_typed_error(text: str) -> None:
    with suppress(InvalidFilter):
        assert parse(text).matches(DEVICE) in (True, False)


def test_what_is_needed_is_said_of_what_is_reported() -> None:
    group = parse_needs('gpu = true and board.name in ("orin", "nano")')
    assert group.paths == (("reported", "gpu"), ("reported", "board", "name"))
    assert group.matches({"reported": {"gpu": True, "board": {"name": "nano"}}})
    assert not group.matches({"reported": {"gpu": True}})
    assert parse_needs("").matches({"reported": {}})
    for text in ("and = 3", "gpu", "gpu = true or", "a..b = 1"):
        with pytest.raises(InvalidFilter):
            parse_needs(text)
