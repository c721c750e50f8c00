"""A segment that was altered anywhere, cut anywhere, or put in another's place is refused, and nothing of it is used.

Every flip of every byte of a real segment, every truncation, one byte more: a typed error each time.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest

from sync.errors import BadSignature, BrokenChain, DataError, DecryptionFailed, Malformed, TooLarge
from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.limits import SEGMENT_SEALED_BYTES_MAX
from sync.operations import Kind, Operation, Shape
from sync.segment import (
    GENESIS,
    HEADER_BYTES,
    SIGNATURE_BYTES,
    Opened,
    Sealed,
    SegmentHeader,
    expect,
    open_segment,
    seal,
)

FLEET, REPLICA = b"F" * 16, b"R" * 16
KEY, STRANGER = DeviceKey.from_bytes(bytes(range(64))), DeviceKey.from_bytes(bytes(range(64, 128)))
RING = KeyRing({3: b"k" * 32})
SHAPE = Shape(Kind.PUT, "notes", ("text",), "l")


def roster(key_id: bytes) -> PublicIdentity:
    if key_id != KEY.key_id:
        raise BadSignature("nobody of this fleet")
    return KEY.public


def make(first_seq: int = 1, previous: bytes = GENESIS, *, signer: DeviceKey = KEY, ring: KeyRing = RING) -> Sealed:
    operations = [Operation(REPLICA, first_seq + n, 1_000 + n, 0, SHAPE, f"k{n}", ("a word",)) for n in range(3)]
    return seal(
        operations,
        fleet=FLEET,
        stream=REPLICA,
        replica=REPLICA,
        first_seq=first_seq,
        previous=previous,
        ring=ring,
        signer=signer,
        clear=b"clear",
    )


def opened(data: bytes, check: Callable[[SegmentHeader], None] | None = None, ring: KeyRing = RING) -> Opened:
    return open_segment(data, identity=roster, ring=ring, check=check or expect(fleet=FLEET, stream=REPLICA))


def test_untouched_it_opens() -> None:
    assert len(opened(make().data).operations) == 3


def test_every_bit_of_every_byte() -> None:
    data = make().data
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises((DataError, TooLarge)):
                opened(bytes(altered))


def test_every_truncation_and_every_byte_more() -> None:
    data = make().data
    for length in range(len(data)):
        with pytest.raises(DataError):
            opened(data[:length])
    for more in range(256):
        with pytest.raises(DataError):
            opened(data + bytes([more]))


def test_the_body_does_not_fit_another_header() -> None:
    """Both are genuine; only header and body were put together anew, by somebody who may even sign."""
    one, other = make(1).data, make(4).data
    mixed = one[:HEADER_BYTES] + other[HEADER_BYTES:-SIGNATURE_BYTES]
    signed = mixed + KEY.sign(b"agentdb.seg.v1.sig" + sha256(mixed).digest())
    with pytest.raises(DecryptionFailed):
        opened(signed)


def test_a_signer_outside_the_roster() -> None:
    with pytest.raises(BadSignature, match="nobody"):
        opened(make(signer=STRANGER).data)


def test_a_signature_of_another_context_does_not_count() -> None:
    data = make().data
    bare = KEY.sign(sha256(data[:-SIGNATURE_BYTES]).digest())
    with pytest.raises(BadSignature):
        opened(data[:-SIGNATURE_BYTES] + bare)


def test_an_epoch_whose_key_is_not_known_and_a_wrong_key() -> None:
    with pytest.raises(DecryptionFailed, match="epoch 9"):
        opened(make(ring=KeyRing({9: b"k" * 32})).data)
    with pytest.raises(DecryptionFailed, match="altered"):
        opened(make().data, ring=KeyRing({3: b"x" * 32}))


@pytest.mark.parametrize(
    "check",
    [
        expect(fleet=b"G" * 16, stream=REPLICA),
        expect(fleet=FLEET, stream=b"S" * 16),
        expect(fleet=FLEET, stream=REPLICA, replica=b"S" * 16),
        expect(fleet=FLEET, stream=REPLICA, first_seq=2),
        expect(fleet=FLEET, stream=REPLICA, first_seq=1, previous=b"p" * 32),
    ],
    ids=["fleet", "stream", "replica", "gap", "predecessor"],
)
def test_replayed_reordered_gapped_or_foreign(check: Callable[[SegmentHeader], None]) -> None:
    with pytest.raises(BrokenChain):
        opened(make().data, check)


def test_the_chain_is_checked_before_anything_is_decrypted() -> None:
    def check(header: SegmentHeader) -> None:
        raise BrokenChain("first")

    with pytest.raises(BrokenChain, match="first"):
        opened(make().data, check, ring=KeyRing({9: b"k" * 32}))


def test_more_than_a_segment_may_have_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        opened(bytes(SEGMENT_SEALED_BYTES_MAX + 1))


def test_operations_of_others_or_out_of_order_in_a_devices_segment() -> None:
    def sealed(operations: list[Operation]) -> bytes:
        return seal(
            operations,
            fleet=FLEET,
            stream=REPLICA,
            replica=REPLICA,
            first_seq=1,
            previous=GENESIS,
            ring=RING,
            signer=KEY,
        ).data

    good = [Operation(REPLICA, n, 1_000 + n, 0, SHAPE, "k", ("x",)) for n in (1, 2, 3)]
    for wrong in (
        [good[0]._replace(replica=b"S" * 16), *good[1:]],
        [good[0], good[2]._replace(seq=2, ts=900), good[2]],
        [good[1], good[2]],
        [good[0], good[0]],
    ):
        with pytest.raises(Malformed):
            opened(sealed(wrong))
