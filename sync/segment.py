"""Segments: the one binary format. Push, pull, baseline, archive and backup all carry them (docs/FORMAT.md).

::

    header 140 B | clear meta | body: Cobblestone-256(zstd(columns)) | Ed25519 signature 64 B

The segment id is SHA-256 of all that precedes the signature; the signature is over ``"agentdb.seg.v1.sig" ‖ id``. The
content key's context is ``"agentdb.seg.v1" ‖ SHA-256(header ‖ clear meta)``, so no body fits another header.

What always holds: ``open_segment`` checks in this order, and nothing of a segment is used before the last check has
passed: size caps → signer and signature → the caller's check of stream and chain → AEAD → bounded zstd → strict msgpack
→ structure. It changes nothing, and raises a DataError or TooLarge.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from operator import ge
from typing import NamedTuple

import zstandard
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from sync import columns
from sync.errors import BrokenChain, DecryptionFailed, Malformed, TooLarge, UnsupportedVersion
from sync.keys import KEY_ID_BYTES, DeviceKey, KeyRing, PublicIdentity
from sync.limits import (
    CLEAR_META_BYTES_MAX,
    SEGMENT_OPENED_BYTES_MAX,
    SEGMENT_OPERATIONS_MAX,
    SEGMENT_SEALED_BYTES_MAX,
)
from sync.operations import Operation

MAGIC = b"EGS1"
VERSION = 1
SUITE_COBBLESTONE256_ED25519 = 1
MODE_MANAGED = 1
FLAG_FEED = 1
FLAG_STATE = 2
FLAG_LAST = 4
GENESIS = bytes(32)
HEADER_BYTES = 140
SIGNATURE_BYTES = 64
ZSTD_LEVEL = 3
_HEADER = struct.Struct(">4sBBBB16s16s16sIQIQQ32sIII8s")
_BODY_CONTEXT = b"agentdb.seg.v1"
_SIGNATURE_CONTEXT = b"agentdb.seg.v1.sig"
# zstd's window for frames up to what an opened segment may hold; larger windows are refused before memory is taken.
_ZSTD_WINDOW_MAX = SEGMENT_OPENED_BYTES_MAX


class SegmentHeader(NamedTuple):
    """140 bytes, big-endian. Lengths in bytes: ``plain`` the columns, ``body`` the ciphertext, ``clear`` the clear
    meta.
    """

    version: int
    suite: int
    mode: int
    flags: int
    fleet: bytes
    stream: bytes
    replica: bytes
    epoch: int
    first_seq: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which a header has no use for
    min_ts: int
    max_ts: int
    previous: bytes
    plain_length: int
    body_length: int
    clear_length: int
    key_id: bytes

    @property
    def last_seq(self) -> int:
        """The last position of a dense run that starts at ``first_seq``."""
        return self.first_seq + self.count - 1


class Packed(NamedTuple):
    """Encoded and compressed columns: what a segment's body holds before encryption, whoever seals it."""

    data: bytes
    plain_length: int
    count: int  # type: ignore[assignment]  # as above
    min_ts: int
    max_ts: int


class Sealed(NamedTuple):
    """A finished segment."""

    data: bytes
    id: bytes
    header: SegmentHeader


class Opened(NamedTuple):
    """A verified segment."""

    header: SegmentHeader
    id: bytes
    clear: bytes
    packed: Packed
    operations: list[Operation]


def pack(operations: Sequence[Operation]) -> Packed:
    """Raises TooLarge if the columns exceed 8 MiB; cut the batch into smaller ones then."""
    plain = columns.encode(operations)
    if len(plain) > SEGMENT_OPENED_BYTES_MAX:
        raise TooLarge(f"the columns of {len(operations)} operations are over {SEGMENT_OPENED_BYTES_MAX} bytes")
    timestamps = [operation.ts for operation in operations]
    data = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
    return Packed(data, len(plain), len(operations), min(timestamps), max(timestamps))


def pack_split(operations: Sequence[Operation]) -> Iterator[Packed]:
    """The same in as few pieces as it takes, in order, each of which can be sealed and opened. Raises TooLarge if one
    operation alone is over a bound.
    """
    try:
        packed = pack(operations)
        if is_sealable(packed):
            yield packed
            return
    except TooLarge:
        if len(operations) == 1:
            raise
    half = len(operations) // 2
    yield from pack_split(operations[:half])
    yield from pack_split(operations[half:])


def is_sealable(packed: Packed) -> bool:
    """Whether it fits a sealed segment, whatever its clear meta."""
    around = HEADER_BYTES + CLEAR_META_BYTES_MAX + SIGNATURE_BYTES
    return around + _sealed_length(len(packed.data)) <= SEGMENT_SEALED_BYTES_MAX


