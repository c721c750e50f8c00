"""What keys, names and values may be. Every replica checks by these functions, when it writes and when it reads.

What always holds: a value that passed ``check_value`` can be packed, merged, sent and read back with the same type;
whatever is passed in, the only errors raised are InvalidValue, TooLarge and SchemaMismatch.
"""

from __future__ import annotations

import struct
from array import array
from math import isfinite
from typing import Any

from sync.errors import InvalidValue, SchemaMismatch, TooLarge
from sync.limits import (
    COLLECTION_NAME_BYTES_MAX,
    FIELD_NAME_BYTES_MAX,
    INT_MAX,
    INT_MIN,
    KEY_BYTES_MAX,
    SET_ELEMENTS_MAX,
    VALUE_DEPTH_MAX,
    VALUE_ITEMS_MAX,
)

COLLECTIONS = "_collections"
# Ours: not projected into search tables, and only reached through what they are for.
SYSTEM_COLLECTIONS = frozenset({COLLECTIONS, "_checkpoints", "_erasures", "_recalls", "_snapshots", "_values"})
_NUMBERS = frozenset("fdehHiIlLqQ")  # what a buffer of numbers calls its elements; those of bytes may mean anything
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def check_key(key: Any) -> str:
    """A record key: 1 to 512 bytes of UTF-8 without NUL. Raises InvalidValue or TooLarge."""
    if type(key) is not str or not key or "\0" in key:
        raise InvalidValue(f"a key is a non-empty string without NUL, not {brief(key)}")
    if len(key) > KEY_BYTES_MAX or (not key.isascii() and _utf8_bytes("key", key) > KEY_BYTES_MAX):
        raise TooLarge(
            f"the key is over {KEY_BYTES_MAX} bytes",
            hint="use a digest as key and keep the long name in a field",
        )
    return key


def check_collection_name(name: Any) -> str:
    """Letters, digits and ``_ - .``, at most 64; a leading underscore is reserved for the system."""
    if (
        type(name) is not str
        or not _NAME_CHARS.issuperset(name)
        or not (name[:1].isalpha() or name in SYSTEM_COLLECTIONS)
        or len(name) > COLLECTION_NAME_BYTES_MAX
    ):
        raise InvalidValue(
            f"not a collection name: {brief(name)}",
            hint=f"a letter, then letters, digits, '_', '-', '.'; at most {COLLECTION_NAME_BYTES_MAX}",
        )
    return name


def check_field_name(name: Any) -> str:
    """A field name: 1 to 64 bytes of UTF-8, not starting with an underscore (those are ours), no NUL."""
    if type(name) is not str or not name or name[0] == "_" or "\0" in name:
        raise InvalidValue(f"not a field name: {brief(name)}", hint="a non-empty string that does not start with '_'")
    if len(name) > FIELD_NAME_BYTES_MAX or (
        not name.isascii() and _utf8_bytes("field name", name) > FIELD_NAME_BYTES_MAX
    ):
        raise TooLarge(f"field name {name[:20]!r}… is over {FIELD_NAME_BYTES_MAX} bytes")
    return name


def check_value(name: str, value: Any, depth: int = 0) -> Any:
    """A value that msgpack can carry both ways: None, bool, 64-bit int, finite float, str, bytes, list, dict of str.

    Tuples become lists, NumPy's scalars the numbers they are. Raises InvalidValue (wrong type, NaN, not Unicode, too
    deep) or TooLarge.
    """
    kind = type(value)
    if kind is str:
        if not value.isascii():
            _utf8_bytes(f"text in field {name!r}", value)
        return value
    if kind is bool or kind is bytes or value is None:
        return value
    if kind is int:
        if not INT_MIN <= value <= INT_MAX:
            raise InvalidValue(f"field {name!r}: an integer of {value.bit_length()} bits does not fit 64")
        return value
    if kind is float:
        if not isfinite(value):
            raise InvalidValue(f"field {name!r}: {value} cannot be stored; use None for a missing number")
        return value
    if kind is bytearray or kind is memoryview:
        return bytes(value)
    return _check_container(name, value, depth)


