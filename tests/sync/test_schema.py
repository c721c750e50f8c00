"""Schemas: what is declared comes back from its document, what was accepted stays mergeable, and nothing else is
taken.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import InputError, InvalidValue, SchemaMismatch, TooLarge
from sync.limits import FIELDS_MAX, VECTOR_DIMENSIONS_MAX
from sync.schema import (
    COLLECTIONS_SCHEMA,
    METRICS,
    RULE_LETTERS,
    TYPES,
    CollectionSchema,
    FieldRule,
    VectorSpec,
    check_successor,
    declare,
)
from tests.sync.values import nested, same

HUGE = 10**6000
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0_"), min_size=1, max_size=8)
MERGES_OF = {
    "any": tuple(RULE_LETTERS),
    "int": ("lww", "counter", "max", "min"),
    "float": ("lww", "counter", "max", "min"),
    "strings": ("lww", "set"),
    "json": ("lww", "keep-all"),
    **dict.fromkeys(("str", "bool", "bytes"), ("lww",)),
}
rules = st.sampled_from([FieldRule(kind, merge) for kind, merges in MERGES_OF.items() for merge in merges])


def kind_of(value: Any) -> str:
    """A test's name; not every value has one that can be shown."""
    return type(value).__name__


@st.composite
def schemas(draw: st.DrawFn) -> CollectionSchema:
    vector = st.tuples(
        names, st.integers(1, VECTOR_DIMENSIONS_MAX), st.sampled_from(METRICS), st.text("ab", max_size=3)
    )
    fields = draw(st.dictionaries(names, rules, max_size=5))
    texts = [name for name, rule in fields.items() if rule == FieldRule("str")]
    spec = draw(st.none() | vector.filter(lambda spec: spec[0] not in fields))
    return declare(
        draw(st.sampled_from(("things", "a.b-c_9"))),
        fields=fields,
        vector=spec,
        text=texts,
        conflict=draw(st.sampled_from(("latest", "priority", "manual", "resolver:mine"))),
        strict=draw(st.booleans()),
    )


@given(schemas())
def test_a_schema_comes_back_from_its_document(schema: CollectionSchema) -> None:
    document = msgpack.unpackb(msgpack.packb(schema.to_document()), strict_map_key=True)
    assert document == schema.to_document()
    again = CollectionSchema.from_document(schema.name, document)
    assert again == schema
    assert again.to_document() == document
    check_successor(schema, again)


def test_ways_to_declare_a_field() -> None:
    schema = declare(
        "things",
        fields={"a": "int", "b": "counter", "c": ("strings", "set"), "d": FieldRule("json", "keep-all"), "e": "any"},
        vector=("v", 3),
        text="t",
    )
    assert schema.fields == {
        "a": FieldRule("int", "lww"),
        "b": FieldRule("any", "counter"),
        "c": FieldRule("strings", "set"),
        "d": FieldRule("json", "keep-all"),
        "e": FieldRule("any", "lww"),
        "v": FieldRule("vector", "lww"),
        "t": FieldRule("str", "lww"),
    }
    assert schema.vector == VectorSpec("v", 3, "cosine", "")
    assert [schema.rule_letter(name) for name in "abcdevtz"] == list("lcskllll")
    assert not schema.all_lww()
    assert declare("plain").all_lww()
    assert COLLECTIONS_SCHEMA.all_lww()


