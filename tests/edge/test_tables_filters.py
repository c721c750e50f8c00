"""Filters as Lance expressions: never narrower than the predicate, equal to it where types allow, and inert as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.storage.filters import All, Condition, Either, Filter, Negation, Node, parse
from edge.storage.tables import LanceTables
from edge.storage.tables_filters import expression
from edge.storage.tables_schema import columns_of
from edge.storage.transaction import Write
from sync.operations import Kind
from sync.schema import FieldRule, declare
from tests.edge.stores import open_log, put

SCHEMA = declare(
    "rows",
    fields={
        "n": "int",
        "N": "int",
        "x": "float",
        "s": "str",
        "odd name.%`'\"": "str",
        "b": "bool",
        "raw": "bytes",
        "tags": "set",
        "words": "strings",
        "hits": "counter",
        "top": FieldRule("int", "max"),
        "doc": "json",
    },
)
BIG = 1 << 53
HOSTILE = [
    "' OR 1=1 --",
    "'; DROP TABLE rows; --",
    '" OR ""="',
    "\\' OR 1=1",
    "`n`",
    "%",
    "_",
    "NULL",
    "true",
    "x' OR '1'='1",
    "/*",
    "*/ OR 1=1",
    "${n}",
    "{n}",
    "\n",
    "a\0b",
    "[a, b]",
    ", ",
    "",
    " ",
    "é",
    "e\u0301",
    "\U0010ffff",
    "日本",
]
INTS = [0, 1, -1, 2, BIG, BIG + 1, -BIG - 1, (1 << 63) - 1, -(1 << 63)]
FLOATS = [0.0, -0.0, 0.5, 1.0, 1.5, -1.5, float(BIG), float(BIG) + 2, 1e300, -1e300, 5e-324, 0.1, 2.0**63, -(2.0**63)]
BYTES = [b"", b"\0", b"\0\xff", b"' OR 1=1", b"\xff"]
ELEMENTS: list[Any] = ["a", "b", "ab", "1", 1, 12, *HOSTILE[:6], "", ", "]


ENTRIES = ["a", "A", 'odd "name.\\', "$a", "é", ""]
VALUES: list[Any] = [
    *HOSTILE,
    *INTS,
    *FLOATS,
    *BYTES,
    True,
    False,
    1e16,
    10**16,
    2,
    2.0,
    "2",
    "2,",
    '"2"',
    "true",
    "{}",
]


def _map(random: Random) -> dict[str, Any]:
    kinds = [random.choice(VALUES), random.choice(VALUES), random.sample(ELEMENTS, 2), {"a": random.choice(VALUES)}]
    return {entry: random.choice(kinds) for entry in random.sample(ENTRIES, random.randrange(1, 4))}


def _record(random: Random) -> dict[str, Any]:
    choices: dict[str, Any] = {
        "n": random.choice(INTS),
        "N": random.choice(INTS),
        "x": random.choice(FLOATS),
        "s": random.choice(HOSTILE),
        "odd name.%`'\"": random.choice(HOSTILE),
        "b": random.random() < 0.5,
        "raw": random.choice(BYTES),
        "tags": random.sample(ELEMENTS, random.randrange(4)),
        "words": [str(item) for item in random.sample(ELEMENTS, random.randrange(4))],
        "hits": random.choice([0, 1, 2.5, BIG]),
        "top": random.choice([0, 1, 2, BIG + 1]),
        "doc": random.choice([1, "a", None, {"a": [1]}, _map(random), _map(random), _map(random)]),
        "free": random.choice([1, 1.0, "a", True, b"x", [1, "a"]]),
    }
    return {name: value for name, value in choices.items() if random.random() < 0.7}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LanceTables, dict[str, dict[str, Any]]]]:
    folder: Path = tmp_path_factory.mktemp("filters")
    log = open_log(folder, SCHEMA)
    random = Random(7)
    put(log, "rows", {f"k{n:03}": _record(random) for n in range(200)})
    # Values that their columns cannot hold, as they come from replicas that knew no schema.
    strange = {"n": "text", "s": 5, "b": 1, "x": 1 << 60, "tags": "a", "hits": (1 << 62) + 1, "raw": "text"}
    log.submit([Write(Kind.PUT, "rows", f"z{name}", {name: value}) for name, value in strange.items()])
    tables = LanceTables(folder, log)
    yield tables, dict(tables.scan("rows"))
    tables.close()
    log.close()


def _lance(tables: LanceTables, where: Filter) -> set[str]:
    """What the expression alone lets pass."""
    pushed = expression(where, columns_of(SCHEMA))
    builder = tables.lance("rows").search()
    if pushed is not None:
        builder = builder.where(pushed)
    return set(builder.select(["_key"]).to_arrow()["_key"].to_pylist())


def _is_exact(node: Node) -> bool:
    if isinstance(node, Negation):
        return _is_exact(node.part)
    if isinstance(node, (All, Either)):
        return all(map(_is_exact, node.parts))
    assert isinstance(node, Condition)
    return node.field not in ("doc", "free", "tags", "words")


_scalars: dict[str, Any] = {
    "n": st.sampled_from([*INTS, *FLOATS]),
    "N": st.sampled_from([*INTS, *FLOATS]),
    "x": st.sampled_from([*INTS, *FLOATS]) | st.floats(allow_nan=False, allow_infinity=False),
    "s": st.sampled_from(HOSTILE) | st.text(max_size=5),
    "odd name.%`'\"": st.sampled_from(HOSTILE),
    "b": st.booleans(),
    "raw": st.sampled_from(BYTES),
    "hits": st.sampled_from([*INTS, *FLOATS]),
    "top": st.sampled_from([*INTS, *FLOATS]),
    "doc": st.sampled_from([1, "a", True]),
    "free": st.sampled_from([1, "a", True, b"x"]),
    **{f"doc.{entry}": st.sampled_from(VALUES) for entry in ENTRIES},
}


@st.composite
def _conditions(draw: Any) -> dict[str, Any]:
    field = draw(st.sampled_from([*_scalars, "tags", "words", "doc.a", 'doc.odd "name.\\']))
    if field in ("tags", "words") or (field.startswith("doc.") and draw(st.integers(0, 4)) == 0):
        operator = draw(st.sampled_from(["$contains", "$exists"]))
        operand = draw(st.booleans()) if operator == "$exists" else draw(st.sampled_from(ELEMENTS))
        return {field: {operator: operand}}
    ordered = [] if field == "b" else ["$gt", "$gte", "$lt", "$lte"]
    operators = ["$eq", "$ne", "$in", "$nin", "$exists", *ordered]
    operator = draw(st.sampled_from(operators))
    if operator == "$exists":
        return {field: {operator: draw(st.booleans())}}
    if operator in ("$in", "$nin"):
        return {field: {operator: draw(st.lists(_scalars[field], max_size=4))}}
    operand = draw(_scalars[field])
    if type(operand) is bool and operator not in ("$eq", "$ne"):
        operator = "$eq"
    return {field: {operator: operand}}


_filters = st.recursive(
    _conditions(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=6,
)


@settings(settings.get_profile("laws"), max_examples=300)
@given(_filters)
def test_the_expression_is_never_narrower_than_the_predicate(
    rows: tuple[LanceTables, dict[str, dict[str, Any]]], expression_said: dict[str, Any]
) -> None:
    tables, records = rows
    where = parse(expression_said, SCHEMA)
    assert where is not None
    wanted = {key for key, fields in records.items() if where.matches(fields)}
    pushed = _lance(tables, where)
    assert wanted <= pushed
    if _is_exact(where.root):
        misfits = {key for key in records if key.startswith("z")}
        assert pushed - misfits == wanted - misfits
    assert {key for key, _ in tables.scan("rows", where)} == wanted


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["s", "odd name.%`'\""])
def test_hostile_strings_are_values(rows: tuple[LanceTables, dict[str, dict[str, Any]]], field: str, text: str) -> None:
    tables, records = rows
    for condition in ({field: text}, {field: {"$in": [text]}}, {field: {"$ne": text}}):
        where = parse(condition, SCHEMA)
        assert where is not None
        wanted = {key for key, fields in records.items() if where.matches(fields)}
        assert {key for key, _ in tables.scan("rows", where)} == wanted
        misfits = {key for key in records if key.startswith("z")}
        assert _lance(tables, where) - misfits == wanted - misfits
    where = parse({"tags": {"$contains": text}}, SCHEMA)
    assert where is not None
    found = {key for key, _ in tables.scan("rows", where)}
    assert found == {key for key, fields in records.items() if text in fields.get("tags", []) and key[0] == "k"}


def test_an_entry_of_a_map_narrows(rows: tuple[LanceTables, dict[str, dict[str, Any]]]) -> None:
    tables, records = rows
    maps = {key for key, fields in records.items() if type(fields.get("doc")) is dict}
    for entry in ENTRIES:
        for value in VALUES:
            for said in ({f"doc.{entry}": value}, {f"doc.{entry}": {"$in": [value, "never"]}}):
                where = parse(said, SCHEMA)
                assert where is not None
                wanted = {key for key, fields in records.items() if where.matches(fields)}
                pushed = {key for key in _lance(tables, where) if key[0] == "k"}
                assert wanted <= pushed
                inner = {key for key in maps if entry not in records[key]["doc"]}
                assert len(pushed & inner) <= 20, "of a map within the map, or of a list"
    assert len(maps) > 60


def test_a_name_that_no_record_can_have(rows: tuple[LanceTables, dict[str, dict[str, Any]]]) -> None:
    tables, _ = rows
    where = parse({"doc.\ud800": 1}, SCHEMA)
    assert where is not None
    assert list(tables.scan("rows", where)) == []


def test_an_undeclared_field_is_no_column(rows: tuple[LanceTables, dict[str, dict[str, Any]]]) -> None:
    tables, records = rows
    hostile = "n = 0 OR 1=1 --"
    where = parse({hostile: 1}, SCHEMA)
    assert where is not None
    assert expression(where, columns_of(SCHEMA)) is None
    assert list(tables.scan("rows", where)) == []
    where = parse({"free": 1}, SCHEMA)
    assert where is not None
    found = [key for key, _ in tables.scan("rows", where)]
    assert found == sorted(key for key, fields in records.items() if type(fields.get("free")) in (int, float))
