"""Genuine segments in the wrong place: of another fleet, stream or replica, replayed, reordered, with a gap; or with
operations that are not the device's own in their order. Each is refused, before anything is decrypted where possible.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sync.errors import BadSignature, BrokenChain, DecryptionFailed, Malformed
from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.operations import Kind, Operation, Shape
from sync.segment import (
    GENESIS,
    Opened,
    Sealed,
    SegmentHeader,
    expect,
    open_segment,
    seal,
)

FLEET, REPLICA = b"F" * 16, b"R" * 16
KEY = DeviceKey.from_bytes(bytes(range(64)))
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
