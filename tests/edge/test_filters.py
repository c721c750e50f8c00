"""Filters: what they mean, what they refuse, and that nothing in them is anything but data."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.storage.filters import CHOICES_MAX, CONDITIONS_MAX, DEPTH_MAX, All, Condition, Either, Negation, parse
from sync.errors import InvalidFilter
from sync.schema import declare

SCHEMA = declare(
    "things",
    fields={
        "n": "int",
        "x": "float",
        "s": "str",
        "b": "bool",
        "raw": "bytes",
        "tags": "set",
        "words": "strings",
        "hits": "counter",
        "doc": "json",
        "notes": "keep-all",
    },
    vector=("v", 4),
)
RECORD = {
    "n": 3,
    "x": 0.5,
    "s": "pump",
    "b": True,
    "raw": b"\x00\xff",
    "tags": ["a", "b", 7],
    "words": ["x", "y"],
    "hits": 12,
    "free": "text",
    "mixed": [1, "1", 2.0],
}

TRUE = [
    {"n": 3},
    {"n": 3.0},
    {"n": {"$gt": 2.5, "$lte": 3}},
    {"n": {"$in": [1, 3.0]}},
    {"n": {"$nin": [1, 2]}},
    {"x": {"$gte": 0.5}},
    {"x": {"$lt": 1}},
    {"s": "pump"},
    {"s": {"$gt": "pumo"}},
    {"s": {"$ne": "valve"}},
    {"b": True},
    {"b": {"$ne": False}},
    {"raw": b"\x00\xff"},
    {"raw": {"$gt": b"\x00"}},
    {"tags": {"$contains": "a"}},
    {"tags": {"$contains": 7}},
    {"hits": {"$gt": 11.5}},
    {"free": "text"},
    {"free": {"$in": ["text", 4]}},
    {"mixed": {"$contains": "1"}},
    {"missing": None},
    {"missing": {"$ne": 1}},
    {"missing": {"$nin": [1, 2]}},
    {"missing": {"$exists": False}},
    {"n": {"$exists": True}},
    {"n": {"$ne": None}},
    {"n": {"$not": {"$gt": 5}}},
    {"$not": {"missing": {"$gt": 5}}},
    {"$and": [{"n": 3}, {"s": "pump"}]},
    {"$or": [{"n": 4}, {"s": "pump"}]},
    {"n": 3, "s": {"$in": ["pump"]}, "$or": [{"b": False}, {"x": {"$lt": 0.6}}]},
    {"$and": [{}]},
]
FALSE = [
    {"n": 4},
    {"n": {"$gt": 3}},
    {"x": {"$gt": 0.5}},
    {"s": "Pump"},
    {"s": {"$in": []}},
    {"b": False},
    {"tags": {"$contains": "7"}},
    {"tags": {"$contains": "ab"}},
    {"free": 1},
    {"free": {"$gt": 1}},
    {"free": True},
    {"mixed": 1},
    {"mixed": {"$contains": 3}},
    {"missing": 1},
    {"missing": {"$lt": 1}},
    {"missing": {"$gte": ""}},
    {"missing": {"$in": [1, "a"]}},
    {"missing": {"$contains": "a"}},
    {"missing": {"$exists": True}},
    {"n": None},
    {"doc": 3},
    {"$or": [{"n": 4}, {"s": "valve"}]},
    {"$not": {"n": 3}},
    {"n": 3, "s": "valve"},
]
REFUSED: list[Any] = [
    "n = 3",
    b"n",
    3,
    [{"n": 3}],
    {"n": {}},
    {"n": {"gt": 3}},
    {"n": {"$regex": ".*"}},
    {"$where": "1 = 1"},
    {"$nor": [{"n": 3}]},
    {"n": [1, 2]},
    {"n": {"$eq": [1]}},
    {"n": {"$in": 3}},
    {"n": {"$in": "abc"}},
    {"n": {"$in": [None]}},
    {"n": {"$in": [[1]]}},
    {"n": "3"},
    {"n": True},
    {"n": {"$gt": "3"}},
    {"n": {"$gt": None}},
    {"n": {"$contains": 3}},
    {"n": 1 << 63},
    {"x": float("nan")},
    {"x": {"$lt": float("inf")}},
    {"x": 1j},
    {"s": 3},
    {"s": {"$contains": "p"}},
    {"s": "\ud800"},
    {"b": 1},
    {"b": {"$gt": False}},
    {"raw": "text"},
    {"tags": "a"},
    {"tags": {"$gt": "a"}},
    {"tags": {"$contains": ["a"]}},
    {"tags": {"$contains": None}},
    {"tags": {"$contains": True}},
    {"words": {"$in": ["x"]}},
    {"hits": "12"},
    {"v": 1},
    {"v": {"$contains": 1}},
    {"n": {"$exists": 1}},
    {"n": {"$not": 3}},
    {"$not": [{"n": 3}]},
    {"$and": []},
    {"$or": {"n": 3}},
    {"$or": ["n"]},
    {"": 3},
    {"_key": "a"},
    {3: 3},
    {None: 3},
    {"a\0b": 1},
    {"f" * 65: 1},
]


@pytest.mark.parametrize("expression", TRUE, ids=repr)
def test_passes(expression: Any) -> None:
    found = parse(expression, SCHEMA)
    assert found is not None
    assert found.matches(RECORD) is True


@pytest.mark.parametrize("expression", FALSE, ids=repr)
def test_does_not_pass(expression: Any) -> None:
    found = parse(expression, SCHEMA)
    assert found is not None
    assert found.matches(RECORD) is False


@pytest.mark.parametrize("expression", REFUSED, ids=lambda value: repr(value)[:40])
def test_is_refused(expression: Any) -> None:
    with pytest.raises(InvalidFilter):
        parse(expression, SCHEMA)


@pytest.mark.parametrize("expression", [None, {}])
def test_no_filter(expression: Any) -> None:
    assert parse(expression, SCHEMA) is None


def test_bounds() -> None:
    deep: Any = {"n": 1}
    for _ in range(DEPTH_MAX - 1):
        deep = {"$not": deep}
    assert parse(deep) is not None
    with pytest.raises(InvalidFilter, match="nested"):
        parse({"$not": deep})
    nested: Any = {"$gt": 1}
    for _ in range(DEPTH_MAX):
        nested = {"$not": nested}
    with pytest.raises(InvalidFilter, match="nested"):
        parse({"n": nested})
    assert parse({"$and": [{"n": 1}] * CONDITIONS_MAX}) is not None
    with pytest.raises(InvalidFilter, match="at most"):
        parse({"$and": [{"n": 1}] * (CONDITIONS_MAX + 1)})
    with pytest.raises(InvalidFilter, match="at most"):
        parse({"n": {"$in": list(range(CHOICES_MAX + 1))}})


def test_is_frozen_and_plain() -> None:
    found = parse({"n": {"$gte": 1}, "$or": [{"s": "a"}, {"$not": {"b": True}}]}, SCHEMA)
    assert found is not None
    assert found.root == All(
        (Condition("n", "gte", 1), Either((Condition("s", "eq", "a"), Negation(Condition("b", "eq", True)))))
    )
    assert hash(found.root)


def test_without_a_schema_any_type_may_be_asked_for() -> None:
    found = parse({"n": "3"})
    assert found is not None
    assert not found.matches(RECORD)


def test_numbers_compare_exactly() -> None:
    big = (1 << 53) + 1
    above = parse({"n": {"$gt": float(1 << 53)}})
    same = parse({"n": float(1 << 53)})
    assert above is not None
    assert same is not None
    assert above.matches({"n": big})
    assert not same.matches({"n": big})


values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-5, 5), st.text(max_size=3), st.binary(max_size=3)
)
scalars = values.filter(lambda value: value is not None)


@given(st.dictionaries(st.sampled_from("abc"), values), st.sampled_from("abc"), scalars)
def test_each_operator_has_its_opposite(record: dict[str, Any], field: str, operand: Any) -> None:
    def says(condition: Any) -> bool:
        found = parse({field: condition})
        assert found is not None
        return found.matches(record)

    assert says({"$eq": operand}) is not says({"$ne": operand})
    assert says({"$in": [operand]}) is says({"$eq": operand})
    assert says({"$nin": [operand]}) is says({"$ne": operand})
    assert says({"$exists": True}) is not says({"$exists": False})
    if type(operand) is not bool:
        assert says({"$gte": operand}) is (says({"$gt": operand}) or says({"$eq": operand}))
        assert says({"$lte": operand}) is (says({"$lt": operand}) or says({"$eq": operand}))
        assert not (says({"$lt": operand}) and says({"$gte": operand}))
        assert says({"$not": {"$lt": operand}}) is not says({"$lt": operand})


@given(st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_anything_else_is_refused_with_the_one_error(expression: Any) -> None:
    try:
        found = parse(expression, SCHEMA)
    except InvalidFilter:
        return
    assert found is None or found.matches(RECORD) in (True, False)


@pytest.mark.parametrize(
    ("expression", "said", "hint"),
    [
        ({"d.x": 1}, "not a declared field", "maps"),
        ({"any.x": {"$exists": True}}, "not a declared field", "maps"),
        ({"$or": [{"n": 1}, {"a.b": 1}]}, "not a declared field", "maps"),
        ({"doc": {"x": 1}}, "unknown operator 'x'", "maps"),
        ({"notes": 5}, "a keep-all field and cannot be compared", r"\$contains"),
        ({"v": 5}, "a vector field and cannot be compared", r"^\$exists can be asked"),
        ({"n": {"$in": [None, 1]}}, "NoneType", "None is no value"),
    ],
)
def test_what_could_only_match_nothing_is_refused(expression: Any, said: str, hint: str) -> None:
    with pytest.raises(InvalidFilter, match=said) as caught:
        parse(expression, SCHEMA)
    assert re.search(hint, caught.value.hint)


def test_entries_of_maps_that_are_declared_json() -> None:
    schema = declare("things", fields={"place": "json", "place.of": "int", "other": "any"})
    record = {"place": {"floor": 2, "tags": ["a"], "a.b": "x"}, "place.of": 3}
    for expression, passes in (
        ({"place.floor": 2}, True),
        ({"place.floor": {"$gte": 3}}, False),
        ({"place.floor": {"$not": {"$gte": 3}}}, True),
        ({"place.tags": {"$contains": "a"}}, True),
        ({"place.a.b": "x", "place.of": 3}, True),
        ({"place.none": {"$exists": True}}, False),
        ({"place.none": None}, True),
        ({"$or": [{"place.floor": 1}, {"place.of": 3}]}, True),
    ):
        found = parse(expression, schema)
        assert found is not None
        assert found.matches(record) is passes, expression
        assert found.matches({"place": [2]}) is found.matches({}), expression
    with pytest.raises(InvalidFilter, match="not a declared field"):
        parse({"other.floor": 2}, schema)


def test_a_strict_collection_knows_its_fields() -> None:
    strict = declare("things", fields={"n": "int", "a.b": "int"}, strict=True)
    with pytest.raises(InvalidFilter, match="no field 'm'") as caught:
        parse({"m": 1}, strict)
    assert caught.value.hint == "declared are: a.b, n"
    found = parse({"a.b": 1}, strict)
    assert found is not None
    assert found.matches({"a.b": 1})


def test_none_is_absence() -> None:
    for expression in ({"f": None}, {"f": {"$eq": None}}, {"f": {"$exists": False}}):
        found = parse(expression, SCHEMA)
        assert found is not None
        assert [found.matches(fields) for fields in ({}, {"f": None}, {"f": 0})] == [True, True, False]
