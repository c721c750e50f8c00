"""A control plane with an object store behind a real server, devices that attach and read, and a server that lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from cloud.ports import ObjectStore
from cloud.rows import ObjectInfo
from cloud.storage.bodies import Bodies
from cloud.storage.objects import open_objects
from edge import Attachments, Edge, EdgeConfig, Unreachable
from edge.ports import SystemClock
from sync.limits import BODY_PART_BYTES
from tests.cloud.server_world import LiveServer
from tests.contracts.fleet_world import Cloud

PATIENCE_S = 30.0


def some_bytes(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


PHOTO = some_bytes(2 * BODY_PART_BYTES + 12_345)


def body_file(edge: Edge, data: bytes) -> Path:
    return edge.cache.bodies.path(sha256(data).digest())


def away(_name: str, _data: bytes) -> bytes:
    """What an object store does with a part when it is away."""
    raise Unreachable("the object store is away")


class Tampered:
    """An object store between; ``on_get`` and ``on_put`` may change, refuse or count what passes."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.on_get: Callable[[str, bytes], bytes] = lambda _, data: data
        self.on_put: Callable[[str, bytes], bytes] = lambda _, data: data
        self.puts: list[str] = []
        self.gets: list[str] = []

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        if not name.endswith("/place"):
            data = self.on_put(name, bytes(data))
            self.puts.append(name)
        return self._inner.put(name, data, create_only=create_only)

    def get(self, name: str) -> bytes:
        if name.endswith("/place"):
            return self._inner.get(name)
        self.gets.append(name)
        return self.on_get(name, self._inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._inner.get_range(name, offset, length)

    def head(self, name: str) -> ObjectInfo:
        return self._inner.head(name)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, after)

    def delete(self, name: str) -> None:
        self._inner.delete(name)


class BodyWorld:
    """``objects`` is what the server keeps bodies in, in the directory ``bucket`` unless another store is given."""

    def __init__(self, directory: Path, objects: ObjectStore | None = None) -> None:
        self.directory = directory
        self.bucket = directory / "bucket"
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", 1)
        self.cloud.store.close()
        self.cloud.clock = SystemClock()  # type: ignore[assignment]
        self.cloud.open()
        self.objects = Tampered(objects or open_objects(str(self.bucket)))
        self.bodies = Bodies(lambda: self.objects, self.cloud.random)
        self.server = LiveServer(self.cloud, self.cloud.plane, bodies=self.bodies)  # type: ignore[arg-type]
        self._open: list[Edge] = []

    def device(self, name: str, quota_bytes: int = 0) -> Edge:
        path = self.directory / name
        known = path.exists()
        edge = Edge.open(path, config=EdgeConfig(quota_bytes=quota_bytes, sync_url=self.server.url))
        self._open.append(edge)
        if not known:
            token = self.cloud.plane.create_token(self.cloud.fleet, url=self.server.url).encode()
            edge.join(token, name=name)
        return edge

    def move(self) -> None:
        """Bodies are kept in a place of which the devices do not know that it has them."""
        (place,) = self.bucket.rglob("body/place")
        place.write_bytes(self.cloud.random.token(16))
        self.bodies._places.clear()

    def close(self) -> None:
        for edge in self._open:
            edge.close()
        self.server.stop()
        self.cloud.store.close()


@contextmanager
def body_world(directory: Path, objects: ObjectStore | None = None) -> Iterator[BodyWorld]:
    world = BodyWorld(directory, objects)
    with world.server:
        try:
            yield world
        finally:
            world.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[BodyWorld]:
    with body_world(tmp_path) as world:
        yield world


def attachments(edge: Edge) -> Attachments:
    return edge.agent("guide").attachments("photos")


def sync(*edges: Edge) -> None:
    for edge in edges:
        edge.sync(timeout_s=PATIENCE_S)
