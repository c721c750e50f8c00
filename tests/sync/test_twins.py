"""Twins: the laws of merging, delta and compacting."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import InvalidValue, Malformed, TooLarge
from sync.twins import (
    STATE_BYTES_MAX,
    check_document,
    check_patch,
    compact,
    delta,
    merge,
    read_document,
    read_patch,
    same,
    whole,
)

NAMES = st.sampled_from(["a", "b", "c", "agents"])
SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, "", "x"]))
LEAVES = SCALARS | st.lists(SCALARS, max_size=2)


def objects(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, below, max_size=3)


DOCUMENTS = objects(st.recursive(LEAVES, objects, max_leaves=8))


def changes(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = st.dictionaries(NAMES, below, max_size=3)
    return plain | plain.map(lambda patch: {"": None, **patch})


PATCHES = changes(st.recursive(LEAVES | st.none(), changes, max_leaves=8))


def is_document(value: Any) -> bool:
    if isinstance(value, dict):
        return all(name and below is not None and is_document(below) for name, below in value.items())
    return True


@given(DOCUMENTS, PATCHES)
def test_a_merge_is_a_document_and_changes_nothing_that_was_given(document: Any, patch: Any) -> None:
    before = copy.deepcopy((document, patch))
    assert is_document(merge(document, patch))
    assert (document, patch) == before


@given(DOCUMENTS, PATCHES)
def test_a_patch_twice_is_the_patch_once(document: Any, patch: Any) -> None:
    once = merge(document, patch)
    assert same(merge(once, patch), once)


@given(DOCUMENTS, st.lists(PATCHES, max_size=4))
def test_compacted_patches_do_what_they_did_one_by_one(document: Any, patches: Any) -> None:
    one_by_one = document
    for patch in patches:
        one_by_one = merge(one_by_one, patch)
    done = compact(patches)
    assert same(merge(document, done), one_by_one)
    check_patch(done)


@given(PATCHES, PATCHES, PATCHES)
def test_compacting_is_associative(one: Any, two: Any, three: Any) -> None:
    assert same_patch(compact([compact([one, two]), three]), compact([one, compact([two, three])]))


def same_patch(one: Any, two: Any) -> bool:
    """Whether they do the same to every document that could tell them apart: nothing, all names, all names below."""
    names = ["a", "b", "c", "agents"]
    full: Any = 9
    documents: list[Any] = [{}]
    for _ in range(4):
        full = dict.fromkeys(names, full)
        documents.append(full)
    return all(same(merge(document, one), merge(document, two)) for document in documents)


@given(DOCUMENTS, PATCHES, PATCHES)
def test_a_patch_whose_answer_was_lost_may_come_again_with_what_followed(document: Any, patch: Any, later: Any) -> None:
    taken = merge(document, patch)
    assert same(merge(taken, compact([patch, later])), merge(taken, later))


@given(DOCUMENTS, DOCUMENTS)
def test_a_delta_that_was_applied_leaves_none(desired: Any, reported: Any) -> None:
    missing = delta(desired, reported)
    assert delta(desired, merge(reported, missing)) == {}
    assert is_document(missing)


@given(DOCUMENTS, DOCUMENTS)
def test_a_delta_says_nothing_of_what_only_reported_has(desired: Any, reported: Any) -> None:
    assert delta(desired, desired) == {}
    assert delta({}, reported) == {}
    assert set(delta(desired, reported)) <= set(desired)


@given(DOCUMENTS, DOCUMENTS)
def test_whole_makes_any_document_this_one(document: Any, other: Any) -> None:
    assert same(merge(other, whole(document)), document)


@given(DOCUMENTS, PATCHES)
def test_bytes_come_back(document: Any, patch: Any) -> None:
    assert same(read_document(check_document(document)), document)
    assert check_document(dict(reversed(document.items()))) == check_document(document)
    assert read_patch(check_patch(patch)) == patch


def test_as_shadows_do() -> None:
    shadow = {"config": {"level": "info", "hosts": ["a", "b"]}, "color": "red"}
    patch = {"config": {"level": None, "hosts": ["c"]}, "size": {"x": 1, "y": None}}
    assert merge(shadow, patch) == {"config": {"hosts": ["c"]}, "color": "red", "size": {"x": 1}}
    assert delta({"config": {"level": "debug"}, "color": "red"}, shadow) == {"config": {"level": "debug"}}
    assert compact([{"a": 1}, {"a": {"b": 2}}]) == {"a": {"": None, "b": 2}}


def test_true_is_not_one() -> None:
    assert delta({"a": True, "b": [1]}, {"a": 1, "b": [1.0]}) == {"a": True}


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"a": None},
        {"": None},
        {"a": {"b": [None]}},
        {"a": float("nan")},
        {"a": 1 << 53},
        {"a": b"x"},
        {1: 2},
        {"a": "\ud800"},
    ],
)
def test_what_is_no_document_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidValue):
        check_document(wrong)


def test_bounds() -> None:
    deep: Any = 1
    for _ in range(17):
        deep = {"a": deep}
    with pytest.raises(InvalidValue, match="deeper"):
        check_patch(deep)
    with pytest.raises(TooLarge):
        check_document({"a": "x" * STATE_BYTES_MAX})
    with pytest.raises(TooLarge):
        check_document({"n" * 129: 1})
    with pytest.raises(InvalidValue, match="empty name"):
        check_patch({"": 1})


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":null}', b"\xff", b'{"a":NaN}', b"[" * 100_000])
def test_bytes_that_are_no_document(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_document(data)
