"""Reading the objects of one fleet's archive, each verified before anything of it is used.

What always holds: whatever comes back has the size and SHA-256 that a signed manifest demands (a manifest: that its
successor demands, or the key holder's signature), and every error names the object. Which objects make up the state at
a position is ``cloud.storage.archive.chain``'s question.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import NamedTuple, TypeVar

from cloud.ports import KeyService, ObjectStore
from cloud.storage.archive import envelope
from cloud.storage.archive.errors import DAMAGED_HINT, MissingObject, naming
from cloud.storage.archive.manifest import Manifest, ObjectRef, SegmentRef, SideRef, decode
from cloud.storage.archive.names import Names
from sync.errors import BadSignature, BrokenChain, Malformed, NotFound
from sync.keys import KeyRing, PublicIdentity
from sync.segment import FLAG_FEED, Opened, SegmentHeader, open_segment

_AHEAD = 6  # objects that are fetched while one is worked on
_T = TypeVar("_T")


class Loaded(NamedTuple):
    """A verified manifest; ``sha256`` is that of its object."""

    manifest: Manifest
    sha256: bytes
    size: int


class ArchiveReader:
    """Raises a DataError that names the object, or the object store's own errors."""

    def __init__(self, objects: ObjectStore, keys: KeyService, fleet: bytes) -> None:
        self.objects = objects
        self.fleet = fleet
        self.names = Names(fleet)
        self.ring: KeyRing = keys.ring(fleet)
        self._service: PublicIdentity = keys.service_key.public

    def identity(self, key_id: bytes) -> PublicIdentity:
        if key_id != self._service.key_id:
            raise BadSignature("signed with a key that is not this cloud's", hint="use the keys that wrote the archive")
        return self._service

    # -- manifests ---------------------------------------------------------------------------------------------

    def numbers(self, after: int = 0) -> list[int]:
        """The numbers of all manifests after this one that there are, ascending; gaps are the caller's to judge."""
        found = []
        for info in self.objects.list(self.names.manifests, self.names.manifest(after) if after else ""):
            number = self.names.number_of(info.name)
            if number is None:
                raise Malformed(f"{info.name}: not the name of a manifest", hint="somebody else wrote into the archive")
            found.append(number)
        return found

    def manifest(self, number: int, expected: bytes | None = None) -> Loaded:
        """Manifest ``number``, which must have the hash ``expected`` (None: any that the cloud has signed)."""
        name = self.names.manifest(number)
        data = self._get(name)
        with naming(name):
            digest = sha256(data).digest()
            if expected not in (None, digest):
                raise BrokenChain("it is not the manifest that the chain demands")
            header, plain = envelope.open_envelope(
                envelope.MANIFEST, data, fleet=self.fleet, number=number, ring=self.ring, identity=self.identity
            )
            manifest = decode(plain)
            if (manifest.number, manifest.fleet, manifest.previous) != (number, self.fleet, header.previous):
                raise Malformed("the manifest's body contradicts its header")
            for ref in manifest.objects():
                if not self.names.owns(ref.name):
                    raise BrokenChain(f"it names an object of another fleet, {ref.name}")
        return Loaded(manifest, digest, len(data))

    def manifest_sha256(self, number: int) -> bytes:
        """The hash of a manifest's bytes, whatever they are."""
        return sha256(self._get(self.names.manifest(number))).digest()

    # -- what a manifest names -----------------------------------------------------------------------------------

    def fetch(self, ref: ObjectRef) -> bytes:
        """The bytes of an object, compared with its reference."""
        data = self._get(ref.name)
        if len(data) != ref.size or sha256(data).digest() != ref.sha256:
            raise BrokenChain(f"{ref.name}: it is not the object that its manifest names", hint=DAMAGED_HINT)
        return data

    def fetch_all(self, items: Iterable[tuple[ObjectRef, _T]]) -> Iterator[tuple[_T, bytes]]:
        """The same for many, in order, fetched ahead by threads (an object store answers in tens of milliseconds)."""
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="archive-fetch") as pool:
            waiting: deque[tuple[_T, Future[bytes]]] = deque()
            try:
                for ref, item in items:
                    waiting.append((item, pool.submit(self.fetch, ref)))
                    if len(waiting) > _AHEAD:
                        done, future = waiting.popleft()
                        yield done, future.result()
                while waiting:
                    done, future = waiting.popleft()
                    yield done, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()

    def open_feed_segment(self, ref: SegmentRef, data: bytes, previous: bytes | None) -> Opened:
        """A segment of the feed that continues ``previous`` (None: anything)."""

        def check(header: SegmentHeader) -> None:
            if header.fleet != self.fleet or header.stream != self.fleet or header.flags != FLAG_FEED:
                raise BrokenChain("it is not a feed segment of this fleet")
            if (header.first_seq, header.last_seq) != (ref.first, ref.last):
                raise BrokenChain("it covers other positions than its manifest says")
            if previous not in (None, header.previous):
                raise BrokenChain("it does not continue the segment before it")

        with naming(ref.object.name):
            opened = open_segment(data, identity=self.identity, ring=self.ring, check=check)
            if opened.id != ref.id:
                raise BrokenChain("its id is not the one that its manifest names")
        return opened

    def open_meta(self, name: str, data: bytes) -> bytes:
        """The content of a side object."""
        with naming(name):
            _, plain = envelope.open_envelope(
                envelope.META, data, fleet=self.fleet, number=None, ring=self.ring, identity=self.identity
            )
        return plain

    def side(self, ref: SideRef) -> bytes:
        """The rows of a piece of a side table, as msgpack."""
        plain = ref.inline if ref.object is None else self.open_meta(ref.object.name, self.fetch(ref.object))
        if sha256(plain).digest() != ref.plain_sha256:
            name = ref.object.name if ref.object else "a manifest"
            raise BrokenChain(f"{name}: side table {ref.table} is not what the manifest says")
        return plain

    def _get(self, name: str) -> bytes:
        try:
            return self.objects.get(name)
        except NotFound as error:
            raise MissingObject(f"{name}: the object is missing", hint=DAMAGED_HINT) from error


def fleets(objects: ObjectStore) -> list[bytes]:
    """Every fleet with an object in this store."""
    found: list[bytes] = []
    after = ""
    while True:
        info = next(iter(objects.list("v1/", after)), None)
        if info is None:
            return sorted(found)
        parts = info.name.split("/")
        try:
            fleet = bytes.fromhex(parts[2])
        except (IndexError, ValueError) as error:
            raise Malformed(f"{info.name}: not an object of an archive") from error
        if not Names(fleet).owns(info.name):  # past its place there would be this object again
            raise Malformed(f"{info.name}: not an object of an archive")
        found.append(fleet)
        after = Names(fleet).root + "zzzz"  # past everything that a fleet may have
