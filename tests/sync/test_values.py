"""Keys, names and values: what may be stored comes back as it was put; everything else is a typed error."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import InputError, InvalidValue, SchemaMismatch, TooLarge
from sync.limits import INT_MAX, INT_MIN, SET_ELEMENTS_MAX, VALUE_DEPTH_MAX, VALUE_ITEMS_MAX
from sync.values import (
    brief,
    check_collection_name,
    check_elements,
    check_field_name,
    check_key,
    check_value,
    pack_vector,
    unpack_vector,
)
from tests.sync.values import nested, same

HUGE = 10**6000  # Python refuses to show an integer of so many digits
SELF: list[Any] = []
SELF.append(SELF)


class Odd(IntEnum):
    ONE = 1


STRANGE: tuple[Any, ...] = (
    None,
    True,
    1,
    -1,
    1.5,
    HUGE,
    b"",
    b"x",
    "",
    "\0",
    "a\0b",
    "\ud800",
    "x\udfff",
    "_x",
    (),
    [],
    {},
    set(),
    object(),
    SELF,
    Odd.ONE,
)


@given(nested)
def test_what_is_accepted_survives_msgpack(value: Any) -> None:
    checked = check_value("f", value)
    assert same(checked, value)
    assert same(msgpack.unpackb(msgpack.packb(checked), strict_map_key=True), value)


def test_tuples_and_buffers_are_stored_as_lists_and_bytes() -> None:
    assert check_value("f", (1, (2, [3, ()]))) == [1, [2, [3, []]]]
    assert same(check_value("f", bytearray(b"x")), b"x")
    assert same(check_value("f", memoryview(b"xyz")[::2]), b"xz")


def deep(levels: int) -> Any:
    value: Any = "core"
    for level in range(levels):
        value = [value] if level % 2 else {"in": value}
    return value


def test_depth_and_length_have_bounds() -> None:
    assert check_value("f", deep(VALUE_DEPTH_MAX)) == deep(VALUE_DEPTH_MAX)
    with pytest.raises(InvalidValue, match="deeper"):
        check_value("f", deep(VALUE_DEPTH_MAX + 1))
    assert len(check_value("f", [0] * VALUE_ITEMS_MAX)) == VALUE_ITEMS_MAX
    with pytest.raises(TooLarge):
        check_value("f", [0] * (VALUE_ITEMS_MAX + 1))
    with pytest.raises(TooLarge):
        check_value("f", dict.fromkeys(map(str, range(VALUE_ITEMS_MAX + 1))))


@pytest.mark.parametrize(
    "value",
    [
        *(
            INT_MAX + 1,
            INT_MIN - 1,
            HUGE,
            -HUGE,
            float("nan"),
            float("inf"),
            float("-inf"),
            1j,
            object(),
            {1},
            range(3),
        ),
        *(
            "\ud800",
            "ok \udc00",
            Odd.ONE,
            np.zeros(3),
            SELF,
            {1: 2},
            {b"a": 1},
            {"\ud800": 1},
        ),
        *({("a",): 1}, [[float("nan")]], {"a": {"b": object()}}, type, lambda: 0, iter([]), Exception("x")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored(value: Any) -> None:
    for wrapped in (value, [value], {"a": [value]}):
        with pytest.raises(InvalidValue):
            check_value("f", wrapped)


@pytest.mark.parametrize("check", [check_key, check_field_name, check_collection_name])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_strange_keys_and_names(check: Any, value: Any) -> None:
    if check is check_key and value == "_x":
        assert check_key(value) == "_x"
        return
    with pytest.raises(InvalidValue):
        check(value)


@given(st.text(min_size=1, max_size=600))
def test_keys_are_bounded_in_bytes(text: str) -> None:
    key = text.replace("\0", "0")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = -1
    if 0 < size <= 512:
        assert check_key(key) == key
    else:
        with pytest.raises(InputError):
            check_key(key)


def test_names_at_their_bounds() -> None:
    for good in ("a", "a" * 64, "\u00e9" * 32, "with space", "9"):
        assert check_field_name(good) == good
    for long in ("a" * 65, "\u00e9" * 33, "\u4e2d" * 22):
        with pytest.raises(TooLarge):
            check_field_name(long)
    for good in ("a", "Z9", "a_b-c.d", "a" * 64, "_collections"):
        assert check_collection_name(good) == good
    for bad in ("9a", "a b", "a" * 65, "a/b", "\u00e9", "__collections", "_", ".a", "-", "a\n"):
        with pytest.raises(InvalidValue):
            check_collection_name(bad)


def test_the_elements_of_a_set() -> None:
    assert check_elements("f", ["b", 1, "a", 1, "b", -5, ""]) == [-5, 1, "", "a", "b"]
    assert (
        check_elements("f", {"x"}) == check_elements("f", frozenset(["x"])) == check_elements("f", ("x", "x")) == ["x"]
    )
    assert check_elements("f", []) == []
    strange: list[Any] = ["ab", b"ab", None, 5, {"a": 1}, iter("ab")]
    elements: list[Any] = [None, True, 1.0, [], INT_MAX + 1, HUGE, "\ud800", Odd.ONE, b"a"]
    for bad in strange + [[element] for element in elements]:
        with pytest.raises(InvalidValue):
            check_elements("f", bad)
    assert len(check_elements("f", range_of(SET_ELEMENTS_MAX))) == SET_ELEMENTS_MAX
    with pytest.raises(TooLarge):
        check_elements("f", range_of(SET_ELEMENTS_MAX + 1))


def range_of(size: int) -> list[int]:
    return list(range(size))


VECTOR = array("f", [0.5, -1.25, 3e38])


@pytest.mark.parametrize(
    "value",
    [
        VECTOR,
        VECTOR.tobytes(),
        list(VECTOR),
        tuple(VECTOR),
        array("d", VECTOR),
        np.array(VECTOR, dtype=np.float32),
        np.array(VECTOR, dtype=np.float64),
        np.array([*VECTOR, 9], dtype=np.float32)[:3],
        np.array([1, *VECTOR, 2, 3], dtype=np.float32)[1:4],
        np.array([[x, 0] for x in VECTOR], dtype=np.float32)[:, 0],
        memoryview(VECTOR),
    ],
    ids=lambda value: type(value).__name__,
)
def test_vectors_in_all_their_forms(value: Any) -> None:
    assert pack_vector(value, 3) == VECTOR.tobytes()
    assert unpack_vector(pack_vector(value, 3)) == VECTOR


def test_small_and_whole_numbers_are_vectors_too() -> None:
    assert unpack_vector(pack_vector([1, True, 0], 3)).tolist() == [1, 1, 0]
    assert unpack_vector(pack_vector(np.array([0.5, 2], dtype=np.float16), 2)).tolist() == [0.5, 2]


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            5,
            "abc",
            object(),
            {1: 2},
            [None] * 3,
            ["1", "2", "3"],
            [1, 2, HUGE],
            [1, 2, 1e39],
            [1, 2, float("nan")],
        ),
        *(
            [1, 2, float("-inf")],
            b"12345",
            bytearray(12),
            np.array([1, 2, 3], dtype=np.uint8),
            np.zeros((1, 3)),
            np.float32(1),
            [[1], [2], [3]],
        ),
        np.array([1, 2, np.nan], dtype=np.float32),
        np.array([1, 2, 1e300]),
        iter([1.0, 2.0, 3.0]),
        array("b", [1, 2, 3]),
        array("f", [1, 2, float("nan")]).tobytes(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_vector(value: Any) -> None:
    with pytest.raises(InvalidValue):
        pack_vector(value, 3)


@pytest.mark.parametrize("value", [[], [1.0], [1.0] * 4, b"", b"1234", np.zeros(0), array("f", [1, 2])])
def test_a_vector_of_other_dimensions(value: Any) -> None:
    with pytest.raises(SchemaMismatch, match="3 dimensions"):
        pack_vector(value, 3)


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_messages_can_show_anything(value: Any) -> None:
    assert 0 < len(brief(value)) <= 80


@pytest.mark.parametrize(
    ("put", "kept"),
    [
        (np.float32(0.5), 0.5), (np.float64(0.1), 0.1), (np.int64(-3), -3), (np.uint8(9), 9), (np.bool_(True), True),
        (np.str_("text"), "text"), (np.array(7), 7), ([np.int32(1), {"x": np.float16(2)}], [1, {"x": 2.0}]),
    ],
)  # fmt: skip
def test_numpy_scalars_are_the_numbers_they_are(put: Any, kept: Any) -> None:
    checked = check_value("f", put)
    assert checked == kept
    assert type(checked) is type(kept)
    if isinstance(checked, list):
        assert type(checked[0]) is int


@pytest.mark.parametrize(
    ("put", "hint"),
    [
        (np.zeros(3), "tolist"),
        (np.datetime64("2024-01-01T00:00:00", "ns"), "vector field"),
        (np.longdouble(1), ""),
        (np.complex64(1), ""),
        (datetime(2024, 1, 1, tzinfo=UTC), "isoformat"),
        ({1, 2}, "declare the field as a set"),
        (object(), "None, bool"),
    ],
)
def test_what_cannot_be_stored_has_a_hint(put: Any, hint: str) -> None:
    with pytest.raises(InvalidValue, match="cannot store a") as caught:
        check_value("f", put)
    assert hint in caught.value.hint


@pytest.mark.parametrize("bad", [np.float32("nan"), np.float64("inf"), np.uint64(1 << 63)])
def test_numpy_scalars_have_the_bounds_of_numbers(bad: Any) -> None:
    with pytest.raises(InvalidValue):
        check_value("f", bad)


def test_numpy_in_sets_and_vectors() -> None:
    assert check_elements("s", [np.int64(2), np.str_("a"), 2]) == [2, "a"]
    for kind in ("int16", "uint16", "int32", "int64", "uint64", "float16", "float64"):
        assert pack_vector(np.array([1, 0, 2], dtype=kind), 3) == pack_vector([1, 0, 2], 3)
    for wrong in (np.zeros((1, 3)), np.array([True, False, True]), np.array([1j, 0, 0])):
        with pytest.raises(InvalidValue, match="one-dimensional and of numbers") as caught:
            pack_vector(wrong, 3)
        assert "astype" in caught.value.hint
