"""Canonical JSON: what is written is read as it was, and nothing else is read at all."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import canonical
from sync.limits import JSON_INT_MAX

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-JSON_INT_MAX, JSON_INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    data = canonical.write(value)
    again = canonical.read(data)
    assert again == value
    assert canonical.write(again) == data


@pytest.mark.parametrize("value", [2.0**53, -1e16, 1e20, 123456789012345680000.0, 1e21, 1.7976931348623157e308])
def test_a_large_float_goes_as_digits_and_comes_back_a_float(value: float) -> None:
    found = canonical.read(canonical.write({"x": value}))["x"]
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b"1.0",
        b"-0",
        b"1e2",
        b" 1",
        b"NaN",
        b"1e999",
        b"9007199254740993",  # no float is this
        b"9" * 400,
        b"9" * 5_000,
        b"[" * 100_000,
        b'"\\u0061"',
        b'"\\ud800"',
        '"a"'.encode("utf-16"),
        b"\xff",
        b"",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any: callers say what of
        canonical.read(data)


@pytest.mark.parametrize("value", [JSON_INT_MAX + 1, float("nan"), float("inf"), b"bytes", object(), "\ud800"])
def test_what_json_cannot_say_is_not_written(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        canonical.write([value])


LOOKED_AT = """
import sys
import msgspec
from {module} import {name}
found = []
sys.setprofile(lambda frame, *_: found.append(frame.f_code.co_name) if "msgspec" in frame.f_code.co_filename else None)
try:
    msgspec.convert({{}}, {name})
except msgspec.ValidationError:
    pass
finally:
    sys.setprofile(None)
assert not found, found
"""


@pytest.mark.parametrize(("module", "name"), [("sync.assignments", "Assignment"), ("sync.models", "Manifest")])
def test_msgspec_has_looked_at_a_type_before_threads_can_read_one(module: str, name: str) -> None:
    """Two threads that make it look for the first time end the process with SIGSEGV (msgspec 0.22)."""
    subprocess.run([sys.executable, "-c", LOOKED_AT.format(module=module, name=name)], check=True)
