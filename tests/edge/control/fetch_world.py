"""A fleet that has published models, a server that gives out their packs, and a device that fetches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cloud.fleet.model_registry import ModelRegistry, Published
from cloud.identity import audit
from cloud.ports import ObjectStore
from cloud.rows import ObjectInfo
from cloud.server.models import Packs
from cloud.storage.objects import open_objects
from edge.control.model_fetch import ModelFetch
from edge.control.model_slots import Documents
from edge.link.model_client import ModelClient
from edge.link.signing import Nonces
from sync.keys import KeyRing
from sync.models import Manifest
from tests.cloud.identity_world import World
from tests.cloud.server_world import CountingPlane, LiveServer


class Served(NamedTuple):
    """A range that the object store was asked for."""

    pack: str
    offset: int
    length: int


class Counted:
    """An object store between. ``on_range`` may change what it gives. ``served`` may get other marks between."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.served: list[Served | bytes] = []
        self.on_range: Callable[[str, bytes], bytes] = lambda _, data: data

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        return self._inner.put(name, data, create_only=create_only)

    def get(self, name: str) -> bytes:
        return self._inner.get(name)

    def head(self, name: str) -> ObjectInfo:
        return self._inner.head(name)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, after)

    def delete(self, name: str) -> None:
        self._inner.delete(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self._inner.get_range(name, offset, length)
        self.served.append(Served(name.rpartition("/")[2], offset, length))
        return self.on_range(name, data)


class FetchWorld:
    """``assigned``: the packs that the device may have. The server listens inside ``with world.server``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "cloud").mkdir()
        self.world = World(directory / "cloud")
        self.objects = Counted(open_objects(str(directory / "bucket")))
        self.ring = KeyRing({1: b"k" * 32})
        self.registry = ModelRegistry(
            self.world.store,
            lambda: self.objects,
            lambda: self.ring,
            self.world.fleet,
            self.world.clock,
            audit.record,
        )
        self.assigned: set[str] = set()
        packs = Packs(lambda: self.objects, lambda _fleet, _device: self.assigned)
        self.server = LiveServer(self.world, CountingPlane(self.world), packs=packs)
        self.key = self.world.joined()
        self.nonces = Nonces(0, lambda _: None)
        self.url = ""  # "": the server's own

    def publish(self, name: str, version: str, files: dict[str, bytes]) -> Documents:
        """And assign it."""
        source = self.directory / "sources" / name / version
        for path, data in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(data)
        found = documents(self.registry.publish(source, name, version))
        self.assigned |= {pack.id for pack in found.manifest.packs}
        return found

    def client(self) -> ModelClient:
        return ModelClient(self.url or self.server.url, self.key, self.nonces, part_s_max=10.0)

    def fetch(self) -> ModelFetch:
        return ModelFetch(self.client, lambda: self.ring)

    def slot(self, name: str) -> Path:
        folder = self.directory / "device" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self) -> None:
        self.world.store.close()


def documents(published: Published) -> Documents:
    manifest = Manifest.parse(published.manifest)
    return Documents(manifest, manifest.chunk_list(published.chunk_list))


def contents(folder: Path) -> dict[str, str]:
    """Path to digest."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {path: sha256(data).hexdigest() for path, data in files.items()}
