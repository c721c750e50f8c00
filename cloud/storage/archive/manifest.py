"""Manifests: the archive's chain of commit points.

A manifest says which objects came into the archive with it, where the feed then stood, and which side tables
(``cloud.storage.archive.side``) and snapshot belong to that position. It holds the SHA-256 of the one before it, so the
newest vouches for all. Creating the object ``manifest/{n}``, which the object store lets succeed once, is the commit;
objects that no manifest names do not exist.

**Branches.** The chain is one line, but history is not: a restore to position p starts a new incarnation, whose
first manifest follows the newest that there was and carries a ``Branch``: "my past is what manifest k says, up to
position p". A reader goes from the newest backwards, jumps at such a manifest to k, and leaves out all positions above
p from there on (``cloud.storage.archive.chain``). Nothing is deleted, and nothing of the abandoned end can come back.

What always holds: ``decode`` accepts only what ``encode`` writes (one encoding of one manifest).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from sync.errors import Malformed
from sync.messages import U32, U63, UNDECODABLE, Hash32, Id16

SEGMENTS_MAX = 16_384
ROWS_MAX = 8192
PARTS_MAX = 4096
SIDE_PIECES_MAX = 16_384
INLINE_BYTES_MAX = 4096

ObjectName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
HashOrNone = Annotated[bytes, msgspec.Meta(max_length=32)]


class RowRef(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A row of the feed inside a segment, and what the store knows of it that its operations do not say."""

    first: U63
    last: U63
    replica: Id16
    state: bool
    at_ms: U63
    segment: HashOrNone


class ObjectRef(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """An object, and the SHA-256 of all of its bytes."""

    name: ObjectName
    size: U32
    sha256: Hash32


class SegmentRef(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A segment of the feed, positions ``first`` to ``last``; accept times are the smallest and largest of its rows."""

    object: ObjectRef
    id: Hash32
    first: U63
    last: U63
    min_at_ms: U63
    max_at_ms: U63
    rows: Annotated[list[RowRef], msgspec.Meta(min_length=1, max_length=ROWS_MAX)]


class PartRef(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A part of a snapshot: its state segments, and the side object with what an image does not say."""

    object: ObjectRef
    side: ObjectRef
    records: U63
    last_id: Hash32


class Snapshot(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """All records as of ``position``, in order of (collection, key). ``digest`` is their state digest."""

    position: U63
    records: U63
    living: U63
    digest: Hash32
    parts: Annotated[list[PartRef], msgspec.Meta(max_length=PARTS_MAX)]


class SideRef(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A piece of a side table: in an object of its own, or ``inline`` if it is small.

    ``plain_sha256`` tells whether the rows have changed since: an unchanged piece is not written again.
    ``final``: the piece is full and none of its rows can change any more, so it need not even be looked at.
    """

    table: U32
    rows: U32
    final: bool
    plain_sha256: Hash32
    object: ObjectRef | None
    inline: Annotated[bytes, msgspec.Meta(max_length=INLINE_BYTES_MAX)]


class Branch(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The past of this incarnation: what manifest ``number`` (with this hash) says, up to ``position``."""

    number: U63
    sha256: Hash32
    position: U63


class Manifest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """``previous`` is the SHA-256 of the manifest before it (32 zeros for the first); it is in the header, too.

    ``head``: the feed position up to which everything is archived; ``last_segment``: the id of the feed segment
    that ends there (zeros if none). ``at_ms``: the accept time there; ``time_ms``: when the manifest was made.
    ``identity`` are the side tables of who and what belongs to the fleet, as of ``time_ms``; ``stream`` those of the
    feed, as of ``stream_position`` ≤ head. A ``snapshot`` is always as of ``head``. ``digest`` is the state digest
    at ``head``, empty where computing it would have been too dear.
    """

    number: U63
    fleet: Id16
    previous: Hash32
    incarnation: Id16
    generation: U63
    branch: Branch | None
    time_ms: U63
    head: U63
    at_ms: U63
    clock: U63
    last_segment: Hash32
    segments: Annotated[list[SegmentRef], msgspec.Meta(max_length=SEGMENTS_MAX)]
    identity: Annotated[list[SideRef], msgspec.Meta(max_length=SIDE_PIECES_MAX)]
    stream: Annotated[list[SideRef], msgspec.Meta(max_length=SIDE_PIECES_MAX)]
    stream_position: U63
    snapshot: Snapshot | None
    digest: HashOrNone

    def objects(self) -> list[ObjectRef]:
        """Every object that this manifest names, the repeated ones too."""
        named = [segment.object for segment in self.segments]
        named += [side.object for side in (*self.identity, *self.stream) if side.object is not None]
        for part in self.snapshot.parts if self.snapshot else ():
            named += (part.object, part.side)
        return named


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    return _encoder.encode(manifest)


def decode(data: bytes) -> Manifest:
    """Raises Malformed for anything that ``encode`` would not have written."""
    try:
        manifest = _decoder.decode(data)
    except UNDECODABLE as error:
        raise Malformed(f"not a manifest: {error}") from error
    if _encoder.encode(manifest) != data:
        raise Malformed("a manifest in another than its canonical form")
    position = None
    for segment in manifest.segments:
        if position not in (None, segment.first - 1) or segment.last < segment.first:
            raise Malformed("a manifest whose segments do not follow each other")
        _check_rows(segment)
        position = segment.last
    if position not in (None, manifest.head) or manifest.stream_position > manifest.head:
        raise Malformed("a manifest whose head is not where its segments end")
    snapshot, branch = manifest.snapshot, manifest.branch
    if snapshot is not None and not snapshot.position == manifest.head == manifest.stream_position:
        raise Malformed("a manifest with a snapshot of another position")
    if branch is not None and (branch.number >= manifest.number or branch.position > manifest.head):
        raise Malformed("a manifest that branches off its own future")
    return manifest


def _check_rows(segment: SegmentRef) -> None:
    position = segment.first - 1
    for row in segment.rows:
        if row.first != position + 1 or row.last < row.first:
            raise Malformed("a segment whose rows do not follow each other")
        position = row.last
    if position != segment.last:
        raise Malformed("a segment whose rows do not end where it ends")
