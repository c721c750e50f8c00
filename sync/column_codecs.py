"""One column of values ↔ a small msgpack-able list ``[tag, …]``, chosen by what the values are (docs/FORMAT.md §4).

The bytes that come out are laid out for zstd to compress well, not small by themselves: numbers as byte planes, strings as
lengths and one text, repetitive text as a vocabulary and word numbers. Measured on 300-byte memory documents, the last
alone halves what zstd-3 makes of the text, since a word costs an entropy-coded byte and not a match.

What always holds: ``decode_column(encode_column(v), len(v), budget) == list(v)`` with equal types. Decoding trusts nothing:
every count is checked before anything is built from it, and what repetition expands to is charged to a budget. Malformed or
TooLarge is raised for everything that ``encode_column`` could not have produced.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from math import isfinite
from operator import sub
from typing import Any

from sync.errors import Malformed, TooLarge
from sync.limits import INT_MAX, INT_MIN, SEGMENT_EXPANDED_BYTES_MAX
from sync.schema import check_value

GENERIC, CONST, LINEAR, INTS, DELTAS, FLOATS, BOOLS, TEXTS, WORDS, FIXED, BLOBS, LISTS, OPTIONAL, ADDS = (
    range(14)
)
_WIDTHS = ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
_TYPECODES = dict(_WIDTHS)
_VOCABULARY_MAX = 0xD800  # word numbers travel as UTF-16 code units below the surrogates
_SEPARATOR = " \0 "
_CHUNK = 256
_CHUNK_WORDS_MAX = 1_000_000  # chr() ends at 1,114,111
_NONE = type(None)


class Budget:
    """What the columns of a segment may still expand to, in bytes."""

    def __init__(self, limit: int = SEGMENT_EXPANDED_BYTES_MAX) -> None:
        self.left = limit

    def charge(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge(f"the segment expands to more than {SEGMENT_EXPANDED_BYTES_MAX} bytes")


def encode_column(values: Sequence[Any]) -> list[Any]:
    """The values must have passed the schema's checks (``sync.schema.check_value``)."""
    types = set(map(type, values))
    if len(types) == 1:
        encoder = _ENCODERS.get(types.pop())
        return encoder(values) if encoder is not None else [GENERIC, list(values)]
    if len(types) == 2 and _NONE in types:
        present = [value for value in values if value is not None]
        return [OPTIONAL, bytes(value is not None for value in values), encode_column(present)]
    return [GENERIC, list(values)]


def encode_ints(values: Sequence[int]) -> list[Any]:
    """64-bit integers: constant, linear, or the narrower of values and differences, as byte planes."""
    first, low, high = values[0], min(values), max(values)
    if low == high:
        return [CONST, first]
    deltas = list(map(sub, values[1:], values))
    step_low, step_high = min(deltas), max(deltas)
    if step_low == step_high:
        return [LINEAR, first, step_low]
    width, step_width = _width(low, high), _width(step_low, step_high)
    if step_width < width:
        return [DELTAS, first, step_width, _planes(array(_TYPECODES[step_width], deltas))]
    return [INTS, width, _planes(array(_TYPECODES[width], values))]


def decode_column(column: Any, count: int, budget: Budget) -> list[Any]:
    """Exactly ``count`` values, or Malformed / TooLarge."""
    try:
        decoder = _DECODERS[column[0]]
        values = decoder(column, count, budget)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise Malformed(f"a column of {count} values cannot be read: {error}") from error
    if len(values) != count:
        raise Malformed(f"a column holds {len(values)} values instead of {count}")
    return values


def decode_ints(
    column: Any, count: int, budget: Budget, low: int = INT_MIN, high: int = INT_MAX
) -> list[int]:
    """Exactly ``count`` integers within bounds, or Malformed."""
    values = decode_column(column, count, budget)
    if (
        column[0] not in (CONST, LINEAR, INTS, DELTAS)
        or type(values[0]) is not int
        or min(values) < low
        or max(values) > high
    ):
        raise Malformed("an integer column holds something else, or values out of range")
    return values


# -- encoders, by the one type of all values ------------------------------------------------------------------------


def _encode_nones(values: Sequence[None]) -> list[Any]:
    return [CONST, None]


def _encode_bools(values: Sequence[bool]) -> list[Any]:
    return [BOOLS, bytes(values)]


def _encode_floats(values: Sequence[float]) -> list[Any]:
    return [FLOATS, _planes(array("d", values))]


