"""Sealed envelopes: the form of a manifest and of a side table, as ``sync.segment`` is that of operations.

::

    header 88 B  magic "EGM1" or "EGX1", version, suite, 2 reserved, fleet 16, number u64, epoch u32, previous 32,
                 plain length u32, body length u32, key id 8, 4 reserved
    body         Cobblestone-256(epoch key, context = label ‖ fleet ‖ number ‖ SHA-256(header), zstd(msgpack))
    signature    Ed25519 of the cloud's service key over label ‖ header ‖ body

The label is "agentdb.manifest.v1" or "agentdb.meta.v1". What always holds: ``open_envelope`` checks lengths, versions,
signer, signature, fleet and number, AEAD, bounded zstd, in that order, and returns nothing before all of it has passed.
The header is all that a thief of the bucket can read: sizes, numbers and hashes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import zstandard
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from sync.errors import BrokenChain, DecryptionFailed, Malformed, TooLarge, UnsupportedVersion
from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.segment import SIGNATURE_BYTES, ZSTD_LEVEL

PLAIN_BYTES_MAX = 48 << 20
HEADER_BYTES = 88
NO_PREVIOUS = bytes(32)
_HEADER = struct.Struct(">4sBB2x16sQI32sII8s4x")
_VERSION = 1
_SUITE_COBBLESTONE256_ED25519 = 1

Identity = Callable[[bytes], PublicIdentity]
"""The signer with a key id; raises BadSignature for one that is not known."""


class Kind(NamedTuple):
    magic: bytes
    label: bytes


MANIFEST = Kind(b"EGM1", b"agentdb.manifest.v1")
META = Kind(b"EGX1", b"agentdb.meta.v1")


class EnvelopeHeader(NamedTuple):
    """What is said in the clear."""

    version: int
    suite: int
    fleet: bytes
    number: int
    epoch: int
    previous: bytes
    plain_length: int
    body_length: int
    key_id: bytes


def seal_envelope(
    kind: Kind,
    plain: bytes,
    *,
    fleet: bytes,
    number: int,
    ring: KeyRing,
    signer: DeviceKey,
    previous: bytes = NO_PREVIOUS,
) -> bytes:
    """Raises TooLarge."""
    if len(plain) > PLAIN_BYTES_MAX:
        raise TooLarge(f"{len(plain)} bytes in one object of the archive; the bound is {PLAIN_BYTES_MAX}")
    compressed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
    epoch = ring.current
    header = EnvelopeHeader(
        _VERSION,
        _SUITE_COBBLESTONE256_ED25519,
        fleet,
        number,
        epoch,
        previous,
        len(plain),
        _sealed_length(len(compressed)),
        signer.key_id,
    )
    prefix = _HEADER.pack(kind.magic, *header)
    encryptor = Cobblestone256Encryptor(ring.key(epoch), _context(kind, header, prefix))
    sealed = prefix + encryptor.update(compressed) + encryptor.finalize()
    if len(sealed) != HEADER_BYTES + header.body_length:
        raise AssertionError("the cipher's overhead is not what FORMAT.md says")
    return sealed + signer.sign(kind.label + sealed)


def parse_envelope(kind: Kind, data: bytes) -> EnvelopeHeader:
    """The header; nothing is verified but lengths and versions. Raises Malformed, TooLarge or UnsupportedVersion."""
    if len(data) < HEADER_BYTES + SIGNATURE_BYTES:
        raise Malformed("shorter than any object of its kind")
    magic, *fields = _HEADER.unpack_from(data)
    header = EnvelopeHeader(*fields)
    if magic != kind.magic:
        raise Malformed("not an object of the kind that its name says")
    if (header.version, header.suite) != (_VERSION, _SUITE_COBBLESTONE256_ED25519):
        raise UnsupportedVersion(
            f"archive format {header.version}, suite {header.suite}", hint="update this side's software"
        )
    if header.plain_length > PLAIN_BYTES_MAX:
        raise TooLarge("the header announces more than an object may hold")
    if len(data) != HEADER_BYTES + header.body_length + SIGNATURE_BYTES:
        raise Malformed("truncated, or followed by something else")
    return header


def open_envelope(
    kind: Kind, data: bytes, *, fleet: bytes, number: int | None, ring: KeyRing, identity: Identity
) -> tuple[EnvelopeHeader, bytes]:
    """Verify and decrypt. ``number`` is the one that it must have, None if any. Raises a DataError or TooLarge."""
    header = parse_envelope(kind, data)
    sealed = data[:-SIGNATURE_BYTES]
    identity(header.key_id).verify(data[-SIGNATURE_BYTES:], kind.label + sealed)
    if header.fleet != fleet:
        raise BrokenChain("it belongs to another fleet")
    if number not in (None, header.number):
        raise BrokenChain(f"it is number {header.number}, under a wrong name")
    prefix = data[:HEADER_BYTES]
    try:
        decryptor = Cobblestone256Decryptor(ring.key(header.epoch), _context(kind, header, prefix))
        compressed = decryptor.update(memoryview(sealed)[HEADER_BYTES:]) + decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise DecryptionFailed("it was altered, or sealed with another key") from error
    return header, _decompress(compressed, header.plain_length)


def _context(kind: Kind, header: EnvelopeHeader, prefix: bytes) -> bytes:
    return kind.label + header.fleet + header.number.to_bytes(8, "big") + sha256(prefix).digest()


def _sealed_length(plain: int) -> int:
    """Cobblestone-256: 56 bytes in front, then a 16-byte tag for each 16-KiB chunk."""
    return plain + 56 + 16 * (plain // (16 << 10) + 1)


def _decompress(data: bytes, plain_length: int) -> bytes:
    """One frame of exactly the announced, bounded size (see ``sync.segment``: the library would not hold the bound)."""
    try:
        declared = zstandard.get_frame_parameters(data)
        if declared.content_size != plain_length or declared.window_size > PLAIN_BYTES_MAX:
            raise Malformed("the body does not decompress to the announced length")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(f"the body is not one zstd frame: {error}") from error
