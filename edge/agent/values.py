"""Values of agents as bytes: msgpack, with numpy arrays, tuples and times as extensions.

What always holds: ``decode(encode(value))`` equals ``value``, tuples as tuples and arrays with their dtype and shape;
or ``encode`` raises and says which kind of thing cannot be stored. numpy is imported only where a value has an array.

Extensions (https://github.com/msgpack/msgpack/blob/master/spec.md): 1 an array, as [dtype.str, shape, bytes in C
order]; 2 a tuple, as its elements; -1 a time with a zone.
"""

from __future__ import annotations

import base64
import sys
from array import array
from datetime import datetime
from functools import partial
from hashlib import blake2b
from math import isfinite
from typing import Any

import msgpack

from sync.errors import CorruptStore, InvalidValue, TooLarge

VALUE_BYTES_MAX = 64 << 20
DIGEST_BYTES = 16
_ARRAY, _TUPLE = 1, 2
_TUPLES_MAX = 32  # in each other: each takes 40 KB of the stack to unpack
_BUFFER_BYTES = 16 << 10  # at first; with msgpack's own, of 1 MiB, the kernel is asked for memory for each value


def encode(value: Any) -> bytes:
    """Raises InvalidValue, TooLarge."""
    try:
        extended: list[int] = []
        packed = _pack(value, 0, extended)
    except InvalidValue:
        raise
    except UnicodeEncodeError as error:
        raise InvalidValue(f"a string in the value is not valid Unicode: {error.reason}") from error
    except OverflowError as error:
        raise InvalidValue("a whole number in the value does not fit 64 bits", hint="store it as a string") from error
    except RecursionError as error:
        raise InvalidValue("the value is nested too deeply, or contains itself") from error
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"the value cannot be stored: {error}") from error
    if len(packed) > VALUE_BYTES_MAX:
        raise TooLarge(
            f"the value takes {len(packed):,} bytes; the most is {VALUE_BYTES_MAX:,}",
            hint="keep what is large in parts, each in a thread of its own",
        )
    try:
        if extended:
            decode(packed)  # an array as the key of a dict, a time beyond what times can be
    except CorruptStore as error:
        raise InvalidValue(f"the value could be stored and not be read: {error.message}") from error
    return packed


def decode(packed: bytes) -> Any:
    """Raises CorruptStore for what ``encode`` does not make."""
    try:
        return _unpack(packed, 0)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise CorruptStore(f"not the value of an agent: {error or type(error).__name__}") from error


def digest_of(packed: bytes) -> bytes:
    """BLAKE2b (RFC 7693), 16 bytes."""
    return blake2b(packed, digest_size=DIGEST_BYTES).digest()


def plain(value: Any) -> Any:
    """A value as JSON has it, with nothing lost.

    Bytes are ``{"$base64": …}``, an array ``{"$array": [dtype, shape, numbers]}``, a tuple ``{"$tuple": […]}``, a time
    ``{"$time": ISO 8601}``, NaN and the infinities ``{"$float": "nan"}``; a dict with other keys than strings, or with
    one that begins with ``$``, is ``{"$dict": [[key, value], …]}``.
    """
    if isinstance(value, dict):
        if all(isinstance(name, str) and not name.startswith("$") for name in value):
            return {name: plain(item) for name, item in value.items()}
        return {"$dict": [[plain(name), plain(item)] for name, item in value.items()]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [plain(item) for item in value]}
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, array):
        return value.tolist()
    if type(value).__module__ == "numpy":
        return {"$array": [value.dtype.str, list(value.shape), plain(value.ravel().tolist())]}
    if isinstance(value, float) and not isfinite(value):
        return {"$float": str(value)}
    return value


def _pack(value: Any, depth: int, extended: list[int]) -> bytes:
    """``extended`` gets an entry for each extension that is used."""
    extension = partial(_extension, depth, extended)
    packed: bytes = msgpack.packb(value, default=extension, strict_types=True, buf_size=_BUFFER_BYTES)
    return packed


def _unpack(packed: bytes, depth: int) -> Any:
    return msgpack.unpackb(packed, ext_hook=partial(_extended, depth), strict_map_key=False, timestamp=3)


def _extension(depth: int, extended: list[int], value: Any) -> Any:
    kind = type(value)
    extended.append(depth)
    if kind is tuple:
        if depth == _TUPLES_MAX:
            raise InvalidValue(f"more than {_TUPLES_MAX} tuples are nested in each other")
        return msgpack.ExtType(_TUPLE, _pack(list(value), depth + 1, extended))
    numpy: Any = sys.modules.get("numpy")  # half of it, while another thread is importing it
    if isinstance(value, (getattr(numpy, "ndarray", ()), getattr(numpy, "generic", ()))):
        if isinstance(value, numpy.ndarray) and type(value) is not numpy.ndarray:
            raise InvalidValue(
                f"a {kind.__name__} cannot be stored", hint="numpy.asarray(value) can, without what is special"
            )
        array = numpy.asarray(value)
        if array.dtype.hasobject or array.dtype.fields is not None:
            raise InvalidValue(f"an array of {array.dtype} cannot be stored", hint="array.tolist() makes it a list")
        return msgpack.ExtType(_ARRAY, msgpack.packb([array.dtype.str, list(array.shape), array.tobytes()]))
    if kind is datetime:
        if value.tzinfo is not None:
            return msgpack.Timestamp.from_datetime(value)
        raise InvalidValue("a time without a zone means another moment elsewhere", hint="datetime.now(UTC)")
    if kind is int:
        raise OverflowError
    base = next((base for base in (dict, list, str, int, float, bytes) if isinstance(value, base)), None)
    hint = f"{base.__name__}(value) can be" if base is not None else "dicts, lists, numbers and strings can be"
    raise InvalidValue(f"a value of type {kind.__name__} cannot be stored", hint=hint)


def _extended(depth: int, code: int, content: bytes) -> Any:
    if code == _TUPLE and depth < _TUPLES_MAX:
        return tuple(_unpack(content, depth + 1))
    if code == _ARRAY:
        import numpy as np

        dtype, shape, held = msgpack.unpackb(content)
        return np.frombuffer(bytearray(held), dtype=np.dtype(dtype)).reshape(shape)
    raise ValueError(f"unknown extension {code}")
