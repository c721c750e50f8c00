"""Cutting: a file's chunks are all of it, the same however it is read, and an inserted prefix moves few of them."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO
from random import Random

import pytest

from cloud.fleet.chunking import LARGE_BYTES, LARGE_FROM_BYTES, SMALL_BYTES, average_for, cut
from sync.chunks import CHUNK_BYTES_MAX, CHUNKS_MAX
from tests.cloud.fleet.model_world import some_bytes


def chunks(data: bytes, average: int = SMALL_BYTES) -> list[bytes]:
    return [bytes(chunk) for some in cut(BytesIO(data).readinto, average) for chunk in some]


@pytest.mark.parametrize("size", [0, 1, 16 << 10, 64 << 10, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("average", [SMALL_BYTES, LARGE_BYTES])
def test_the_chunks_are_all_of_it_in_order_and_within_the_bounds(size: int, average: int) -> None:
    data = some_bytes(size)
    found = chunks(data, average)
    assert b"".join(found) == data
    assert all(average // 4 <= len(chunk) <= average * 4 for chunk in found[:-1])
    assert all(0 < len(chunk) <= CHUNK_BYTES_MAX for chunk in found)


def test_all_the_same_bytes_are_cut_too() -> None:
    assert {len(chunk) for chunk in chunks(bytes(4 << 20))} == {SMALL_BYTES * 4}


def test_the_cuts_are_where_they_always_were() -> None:
    """Another version of the library that cuts elsewhere would store, and send, every model anew."""
    lengths = [len(chunk) for chunk in chunks(some_bytes(1_000_000))]
    assert lengths[:8] == [33258, 78308, 80973, 39403, 28737, 67810, 159371, 71728]
    assert lengths[8:] == [135843, 117997, 63250, 49701, 73621]


class Dribbling(BytesIO):
    """As a pipe or a network drive may: a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._dice = Random(3)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[: self._dice.randint(1, 100_000)])


def test_the_same_bytes_are_cut_the_same_way_however_they_come() -> None:
    data = some_bytes(6_000_000)
    assert [bytes(chunk) for some in cut(Dribbling(data).readinto, SMALL_BYTES) for chunk in some] == chunks(data)


def test_what_is_put_before_moves_no_cut_but_the_first() -> None:
    data = some_bytes(8_000_000)
    before = {sha256(chunk).digest() for chunk in chunks(data)}
    after = [sha256(chunk).digest() for chunk in chunks(b"prefix" * 200 + data)]
    assert sum(digest not in before for digest in after) <= 3


def test_a_large_model_s_list_is_within_its_bound() -> None:
    assert average_for(LARGE_FROM_BYTES) == SMALL_BYTES
    assert average_for(LARGE_FROM_BYTES + 1) == LARGE_BYTES
    assert LARGE_FROM_BYTES / SMALL_BYTES < CHUNKS_MAX