def unpack(data: bytes, plain_length: int) -> list[Operation]:
    """Raises Malformed or TooLarge."""
    return columns.decode(_decompress(data, plain_length))


def seal(
    operations: Sequence[Operation],
    *,
    fleet: bytes,
    stream: bytes,
    replica: bytes,
    first_seq: int,
    previous: bytes,
    ring: KeyRing,
    signer: DeviceKey,
    flags: int = 0,
    clear: bytes = b"",
) -> Sealed:
    """Encode, compress, encrypt with the ring's current epoch and sign. Raises TooLarge if it exceeds a bound."""
    return seal_packed(
        pack(operations),
        fleet=fleet,
        stream=stream,
        replica=replica,
        first_seq=first_seq,
        previous=previous,
        ring=ring,
        signer=signer,
        flags=flags,
        clear=clear,
    )


def seal_packed(
    packed: Packed,
    *,
    fleet: bytes,
    stream: bytes,
    replica: bytes,
    first_seq: int,
    previous: bytes,
    ring: KeyRing,
    signer: DeviceKey,
    flags: int = 0,
    clear: bytes = b"",
) -> Sealed:
    """The same for columns that are packed already; they pass through unchanged."""
    if len(clear) > CLEAR_META_BYTES_MAX:
        raise TooLarge(f"clear meta of {len(clear)} bytes; the bound is {CLEAR_META_BYTES_MAX}")
    if (len(fleet), len(stream), len(replica), len(previous)) != (16, 16, 16, 32):
        raise AssertionError("struct would cut or pad what does not have its length")
    epoch = ring.current
    header = SegmentHeader(
        VERSION,
        SUITE_COBBLESTONE256_ED25519,
        MODE_MANAGED,
        flags,
        fleet,
        stream,
        replica,
        epoch,
        first_seq,
        packed.count,
        packed.min_ts,
        packed.max_ts,
        previous,
        packed.plain_length,
        _sealed_length(len(packed.data)),
        len(clear),
        signer.key_id,
    )
    prefix = _HEADER.pack(MAGIC, *header) + clear
    encryptor = Cobblestone256Encryptor(ring.key(epoch), _BODY_CONTEXT + sha256(prefix).digest())
    signed = prefix + encryptor.update(packed.data) + encryptor.finalize()
    if len(signed) != HEADER_BYTES + len(clear) + header.body_length:
        raise AssertionError("the cipher's overhead is not what FORMAT.md says")
    if len(signed) + SIGNATURE_BYTES > SEGMENT_SEALED_BYTES_MAX:
        raise TooLarge(f"a sealed segment of {len(signed)} bytes; the bound is {SEGMENT_SEALED_BYTES_MAX}")
    segment_id = sha256(signed).digest()
    return Sealed(signed + signer.sign(_SIGNATURE_CONTEXT + segment_id), segment_id, header)


def parse_header(data: bytes) -> SegmentHeader:
    """The header's fields and nothing verified but lengths and versions. Raises Malformed, TooLarge,
    UnsupportedVersion.
    """
    if len(data) > SEGMENT_SEALED_BYTES_MAX:
        raise TooLarge(f"a segment of {len(data)} bytes; the bound is {SEGMENT_SEALED_BYTES_MAX}")
    if len(data) < HEADER_BYTES + SIGNATURE_BYTES:
        raise Malformed("shorter than any segment")
    magic, *fields = _HEADER.unpack_from(data)
    header = SegmentHeader(*fields)
    if magic != MAGIC:
        raise Malformed("not a segment")
    if (header.version, header.suite, header.mode) != (VERSION, SUITE_COBBLESTONE256_ED25519, MODE_MANAGED):
        raise UnsupportedVersion(
            f"segment version {header.version}, suite {header.suite}, mode {header.mode}",
            hint="update this side's software",
        )
    if header.flags & ~(FLAG_FEED | FLAG_STATE | FLAG_LAST):
        raise UnsupportedVersion(f"unknown segment flags {header.flags:#x}", hint="update this side's software")
    if header.clear_length > CLEAR_META_BYTES_MAX or header.plain_length > SEGMENT_OPENED_BYTES_MAX:
        raise TooLarge("the header announces more than a segment may hold")
    if not 0 < header.count <= SEGMENT_OPERATIONS_MAX:
        raise Malformed("an impossible number of operations")
    if len(data) != HEADER_BYTES + header.clear_length + header.body_length + SIGNATURE_BYTES:
        raise Malformed("truncated, or followed by something else")
    return header


