"""Models to try: made, cut, described by a manifest, and brought to a store by copying: no cloud, no network."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge.control.model_filling import Fill, Filling
from edge.control.model_store import ModelStore
from sync.chunks import Chunk, ChunkList, file_digest
from sync.models import FileRef, ListRef, Manifest, Needs, PackRef, Probe, Soak

CHUNK_BYTES = 1024
Files = Mapping[str, bytes]


def tensors(weights: Sequence[Sequence[float]]) -> bytes:
    """A matrix of F32 as safetensors."""
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in weights)
    entry = {"dtype": "F32", "shape": [len(weights), len(weights[0])], "data_offsets": [0, len(data)]}
    header = json.dumps({"weights": entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


def model(weights: Sequence[Sequence[float]], **config: Any) -> dict[str, bytes]:
    """What ``tests.edge.control.runner`` runs."""
    return {"model.safetensors": tensors(weights), "more/config.json": json.dumps(config).encode()}


def release(
    number: int,
    files: Files,
    *,
    name: str = "embed",
    probes: Sequence[Probe] = (),
    soak: Soak | None = None,
    runs_code: bool = False,
    needs: Needs | None = None,
) -> tuple[bytes, bytes]:
    """A manifest and its chunk list, as both sides would have signed them."""
    chunks: list[Chunk] = []
    refs = []
    for path, data in files.items():
        first = len(chunks)
        for at in range(0, len(data), CHUNK_BYTES):
            part = data[at : at + CHUNK_BYTES]
            chunks.append(Chunk(sha256(part).digest(), len(part), 0, 0))
        own = chunks[first:]
        refs.append(FileRef(path, len(data), (first, len(chunks)), file_digest(own).hex()))
    encoded = ChunkList(tuple(chunks)).encode()
    manifest = Manifest(
        1,
        name,
        number,
        f"1.{number}",
        sum(map(len, files.values())),
        ListRef(sha256(encoded).hexdigest(), len(chunks)),
        [PackRef("00" * 32, 1)],
        refs,
        probes=list(probes),
        soak=soak or Soak(),
        needs=needs or Needs(runner="toy"),
        runs_code=runs_code,
    )
    return manifest.encode(), encoded


class Shelf:
    """Where a ``fill`` copies files from, and what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filled: list[int] = []

    def publish(self, number: int, files: Files, **how: Any) -> tuple[bytes, bytes]:
        for path, data in files.items():
            target = self.folder / str(number) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return release(number, files, **how)

    @property
    def fill(self) -> Fill:
        def copy(filling: Filling) -> None:
            number = filling.documents.manifest.number
            self.filled.append(number)
            copy_files(self.folder / str(number), filling)

        return copy


def copy_files(source: Path, filling: Filling) -> None:
    for file in filling.documents.manifest.files:
        target = filling.folder / file.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (source / file.path).open("rb") as given, os.fdopen(_opened(target), "wb") as taken:
            shutil.copyfileobj(given, taken, CHUNK_BYTES)
        filling.progress(file.size, filling.documents.manifest.size)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def assign(models: ModelStore, number: int, documents: tuple[bytes, bytes], name: str = "embed") -> None:
    models.assigned(name, number, *documents)


def settle(models: ModelStore) -> None:
    """Carry out what is due, until nothing is."""
    while models.fetch() or models.advance():
        pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
