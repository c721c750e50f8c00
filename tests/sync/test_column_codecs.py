"""Every column comes back as it was, type by type, and a budget that sufficed to write it suffices to read it."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync import column_codecs as codecs
from sync.column_codecs import Budget, encode_column, encode_ints
from sync.column_decoders import decode_column, decode_ints
from sync.errors import Malformed, TooLarge
from sync.limits import INT_MAX, INT_MIN
from tests.sync.values import KINDS, columns, ints, same, texts


def there_and_back(values: list[Any]) -> tuple[list[Any], list[Any]]:
    """The encoded column as msgpack carries it, and what it decodes to; both sides spend the same."""
    writing, reading = Budget(), Budget()
    column = msgpack.unpackb(msgpack.packb(encode_column(values, writing)), strict_map_key=True)
    decoded = decode_column(column, len(values), reading)
    assert reading.left == writing.left
    return column, decoded


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(data=st.data())
def test_every_kind_of_column_comes_back(kind: str, data: st.DataObject) -> None:
    values = data.draw(columns(kind))
    assert same(there_and_back(values)[1], values)


@given(st.lists(ints, min_size=1, max_size=40), st.integers(-(2**63), 2**63 - 1))
def test_integer_columns_come_back(values: list[int], start: int) -> None:
    for column in (values, sorted(values), sorted(values, reverse=True)):
        assert decode_ints(encode_ints(column, Budget()), len(column), Budget()) == column
    step = (INT_MAX - start) // 50
    linear = [start + i * step for i in range(50)]
    assert there_and_back(linear)[1] == linear


@given(st.lists(texts, min_size=1, max_size=6), st.integers(16, 600), st.integers(0, 2**32))
def test_repetitive_texts_come_back(vocabulary: list[str], count: int, seed: int) -> None:
    rng = random.Random(seed)
    whole = rng.choices(vocabulary, k=count)
    phrases = [" ".join(rng.choices(vocabulary, k=rng.randrange(9))) for _ in range(count)]
    for values in (whole, phrases, [[word] * (i % 3) for i, word in enumerate(whole)]):
        assert same(there_and_back(values)[1], values)


# Each row: the tag that is expected, and values.
TAGS = [
    (codecs.CONST, [None] * 3),
    (codecs.CONST, [7]),
    (codecs.CONST, ["same"] * 20),
    (codecs.CONST, [b"same"] * 20),
    (codecs.LINEAR, [5, 3, 1, -1]),
    (codecs.LINEAR, list(range(1, 10_001))),
    (codecs.INTS, [3, 1, 2]),
    (codecs.INTS, [INT_MIN, INT_MAX]),
    (codecs.INTS, [INT_MAX, INT_MIN]),
    (codecs.INTS, [INT_MIN, INT_MAX, INT_MIN]),
    (codecs.DELTAS, [1_700_000_000_000, 1_700_000_000_003, 1_700_000_000_004]),
    (codecs.DELTAS, [INT_MAX, INT_MAX - 1, INT_MAX - 3]),
    (codecs.FLOATS, [0.5, -0.0, 0.0]),
    (codecs.BOOLS, [True, False, True]),
    (codecs.TEXTS, ["a", "b", ""]),
    (codecs.WORDS, ["go on", "go off"] * 20),
    (codecs.WORDS, [f"the value of {i % 90} is {i * i % 97}" for i in range(500)]),
    (codecs.FIXED, [bytes(12), b"a" * 12]),
    (codecs.FIXED, [b"abc", b"def"]),
    (codecs.BLOBS, [b"abc", b""]),
    (codecs.LISTS, [["a", "b"], [], ["c"]]),
    (codecs.OPTIONAL, [None, 1, 2]),
    (codecs.ADDS, [[["a"], []], [[], []]]),
    (codecs.ADDS, [[[1], []], [["a"], []]]),
    (codecs.GENERIC, [[], []]),
    (codecs.GENERIC, [1, 1.0, True]),
    (codecs.GENERIC, [{}, {"a": [1]}]),
    (codecs.GENERIC, [["a", 1], ["b"]]),
]


@pytest.mark.parametrize(("tag", "values"), TAGS)
def test_the_codec_that_is_chosen(tag: int, values: list[Any]) -> None:
    column, decoded = there_and_back(values)
    assert column[0] == tag
    assert same(decoded, values)


def test_every_codec_is_chosen_by_some_column() -> None:
    assert {tag for tag, _ in TAGS} == set(range(14))


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_additions_within_additions(depth: int) -> None:
    """Found by these tests: such a value was written as additions of additions, which nobody could read."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, []]
    for values in ([value], [value, [["a"], []]], [[["a", "b"], []], value]):
        assert same(there_and_back(values)[1], values)


