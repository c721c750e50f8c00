"""Whoever stands between changes, cuts or lengthens a segment, byte by byte: an error each time, never another result.

A second attacker is a device of the fleet that signs what it changed (it has its own key), or puts parts of good
segments together. A third has the fleet's key, too: see ``test_segments_columns.py`` and ``test_segments_bombs.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from sync.errors import BadSignature, BrokenChain, DataError, DecryptionFailed, Malformed, TooLarge, UnsupportedVersion
from sync.limits import SEGMENT_SEALED_BYTES_MAX
from sync.segment import (
    _HEADER,
    FLAG_FEED,
    HEADER_BYTES,
    MAGIC,
    SIGNATURE_BYTES,
    SegmentHeader,
    parse_header,
    segment_id,
)
from tests.sync.operations import B
from tests.sync.sealing import DEVICE, OTHER, a_few, opened, sealed

SEGMENT = sealed(a_few(), clear=b"clear meta")
DATA = SEGMENT.data
PREFIX = HEADER_BYTES + len(b"clear meta")
SIGNED = len(DATA) - SIGNATURE_BYTES


def resigned(signed: bytes) -> bytes:
    """The same under a signature that is right."""
    unsigned = signed + bytes(SIGNATURE_BYTES)
    return signed + DEVICE.sign(b"agentdb.seg.v1.sig" + segment_id(unsigned))


def altered(data: bytes) -> Iterator[bytes]:
    """Every byte in three ways: its lowest bit, its highest, and all."""
    for index in range(len(data)):
        for mask in (1, 0x80, 0xFF):
            yield data[:index] + bytes([data[index] ^ mask]) + data[index + 1 :]


def anything(header: SegmentHeader) -> None:
    """A careless caller."""


def test_the_segment_itself_opens() -> None:
    assert opened(DATA).operations == a_few()
    assert resigned(DATA[:SIGNED]) == DATA


def test_every_byte_altered() -> None:
    for data in altered(DATA):
        with pytest.raises((DataError, TooLarge)):
            opened(data, check=anything)


def test_every_byte_altered_by_a_device_that_signs_it() -> None:
    """The ciphertext is bound to the header and the clear meta, so nothing of either can be changed alone."""
    for data in altered(DATA[:SIGNED]):
        with pytest.raises((DataError, TooLarge)) as caught:
            opened(resigned(data), check=anything)
        assert not isinstance(caught.value, BadSignature) or data[HEADER_BYTES - 8 : HEADER_BYTES] != DEVICE.key_id


def test_every_byte_of_the_body_and_the_clear_meta_is_authenticated() -> None:
    for data in list(altered(DATA[:SIGNED]))[3 * HEADER_BYTES :]:
        with pytest.raises(DecryptionFailed):
            opened(resigned(data))


def test_every_truncation() -> None:
    for length in range(len(DATA)):
        with pytest.raises((DataError, TooLarge)):
            opened(DATA[:length], check=anything)
        if length < SIGNED:
            with pytest.raises((DataError, TooLarge)):
                opened(resigned(DATA[:length]), check=anything)


def test_every_truncation_that_adjusts_the_header_and_signs_it() -> None:
    for cut in range(1, SIGNED - PREFIX + 1):
        header = SEGMENT.header._replace(body_length=SEGMENT.header.body_length - cut)
        with pytest.raises(DecryptionFailed):
            opened(resigned(_HEADER.pack(MAGIC, *header) + DATA[HEADER_BYTES : SIGNED - cut]))


def test_extension_by_every_byte() -> None:
    for byte in range(256):
        for data in (DATA + bytes([byte]), bytes([byte]) + DATA):
            with pytest.raises((DataError, TooLarge)):
                opened(data, check=anything)
    header = SEGMENT.header._replace(body_length=SEGMENT.header.body_length + 1)
    with pytest.raises(DecryptionFailed):
        opened(resigned(_HEADER.pack(MAGIC, *header) + DATA[HEADER_BYTES:SIGNED] + b"\0"))


def test_bytes_that_were_never_a_segment() -> None:
    for data in (b"", b"EGS1", os.urandom(500), bytes(500), MAGIC + bytes(300), b"EGS1" * 100):
        with pytest.raises((DataError, TooLarge)):
            opened(data, check=anything)


def test_oversized() -> None:
    with pytest.raises(TooLarge):
        opened(DATA + bytes(SEGMENT_SEALED_BYTES_MAX), check=anything)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, UnsupportedVersion),
        ({"suite": 2}, UnsupportedVersion),
        ({"mode": 2}, UnsupportedVersion),
        ({"flags": 8}, UnsupportedVersion),
        ({"count": 0}, Malformed),
        ({"count": 65_537}, Malformed),
        ({"plain_length": (8 << 20) + 1}, TooLarge),
        ({"clear_length": 4097}, TooLarge),
        ({"clear_length": 11}, Malformed),
        ({"body_length": 1 << 31}, Malformed),
        ({"key_id": OTHER.key_id}, BadSignature),
        ({"first_seq": 2}, BrokenChain),
        ({"previous": bytes(31) + b"\1"}, BrokenChain),
        ({"fleet": bytes(16)}, BrokenChain),
        ({"stream": B}, BrokenChain),
        ({"epoch": 3}, DecryptionFailed),
        ({"epoch": 1}, DecryptionFailed),
        ({"min_ts": 5}, DecryptionFailed),
        ({"flags": FLAG_FEED}, DecryptionFailed),
    ],
)
def test_a_header_that_says_something_else(change: dict[str, Any], error: type[Exception]) -> None:
    """Signed by the device itself; the checks come in the order that FORMAT.md gives."""
    header = _HEADER.pack(MAGIC, *SEGMENT.header._replace(**change))
    with pytest.raises(error):
        opened(resigned(header + DATA[HEADER_BYTES:SIGNED]))


def test_the_header_of_one_segment_on_the_body_of_another() -> None:
    other = sealed([operation._replace(ts=operation.ts + 7) for operation in a_few()], clear=b"clear meta")
    assert len(other.data) == len(DATA)
    assert parse_header(other.data).body_length == SEGMENT.header.body_length
    for cut in (HEADER_BYTES, PREFIX, PREFIX + 56, SIGNED):
        mixed = DATA[:cut] + other.data[cut:]
        with pytest.raises(BadSignature):
            opened(mixed)
        if cut < SIGNED:
            with pytest.raises(DecryptionFailed):
                opened(resigned(mixed[:SIGNED]))