def segment_id(data: bytes) -> bytes:
    """The id of a segment, which is also what its signature covers."""
    return sha256(memoryview(data)[:-SIGNATURE_BYTES]).digest()


def open_segment(
    data: bytes,
    *,
    identity: Callable[[bytes], PublicIdentity],
    ring: KeyRing,
    check: Callable[[SegmentHeader], None],
) -> Opened:
    """Verify and decode.

    ``identity(key_id)`` returns the signer that the roster knows by that id or raises BadSignature; ``check(header)``
    raises if fleet, stream, replica or chain are not what the caller expects (``expect`` builds the common ones).
    """
    header = parse_header(data)
    signer = identity(header.key_id)
    if signer.key_id[:KEY_ID_BYTES] != header.key_id:
        raise AssertionError("the roster answered with another key")
    digest = segment_id(data)
    signer.verify(data[-SIGNATURE_BYTES:], _SIGNATURE_CONTEXT + digest)
    check(header)
    prefix_length = HEADER_BYTES + header.clear_length
    body = memoryview(data)[prefix_length:-SIGNATURE_BYTES]
    compressed = _decrypt(ring.key(header.epoch), data[:prefix_length], body)
    operations = unpack(compressed, header.plain_length)
    if len(operations) != header.count:
        raise Malformed("the header announces another number of operations")
    packed = Packed(compressed, header.plain_length, header.count, header.min_ts, header.max_ts)
    timestamps = [operation.ts for operation in operations]
    if (min(timestamps), max(timestamps)) != (header.min_ts, header.max_ts):
        raise Malformed("the header announces other timestamps")
    if header.flags & FLAG_STATE and any(operation.seq for operation in operations):
        raise Malformed("state operations have no place in a log: their seq is 0")
    if not header.flags & (FLAG_FEED | FLAG_STATE):
        _check_dense(header, operations, timestamps)
    return Opened(header, digest, data[HEADER_BYTES:prefix_length], packed, operations)


def expect(
    *,
    fleet: bytes,
    stream: bytes,
    replica: bytes | None = None,
    first_seq: int | None = None,
    previous: bytes | None = None,
) -> Callable[[SegmentHeader], None]:
    """A ``check`` for ``open_segment``: raises BrokenChain unless the header says exactly this (None: anything)."""

    def check(header: SegmentHeader) -> None:
        if header.fleet != fleet or header.stream != stream or replica not in (None, header.replica):
            raise BrokenChain("the segment belongs to another fleet, stream or replica")
        if first_seq not in (None, header.first_seq):
            raise BrokenChain(f"the segment starts at {header.first_seq}, not at {first_seq}")
        if previous not in (None, header.previous):
            raise BrokenChain("the segment does not continue the one before it")

    return check


def _check_dense(header: SegmentHeader, operations: list[Operation], timestamps: list[int]) -> None:
    """A device's own segment: its replica's operations, in dense order, each later than the one before.

    Merging needs the latter: of a replica's contributions to a counter it keeps the latest, which contains the others.
    """
    first = header.first_seq
    if not first or [operation.seq for operation in operations] != list(range(first, first + header.count)):
        raise Malformed("the operations of a device's segment are not dense from its first seq")
    if {operation.replica for operation in operations} != {header.replica}:
        raise Malformed("a device's segment holds operations of another replica")
    if any(map(ge, timestamps, timestamps[1:])):
        raise Malformed("the timestamps of a device's segment do not rise")


def _sealed_length(plain: int) -> int:
    """Cobblestone-256 (C2SP chunked encryption): 56 bytes in front, then a 16-byte tag for each 16-KiB chunk."""
    return plain + 56 + 16 * (plain // (16 << 10) + 1)


def _decrypt(key: bytes, prefix: bytes, body: memoryview) -> bytes:
    try:
        decryptor = Cobblestone256Decryptor(key, _BODY_CONTEXT + sha256(prefix).digest())
        return decryptor.update(body) + decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise DecryptionFailed("the segment was altered, or sealed with another key") from error


def _decompress(data: bytes, plain_length: int) -> bytes:
    """Exactly one frame that declares, and holds, exactly ``plain_length`` bytes.

    One-shot ``decompress()`` ignores ``max_output_size`` when the frame declares a size (2 KB became 64 MiB), so the
    declared size is compared with the header's bounded one before anything is allocated; libzstd then stops at it.
    """
    try:
        declared = zstandard.get_frame_parameters(data)
        if declared.content_size != plain_length or declared.window_size > _ZSTD_WINDOW_MAX:
            raise Malformed("the body does not decompress to the announced length")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(f"the body is not one zstd frame: {error}") from error
