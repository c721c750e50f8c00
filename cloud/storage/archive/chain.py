"""Which objects make up the past: walking the manifests from the newest backwards.

What always holds of what comes out: every manifest was demanded by the one after it, by hash; positions follow each
other without gap or overlap from the snapshot (or 0) to the target; what an incarnation wrote beyond the position at
which a later one branched off is not part of it. An archive that was begun anew may start with a snapshot: then its
first manifest carries it, and there is nothing before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cloud.storage.archive.anchor import Anchor
from cloud.storage.archive.errors import DAMAGED_HINT, MissingObject, RolledBack
from cloud.storage.archive.manifest import Branch, Manifest, SegmentRef, Snapshot
from cloud.storage.archive.reader import ArchiveReader, Loaded
from sync.errors import BrokenChain, InvalidValue, NotFound
from sync.segment import GENESIS


class Stretch(NamedTuple):
    """A segment of the feed as far as it belongs to the history: positions up to ``last``."""

    ref: SegmentRef
    last: int


class Link(NamedTuple):
    """A manifest in the line of descent, and the last position of it that counts."""

    loaded: Loaded
    cut: int


class History(NamedTuple):
    """What brings a store to ``position``.

    ``newest`` is the manifest the walk began at; identity tables come from it. ``base`` is the latest manifest whose
    stream tables are of ``position`` or earlier (None before the first), ``later`` the next one after it, if any.
    Segments continue the id ``before``. ``digest`` is the state digest demanded at ``position``, b"" if none was noted.
    """

    position: int
    newest: Loaded
    snapshot: Snapshot | None
    base: Manifest | None
    later: Manifest | None
    stretches: list[Stretch]
    before: bytes
    digest: bytes

    @property
    def start(self) -> int:
        return self.snapshot.position if self.snapshot else 0

    @property
    def last_segment(self) -> bytes:
        return self.stretches[-1].ref.id if self.stretches else self.before

    @property
    def branch(self) -> Branch:
        return Branch(self.newest.manifest.number, self.newest.sha256, self.position)


def newest(reader: ArchiveReader, anchor: Anchor | None, manifest: int | None = None) -> Loaded:
    """The newest manifest, or the one that is explicitly asked for.

    Raises NotFound for an empty archive, MissingObject for a gap, RolledBack if the key holder knows of a newer
    one. With ``manifest`` only what that one needs is looked at: so a state before some damage is reached.
    """
    numbers = reader.numbers()
    if not numbers:
        raise NotFound(f"no archive of fleet {reader.fleet.hex()} here", hint="check the URL of the object store")
    if manifest is not None:
        return reader.manifest(manifest)
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise MissingObject(f"{reader.names.manifest(expected)}: the object is missing", hint=DAMAGED_HINT)
    known = anchor.last(reader.fleet) if anchor is not None else None
    if known is not None and (numbers[-1] < known.number or reader.manifest_sha256(known.number) != known.sha256):
        raise RolledBack(
            f"{reader.names.manifest(known.number)}: it was committed, and now is missing or another",
            hint="somebody has turned the archive back; restore with --manifest only if you know why",
        )
    return reader.manifest(numbers[-1])


def lineage(reader: ArchiveReader, start: Loaded) -> Iterator[Link]:
    """From a manifest to the first, each verified against the one after it; branches jump over what they abandoned."""
    loaded, cut = start, start.manifest.head
    while True:
        yield Link(loaded, cut)
        manifest, branch = loaded.manifest, loaded.manifest.branch
        number = branch.number if branch else manifest.number - 1
        expected = branch.sha256 if branch else manifest.previous
        name = reader.names.manifest(manifest.number)
        if number == 0:
            if any(expected) or (first_position(manifest) != 0 and manifest.snapshot is None):
                raise BrokenChain(f"{name}: the first manifest does not start at the beginning")
            return
        earlier = reader.manifest(number, expected)
        end = branch.position if branch else earlier.manifest.head
        same = (earlier.manifest.incarnation, earlier.manifest.generation) == (
            manifest.incarnation,
            manifest.generation,
        )
        if first_position(manifest) != end or end > earlier.manifest.head or same == (branch is not None):
            raise BrokenChain(f"{name}: it does not continue manifest {number}")
        loaded, cut = earlier, min(cut, end)


def first_position(manifest: Manifest) -> int:
    """The position that the manifest continues from."""
    return manifest.segments[0].first - 1 if manifest.segments else manifest.head


def history(
    reader: ArchiveReader,
    start: Loaded,
    *,
    position: int | None = None,
    at_ms: int | None = None,
) -> History:
    """How to reach a position, or the last position that was accepted at or before a time; the newest by default.

    Raises NotFound for a target that the archive does not hold.
    """
    if position is not None and at_ms is not None:
        raise InvalidValue("restore to a position or to a time, not to both")
    target = start.manifest.head if position is None and at_ms is None else position
    if target is not None and not 0 <= target <= start.manifest.head:
        raise NotFound(f"the archive does not hold position {target}; it reaches {start.manifest.head}")
    stretches: list[Stretch] = []
    base: Manifest | None = None
    later: Manifest | None = None
    digest, before = b"", GENESIS
    snapshot: Snapshot | None = None
    oldest = start.manifest
    for loaded, cut in lineage(reader, start):
        oldest = manifest = loaded.manifest
        if target is None:
            assert at_ms is not None
            target = _last_accepted_by(manifest, cut, at_ms)
            if target is None:
                continue
        end = min(cut, target)
        if manifest.head == target and cut >= target:
            digest = digest or manifest.digest
        if base is None and manifest.stream_position <= end:
            base = manifest
        elif base is None:
            later = manifest
        if manifest.snapshot is not None and manifest.snapshot.position <= end:
            snapshot, before = manifest.snapshot, manifest.last_segment
            break
        stretches += [Stretch(ref, min(ref.last, end)) for ref in reversed(manifest.segments) if ref.first <= end]
    if target is None:
        raise NotFound("nothing had been accepted by that time")
    _check_whole(oldest, snapshot)
    if later is not None and base is not None and base.stream_position == target:
        later = None
    return History(target, start, snapshot, base, later, stretches[::-1], before, digest)


def _last_accepted_by(manifest: Manifest, cut: int, at_ms: int) -> int | None:
    for segment in reversed(manifest.segments):
        for row in reversed(segment.rows):
            if row.first <= cut and row.at_ms <= at_ms:
                return min(row.last, cut)
    if not any(manifest.previous) and manifest.snapshot is not None and manifest.at_ms <= at_ms:
        return min(manifest.head, cut)  # the archive begins with it
    return None


def _check_whole(oldest: Manifest, snapshot: Snapshot | None) -> None:
    """Whether the walk back ended at a snapshot, or at the beginning of the feed."""
    if snapshot is None and (begin := first_position(oldest)) > 0:
        raise NotFound(
            f"this archive begins with a snapshot, after position {begin}",
            hint="what was before may be in the archive that it took over from",
        )
