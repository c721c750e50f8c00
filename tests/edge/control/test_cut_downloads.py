"""A download that is cut at more than a hundred drawn bytes: no chunk that was verified is asked for again, and the
files end byte-identical. A real server, a real proxy process between, real resets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.control.chunk_files import ChunkFiles
from edge.control.model_fetch import ModelFetch
from edge.control.model_filling import Filling
from edge.control.model_slots import Documents
from edge.link.model_client import ModelClient
from simulations.control_plane import Proxy
from simulations.processes import Children
from sync.errors import Unreachable
from tests.cloud.fleet.model_world import some_bytes
from tests.edge.control.fetch_world import FetchWorld, Served, contents, digests

CUTS = 120
FILES = {"model.safetensors": some_bytes(24_000_000), "tokenizer/words.txt": b"a b c\n" * 3000, "empty": b""}


@pytest.fixture
def world(fetched_from: FetchWorld) -> FetchWorld:
    return fetched_from


def asked_again(model: Documents, events: list[Served | bytes]) -> list[bytes]:
    """Chunks that were verified, and that a later range had in it."""
    numbers = {pack.id: number for number, pack in enumerate(model.manifest.packs)}
    verified: set[bytes] = set()
    again = []
    for event in events:
        if isinstance(event, bytes):
            verified.add(event)
            continue
        end = event.offset + event.length
        inside = (
            chunk
            for chunk in model.chunks.chunks
            if chunk.pack == numbers[event.pack] and event.offset <= chunk.offset < end
        )
        again += [chunk.digest for chunk in inside if chunk.digest in verified]
    return again


def one_connection(world: FetchWorld) -> ModelFetch:
    clients = [world.client()]

    def connect() -> ModelClient:
        if not clients:
            raise Unreachable("this process ends here")
        return clients.pop()

    return ModelFetch(connect, lambda: world.ring)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["one", "many"])
def test_no_verified_chunk_is_asked_for_again(
    world: FetchWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    model = world.publish("embed", "1", FILES)
    write = ChunkFiles.write

    def noted(files: ChunkFiles, digest: bytes, data: memoryview) -> None:
        write(files, digest, data)
        world.objects.served.append(digest)

    monkeypatch.setattr(ChunkFiles, "write", noted)
    filling = Filling(world.slot("a"), model)
    with Children(tmp_path) as children:
        proxy = Proxy(children, "proxy", world.server.address[1])
        world.url = proxy.url
        proxy.cut(seed=25, least=70_000, most=330_000, times=CUTS)
        failed = 0
        fetch = world.fetch() if processes == "one" else one_connection(world)
        while True:
            try:
                fetch(filling)
                break
            except Unreachable:
                failed += 1
                assert failed <= CUTS
                if processes == "many":  # each knows nothing of what the one before did
                    fetch = one_connection(world)
        assert proxy.counts()["cuts"] >= 100
    assert contents(filling.folder) == digests(FILES)
    events = world.objects.served
    assert asked_again(model, events) == []
    written = [event for event in events if isinstance(event, bytes)]
    assert len(written) == len(set(written)) == len(model.chunks.missing(()))


def test_the_check_itself_finds_what_is_asked_for_twice(world: FetchWorld) -> None:
    model = world.publish("embed", "1", {"m": some_bytes(500_000)})
    first = model.chunks.chunks[0]
    served = Served(model.manifest.packs[0].id, 0, 400_000)
    assert asked_again(model, [served, served]) == []
    assert asked_again(model, [served, first.digest, served]) == [first.digest]
