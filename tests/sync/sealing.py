"""One fleet's keys, fixed, and short ways to seal and open segments with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sync.errors import BadSignature
from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.operations import Operation
from sync.segment import GENESIS, Opened, Sealed, SegmentHeader, expect, open_segment, seal
from tests.sync.operations import A, put

FLEET = b"fleet 0123456789"
DEVICE = DeviceKey.from_bytes(bytes(range(64)))
OTHER = DeviceKey.from_bytes(bytes(range(100, 164)))
RING = KeyRing({1: b"1" * 32, 7: b"7" * 32})
EXPECTED = expect(fleet=FLEET, stream=A, replica=A, first_seq=1, previous=GENESIS)


def roster(*known: PublicIdentity) -> Callable[[bytes], PublicIdentity]:
    """Looks signers up as the cloud does: by key id, BadSignature for a stranger."""

    def identity(key_id: bytes) -> PublicIdentity:
        for public in known:
            if public.key_id == key_id:
                return public
        raise BadSignature("no such signer")

    return identity


def a_few() -> list[Operation]:
    """Operations of a device's own log, as few as make a segment with every part."""
    return [put(seq, f"key {seq}", note=f"hello {seq}", at=seq * seq) for seq in range(1, 4)]


def sealed(operations: Sequence[Operation], **changes: Any) -> Sealed:
    arguments: dict[str, Any] = {
        "fleet": FLEET,
        "stream": A,
        "replica": A,
        "first_seq": operations[0].seq,
        "previous": GENESIS,
        "ring": RING,
        "signer": DEVICE,
    }
    return seal(operations, **(arguments | changes))


def opened(
    data: bytes,
    *,
    check: Callable[[SegmentHeader], None] = EXPECTED,
    ring: KeyRing = RING,
    known: Sequence[PublicIdentity] = (DEVICE.public,),
) -> Opened:
    return open_segment(data, identity=roster(*known), ring=ring, check=check)
