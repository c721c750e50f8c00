"""Records as Arrow rows: which columns, which values, and what becomes of those that do not fit."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.storage.tables_schema import Column, arrow_schema, column_name, columns_of, record_batch, to_json
from sync.schema import FieldRule, declare

SCHEMA = declare(
    "rows",
    fields={
        "s": "str",
        "n": "int",
        "x": "float",
        "b": "bool",
        "raw": "bytes",
        "words": "strings",
        "tags": "set",
        "doc": "json",
        "any": "any",
        "notes": "keep-all",
        "hits": "counter",
        "steps": FieldRule("int", "counter"),
        "odd name": "str",
    },
    vector=("v", 3),
)
COLUMNS = columns_of(SCHEMA)


def _row(fields: dict[str, Any]) -> dict[str, Any]:
    batch = record_batch(COLUMNS, [("key", 7, fields)])
    (row,) = batch.to_pylist()
    return {name: value for name, value in row.items() if value is not None}


def test_the_columns() -> None:
    assert {field.name: str(field.type) for field in arrow_schema(COLUMNS)} == {
        "_key": "string",
        "_position": "int64",
        "any": "string",
        "b": "bool",
        "doc": "string",
        "hits": "double",
        "n": "int64",
        "notes": "string",
        "x_odd_20name": "string",
        "raw": "binary",
        "s": "string",
        "steps": "int64",
        "tags": "list<item: string>",
        "v": "fixed_size_list<item: float>[3]",
        "words": "list<item: string>",
        "x": "double",
        "_extra": "string",
        "_misfit": "bool",
    }


def test_values_of_the_declared_types() -> None:
    vector = array("f", [1, 2, 3]).tobytes()
    assert _row(
        {
            "s": "a",
            "n": -(1 << 63),
            "x": -0.0,
            "b": False,
            "raw": b"\0",
            "words": [],
            "tags": ["a", 1],
            "doc": {"$a": [b"\xff", None, 1.5]},
            "any": 3,
            "notes": ["x", 1],
            "hits": 3,
            "steps": 4,
            "odd name": "o",
            "v": vector,
            "free": b"x",
            "list": [1, {"b": True}],
        }
    ) == {
        "_key": "key",
        "_position": 7,
        "s": "a",
        "n": -(1 << 63),
        "x": 0.0,
        "b": False,
        "raw": b"\0",
        "words": [],
        "tags": ["a", "1"],
        "doc": '{"$$a":[{"$bytes":"/w=="},null,1.5]}',
        "any": "3",
        "notes": '["x",1]',
        "hits": 3.0,
        "steps": 4,
        "x_odd_20name": "o",
        "v": [1.0, 2.0, 3.0],
        "_extra": '{"free":{"$bytes":"eA=="},"list":[1,{"b":true}]}',
    }


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("s", 5, 5),
        ("n", "5", "5"),
        ("n", True, True),
        ("n", 1 << 63, 1 << 63),
        ("n", 1.5, 1.5),
        ("x", (1 << 53) + 1, (1 << 53) + 1),
        ("x", True, True),
        ("hits", float("inf"), "inf"),
        ("hits", 1 << 70, 1 << 70),
        ("b", 1, 1),
        ("raw", "x", "x"),
        ("words", "x", "x"),
        ("words", [b"x"], [{"$bytes": "eA=="}]),
        ("tags", {"a": 1}, {"a": 1}),
        ("v", b"\0\0\0\0", {"$bytes": "AAAAAA=="}),
        ("v", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
    ],
)
def test_a_value_that_does_not_fit_is_kept_aside(field: str, value: Any, shown: Any) -> None:
    row = _row({field: value, "free": 1})
    assert json.loads(row.pop("_extra")) == {"free": 1, field: shown}
    assert row == {"_key": "key", "_position": 7, "_misfit": True}


def test_a_vector_that_is_not_finite_does_not_fit() -> None:
    assert _row({"v": array("f", [1, float("nan"), 0]).tobytes()})["_misfit"] is True


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_distinct_fields_have_distinct_plain_columns(fields: list[str]) -> None:
    names = [column_name(field.replace("\0", "")) for field in fields]
    if fields[0].replace("\0", "") != fields[1].replace("\0", ""):
        assert names[0] != names[1]
    for name in names:
        assert name.replace("_", "").isalnum() or name == "x_"
        assert name.isascii()
        assert not name.startswith("_")


@pytest.mark.parametrize("field", ["x_y", "x_", "a.b", "ä", "1a", "$x"])
def test_column_names_that_are_taken_or_not_plain_are_encoded(field: str) -> None:
    assert column_name(field) != field
    assert column_name(field).startswith("x_")


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if list(value) == ["$bytes"]:
            import base64

            return base64.b64decode(value["$bytes"])
        return {name.removeprefix("$"): _from_json(item) for name, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


@given(_json_values.filter(lambda value: "inf" not in repr(value)))
def test_the_json_form_loses_nothing(value: Any) -> None:
    assert _from_json(json.loads(to_json(value))) == value


def test_a_table_of_no_rows_has_all_columns() -> None:
    batch = record_batch(COLUMNS, [])
    assert batch.num_rows == 0
    assert batch.schema.names == arrow_schema(COLUMNS).names
    assert columns_of(declare("plain")) == ()
    assert Column("v", "v", "vector", 3) in COLUMNS
