"""Chunks: what is sealed opens under its own digest only; lists and indexes are bounded; ranges are what is missing."""

from __future__ import annotations

import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.chunks import (
    CHUNK_BYTES_MAX,
    CHUNK_LIST_BYTES_MAX,
    PACK_BYTES_MAX,
    RANGE_BYTES_MAX,
    Chunk,
    ChunkList,
    open_chunk_into,
    pack_id,
    ranges,
    seal_chunk_into,
    sealed_length,
)
from sync.errors import DataError, DecryptionFailed, Malformed, TooLarge

KEY = b"k" * 32
OUT = memoryview(bytearray(CHUNK_BYTES_MAX))


def seal(data: bytes, digest: bytes = b"", key: bytes = KEY) -> bytes:
    out = memoryview(bytearray(sealed_length(len(data))))
    assert seal_chunk_into(data, digest or sha256(data).digest(), key, out) == len(out)
    return bytes(out)


def chunk(data: bytes) -> Chunk:
    return Chunk(sha256(data).digest(), len(data), 0, 0)


@given(st.binary(min_size=1, max_size=100) | st.sampled_from([16 << 10, (16 << 10) - 1, CHUNK_BYTES_MAX]).map(bytes))
def test_what_is_sealed_opens(data: bytes) -> None:
    assert bytes(open_chunk_into(seal(data), chunk(data), KEY, OUT)) == data


def test_every_byte_of_a_sealed_chunk_counts() -> None:
    data = b"data" * 10
    sealed = seal(data)
    for at in range(len(sealed)):
        with pytest.raises(DataError):
            open_chunk_into(sealed[:at] + bytes([sealed[at] ^ 0x80]) + sealed[at + 1 :], chunk(data), KEY, OUT)
        with pytest.raises(DataError):
            open_chunk_into(sealed[:at], chunk(data), KEY, OUT)


def test_a_chunk_opens_as_itself_only() -> None:
    with pytest.raises(DecryptionFailed):
        open_chunk_into(seal(b"data"), chunk(b"atad"), KEY, OUT)
    with pytest.raises(DecryptionFailed):
        open_chunk_into(seal(b"data"), chunk(b"data"), b"l" * 32, OUT)
    with pytest.raises(Malformed):  # by somebody who has the fleet's key
        open_chunk_into(seal(b"evil", sha256(b"data").digest()), chunk(b"data"), KEY, OUT)
    with pytest.raises(Malformed):
        open_chunk_into(seal(b"data"), chunk(b"data")._replace(length=5), KEY, OUT)
    with pytest.raises(DataError):  # longer than there is room for
        open_chunk_into(seal(bytes(CHUNK_BYTES_MAX)), chunk(bytes(CHUNK_BYTES_MAX)), KEY, OUT[:100])


some_chunks = st.lists(
    st.builds(
        Chunk,
        digest=st.integers(0, 20).map(lambda number: sha256(bytes([number])).digest()),
        length=st.integers(1, CHUNK_BYTES_MAX),
        pack=st.integers(0, 3),
        offset=st.integers(0, 8 << 20),
    ),
    max_size=30,
)


@given(some_chunks)
def test_a_list_comes_back_and_what_is_missing_is_named_once(found: list[Chunk]) -> None:
    parsed = ChunkList.parse(ChunkList(tuple(found)).encode())
    assert parsed.chunks == tuple(found)
    have = {one.digest for one in found[::2]}
    missing = [one.digest for one in parsed.missing(have)]
    assert missing == list(dict.fromkeys(one.digest for one in found if one.digest not in have))


def test_an_impossible_list_is_refused() -> None:
    good = ChunkList((Chunk(b"d" * 32, 1, 0, 0),)).encode()
    for bad in (
        good[:-1],
        good + b"x",
        struct.pack(">32sIHI", b"d" * 32, 0, 0, 0),
        struct.pack(">32sIHI", b"d" * 32, CHUNK_BYTES_MAX + 1, 0, 0),
        struct.pack(">32sIHI", b"d" * 32, 1, 0, PACK_BYTES_MAX - 1),
    ):
        with pytest.raises(Malformed):
            ChunkList.parse(bad)
    with pytest.raises(TooLarge):
        ChunkList.parse(bytes(CHUNK_LIST_BYTES_MAX + 42))


def test_neighbours_are_asked_for_at_once_and_never_too_much() -> None:
    placed, at = [], 0
    for number in range(200):
        length = 60_000 + number
        placed.append(Chunk(sha256(number.to_bytes(2, "big")).digest(), length, number // 120, at if number else 0))
        at = 0 if number == 119 else at + sealed_length(length)
    without = [one for number, one in enumerate(placed) if number != 50]
    found = ranges(reversed(without))
    assert [one for part in found for one in part.chunks] == without
    for part in found:
        assert part.length == sum(one.sealed_length for one in part.chunks) <= RANGE_BYTES_MAX
        assert {one.pack for one in part.chunks} == {part.pack}
        assert part.chunks[0].offset == part.offset
    assert len(found) == 4, "51 neighbours, 69 in two, 80 in two, less what is cut at the bound"
    assert ranges([]) == []


def test_a_pack_s_name_is_its_chunks_and_tells_them_to_nobody() -> None:
    entries = [(b"a" * 32, 100), (b"b" * 32, 200)]
    names = {pack_id(key, some) for key in (KEY, b"l" * 32) for some in (entries, entries[::-1], entries[:1])}
    assert len(names) == 6
    assert pack_id(KEY, iter(entries)) in names
