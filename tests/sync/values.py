"""Strategies for what a store may hold: every type, and shapes that column codecs treat in their own ways."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sync.limits import INT_MAX, INT_MIN

EDGE_INTS = (INT_MIN, INT_MIN + 1, -(2**31), -129, -128, -1, 0, 1, 127, 128, 255, 256, 2**32, INT_MAX - 1, INT_MAX)
WORDS = ("", " ", "a", "A", "the", "\0", " \0 ", "\u00e9", "\u4e2d\u6587", "\U0001f916", "a b", "\ud7ff", "\ue000")

ints = st.one_of(st.sampled_from(EDGE_INTS), st.integers(-300, 300), st.integers(INT_MIN, INT_MAX))
floats = st.one_of(st.sampled_from((0.0, -0.0, 5e-324, 1e308, -1.5)), st.floats(allow_nan=False, allow_infinity=False))
texts = st.one_of(
    st.sampled_from(WORDS),
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
blobs = st.one_of(st.binary(max_size=9), st.binary(min_size=8, max_size=8))
string_lists = st.lists(texts, max_size=4)
scalars = st.one_of(st.none(), st.booleans(), ints, floats, texts, blobs)
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)

# One strategy for each kind of column: all of one type, of one type with gaps, or of anything.
KINDS = {
    "none": st.none(),
    "bool": st.booleans(),
    "int": ints,
    "float": floats,
    "text": texts,
    "bytes": blobs,
    "string lists": string_lists,
    "lists": st.lists(nested, max_size=3),
    "additions": st.tuples(st.lists(nested, max_size=2), st.just([])).map(list),
    "maps": st.dictionaries(texts, nested, max_size=3),
    "scalars": scalars,
    "anything": nested,
}


def columns(kind: str, max_size: int = 40) -> st.SearchStrategy[list[Any]]:
    """At least one value of a kind, in some columns all alike or with None between them."""
    values = KINDS[kind]
    lists = st.lists(values, min_size=1, max_size=max_size)
    return st.one_of(
        lists,
        st.lists(st.one_of(st.none(), values), min_size=1, max_size=max_size),
        st.tuples(values, st.integers(1, max_size)).map(lambda pair: [pair[0]] * pair[1]),
    )


def same(one: Any, other: Any) -> bool:
    """Equal with equal types all the way down; -0.0 is not 0.0, and True is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(repr(one) == repr(other)) if isinstance(one, float) else bool(one == other)