def _encode_texts(values: Sequence[str]) -> list[Any]:
    if values.count(values[0]) == len(values):
        return [CONST, values[0]]
    if len(values) >= 16:
        sample = " ".join(values[:: max(1, len(values) // 64)]).split(" ")
        if len(set(sample)) * 2 < len(sample):
            words = _encode_words(values)
            if words is not None:
                return words
    return [TEXTS, encode_ints(list(map(len, values))), "".join(values).encode()]


class _Vocabulary(dict[str, str]):
    """Word → the character whose code point is its number, in order of first use."""

    def __missing__(self, word: str) -> str:
        character = self[word] = chr(len(self))
        return character


def _encode_words(values: Sequence[str]) -> list[Any] | None:
    """The vocabulary and one or two byte planes of word numbers; NUL stands between values. None if it does not fit.

    In chunks, because a list of all words falls out of the processor's cache (measured: 3.0 against 2.4 µs a value).
    """
    vocabulary = _Vocabulary()
    number_of = vocabulary.__getitem__
    chunks = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        text = _SEPARATOR.join(chunk)
        if text.count("\0") != len(chunk) - 1 or text.count(" ") > _CHUNK_WORDS_MAX:
            return None
        if start + _CHUNK < len(values):
            text += _SEPARATOR[:-1]
        chunks.append("".join(map(number_of, text.split(" "))))
        if len(vocabulary) >= _VOCABULARY_MAX:
            return None
    numbers = "".join(chunks)
    words = " ".join(vocabulary).encode()
    if len(vocabulary) <= 256:
        return [WORDS, 1, words, numbers.encode("latin-1")]
    units = numbers.encode("utf-16-le")
    return [WORDS, 2, words, units[0::2] + units[1::2]]


def _encode_bytes(values: Sequence[bytes]) -> list[Any]:
    sizes = list(map(len, values))
    if values.count(values[0]) == len(values):
        return [CONST, values[0]]
    if min(sizes) == max(sizes):
        joined = b"".join(values)
        return [FIXED, sizes[0], _shuffle(joined, 4) if sizes[0] % 4 == 0 else joined]
    return [BLOBS, encode_ints(sizes), b"".join(values)]


def _encode_lists(values: Sequence[list[Any]]) -> list[Any]:
    flat = list(chain.from_iterable(values))
    if flat and set(map(type, flat)) == {str}:
        return [LISTS, encode_ints(list(map(len, values))), len(flat), _encode_texts(flat)]
    if all(
        len(value) == 2 and type(value[0]) is list and value[1] == [] and type(value[1]) is list
        for value in values
    ):
        return [ADDS, encode_column([value[0] for value in values])]
    return [GENERIC, list(values)]


_ENCODERS: dict[type, Callable[[Any], list[Any]]] = {
    _NONE: _encode_nones,
    bool: _encode_bools,
    int: encode_ints,
    float: _encode_floats,
    str: _encode_texts,
    bytes: _encode_bytes,
    list: _encode_lists,
}


# -- decoders, by tag -------------------------------------------------------------------------------------------------


def _decode_generic(column: Any, count: int, budget: Budget) -> list[Any]:
    _, values = column
    if type(values) is not list:
        raise Malformed("a generic column is not a list")
    return [check_value("(column)", value, -4) for value in values]


def _decode_const(column: Any, count: int, budget: Budget) -> list[Any]:
    _, value = column
    if type(value) not in (str, int, bytes, _NONE):
        raise Malformed("a constant column repeats text, bytes, an integer or None")
    check_value("(column)", value)
    budget.charge(count * (len(value) if type(value) in (str, bytes) else 8))
    return [value] * count


def _decode_linear(column: Any, count: int, budget: Budget) -> list[int]:
    _, first, step = column
    last = first + step * (count - 1)
    if (
        type(first) is not int
        or type(step) is not int
        or not step
        or not INT_MIN <= min(first, last) <= max(first, last) <= INT_MAX
    ):
        raise Malformed("a linear column is out of range")
    budget.charge(8 * count)
    return list(range(first, last + (1 if step > 0 else -1), step))


def _decode_ints(column: Any, count: int, budget: Budget) -> list[int]:
    _, width, data = column
    return _from_planes(_TYPECODES[width], width, data, count).tolist()


def _decode_deltas(column: Any, count: int, budget: Budget) -> list[int]:
    _, first, width, data = column
    if type(first) is not int:
        raise Malformed("a column of differences starts with an integer")
    values = list(accumulate(_from_planes(_TYPECODES[width], width, data, count - 1), initial=first))
    if not INT_MIN <= min(values) <= max(values) <= INT_MAX:
        raise Malformed("a column of differences leaves 64 bits")
    return values


def _decode_floats(column: Any, count: int, budget: Budget) -> list[float]:
    _, data = column
    values = _from_planes("d", 8, data, count).tolist()
    if not isfinite(sum(values)) and not all(map(isfinite, values)):
        raise Malformed("a column holds NaN or infinity")
    return values


def _decode_bools(column: Any, count: int, budget: Budget) -> list[bool]:
    _, data = column
    if type(data) is not bytes or data.strip(b"\0\1"):
        raise Malformed("a column of booleans holds something else")
    return list(map(bool, data))


def _decode_texts(column: Any, count: int, budget: Budget) -> list[str]:
    _, lengths, data = column
    text = _text(data)
    ends = list(accumulate(decode_ints(lengths, count, budget, 0, len(text))))
    if ends[-1] != len(text):
        raise Malformed("the lengths of a text column do not add up")
    return list(map(text.__getitem__, map(slice, [0, *ends[:-1]], ends)))


def _decode_words(column: Any, count: int, budget: Budget) -> list[str]:
    _, width, vocabulary_data, data = column
    if type(data) is not bytes:
        raise Malformed("word numbers are bytes")
    vocabulary = _text(vocabulary_data).split(" ")
    numbers: Sequence[int] = data
    if width == 2:
        units = bytearray(len(data))
        half = len(data) // 2
        units[0::2], units[1::2] = data[:half], data[half:]
        numbers = array("H", bytes(units))
        if sys.byteorder == "big":
            numbers.byteswap()
    elif width != 1:
        raise Malformed("word numbers have one or two bytes")
    if not numbers:
        raise Malformed("a column of words is empty")
    sizes = [len(word) + 1 for word in vocabulary]
    if max(sizes) * len(numbers) > budget.left:
        budget.charge(sum(map(sizes.__getitem__, numbers)))
    else:
        budget.charge(min(max(sizes) * len(numbers), 8 * len(data)))
    return " ".join(map(vocabulary.__getitem__, numbers)).split(_SEPARATOR)


def _decode_fixed(column: Any, count: int, budget: Budget) -> list[bytes]:
    _, size, data = column
    if type(data) is not bytes or type(size) is not int or size < 0 or len(data) != size * count:
        raise Malformed("a column of equal-sized bytes has a wrong length")
    if size % 4 == 0:
        data = _unshuffle(data, 4)
    return [data[start : start + size] for start in range(0, len(data), size)] if size else [b""] * count


def _decode_blobs(column: Any, count: int, budget: Budget) -> list[bytes]:
    _, sizes, data = column
    if type(data) is not bytes:
        raise Malformed("a column of bytes holds something else")
    ends = list(accumulate(decode_ints(sizes, count, budget, 0, len(data))))
    if ends[-1] != len(data):
        raise Malformed("the sizes of a column of bytes do not add up")
    return list(map(data.__getitem__, map(slice, [0, *ends[:-1]], ends)))


def _decode_lists(column: Any, count: int, budget: Budget) -> list[list[str]]:
    _, sizes, total, inner = column
    if type(total) is not int or not 0 < total <= budget.left:
        raise Malformed("a column of lists has an impossible length")
    ends = list(accumulate(decode_ints(sizes, count, budget, 0, total)))
    if ends[-1] != total or inner[0] not in (CONST, TEXTS, WORDS):
        raise Malformed("the sizes of a column of lists do not add up")
    budget.charge(8 * total)
    flat = decode_column(inner, total, budget)
    if type(flat[0]) is not str:
        raise Malformed("a column of lists holds strings")
    return list(map(flat.__getitem__, map(slice, [0, *ends[:-1]], ends)))


def _decode_optional(column: Any, count: int, budget: Budget) -> list[Any]:
    _, mask, inner = column
    if (
        type(mask) is not bytes
        or mask.strip(b"\0\1")
        or len(mask) != count
        or inner[0] == OPTIONAL
        or 1 not in mask
    ):
        raise Malformed("the mask of an optional column is wrong")
    present = iter(decode_column(inner, mask.count(1), budget))
    return [next(present) if bit else None for bit in mask]


def _decode_adds(column: Any, count: int, budget: Budget) -> list[Any]:
    _, inner = column
    if inner[0] not in (LISTS, GENERIC):
        raise Malformed("a column of additions holds lists")
    added = decode_column(inner, count, budget)
    if set(map(type, added)) != {list}:
        raise Malformed("a column of additions holds lists")
    return [[elements, []] for elements in added]


_DECODERS: tuple[Callable[[Any, int, Budget], list[Any]], ...] = (
    _decode_generic,
    _decode_const,
    _decode_linear,
    _decode_ints,
    _decode_deltas,
    _decode_floats,
    _decode_bools,
    _decode_texts,
    _decode_words,
    _decode_fixed,
    _decode_blobs,
    _decode_lists,
    _decode_optional,
    _decode_adds,
)


# -- bytes --------------------------------------------------------------------------------------------------------------


def _width(low: int, high: int) -> int:
    for width, _ in _WIDTHS:
        bound = 1 << (8 * width - 1)
        if -bound <= low and high < bound:
            return width
    return 9  # differences of 64-bit integers may need 65 bits; then the values themselves travel


def _planes(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return _shuffle(values.tobytes(), values.itemsize)


def _from_planes(typecode: str, width: int, data: Any, count: int) -> array[Any]:
    if type(data) is not bytes or len(data) != width * count:
        raise Malformed("a column of numbers has a wrong length")
    values = array(typecode, _unshuffle(data, width))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _shuffle(data: bytes, width: int) -> bytes:
    """Byte planes: all first bytes, then all second bytes, …"""
    return data if width == 1 else b"".join(data[plane::width] for plane in range(width))


def _unshuffle(data: bytes, width: int) -> bytes:
    if width == 1:
        return data
    out = bytearray(len(data))
    size = len(data) // width
    for plane in range(width):
        out[plane::width] = data[plane * size : (plane + 1) * size]
    return bytes(out)


def _text(data: Any) -> str:
    if type(data) is not bytes:
        raise Malformed("text is UTF-8 bytes")
    return data.decode()  # UnicodeDecodeError is a ValueError: Malformed, by decode_column
