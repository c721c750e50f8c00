"""Bodies: the bytes of attachments as the cloud keeps them: in parts, each sealed on the device (docs/FORMAT.md).

::

    header 76 B | Cobblestone-256(epoch key, "agentdb.body.v1" ‖ SHA-256(header), part of the body)

A body's name in the cloud is a keyed hash of its digest, so that whoever has the bucket cannot ask it for a file that
he has himself. What always holds: the header says fleet, name, place and how many parts there are, and no part opens
under another header; who opens all parts compares the whole with the digest that its record has. No other check says
who wrote a part: any device of the fleet may have.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import sha256
from typing import NamedTuple

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from sync.errors import BrokenChain, DecryptionFailed, Malformed, TooLarge, UnsupportedVersion
from sync.keys import KeyRing
from sync.limits import BODY_BYTES_MAX, BODY_PART_BYTES

MAGIC = b"EGB1"
VERSION = 1
SUITE_COBBLESTONE256 = 1
HEADER_BYTES = 76
NAME_BYTES = 32
PARTS_MAX = BODY_BYTES_MAX // BODY_PART_BYTES
_HEADER = struct.Struct(">4sBBH16s32sIIIII")
_CONTEXT = b"agentdb.body.v1"
_NAME_CONTEXT = b"agentdb.body.name.v1"


class PartHeader(NamedTuple):
    """76 bytes, big-endian. ``number`` counts from 0 below ``parts``; lengths in bytes."""

    fleet: bytes
    name: bytes
    epoch: int
    number: int
    parts: int
    plain_length: int
    body_length: int


def sealed_length(plain: int) -> int:
    """Of a whole part, header included."""
    return HEADER_BYTES + plain + 56 + 16 * (plain // (16 << 10) + 1)


PART_SEALED_BYTES_MAX = sealed_length(BODY_PART_BYTES)


def parts_of(size: int) -> int:
    """How many parts a body of so many bytes has: all but the last are full; an empty one has one."""
    return max(1, -(-size // BODY_PART_BYTES))


def body_name(ring: KeyRing, epoch: int, fleet: bytes, digest: bytes) -> bytes:
    """32 bytes. Raises DecryptionFailed for an epoch whose key is not in the ring."""
    key = hmac.digest(ring.key(epoch), _NAME_CONTEXT + fleet, sha256)
    return hmac.digest(key, digest, sha256)


def seal_part(data: bytes, *, ring: KeyRing, epoch: int, fleet: bytes, name: bytes, number: int, parts: int) -> bytes:
    """Raises TooLarge, DecryptionFailed (no key of that epoch)."""
    if len(data) > BODY_PART_BYTES or not 0 <= number < parts <= PARTS_MAX:
        raise TooLarge(f"part {number} of {parts} with {len(data)} bytes; the bounds are in sync/limits.py")
    header = _HEADER.pack(
        *(MAGIC, VERSION, SUITE_COBBLESTONE256, 0, fleet, name, epoch, number, parts),
        *(len(data), sealed_length(len(data)) - HEADER_BYTES),
    )
    encryptor = Cobblestone256Encryptor(ring.key(epoch), _CONTEXT + sha256(header).digest())
    sealed = header + encryptor.update(data) + encryptor.finalize()
    if len(sealed) != sealed_length(len(data)):
        raise AssertionError("the cipher's overhead is not what FORMAT.md says")
    return sealed


def parse_part(sealed: bytes) -> PartHeader:
    """The header; nothing is verified but lengths and versions. Raises Malformed, TooLarge, UnsupportedVersion."""
    if len(sealed) > PART_SEALED_BYTES_MAX:
        raise TooLarge(f"a part of {len(sealed)} bytes; the bound is {PART_SEALED_BYTES_MAX}")
    if len(sealed) < HEADER_BYTES:
        raise Malformed("shorter than any part of a body")
    magic, version, suite, zero, *fields = _HEADER.unpack_from(sealed)
    header = PartHeader(*fields)
    if magic != MAGIC or zero:
        raise Malformed("not a part of a body")
    if (version, suite) != (VERSION, SUITE_COBBLESTONE256):
        raise UnsupportedVersion(f"part version {version}, suite {suite}", hint="update this side's software")
    if not 0 <= header.number < header.parts <= PARTS_MAX:
        raise Malformed("an impossible number of parts")
    if len(sealed) != sealed_length(header.plain_length) or header.body_length != len(sealed) - HEADER_BYTES:
        raise Malformed("truncated, or followed by something else")
    return header


def open_part(sealed: bytes, *, ring: KeyRing, epoch: int, fleet: bytes, name: bytes, number: int, parts: int) -> bytes:
    """The part's bytes. Raises DataError and its kinds, TooLarge."""
    header = parse_part(sealed)
    if (header.fleet, header.name, header.epoch, header.number, header.parts) != (fleet, name, epoch, number, parts):
        raise BrokenChain("the cloud sent another part than the one that was asked for")
    if number < parts - 1 and header.plain_length != BODY_PART_BYTES:
        raise Malformed("a part before the last is not full")
    try:
        context = _CONTEXT + sha256(sealed[:HEADER_BYTES]).digest()
        decryptor = Cobblestone256Decryptor(ring.key(epoch), context)
        return decryptor.update(memoryview(sealed)[HEADER_BYTES:]) + decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise DecryptionFailed("the part of a body was altered, or sealed with another key") from error
