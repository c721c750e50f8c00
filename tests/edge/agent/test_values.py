"""Values of agents: what can be stored comes back equal, and what cannot is said."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.agent.values import VALUE_BYTES_MAX, decode, encode
from sync.errors import CorruptStore, InvalidValue, TooLarge

_TEXT = st.text(st.characters(codec="utf-8"))
_PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    _TEXT,
    st.binary(),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1)),  # noqa: DTZ001 - Hypothesis adds the zone
)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_TEXT | st.integers(0, 9), inner),
        st.tuples(inner, inner),
    ),
    max_leaves=20,
)


@given(_VALUES)
def test_what_is_stored_comes_back(value: Any) -> None:
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u8", "?", ">i4", "U5", "S3", "c16", "M8[s]"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_arrays_keep_their_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    back = decode(encode({"deep": [array]}))["deep"][0]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_an_array_that_lies_crosswise_and_a_lone_number() -> None:
    array = np.arange(6, dtype="f4").reshape(2, 3).T
    back = decode(encode(array))
    assert (back == array).all()
    back[0, 0] = 9  # what was read is the reader's own
    assert decode(encode(np.float32(2.5))) == np.float32(2.5)


class Note(dict[str, Any]):
    pass


def _endless() -> list[Any]:
    out: list[Any] = []
    out.append(out)
    return out


def _nested(levels: int, wrap: Any) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "type object"),
        ({"a": [lambda: 1]}, "type function"),
        (Note(a=1), "type Note"),
        ({1, 2}, "type set"),
        (1 << 64, "64 bits"),
        ("\ud800", "not valid Unicode"),
        ({"\udfff": 1}, "not valid Unicode"),
        (datetime(2026, 1, 1), "zone"),  # noqa: DTZ001 - that is what is refused
        (np.array([object()]), "array of object"),
        (np.zeros(2, [("a", "i4")]), "array of"),
        (_endless(), "cannot be stored"),
        (_nested(2000, lambda value: [value]), "cannot be stored"),
        (_nested(300, lambda value: (value,)), "tuples"),
        ({(1, (2,)): {frozenset(): 1}}, "type frozenset"),
    ],
)
def test_what_cannot_be_stored_is_said(value: Any, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        encode(value)


def test_there_is_a_largest_value() -> None:
    with pytest.raises(TooLarge, match="the most is"):
        encode(bytes(VALUE_BYTES_MAX))


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x92\x01", b"\xc7\x01\x63\x00", b"\xd4\x01\x00", b"\x01\x01"])
def test_other_bytes_are_no_value(content: bytes) -> None:
    with pytest.raises(CorruptStore):
        decode(content)


def test_values_are_stored_while_another_thread_is_importing_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the background work does, with lancedb: half of the module is there."""
    monkeypatch.setitem(sys.modules, "numpy", ModuleType("numpy"))
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert decode(encode({"at": moment, "pair": (1, "x")})) == {"at": moment, "pair": (1, "x")}


def test_numpy_is_for_arrays_only() -> None:
    assert "numpy" in sys.modules, "this test has it, a device need not (tests/edge/test_edge_open.py)"
    assert decode(encode([1.5])) == [1.5]
