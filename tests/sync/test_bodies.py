"""Parts of bodies: what is sealed opens at its own place only, and names tell nothing without the key."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import bodies
from sync.bodies import HEADER_BYTES, PARTS_MAX, body_name, open_part, parse_part, parts_of, seal_part, sealed_length
from sync.errors import BrokenChain, DataError, DecryptionFailed, Malformed, TooLarge, UnsupportedVersion
from sync.keys import KeyRing
from sync.limits import BODY_BYTES_MAX, BODY_PART_BYTES

FLEET = bytes(range(16))
RING = KeyRing({1: b"k" * 32, 2: b"l" * 32})
NAME = body_name(RING, 2, FLEET, b"d" * 32)
PLACE: dict[str, Any] = {"ring": RING, "epoch": 2, "fleet": FLEET, "name": NAME, "number": 0, "parts": 1}


@given(st.binary(max_size=100) | st.sampled_from([16 << 10, BODY_PART_BYTES - 1, BODY_PART_BYTES]).map(bytes))
def test_what_is_sealed_opens(data: bytes) -> None:
    sealed = seal_part(data, **PLACE)
    assert len(sealed) == sealed_length(len(data)) <= bodies.PART_SEALED_BYTES_MAX
    assert open_part(sealed, **PLACE) == data


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"fleet": bytes(16)}, BrokenChain),
        ({"name": bytes(32)}, BrokenChain),
        ({"epoch": 1}, BrokenChain),
        ({"number": 1, "parts": 2}, BrokenChain),
        ({"parts": 2}, BrokenChain),
        ({"ring": KeyRing({2: b"m" * 32})}, DecryptionFailed),
        ({"ring": KeyRing({1: b"k" * 32})}, DecryptionFailed),
    ],
)
def test_a_part_opens_at_its_own_place_only(changed: dict[str, Any], error: type[DataError]) -> None:
    with pytest.raises(error):
        open_part(seal_part(b"data", **PLACE), **{**PLACE, **changed})


def test_every_byte_of_a_part_counts() -> None:
    sealed = seal_part(b"data" * 10, **PLACE)
    for at in range(len(sealed)):
        with pytest.raises(DataError):
            open_part(sealed[:at] + bytes([sealed[at] ^ 0x80]) + sealed[at + 1 :], **PLACE)
        with pytest.raises(DataError):
            open_part(sealed[:at], **PLACE)


def test_a_header_that_was_rewritten_for_another_place_does_not_open() -> None:
    sealed = bytearray(seal_part(b"data", **{**PLACE, "parts": 3}))
    struct.pack_into(">I", sealed, 60, 1)  # its number
    with pytest.raises(Malformed, match="not full"):
        open_part(bytes(sealed), **{**PLACE, "number": 1, "parts": 3})
    struct.pack_into(">I", sealed, 60, 2)
    with pytest.raises(DecryptionFailed):
        open_part(bytes(sealed), **{**PLACE, "number": 2, "parts": 3})


def rewritten(offset: int, form: str, value: Any) -> Callable[[bytes], bytes]:
    def change(sealed: bytes) -> bytes:
        out = bytearray(sealed)
        struct.pack_into(form, out, offset, value)
        return bytes(out)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (rewritten(0, ">4s", b"EGS1"), Malformed),
        (rewritten(4, ">B", 2), UnsupportedVersion),
        (rewritten(5, ">B", 2), UnsupportedVersion),
        (rewritten(6, ">H", 1), Malformed),
        (rewritten(60, ">I", 1), Malformed),
        (rewritten(64, ">I", 0), Malformed),
        (rewritten(64, ">I", PARTS_MAX + 1), Malformed),
        (rewritten(68, ">I", 5), Malformed),
        (rewritten(68, ">I", 1 << 31), Malformed),
        (rewritten(72, ">I", 5), Malformed),
        (lambda sealed: sealed + b"x", Malformed),
        (lambda sealed: sealed[: HEADER_BYTES - 1], Malformed),
        (lambda sealed: sealed + bytes(2 * BODY_PART_BYTES), TooLarge),
    ],
)
def test_a_header_is_looked_at(change: Callable[[bytes], bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_part(change(seal_part(b"data", **PLACE)))


def test_names_need_the_key_and_are_of_one_fleet_and_epoch() -> None:
    digest = b"d" * 32
    names = {
        body_name(ring, epoch, fleet, digest)
        for ring in (RING, KeyRing({1: b"x" * 32, 2: b"y" * 32}))
        for epoch in (1, 2)
        for fleet in (FLEET, bytes(16))
    }
    assert len(names) == 8
    assert body_name(RING, 1, FLEET, digest) == body_name(RING, 1, FLEET, digest)
    assert all(len(name) == bodies.NAME_BYTES and digest not in name for name in sorted(names))


def test_the_bounds() -> None:
    sizes = (0, 1, BODY_PART_BYTES, BODY_PART_BYTES + 1, BODY_BYTES_MAX)
    assert [parts_of(size) for size in sizes] == [1, 1, 1, 2, PARTS_MAX]
    with pytest.raises(TooLarge):
        seal_part(bytes(BODY_PART_BYTES + 1), **PLACE)
    with pytest.raises(TooLarge):
        seal_part(b"", **{**PLACE, "parts": PARTS_MAX + 1})
