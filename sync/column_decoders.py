"""A column as ``sync.column_codecs`` writes it → its values (docs/FORMAT.md §3). Decoding trusts nothing.

What always holds: every count is checked before anything is built from it, and what is built is charged to the budget
first, so what a column of a few bytes can make us allocate is bounded. ``decode_column`` raises Malformed or TooLarge
and nothing else. That a column is the one which ``encode_column`` would have chosen is not checked: other writers may
choose.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import isfinite
from typing import Any

from sync.byte_planes import TYPECODES, from_planes, unshuffle
from sync.column_codecs import (
    ADD_BYTES,
    ADDS,
    CONST,
    DELTAS,
    GENERIC,
    INTS,
    LINEAR,
    LIST_BYTES,
    LISTS,
    OPTIONAL,
    SEPARATOR,
    TEXTS,
    VALUE_BYTES,
    WORDS,
    Budget,
)
from sync.errors import InvalidValue, Malformed
from sync.limits import INT_MAX, INT_MIN
from sync.values import check_value

_NONE = type(None)


def decode_column(column: Any, count: int, budget: Budget) -> list[Any]:
    """Exactly ``count`` values (at least one), or Malformed / TooLarge."""
    budget.charge(VALUE_BYTES * count)
    try:
        tag = column[0]
        if type(column) is not list or type(tag) is not int or tag < 0:
            raise Malformed("a column is a list that begins with its tag")
        values = _DECODERS[tag](column, count, budget)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, InvalidValue) as error:
        raise Malformed(f"a column of {count} values cannot be read: {error}") from error
    if len(values) != count:
        raise Malformed(f"a column holds {len(values)} values instead of {count}")
    return values


def decode_ints(column: Any, count: int, budget: Budget, low: int = INT_MIN, high: int = INT_MAX) -> list[int]:
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


def may_nest(column: list[Any]) -> bool:
    """Whether a column that was decoded may hold maps, or lists of anything but strings."""
    tag = column[2][0] if column[0] == OPTIONAL else column[0]
    return tag in (GENERIC, ADDS)


# -- by tag; each is given at least one value to make -----------------------------------------------------------------


def _generic(column: Any, _count: int, _budget: Budget) -> list[Any]:
    _, values = column
    if type(values) is not list:
        raise Malformed("a generic column is not a list")
    # A contribution to a set or keep-all field is a value with up to four levels of its own around it; how deep a value
    # itself may be is checked where the rule of its field is known.
    return [check_value("(column)", value, -4) for value in values]


def _const(column: Any, count: int, budget: Budget) -> list[Any]:
    _, value = column
    if type(value) not in (str, int, bytes, _NONE):
        raise Malformed("a constant column repeats text, bytes, an integer or None")
    check_value("(column)", value)
    if type(value) in (str, bytes):
        budget.charge(count * len(value))
    return [value] * count


def _linear(column: Any, count: int, _budget: Budget) -> list[int]:
    _, first, step = column
    if type(first) is not int or type(step) is not int or not step:
        raise Malformed("a linear column is two integers")
    last = first + step * (count - 1)
    if not INT_MIN <= min(first, last) <= max(first, last) <= INT_MAX:
        raise Malformed("a linear column leaves 64 bits")
    return list(range(first, last + (1 if step > 0 else -1), step))


def _ints(column: Any, count: int, _budget: Budget) -> list[int]:
    _, width, data = column
    return from_planes(TYPECODES[width], width, data, count).tolist()


def _deltas(column: Any, count: int, _budget: Budget) -> list[int]:
    _, first, width, data = column
    if type(first) is not int:
        raise Malformed("a column of differences starts with an integer")
    values = list(accumulate(from_planes(TYPECODES[width], width, data, count - 1), initial=first))
    if not INT_MIN <= min(values) <= max(values) <= INT_MAX:
        raise Malformed("a column of differences leaves 64 bits")
    return values


def _floats(column: Any, count: int, _budget: Budget) -> list[float]:
    _, data = column
    values = from_planes("d", 8, data, count).tolist()
    if not isfinite(sum(values)) and not all(map(isfinite, values)):
        raise Malformed("a column holds NaN or infinity")
    return values


def _bools(column: Any, _count: int, _budget: Budget) -> list[bool]:
    _, data = column
    if type(data) is not bytes or data.strip(b"\0\1"):
        raise Malformed("a column of booleans holds something else")
    return list(map(bool, data))


def _texts(column: Any, count: int, budget: Budget) -> list[str]:
    _, lengths, data = column
    return _cut(_text(data), lengths, count, budget)


def _words(column: Any, _count: int, budget: Budget) -> list[str]:
    _, width, vocabulary_data, data = column
    if type(data) is not bytes or not data:
        raise Malformed("word numbers are bytes")
    vocabulary = _text(vocabulary_data).split(" ")
    numbers: Sequence[int] = data
    if width == 2:
        numbers = array("H", unshuffle(data, 2))
        if sys.byteorder == "big":
            numbers.byteswap()
    elif width != 1:
        raise Malformed("word numbers have one or two bytes")
    sizes = [len(word) + 1 for word in vocabulary]
    if max(sizes) * len(numbers) > budget.left:
        budget.charge(sum(map(sizes.__getitem__, numbers)) - 1)
        text = " ".join(map(vocabulary.__getitem__, numbers))
    else:
        text = " ".join(map(vocabulary.__getitem__, numbers))
        budget.charge(len(text))
    return text.split(SEPARATOR)


def _fixed(column: Any, count: int, _budget: Budget) -> list[bytes]:
    _, size, data = column
    if type(data) is not bytes or type(size) is not int or size < 0 or len(data) != size * count:
        raise Malformed("a column of equal-sized bytes has a wrong length")
    if size % 4 == 0:
        data = unshuffle(data, 4)
    return [data[start : start + size] for start in range(0, len(data), size)] if size else [b""] * count


def _blobs(column: Any, count: int, budget: Budget) -> list[bytes]:
    _, sizes, data = column
    if type(data) is not bytes:
        raise Malformed("a column of bytes holds something else")
    return _cut(data, sizes, count, budget)


def _lists(column: Any, count: int, budget: Budget) -> list[list[str]]:
    _, sizes, total, inner = column
    budget.charge(LIST_BYTES * count)
    if type(total) is not int or total <= 0 or inner[0] not in (CONST, TEXTS, WORDS):
        raise Malformed("a column of lists has an impossible length, or holds something else")
    flat = decode_column(inner, total, budget)
    if type(flat[0]) is not str:
        raise Malformed("a column of lists holds strings")
    return _cut(flat, sizes, count, budget)


def _optional(column: Any, count: int, budget: Budget) -> list[Any]:
    _, mask, inner = column
    if type(mask) is not bytes or len(mask) != count or mask.strip(b"\0\1") or 1 not in mask or inner[0] == OPTIONAL:
        raise Malformed("the mask of an optional column is wrong")
    present = iter(decode_column(inner, mask.count(1), budget))
    return [next(present) if bit else None for bit in mask]


def _adds(column: Any, count: int, budget: Budget) -> list[Any]:
    _, inner = column
    budget.charge(ADD_BYTES * count)
    if inner[0] == LISTS:
        added = _lists(inner, count, budget)
    elif inner[0] == GENERIC:
        added = _generic(inner, count, budget)
    else:
        raise Malformed("a column of additions holds lists")
    if set(map(type, added)) != {list}:
        raise Malformed("a column of additions holds lists")
    return [[elements, []] for elements in added]


_DECODERS: tuple[Callable[[Any, int, Budget], list[Any]], ...] = (
    _generic,
    _const,
    _linear,
    _ints,
    _deltas,
    _floats,
    _bools,
    _texts,
    _words,
    _fixed,
    _blobs,
    _lists,
    _optional,
    _adds,
)


def _cut(whole: Any, sizes: Any, count: int, budget: Budget) -> list[Any]:
    """A text, bytes or list, cut into ``count`` pieces of the given sizes that together are all of it."""
    ends = list(accumulate(decode_ints(sizes, count, budget, 0, len(whole))))
    if ends[-1] != len(whole):
        raise Malformed("the sizes of a column's values do not add up")
    return list(map(whole.__getitem__, map(slice, [0, *ends[:-1]], ends)))


def _text(data: Any) -> str:
    if type(data) is not bytes:
        raise Malformed("text is UTF-8 bytes")
    return data.decode()  # UnicodeDecodeError is a ValueError: Malformed, by decode_column