def _check_container(name: str, value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is not list and kind is not tuple and kind is not dict:
        plain = python_scalar(value)
        if plain is not value:
            return check_value(name, plain, depth)
        raise InvalidValue(f"field {name!r}: cannot store a {kind.__name__}", hint=_instead_of(kind))
    if depth >= VALUE_DEPTH_MAX:
        raise InvalidValue(f"field {name!r} is nested deeper than {VALUE_DEPTH_MAX} levels")
    if len(value) > VALUE_ITEMS_MAX:
        raise TooLarge(f"field {name!r}: a list or map has at most {VALUE_ITEMS_MAX} items")
    if kind is not dict:
        return [item if type(item) is str and item.isascii() else check_value(name, item, depth + 1) for item in value]
    for inner in value:
        if type(inner) is not str:
            raise InvalidValue(f"field {name!r}: the keys of a map are strings, not {type(inner).__name__}")
        if not inner.isascii():
            _utf8_bytes(f"key of a map in field {name!r}", inner)
    return {inner: check_value(name, item, depth + 1) for inner, item in value.items()}


def check_elements(name: str, value: Any) -> list[Any]:
    """The elements of a set field: strings or integers, no duplicates kept. Raises InvalidValue or TooLarge."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidValue(
            f"field {name!r} is a set and takes a list of strings or integers, not {type(value).__name__}"
        )
    value = [python_scalar(element) for element in value]
    for element in value:
        if type(element) is int and INT_MIN <= element <= INT_MAX:
            continue
        if type(element) is not str:
            raise InvalidValue(
                f"field {name!r}: the elements of a set are strings or 64-bit integers, not {brief(element)}"
            )
        if not element.isascii():
            _utf8_bytes(f"element of {name!r}", element)
    if len(value) > SET_ELEMENTS_MAX:
        raise TooLarge(f"field {name!r} has {len(value)} elements; a set has at most {SET_ELEMENTS_MAX}")
    return sorted(set(value), key=element_order)


def element_order(element: Any) -> tuple[bool, Any]:
    """A total order over the integers and strings of a set."""
    return (type(element) is str, element)


def pack_vector(value: Any, dimensions: int, name: str = "vector") -> bytes:
    """``dimensions`` float32, little-endian, from a sequence or a buffer (array, ndarray) of numbers, or such bytes.

    Raises SchemaMismatch for a wrong dimension and InvalidValue for NaN, infinity or other types.
    """
    try:
        if isinstance(value, bytes):
            floats = array("f")
            floats.frombytes(value)
        elif isinstance(value, (list, tuple)):
            floats = array("f", value)
        elif isinstance(value, str):
            raise InvalidValue(
                f"field {name!r}: a vector is a list of numbers, not a string", hint="such as [0.1, 0.9, 0.0]"
            )
        else:
            view = memoryview(value)
            if view.ndim != 1 or view.format not in _NUMBERS:
                raise InvalidValue(
                    f"field {name!r}: a vector is one-dimensional and of numbers, not {view.ndim}-d {view.format!r}",
                    hint="of a NumPy array: .ravel(), .astype('float32')",
                )
            # Not view.tolist(): Python 3.11 cannot read half floats ("e") that way.
            data = view.tobytes()
            floats = array("f", data if view.format == "f" else struct.unpack(f"{len(view)}{view.format}", data))
    except (TypeError, ValueError, OverflowError) as error:
        why = str(error) if isinstance(value, (bytes, list, tuple)) else f"a {type(value).__name__}"
        raise InvalidValue(f"field {name!r}: not a vector of floats: {why}") from error
    if len(floats) != dimensions:
        raise SchemaMismatch(f"field {name!r} has {dimensions} dimensions; this vector has {len(floats)}")
    if not isfinite(sum(floats)):
        raise InvalidValue(f"field {name!r}: a vector with NaN or infinity cannot be searched")
    return floats.tobytes()


def unpack_vector(data: bytes) -> array[float]:
    """The inverse of ``pack_vector``; supports the buffer protocol, so ``numpy.asarray`` copies nothing."""
    floats = array("f")
    floats.frombytes(data)
    return floats


def brief(value: Any) -> str:
    """At most 80 characters of a value, for a message. Not every value can be shown: an int of 5,000 digits cannot."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def python_scalar(value: Any) -> Any:
    """Of a NumPy scalar the Python value, without importing NumPy; anything else as it is."""
    if type(value).__module__ != "numpy" or getattr(value, "ndim", None) != 0 or value.dtype.kind not in "biufUS":
        return value
    item = value.item()
    return item if type(item) in (bool, int, float, str, bytes) else value  # a longdouble has no Python value


def _instead_of(kind: type) -> str:
    if kind.__module__ == "numpy":
        return ".tolist() makes a list of an array; a vector field takes the array itself"
    if kind.__module__ == "datetime":
        return "store .isoformat(), which sorts and filters as text, or .timestamp()"
    if kind is set or kind is frozenset:
        return "a list, or declare the field as a set"
    return "None, bool, int, float, str, bytes, list, dict; vectors need a schema"


def _utf8_bytes(what: str, text: str) -> int:
    """The length of the text in UTF-8. Raises InvalidValue for lone surrogates, which have none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidValue(f"the {what} is not valid Unicode: {error.reason}") from error