BAD: dict[str, dict[str, Any]] = {
    "a type": {"fields": {"f": "number"}},
    "a merge rule": {"fields": {"f": ("int", "sum")}},
    "a rule that is a list": {"fields": {"f": ["any", []]}},
    "a rule that is a number": {"fields": {"f": 5}},
    "a rule of three": {"fields": {"f": ("int", "lww", "x")}},
    "a rule of nothing": {"fields": {"f": None}},
    "a type of nothing": {"fields": {"f": (None, "lww")}},
    "a huge type": {"fields": {"f": (HUGE, "lww")}},
    "fields as a list": {"fields": ["f"]},
    "fields as text": {"fields": "f"},
    "a reserved name": {"fields": {"_f": "int"}},
    "a name that is a number": {"fields": {1: "int"}},
    "a counter of text": {"fields": {"f": ("str", "counter")}},
    "a set of integers by type": {"fields": {"f": ("int", "set")}},
    "siblings of text": {"fields": {"f": ("str", "keep-all")}},
    "a merged vector": {"fields": {"f": ("vector", "set")}},
    "a vector without dimensions": {"fields": {"f": "vector"}},
    "another vector field": {"fields": {"f": "vector"}, "vector": ("g", 3)},
    "no dimensions": {"vector": ("v",)},
    "zero dimensions": {"vector": ("v", 0)},
    "many dimensions": {"vector": ("v", VECTOR_DIMENSIONS_MAX + 1)},
    "huge dimensions": {"vector": ("v", HUGE)},
    "dimensions of truth": {"vector": ("v", True)},
    "fractional dimensions": {"vector": ("v", 3.0)},
    "a metric": {"vector": ("v", 3, "hamming")},
    "a metric that is a list": {"vector": ("v", 3, [])},
    "a model that is a number": {"vector": ("v", 3, "dot", 5)},
    "a model of surrogates": {"vector": ("v", 3, "dot", "\ud800")},
    "a long model": {"vector": ("v", 3, "dot", "m" * 257)},
    "a vector of five": {"vector": ("v", 3, "dot", "m", 1)},
    "a vector that is a number": {"vector": 5},
    "a vector that is text already": {"fields": {"v": "str"}, "vector": ("v", 3)},
    "text of numbers": {"text": 5},
    "text names that are numbers": {"text": [5]},
    "text that is an integer": {"fields": {"t": "int"}, "text": ["t"]},
    "text that is a vector": {"vector": ("v", 3), "text": ["v"]},
    "a conflict rule": {"conflict": "newest"},
    "a conflict rule that is a list": {"conflict": ["latest"]},
    "a resolver without a name": {"conflict": "resolver:"},
    "a resolver of surrogates": {"conflict": "resolver:\ud800"},
    "a long resolver": {"conflict": "resolver:" + "x" * 300},
    "strict by text": {"strict": "yes"},
    "many fields": {"fields": {f"f{i}": "int" for i in range(FIELDS_MAX + 1)}},
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_declared(what: str) -> None:
    with pytest.raises(InputError):
        declare("things", **BAD[what])


@pytest.mark.parametrize("name", ["", "9", "a b", "_x", None, 5, HUGE, b"a", "a" * 65, ["a"]], ids=kind_of)
def test_collections_that_cannot_be_declared(name: Any) -> None:
    with pytest.raises(InvalidValue):
        declare(name)


GOOD = declare("things", fields={"f": "counter"}, vector=("v", 3), text="t").to_document()
JUNK: tuple[Any, ...] = (
    None,
    True,
    5,
    HUGE,
    1.5,
    "",
    "x",
    b"x",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    {"f": None},
    {"f": ["any", "counter", 1]},
)


@pytest.mark.parametrize("part", sorted(GOOD))
def test_documents_that_are_not_schemas(part: str) -> None:
    """A document comes from any device of the fleet: SchemaMismatch, or a schema that comes back."""
    refused = 0
    for junk in JUNK:
        document = {**GOOD, part: junk}
        try:
            schema = CollectionSchema.from_document("things", document)
        except SchemaMismatch:
            refused += 1
            continue
        assert CollectionSchema.from_document("things", schema.to_document()) == schema
    assert refused >= 5
    with pytest.raises(SchemaMismatch):
        CollectionSchema.from_document("things", {key: value for key, value in GOOD.items() if key != part})


@pytest.mark.parametrize("document", [*JUNK, "text", GOOD["fields"]], ids=kind_of)
def test_documents_of_another_kind(document: Any) -> None:
    with pytest.raises(SchemaMismatch):
        CollectionSchema.from_document("things", document)


def test_documents_of_a_later_version_are_read() -> None:
    assert CollectionSchema.from_document("things", {**GOOD, "ttl": 5}).to_document() == GOOD


# -- values -----------------------------------------------------------------------------------------------------------

TYPED = declare(
    "things",
    fields={
        **{f"{kind}s": kind for kind in TYPES if kind != "vector"},
        "counter": "counter",
        "ints": ("int", "max"),
        "floats": ("float", "min"),
        "set": "set",
        "all": "keep-all",
    },
    vector=("v", 2),
)


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("strs", "x", "x"),
        ("strs", None, None),
        ("anys", (1, 2), [1, 2]),
        ("bools", True, True),
        ("bytess", bytearray(b"x"), b"x"),
        ("jsons", {"a": [1, None]}, {"a": [1, None]}),
        ("stringss", ("a", "b"), ["a", "b"]),
        ("v", [1, 2], b"\x00\x00\x80\x3f\x00\x00\x00\x40"),
        ("v", None, None),
        ("counter", 1.5, 1.5),
        ("ints", 5, 5),
        ("floats", 5, 5.0),
        ("set", {"b", "a", 3}, [3, "a", "b"]),
        ("all", {"any": "thing"}, {"any": "thing"}),
        ("undeclared", "x", "x"),
        ("undeclared", 5, 5),
        ("undeclared", 0.5, 0.5),
        ("undeclared", "\u00e9", "\u00e9"),
    ],
)
def test_values_are_stored_as_their_field_says(field: str, value: Any, stored: Any) -> None:
    assert same(TYPED.normalise({field: value}), {field: stored})


