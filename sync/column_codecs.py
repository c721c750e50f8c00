"""A column of values → a small msgpack-able list ``[tag, …]``, chosen by what the values are (docs/FORMAT.md §3).

The bytes that come out are laid out for zstd to compress well, not small by themselves: numbers as byte planes, strings
as lengths and one text, repetitive text as a vocabulary and word numbers. Measured on 300-byte memory documents, the
last alone halves what zstd-3 makes of the text, since a word costs an entropy-coded byte and not a match.

What always holds: ``decode_column(encode_column(v, budget), len(v), budget) == list(v)`` with equal types, and a budget
that sufficed to encode suffices to decode: both sides charge the same (``sync.column_decoders`` is the other).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from operator import sub
from typing import Any

from sync.byte_planes import TYPECODES, shuffle, to_planes, width_of
from sync.errors import TooLarge
from sync.limits import INT_MAX, INT_MIN, SEGMENT_EXPANDED_BYTES_MAX

GENERIC, CONST, LINEAR, INTS, DELTAS, FLOATS, BOOLS, TEXTS, WORDS, FIXED, BLOBS, LISTS, OPTIONAL, ADDS = range(14)
SEPARATOR = " \0 "
VALUE_BYTES = 48  # what a value of any kind takes in memory, about: the object and the places that refer to it
LIST_BYTES = 64
ADD_BYTES = 144  # a contribution ``[elements, []]``: the two lists that the column does not count
_VOCABULARY_MAX = 0xD800  # word numbers travel as UTF-16 code units below the surrogates
_CHUNK = 256
_CHUNK_WORDS_MAX = 1_000_000  # chr() ends at 1,114,111
_NONE = type(None)


class Budget:
    """What the columns of a segment may still expand to in memory, in bytes."""

    __slots__ = ("left",)

    def __init__(self, limit: int = SEGMENT_EXPANDED_BYTES_MAX) -> None:
        self.left = limit

    def charge(self, size: int) -> None:
        """Raises TooLarge once all has been spent."""
        self.left -= size
        if self.left < 0:
            raise TooLarge(f"the segment expands to more than {SEGMENT_EXPANDED_BYTES_MAX} bytes")


def encode_column(values: Sequence[Any], budget: Budget) -> list[Any]:
    """The values (at least one) must have passed the schema's checks (``sync.values.check_value``). Raises TooLarge."""
    budget.charge(VALUE_BYTES * len(values))
    types = set(map(type, values))
    if len(types) == 1:
        (only,) = types
        encoder = _ENCODERS.get(only)
        return encoder(values, budget) if encoder is not None else [GENERIC, list(values)]
    if len(types) == 2 and _NONE in types:
        present = [value for value in values if value is not None]
        return [OPTIONAL, bytes(value is not None for value in values), encode_column(present, budget)]
    return [GENERIC, list(values)]


def encode_ints(values: Sequence[int], budget: Budget) -> list[Any]:
    """``encode_column`` for what is known to be 64-bit integers."""
    budget.charge(VALUE_BYTES * len(values))
    return _encode_ints(values, budget)


# -- encoders, by the one type of all values ------------------------------------------------------------------------


def _encode_nones(_values: Sequence[None], _budget: Budget) -> list[Any]:
    return [CONST, None]


def _encode_bools(values: Sequence[bool], _budget: Budget) -> list[Any]:
    return [BOOLS, bytes(values)]


def _encode_floats(values: Sequence[float], _budget: Budget) -> list[Any]:
    return [FLOATS, to_planes(array("d", values))]


def _encode_ints(values: Sequence[int], _budget: Budget) -> list[Any]:
    """Constant, linear, or the narrower of values and differences, as byte planes."""
    first = values[0]
    if first == values[-1] and values.count(first) == len(values):
        return [CONST, first]
    deltas = list(map(sub, values[1:], values))
    step_low, step_high = min(deltas), max(deltas)
    if step_low == step_high and INT_MIN <= step_low <= INT_MAX:
        return [LINEAR, first, step_low]
    low, high = (first, values[-1]) if step_low >= 0 else (min(values), max(values))
    width, step_width = width_of(low, high), width_of(step_low, step_high)
    if step_width < width:
        return [DELTAS, first, step_width, to_planes(array(TYPECODES[step_width], deltas))]
    return [INTS, width, to_planes(array(TYPECODES[width], values))]


