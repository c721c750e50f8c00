"""A fleet's models: a registry over a real store and a directory as object store, and files to publish."""

from __future__ import annotations

from pathlib import Path
from random import Random

from cloud.fleet.model_registry import ModelRegistry, Published
from cloud.identity import audit
from cloud.ports import ObjectStore
from cloud.rows import FleetRow, Head
from cloud.storage.objects import open_objects
from cloud.storage.sqlite_store import SqliteStore
from sync.chunks import Chunk, open_chunk_into
from sync.keys import KeyRing
from sync.models import Manifest

FLEET = b"F" * 16
NOW_MS = 1_800_000_000_000


class Time:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms


def some_bytes(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


class ModelWorld:
    """``ring`` may get further epochs. ``objects`` is what the registry keeps packs in."""

    def __init__(self, directory: Path, objects: ObjectStore | None = None) -> None:
        self.directory = directory
        self.store = SqliteStore.open(directory / "cloud.db")
        with self.store.writing() as tx:
            tx.create_fleet(FleetRow(FLEET, "f", 0), Head(0, b"i" * 16, 1, 0, 0, 0, 0))
        self.objects = objects or open_objects(str(directory / "bucket"))
        self.ring = KeyRing({1: b"k" * 32})
        self.clock = Time()
        self.registry = ModelRegistry(
            self.store, lambda: self.objects, lambda: self.ring, FLEET, self.clock, audit.record
        )

    def folder(self, name: str, files: dict[str, bytes]) -> Path:
        root = self.directory / name
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return root

    def packs(self) -> dict[str, bytes]:
        """By id."""
        found = self.objects.list(f"v1/{self.root.split('/')[1]}/{FLEET.hex()}/pack/")
        return {info.name.rpartition("/")[2]: self.objects.get(info.name) for info in found}

    @property
    def root(self) -> str:
        return self.registry._names.root

    def read_back(self, published: Published) -> dict[str, bytes]:
        """The files, from nothing but the packs, the keys and what is signed."""
        manifest = Manifest.parse(published.manifest)
        chunks = manifest.chunk_list(published.chunk_list).chunks
        packs = self.packs()

        def opened(chunk: Chunk) -> bytes:
            pack = manifest.packs[chunk.pack]
            sealed = packs[pack.id][chunk.offset : chunk.offset + chunk.sealed_length]
            return bytes(open_chunk_into(sealed, chunk, self.ring.key(pack.epoch), memoryview(bytearray(2 << 20))))

        return {file.path: b"".join(map(opened, chunks[slice(*file.chunks)])) for file in manifest.files}