@pytest.mark.parametrize(
    ("words", "tag"), [(256, codecs.WORDS), (257, codecs.WORDS), (55_295, codecs.WORDS), (55_296, codecs.TEXTS)]
)
def test_vocabularies_at_their_bounds(words: int, tag: int) -> None:
    """One byte a word up to 256 words, NUL included; two up to 55,295; more go as plain text."""
    names = [f"w{i}" for i in range(words - 1)]
    values = [" ".join(names[start : start + 100]) for start in range(0, len(names), 100)]
    values = values + values[::-1] + [" ".join(names[:3])] * 20
    column, decoded = there_and_back(values)
    assert column[0] == tag
    assert decoded == values
    if tag == codecs.WORDS:
        assert column[1] == (1 if words <= 256 else 2)


def test_a_vocabulary_beyond_unicode() -> None:
    """Two million distinct words, repeated: there are not as many code points to number them."""
    values = [" ".join(map(str, range(start, start + 25_000))) for start in range(0, 1_300_000, 25_000)] * 6
    assert there_and_back(values)[1] == values


def test_nul_in_texts_is_not_taken_for_the_end_of_a_text() -> None:
    for odd in ("\0", " \0 ", "a \0 b", "\0\0", "a\0"):
        for values in ([odd, "go on"] * 40, ["go on"] * 300 + [odd], [f"{odd} {i % 5}" for i in range(400)]):
            assert there_and_back(values)[1] == values


def test_vectors_are_shuffled_and_come_back() -> None:
    rng = random.Random(5)
    vectors = [rng.randbytes(384 * 4) for _ in range(20)]
    column, decoded = there_and_back(vectors)
    assert column[:2] == [codecs.FIXED, 384 * 4]
    assert column[2][:20] == b"".join(vectors)[0:80:4]
    assert decoded == vectors


def test_a_writer_may_choose_another_codec_than_ours() -> None:
    """Codecs that we would not have chosen are read all the same: plain text, wide integers, no constants."""
    assert decode_column([codecs.TEXTS, [codecs.CONST, 1], b"aaa"], 3, Budget()) == ["a", "a", "a"]
    assert decode_column([codecs.INTS, 8, bytes(16)], 2, Budget()) == [0, 0]
    assert decode_column([codecs.GENERIC, ["a", "a"]], 2, Budget()) == ["a", "a"]
    assert decode_column([codecs.FIXED, 0, b""], 2, Budget()) == [b"", b""]


@pytest.mark.parametrize(
    "values",
    [["x" * 10_000] * 20_000, [f"{'x' * 1000} {i % 7}" for i in range(65_536)], [["a"] * 40] * 40_000],
    ids=["constant", "words", "lists"],
)
def test_what_a_reader_would_refuse_is_not_written(values: list[Any]) -> None:
    with pytest.raises(TooLarge):
        encode_column(values, Budget())
    assert same(there_and_back(values[:2_000])[1], values[:2_000])


@pytest.mark.parametrize(
    ("column", "low", "high"),
    [
        ([codecs.CONST, 5], 6, 9),
        ([codecs.CONST, 5], 0, 4),
        ([codecs.CONST, "5"], 0, 9),
        ([codecs.CONST, True], 0, 9),
        ([codecs.GENERIC, [5, 5, 5]], 0, 9),
        ([codecs.BOOLS, b"\1\1\1"], 0, 9),
        ([codecs.LINEAR, 1, 5], 0, 9),
    ],
)
def test_integers_where_integers_belong(column: list[Any], low: int, high: int) -> None:
    with pytest.raises(Malformed):
        decode_ints(column, 3, Budget(), low, high)


