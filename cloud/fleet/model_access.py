"""Which packs a device may have: those of the manifests that its newest signed assignment names, and no others.

A device without an assignment gets none. What is asked is the store, for each request; only what a manifest names is
kept in memory, as it never changes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from threading import Lock

import msgspec

from cloud.ports import Reading, Store
from sync.errors import CorruptStore
from sync.models import Manifest

_KEPT_MAX = 256  # manifests
_NONE: frozenset[str] = frozenset()


class _Assigned(msgspec.Struct):
    """What is read here of ``sync.assignments``; this control plane has signed it itself."""

    path: str
    sha256: str


class _Assignment(msgspec.Struct):
    models: dict[str, _Assigned] = {}


_decoder = msgspec.json.Decoder(_Assignment)


class AssignedPacks:
    """``cloud.server.models.Assigned``. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._packs: dict[bytes, frozenset[str]] = {}

    def __call__(self, fleet: bytes, device: bytes) -> Container[str]:
        """Ids in hex. Raises StorageError, CorruptStore."""
        with self._store.reading() as view:
            row = view.assignment(fleet, device)
            if row is None or not row.data:
                return _NONE
            return frozenset().union(*self._named(view, fleet, row.data))

    def _named(self, view: Reading, fleet: bytes, assignment: bytes) -> Iterator[frozenset[str]]:
        try:
            models = _decoder.decode(assignment).models
        except msgspec.MsgspecError as error:
            raise CorruptStore(f"an assignment that was signed here cannot be read: {error}") from error
        for assigned in models.values():
            digest = bytes.fromhex(assigned.sha256)
            with self._lock:
                found = self._packs.get(digest)
            yield self._read(view, fleet, assigned.path, digest) if found is None else found

    def _read(self, view: Reading, fleet: bytes, path: str, digest: bytes) -> frozenset[str]:
        _, name, file = path.split("/")
        row = view.model(fleet, name, int(file.removesuffix(".json")))
        if row is None or row.sha256 != digest or not row.manifest:
            return _NONE  # published elsewhere, or removed
        found = frozenset(pack.id for pack in Manifest.parse(row.manifest).packs)
        with self._lock:
            if len(self._packs) >= _KEPT_MAX:
                self._packs.pop(next(iter(self._packs)))
            self._packs[digest] = found
        return found
