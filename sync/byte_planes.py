"""Numbers ↔ byte planes: all lowest bytes, then all second bytes, and so on, which is how zstd compresses numbers well.

Little-endian whatever the machine. What decodes has exactly the announced length, or Malformed is raised.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

from sync.errors import Malformed

WIDTHS = ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
TYPECODES = dict(WIDTHS)
WIDER_THAN_ANY = 9


def width_of(low: int, high: int) -> int:
    """The bytes that a signed integer from ``low`` to ``high`` takes; 9 for more than 64 bits, as differences may
    be.
    """
    for width, _ in WIDTHS:
        bound = 1 << (8 * width - 1)
        if -bound <= low and high < bound:
            return width
    return WIDER_THAN_ANY


def to_planes(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return shuffle(values.tobytes(), values.itemsize)


def from_planes(typecode: str, width: int, data: Any, count: int) -> array[Any]:
    """``count`` numbers of an ``array`` type that is ``width`` bytes wide. Raises Malformed."""
    if type(data) is not bytes or len(data) != width * count:
        raise Malformed("a column of numbers has a wrong length")
    values = array(typecode, unshuffle(data, width))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def shuffle(data: bytes, width: int) -> bytes:
    return data if width == 1 else b"".join(data[plane::width] for plane in range(width))


def unshuffle(data: bytes, width: int) -> bytes:
    """The inverse of ``shuffle``; the length must be a multiple of ``width``."""
    if width == 1:
        return data
    out = bytearray(len(data))
    size = len(data) // width
    for plane in range(width):
        out[plane::width] = data[plane * size : (plane + 1) * size]
    return bytes(out)