ONES = [codecs.CONST, 1]
MALFORMED: dict[str, Any] = {
    "nothing": [],
    "no list": b"\1\5",
    "a map": {0: 1},
    "a tag below": [-1, [codecs.GENERIC, [[], [], []]]],
    "a tag above": [14, b""],
    "a tag of truth": [True, 5],
    "a tag of text": ["1", 5],
    "no content": [codecs.CONST],
    "too much content": [codecs.CONST, 1, 2],
    "a constant of truth": [codecs.CONST, True],
    "a constant fraction": [codecs.CONST, 1.5],
    "a constant list": [codecs.CONST, []],
    "a constant of 64 bits without sign": [codecs.CONST, 2**63],
    "a step of nothing": [codecs.LINEAR, 1, 0],
    "a step of truth": [codecs.LINEAR, 1, True],
    "a fractional step": [codecs.LINEAR, 1, 0.5],
    "steps beyond": [codecs.LINEAR, INT_MAX - 1, 1],
    "steps below": [codecs.LINEAR, INT_MIN + 1, -1],
    "differences beyond": [codecs.DELTAS, INT_MAX - 1, 1, b"\1\1"],
    "differences there and back": [codecs.DELTAS, INT_MAX, 1, b"\1\xff"],
    "differences from a fraction": [codecs.DELTAS, 1.0, 1, b"\1\1"],
    "integers of three bytes": [codecs.INTS, 3, bytes(9)],
    "integers cut short": [codecs.INTS, 2, bytes(5)],
    "integers of text": [codecs.INTS, 1, "abc"],
    "an infinite float": [codecs.FLOATS, bytes(18) + b"\xf0\xf0\xf0" + b"\x7f\x7f\x7f"],
    "truth of two": [codecs.BOOLS, b"\0\2\1"],
    "truth of text": [codecs.BOOLS, "\0\1\0"],
    "text that is not UTF-8": [codecs.TEXTS, ONES, b"ab\xff"],
    "text of a surrogate": [codecs.TEXTS, [codecs.LINEAR, 0, 1], b"\xed\xa0\x80"],
    "text that is left over": [codecs.TEXTS, ONES, b"abcd"],
    "text that is missing": [codecs.TEXTS, [codecs.INTS, 1, b"\1\1\2"], b"abc"],
    "negative lengths": [codecs.TEXTS, [codecs.INTS, 1, b"\2\xff\2"], b"abc"],
    "words beyond the vocabulary": [codecs.WORDS, 1, b"\0 a", b"\1\0\1\0\2"],
    "words of three bytes": [codecs.WORDS, 3, b"\0 a", b"\1\0\1\0\1"],
    "words of odd length": [codecs.WORDS, 2, b"\0 a", b"\1\0\1\0\1"],
    "too few words": [codecs.WORDS, 1, b"\0 a", b"\1\0\1"],
    "no words": [codecs.WORDS, 1, b"\0 a", b""],
    "bytes cut short": [codecs.FIXED, 2, b"abcde"],
    "bytes of a negative size": [codecs.FIXED, -1, b"abc"],
    "bytes left over": [codecs.BLOBS, ONES, b"abcd"],
    "bytes of text": [codecs.BLOBS, ONES, "abc"],
    "lists of integers": [codecs.LISTS, ONES, 3, [codecs.INTS, 1, b"abc"]],
    "lists of a constant integer": [codecs.LISTS, ONES, 3, ONES],
    "lists of generics": [codecs.LISTS, ONES, 3, [codecs.GENERIC, ["a", "b", "c"]]],
    "lists of lists": [codecs.LISTS, ONES, 3, [codecs.LISTS, ONES, 3, [codecs.CONST, "a"]]],
    "lists left over": [codecs.LISTS, ONES, 4, [codecs.CONST, "a"]],
    "lists of less than nothing": [codecs.LISTS, [codecs.CONST, 0], 0, [codecs.CONST, "a"]],
    "gaps only": [codecs.OPTIONAL, b"\0\0\0", ONES],
    "gaps of another size": [codecs.OPTIONAL, b"\1\1", ONES],
    "gaps of two": [codecs.OPTIONAL, b"\1\2\1", ONES],
    "gaps in gaps": [codecs.OPTIONAL, b"\1\1\1", [codecs.OPTIONAL, b"\1\1\1", ONES]],
    "additions of text": [codecs.ADDS, [codecs.GENERIC, ["a", "b", "c"]]],
    "additions of a constant": [codecs.ADDS, [codecs.CONST, "a"]],
    "additions of additions": [codecs.ADDS, [codecs.ADDS, [codecs.GENERIC, [[], [], []]]]],
    "generics of a map": [codecs.GENERIC, {}],
    "too few generics": [codecs.GENERIC, [1, 2]],
    "NaN": [codecs.GENERIC, [1, 2, float("nan")]],
}


@pytest.mark.parametrize("what", MALFORMED)
def test_columns_that_no_writer_makes(what: str) -> None:
    with pytest.raises(Malformed):
        decode_column(MALFORMED[what], 3, Budget())
