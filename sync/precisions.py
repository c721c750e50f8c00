"""How a vector is stored and sent: float32, float16, or int8 with one scale for the vector.

========= ============ ============================================================= ==================================
precision bytes        stored as                                                     error of a number at most
========= ============ ============================================================= ==================================
float32   4·d          little-endian IEEE 754                                        that of float32
float16   2·d          little-endian IEEE 754 half                                   2^-11 of it, or 2^-25 near zero
int8      4 + d        the scale (float32), then d signed bytes, -127 to 127         scale/2, scale ≈ largest number/127
========= ============ ============================================================= ==================================

What always holds: ``load(store(x))`` is the same on every machine, and storing it again gives the same bytes: the scale
has 16 significant bits, so every multiple of it up to 127 is a float32 exactly. Whoever writes quantises before the
operation is made; nobody does afterwards.
"""

from __future__ import annotations

import struct
from array import array
from math import isfinite

from sync.errors import InvalidValue, SchemaMismatch

PRECISIONS = ("float32", "float16", "int8")
_FLOAT32_MAX = 3.4028234663852886e38
_SCALE_MIN, _SCALE_MIN_BITS = 2.0**-126, 0x00800000  # the smallest scale that has all its bits
_SCALE_ROUND = 0xFF  # the lowest 8 of a float32's 24 significant bits are zero
_LEVELS = 127


def stored_bytes(dimensions: int, precision: str) -> int:
    """The size of a stored vector."""
    if precision == "int8":
        return 4 + dimensions
    return dimensions * (2 if precision == "float16" else 4)


def form_of(size: int, dimensions: int, declared: str) -> str | None:
    """In which precision a stored vector of so many bytes is: the declared one or, as its writer's policy had it, a
    coarser one (ADR 24); None: it is none. Of 4 dimensions float16 and int8 are of one size: the finer one it is.
    """
    for form in PRECISIONS[PRECISIONS.index(declared) :]:
        if stored_bytes(dimensions, form) == size:
            return form
    return None


def coarser(stored: bytes, dimensions: int, declared: str, form: str) -> bytes:
    """A stored vector of the declared precision in the form that a policy wants. It stays as it is if that is finer or
    the same, could not be told by its size, or cannot have these numbers (float16, beyond 65,504).
    """
    if form_of(len(stored), dimensions, declared) != declared or form == declared:
        return stored
    if form_of(stored_bytes(dimensions, form), dimensions, declared) != form:
        return stored
    try:
        return store(load(stored, declared).tobytes(), form)
    except InvalidValue:
        return stored


def store(packed: bytes, precision: str, name: str = "vector") -> bytes:
    """The stored form of a vector of float32 (``sync.schema.pack_vector``). Raises InvalidValue for a number that a
    float16 cannot have.
    """
    if precision == "float32":
        return packed
    floats = array("f", packed)
    if precision == "float16":
        try:
            return struct.pack(f"<{len(floats)}e", *floats)
        except OverflowError as error:
            raise InvalidValue(
                f"field {name!r}: a number is beyond 65,504, the greatest of a float16",
                hint="scale the vectors, or store them as float32 or int8",
            ) from error
    scale = _scale_of(max(map(abs, floats)))
    if scale == 0.0:
        return bytes(4 + len(floats))
    return struct.pack("<f", scale) + array("b", [round(number / scale) for number in floats]).tobytes()


def load(stored: bytes, precision: str) -> array[float]:
    """The numbers of a stored vector, as ``array('f')``. The bytes must be of the right size."""
    if precision == "float32":
        return array("f", stored)
    if precision == "float16":
        return array("f", struct.unpack(f"<{len(stored) // 2}e", stored))
    (scale,) = struct.unpack_from("<f", stored)
    return array("f", [scale * level for level in array("b", stored[4:])])


def check_stored(stored: bytes, dimensions: int, precision: str, name: str) -> None:
    """Of bytes from somebody else, in this precision or a coarser one. Raises SchemaMismatch for another size,
    InvalidValue for NaN or infinity.
    """
    form = form_of(len(stored), dimensions, precision)
    if form is None:
        raise SchemaMismatch(
            f"field {name!r} has {dimensions} dimensions of {precision}, {stored_bytes(dimensions, precision)} bytes; "
            f"this vector has {len(stored)}"
        )
    if form == "int8":
        (scale,) = struct.unpack_from("<f", stored)
        fine = 0.0 <= scale * _LEVELS <= _FLOAT32_MAX and -128 not in array("b", stored[4:])
    else:
        fine = isfinite(sum(load(stored, form)))
    if not fine:
        raise InvalidValue(f"field {name!r}: a vector with NaN or infinity cannot be searched")


def _scale_of(peak: float) -> float:
    """A 127th of the largest number, rounded up to 16 significant bits; down if it overflowed otherwise."""
    if peak <= _SCALE_MIN / 2:
        return 0.0
    (bits,) = struct.unpack("<I", struct.pack("<f", peak / _LEVELS))
    bits = max((bits + _SCALE_ROUND) & ~_SCALE_ROUND, _SCALE_MIN_BITS)
    if _scale(bits) * _LEVELS > _FLOAT32_MAX:
        bits -= _SCALE_ROUND + 1
    return _scale(bits)


def _scale(bits: int) -> float:
    (scale,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(scale)