def _encode_texts(values: Sequence[str], budget: Budget) -> list[Any]:
    if values.count(values[0]) == len(values):
        budget.charge(len(values) * len(values[0]))
        return [CONST, values[0]]
    if len(values) >= 16:
        sample = values[:: max(1, len(values) // 64)]
        words = " ".join(sample).split(" ")
        if len(set(words)) * 2 < len(words):
            vocabulary = _Vocabulary()
            numbers = _number_repeated(values, sample, vocabulary) or _number_words(values, vocabulary)
            if numbers:
                budget.charge(sum(map(len, values)) + len(SEPARATOR) * (len(values) - 1))
                return _encode_words(vocabulary, numbers)
    return [TEXTS, encode_ints(list(map(len, values)), budget), "".join(values).encode()]


class _Vocabulary(dict[str, str]):
    """Word → the character whose code point is its number, in order of first use."""

    def __missing__(self, word: str) -> str:
        character = self[word] = chr(len(self))
        return character


def _number_repeated(values: Sequence[str], sample: Sequence[str], vocabulary: _Vocabulary) -> str:
    """The word numbers of a column of few distinct texts, such as names and tags, each split once. "" if it is none."""
    if len(set(sample)) * 2 > len(sample):
        return ""
    distinct = dict.fromkeys(values, "")
    if len(distinct) * 4 > len(values) or any("\0" in value for value in distinct):
        return ""
    end = vocabulary["\0"]
    for value in distinct:
        distinct[value] = "".join(map(vocabulary.__getitem__, value.split(" ")))
        if len(vocabulary) >= _VOCABULARY_MAX:
            return ""
    return end.join(map(distinct.__getitem__, values))


def _number_words(values: Sequence[str], vocabulary: _Vocabulary) -> str:
    """One character for each word, NUL standing between values. "" if NUL is in a value, or there are too many words.

    In chunks, because a list of all words falls out of the processor's cache (measured: 3.0 against 2.4 µs a value).
    """
    vocabulary.clear()
    chunks = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        text = SEPARATOR.join(chunk)
        if text.count("\0") != len(chunk) - 1 or len(text) > _CHUNK_WORDS_MAX < text.count(" "):
            return ""
        if start + _CHUNK < len(values):
            text += SEPARATOR[:-1]
        chunks.append("".join(map(vocabulary.__getitem__, text.split(" "))))
        if len(vocabulary) >= _VOCABULARY_MAX:
            return ""
    return "".join(chunks)


def _encode_words(vocabulary: _Vocabulary, numbers: str) -> list[Any]:
    words = " ".join(vocabulary).encode()
    if len(vocabulary) <= 256:
        return [WORDS, 1, words, numbers.encode("latin-1")]
    return [WORDS, 2, words, shuffle(numbers.encode("utf-16-le"), 2)]


def _encode_bytes(values: Sequence[bytes], budget: Budget) -> list[Any]:
    if values.count(values[0]) == len(values):
        budget.charge(len(values) * len(values[0]))
        return [CONST, values[0]]
    sizes = list(map(len, values))
    joined = b"".join(values)
    if min(sizes) == max(sizes):
        return [FIXED, sizes[0], joined if sizes[0] % 4 else shuffle(joined, 4)]
    return [BLOBS, encode_ints(sizes, budget), joined]


def _encode_lists(values: Sequence[list[Any]], budget: Budget) -> list[Any]:
    texts = _encode_string_lists(values, budget)
    if texts is not None:
        return texts
    if all(len(value) == 2 and type(value[0]) is list and type(value[1]) is list and not value[1] for value in values):
        budget.charge(ADD_BYTES * len(values))
        added = [value[0] for value in values]
        return [ADDS, _encode_string_lists(added, budget) or [GENERIC, added]]
    return [GENERIC, list(values)]


def _encode_string_lists(values: Sequence[list[Any]], budget: Budget) -> list[Any] | None:
    flat = list(chain.from_iterable(values))
    if not flat or set(map(type, flat)) != {str}:
        return None
    budget.charge(LIST_BYTES * len(values) + VALUE_BYTES * len(flat))
    return [LISTS, encode_ints(list(map(len, values)), budget), len(flat), _encode_texts(flat, budget)]


_ENCODERS: dict[type, Callable[[Any, Budget], list[Any]]] = {
    _NONE: _encode_nones,
    bool: _encode_bools,
    int: _encode_ints,
    float: _encode_floats,
    str: _encode_texts,
    bytes: _encode_bytes,
    list: _encode_lists,
}
