"""Verifying an archive: every object that a manifest names is read and checked, down to the operations in it.

``verify`` reports; it does not stop at the first problem and changes nothing. Checked are: that no manifest is
missing, that each was demanded by the one after it, and its signature and tag; of every segment, part and side
table its size, hash, signature, place in the chain, tag and structure; that positions follow each other; a
snapshot's state digest. Whether the operations fold to the digest that was noted is what a restore finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cloud.ports import KeyService, ObjectStore
from cloud.storage.archive.anchor import Anchor
from cloud.storage.archive.chain import Stretch, lineage
from cloud.storage.archive.manifest import Manifest, ObjectRef
from cloud.storage.archive.reader import ArchiveReader, Loaded
from cloud.storage.archive.side import TABLES, rows_of
from cloud.storage.archive.snapshots import read_snapshot
from sync.errors import BrokenChain, DataError, TooLarge
from sync.segment import GENESIS

Progress = Callable[[int, int], None]
_MISSING_MAX = 100  # of a gap are named: one stray object must not make it endless


class Problem(NamedTuple):
    """An object, and what is wrong with it."""

    object: str
    what: str


class VerifyReport(NamedTuple):
    """``unreferenced`` objects are leftovers of runs that crashed: they do no harm. ``position`` is where the archive
    ends, as far as its manifests can be read.
    """

    fleet: bytes
    manifests: int
    objects: int
    bytes: int
    operations: int
    position: int
    unreferenced: int
    problems: list[Problem]


def verify(
    objects: ObjectStore,
    keys: KeyService,
    fleet: bytes,
    *,
    anchor: Anchor | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """``progress`` counts manifests. Raises only what the object store raises when it cannot be asked."""
    return _Verifier(ArchiveReader(objects, keys, fleet), anchor, progress).run()


class _Verifier:
    def __init__(self, reader: ArchiveReader, anchor: Anchor | None, progress: Progress | None) -> None:
        self._reader = reader
        self._anchor = anchor
        self._progress = progress or (lambda _done, _total: None)
        self._problems: list[Problem] = []
        self._named: set[str] = set()
        self._continues: dict[bytes, bytes] = {}  # segment id → the id that it continues
        self._bytes = self._objects = self._operations = 0

    def run(self) -> VerifyReport:
        numbers = self._numbers()
        expected: bytes | None = None
        newest: Loaded | None = None
        for done, number in enumerate(reversed(numbers), start=1):
            loaded = self._manifest(number, expected)
            expected = None
            if loaded is not None:
                newest = newest or loaded
                expected = loaded.manifest.previous
                self._content(loaded.manifest)
            self._progress(done, len(numbers))
        if newest is not None:
            self._line(newest)
        return VerifyReport(
            self._reader.fleet,
            len(numbers),
            self._objects,
            self._bytes,
            self._operations,
            newest.manifest.head if newest else 0,
            self._unreferenced(),
            self._problems,
        )

    def _numbers(self) -> list[int]:
        names = self._reader.names
        numbers = self._reader.numbers()
        known = self._anchor.last(self._reader.fleet) if self._anchor else None
        ends = [*numbers, known.number + 1] if known and known.number not in numbers else numbers
        expected = 1
        for number in sorted(ends):
            for missing in range(expected, min(number, expected + _MISSING_MAX)):
                self._note(names.manifest(missing), "the object is missing")
            if number > expected + _MISSING_MAX:
                self._note(names.manifest(expected + _MISSING_MAX), "the object is missing, as all are up to the next")
            expected = number + 1
        if known is not None and known.number in numbers and self._reader.manifest_sha256(known.number) != known.sha256:
            self._note(names.manifest(known.number), "it is not the manifest that was committed")
        return numbers

    def _manifest(self, number: int, expected: bytes | None) -> Loaded | None:
        name = self._reader.names.manifest(number)
        try:
            loaded = self._reader.manifest(number, expected)
        except (DataError, TooLarge) as error:
            self._note(name, error.message)
            return None
        self._objects += 1
        self._bytes += loaded.size
        if number == 1 and any(loaded.manifest.previous):
            self._note(name, "the first manifest names one before it")
        return loaded

    def _content(self, manifest: Manifest) -> None:
        """The objects that came with this manifest, whether or not a later branch has abandoned them."""
        for segment in manifest.segments:
            with self._collecting(segment.object.name):
                opened = self._reader.open_feed_segment(segment, self._fetch(segment.object), None)
                self._continues[segment.id] = opened.header.previous
                self._operations += opened.header.count
        for piece in (*manifest.identity, *manifest.stream):
            place = piece.object.name if piece.object else self._reader.names.manifest(manifest.number)
            if piece.object is not None and not self._is_new(piece.object):
                continue
            with self._collecting(place):
                rows = rows_of(TABLES[piece.table], self._reader.side(piece))
                if len(rows) != piece.rows:
                    raise BrokenChain(f"{place}: {len(rows)} rows, the manifest says {piece.rows}")
        if manifest.snapshot is not None:
            for part in manifest.snapshot.parts:
                self._is_new(part.object)
                self._is_new(part.side)
            with self._collecting(self._reader.names.manifest(manifest.number)):
                for _ in read_snapshot(self._reader, manifest.snapshot):
                    pass

    def _line(self, newest: Loaded) -> None:
        """The line of descent of the newest state: positions and segments without a gap."""
        stretches: list[Stretch] = []
        with self._collecting(self._reader.names.manifest(newest.manifest.number)):
            for loaded, cut in lineage(self._reader, newest):
                stretches += [
                    Stretch(ref, min(ref.last, cut)) for ref in reversed(loaded.manifest.segments) if ref.first <= cut
                ]
        before = GENESIS if not stretches or stretches[-1].ref.first == 1 else None
        for stretch in reversed(stretches):
            found = self._continues.get(stretch.ref.id)
            if None not in (found, before) and found != before:
                self._note(stretch.ref.object.name, "it does not continue the segment before it")
            before = stretch.ref.id

    def _fetch(self, ref: ObjectRef) -> bytes:
        self._is_new(ref)
        return self._reader.fetch(ref)

    def _is_new(self, ref: ObjectRef) -> bool:
        if ref.name in self._named:
            return False
        self._named.add(ref.name)
        self._objects += 1
        self._bytes += ref.size
        return True

    def _unreferenced(self) -> int:
        names = self._reader.names
        listed = self._reader.objects.list(names.root)
        strays = (info.name for info in listed if info.name not in self._named)
        return sum(
            1 for name in strays if names.number_of(name) is None and not name.startswith((names.bodies, names.packs))
        )

    @contextmanager
    def _collecting(self, name: str) -> Iterator[None]:
        try:
            yield
        except (DataError, TooLarge) as error:
            self._note(name, error.message)

    def _note(self, name: str, what: str) -> None:
        """Messages of the reader begin with the object that is wrong; it counts, not the one that led there."""
        if what.startswith(self._reader.names.root):
            name, _, what = what.partition(": ")
        problem = Problem(name, what)
        if problem not in self._problems:
            self._problems.append(problem)