def test_whole_numbers_in_a_float_field() -> None:
    schema = declare("things", fields={"f": "float"})
    assert same(schema.normalise({"f": 5}), {"f": 5.0})
    with pytest.raises(InvalidValue):
        schema.normalise({"f": HUGE})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strs", 5),
        ("strs", b"x"),
        ("strs", "\ud800"),
        ("bools", 1),
        ("bytess", "x"),
        ("stringss", ["a", 1]),
        ("stringss", "ab"),
        ("jsons", {1: 2}),
        ("v", [1]),
        ("v", [1, float("nan")]),
        ("v", "ab"),
        ("counter", "1"),
        ("counter", True),
        ("counter", None),
        ("counter", float("nan")),
        ("ints", 1.5),
        ("ints", HUGE),
        ("floats", "1"),
        ("set", "ab"),
        ("set", None),
        ("set", [1.5]),
        ("all", None),
        ("all", [object()]),
        ("undeclared", object()),
        ("undeclared", HUGE),
        ("undeclared", float("inf")),
        ("undeclared", "\udfff"),
        ("_reserved", 1),
        ("", 1),
        (5, 1),
        ("x" * 65, 1),
        ("a\0b", 1),
    ],
    ids=kind_of,
)
def test_values_that_their_field_does_not_take(field: Any, value: Any) -> None:
    with pytest.raises(InputError):
        TYPED.normalise({field: value})


@pytest.mark.parametrize("values", [None, 5, "text", [("a", 1)], {"a"}, b""], ids=kind_of)
def test_what_is_no_record(values: Any) -> None:
    with pytest.raises(InvalidValue):
        TYPED.normalise(values)


def test_too_many_fields_and_a_strict_schema() -> None:
    many = dict.fromkeys(map(str, range(FIELDS_MAX + 1)), 1)
    with pytest.raises(TooLarge):
        TYPED.normalise(many)
    strict = declare("things", fields={"f": "int"}, strict=True)
    assert strict.normalise({"f": 1}) == {"f": 1}
    with pytest.raises(SchemaMismatch):
        strict.normalise({"f": 1, "g": 1})


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*TYPED.fields, "undeclared"]), nested, max_size=4))
def test_whatever_is_accepted_can_be_packed_and_is_accepted_again(values: dict[str, Any]) -> None:
    try:
        stored = TYPED.normalise(values)
    except InputError:
        return
    assert same(msgpack.unpackb(msgpack.packb(stored), strict_map_key=True), stored)
    assert same(TYPED.normalise(stored), stored)


# -- successors -------------------------------------------------------------------------------------------------------


def test_what_a_schema_may_become() -> None:
    old = declare("things", fields={"n": "counter", "a": "int", "t": "str"}, vector=("v", 3), text="t")
    fields = {"n": "counter", "a": "int", "t": "str", "new": "set"}
    check_successor(old, declare("things", fields=fields, vector=("v", 3, "dot", "model-2"), text=["t"], strict=True))
    check_successor(old, declare("things", fields={"n": "counter"}, vector=("v", 3)))  # plain fields may be left out
    check_successor(declare("things"), old)


def test_vectors_of_another_model_may_be_in_another_field_and_of_another_size() -> None:
    old = declare("things", fields={"n": "counter"}, vector=("v", 3, "cosine", "a"))
    new = declare("things", fields={"n": "counter"}, vector=("w", 5, "cosine", "b"))
    check_successor(old, new)
    check_successor(new, old)
    with pytest.raises(SchemaMismatch, match="holds vectors"):  # who has not heard of it could not write any more
        check_successor(old, declare("things", fields={"n": "counter"}, vector=("w", 5), strict=True))
    with pytest.raises(SchemaMismatch, match="cannot become"):
        check_successor(old, declare("things", fields={"n": "counter", "v": "str"}, vector=("w", 5)))


@pytest.mark.parametrize(
    "new",
    [
        {"fields": {"n": "max"}},
        {"fields": {"n": ("int", "counter")}},
        {"fields": {"n": "any"}},
        {"fields": {"n": "counter", "a": "str"}},
        {"fields": {"n": "counter"}, "vector": ("v", 4)},
        {"fields": {"n": "counter", "v": "str"}},
        {"fields": {"a": "int"}},
        {"fields": {"n": "counter", "a": "int"}},
        {},
    ],
)
def test_what_it_may_not_become(new: dict[str, Any]) -> None:
    """The last three leave out a counter or the vectors: undeclared, they would be last-writer fields beside what is
    there.
    """
    old = declare("things", fields={"n": "counter", "a": "int"}, vector=("v", 3))
    with pytest.raises(SchemaMismatch):
        check_successor(old, declare("things", **new))
