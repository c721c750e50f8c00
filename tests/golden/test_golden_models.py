"""A manifest, its chunk list and a sealed chunk of version 1, which every later version reads: ``model.v1.*``.

``python -m tests.golden.test_golden_models`` wrote them; not again but for a new version.
"""

from __future__ import annotations

from hashlib import sha256

from sync.chunks import Chunk, ChunkList, file_digest, open_chunk_into, pack_id, seal_chunk_into, sealed_length
from sync.models import Errors, FileRef, Golden, Latency, ListRef, Loads, Manifest, Memory, Needs, PackRef, Soak
from tests.golden.generate import HERE, RING

DATA = b"the pump is loud " * 1000
NAME = "05c9a553d01d569a01b4de9f36debd95dfd64975d85fc6e72f53ebff5333dfd1"


def chunks() -> ChunkList:
    digest = sha256(DATA).digest()
    return ChunkList((Chunk(digest, len(DATA), 0, 0), Chunk(b"d" * 32, 70_000, 1, 123_456)))


def manifest() -> Manifest:
    found = chunks()
    return Manifest(
        schema=1,
        name="embed",
        number=13,
        version="1.3.0",
        size=len(DATA) + 70_000,
        chunks=ListRef(sha256(found.encode()).hexdigest(), 2),
        packs=[PackRef(pack_id(RING.key(7), [(sha256(DATA).digest(), len(DATA))]).hex(), 7), PackRef("e" * 64, 2)],
        files=[
            FileRef("größe.bin", len(DATA), (0, 1), file_digest(found.chunks[:1]).hex(), sha256(DATA).hexdigest()),
            FileRef("sub/weights", 70_000, (1, 2), file_digest(found.chunks[1:]).hex()),
        ],
        lineage={"parent": "embed 12"},
        metrics={"recall": 0.93, "steps": 1200},
        needs=Needs("embed", 1 << 20, 1 << 30, "gpu = true"),
        probes=[Loads(), Golden({"text": "pump"}, [0.25, -1], 1e-3), Latency(40.5, 7), Memory(1 << 30), Errors(0.02)],
        soak=Soak(3600, 100),
        runs_code=True,
    )


def test_the_golden_manifest_is_read_and_written_as_it_was() -> None:
    data = (HERE / "model.v1.json").read_bytes()
    assert Manifest.parse(data) == manifest()
    assert manifest().encode() == data


def test_the_golden_chunk_list_is_read_and_written_as_it_was() -> None:
    data = (HERE / "model.v1.chunks").read_bytes()
    assert manifest().chunk_list(data) == chunks()
    assert chunks().encode() == data


def test_the_golden_chunk_opens_and_a_pack_is_called_what_it_was() -> None:
    sealed = (HERE / "model.v1.chunk").read_bytes()
    assert bytes(open_chunk_into(sealed, chunks().chunks[0], RING.key(7), memoryview(bytearray(1 << 20)))) == DATA
    assert manifest().packs[0].id == NAME


def write() -> None:
    (HERE / "model.v1.json").write_bytes(manifest().encode())
    (HERE / "model.v1.chunks").write_bytes(chunks().encode())
    sealed = memoryview(bytearray(sealed_length(len(DATA))))
    seal_chunk_into(DATA, sha256(DATA).digest(), RING.key(7), sealed)
    (HERE / "model.v1.chunk").write_bytes(sealed)


if __name__ == "__main__":
    write()
