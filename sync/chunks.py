"""A model's bytes as the fleet keeps them: chunks named by SHA-256, each sealed by itself, many in one pack.

::

    sealed chunk   Cobblestone-256(epoch key, "agentdb.chunk.v1" ‖ SHA-256(chunk), chunk)
    pack           sealed chunks, one after the other, and nothing else; at most 16 MiB
    chunk list     for each chunk of the model, in order: digest 32, length u32, pack u16, offset u32

A pack is one of those that the manifest lists, by its place there; an offset is that of the sealed chunk in it, and how
long it is sealed follows from its length. What always holds: a chunk list is bounded before it is read; a chunk is
given out only if it opens under the key of its pack's epoch and has the digest that it is asked for by: who keeps the
packs can withhold a chunk, and put no other in its place.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Container, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from sync.errors import DecryptionFailed, Malformed, TooLarge

Bytes = bytes | bytearray | memoryview
CHUNK_BYTES_MAX = 1 << 20
CHUNKS_MAX = 99_000  # so that a list is within what a target may have: 4 MiB
PACK_BYTES_MAX = 16 << 20
PACKS_MAX = 8192
RANGE_BYTES_MAX = 4 << 20
_ENTRY = struct.Struct(">32sIHI")
_DIGEST_LENGTH = struct.Struct(">32sI")
_CONTEXT = b"agentdb.chunk.v1"
_NAME_CONTEXT = b"agentdb.pack.name.v1"
_CIPHER_BLOCK = 16 << 10
CHUNK_LIST_BYTES_MAX = CHUNKS_MAX * _ENTRY.size


class Chunk(NamedTuple):
    """``pack`` counts the manifest's packs from 0; ``offset`` is of the sealed chunk in it. In bytes."""

    digest: bytes
    length: int
    pack: int
    offset: int

    @property
    def sealed_length(self) -> int:
        return sealed_length(self.length)


class Range(NamedTuple):
    """Sealed chunks that lie in a pack one after the other, to be asked for at once."""

    pack: int
    offset: int
    length: int
    chunks: tuple[Chunk, ...]


class ChunkList(NamedTuple):
    """Of one model, in the order of its files."""

    chunks: tuple[Chunk, ...]

    @staticmethod
    def parse(data: bytes) -> ChunkList:
        """Raises Malformed, TooLarge."""
        if len(data) > CHUNK_LIST_BYTES_MAX:
            raise TooLarge(f"a chunk list of {len(data)} bytes; the bound is {CHUNK_LIST_BYTES_MAX}")
        if len(data) % _ENTRY.size:
            raise Malformed("not a chunk list: its length is none of one")
        found = ChunkList(tuple(Chunk(*entry) for entry in _ENTRY.iter_unpack(data)))
        for chunk in found.chunks:
            if not 0 < chunk.length <= CHUNK_BYTES_MAX or chunk.offset + chunk.sealed_length > PACK_BYTES_MAX:
                raise Malformed("a chunk list with an impossible chunk")
        return found

    def encode(self) -> bytes:
        return b"".join(_ENTRY.pack(*chunk) for chunk in self.chunks)

    def missing(self, have: Container[bytes]) -> list[Chunk]:
        """Each once, in the order of the model."""
        wanted: dict[bytes, Chunk] = {}
        for chunk in self.chunks:
            if chunk.digest not in have:
                wanted.setdefault(chunk.digest, chunk)
        return list(wanted.values())


def ranges(chunks: Iterable[Chunk]) -> list[Range]:
    """What to ask for: neighbours joined up to ``RANGE_BYTES_MAX``, in order of their place."""
    found: list[Range] = []
    group: list[Chunk] = []
    begin = end = 0
    for chunk in sorted(set(chunks), key=_place):
        follows = group and (group[0].pack, end) == (chunk.pack, chunk.offset)
        if group and not (follows and end - begin + chunk.sealed_length <= RANGE_BYTES_MAX):
            found.append(Range(group[0].pack, begin, end - begin, tuple(group)))
            group = []
        if not group:
            begin = chunk.offset
        group.append(chunk)
        end = chunk.offset + chunk.sealed_length
    if group:
        found.append(Range(group[0].pack, begin, end - begin, tuple(group)))
    return found


def file_digest(chunks: Sequence[Chunk]) -> bytes:
    """SHA-256 over the digests and lengths of a file's chunks: nothing is hashed twice for it."""
    return sha256(b"".join(_DIGEST_LENGTH.pack(chunk.digest, chunk.length) for chunk in chunks)).digest()


def sealed_length(length: int) -> int:
    return length + 56 + 16 * (length // _CIPHER_BLOCK + 1)


def seal_chunk_into(data: Bytes, digest: bytes, key: bytes, out: memoryview) -> int:
    """Seal a chunk at the beginning of ``out``; how many bytes it took. There is no copy but the cipher's own."""
    encryptor = Cobblestone256Encryptor(key, _CONTEXT + digest)
    at = encryptor.update_into(data, out)
    last = encryptor.finalize()
    out[at : at + len(last)] = last
    if at + len(last) != sealed_length(len(data)):
        raise AssertionError("the cipher's overhead is not what FORMAT.md says")
    return at + len(last)


def open_chunk_into(sealed: Bytes, chunk: Chunk, key: bytes, out: memoryview) -> memoryview:
    """The chunk's bytes, at the beginning of ``out`` (``CHUNK_BYTES_MAX``). Raises DecryptionFailed, Malformed."""
    try:
        decryptor = Cobblestone256Decryptor(key, _CONTEXT + chunk.digest)
        at = decryptor.update_into(sealed, out)
        last = decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise DecryptionFailed("a chunk was altered, is another one, or was sealed with another key") from error
    out[at : at + len(last)] = last
    opened = out[: at + len(last)]
    if len(opened) != chunk.length or sha256(opened).digest() != chunk.digest:
        raise Malformed(f"what was sealed as chunk {chunk.digest.hex()} is something else", hint="nothing was kept")
    return opened


def pack_id(key: bytes, entries: Iterable[tuple[bytes, int]]) -> bytes:
    """32 bytes, of (digest, length) of a pack's chunks in their order, under the key that they are sealed with.

    The same chunks have the same id, so a publication that is done again finds the packs that it has made before; and
    who has the bucket cannot ask it for a file that he has himself.
    """
    name_key = hmac.digest(key, _NAME_CONTEXT, sha256)
    return hmac.digest(name_key, b"".join(_DIGEST_LENGTH.pack(*entry) for entry in entries), sha256)


def _place(chunk: Chunk) -> tuple[int, int]:
    return chunk.pack, chunk.offset
