"""A manifest whose files would lie outside of the slot, or in each other's place, is refused before a byte is fetched,
even if it was signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
import rfc8785

from sync.errors import DataError
from sync.models import Manifest
from tests.cloud.fleet.model_world import some_bytes
from tests.edge.control.fetch_world import FetchWorld

PATHS = [
    ["../outside"],
    ["a/../../outside"],
    ["/etc/cron.d/outside"],
    ["a", "a"],
    ["model", "MODEL"],
    ["a", "a/b"],
    ["..\\outside"],
    ["a/./b"],
    ["a//b"],
    ["a\0b"],
    ["innocent\u202etxt.exe"],
    [".agentdb-lock"],
    [""],
    ["x" * 300],
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FetchWorld]:
    world = FetchWorld(tmp_path)
    yield world
    world.close()


@pytest.mark.parametrize("paths", PATHS, ids=repr)
def test_a_path_that_leads_elsewhere_is_refused(world: FetchWorld, paths: list[str]) -> None:
    made = world.publish("embed", "1", {f"file{number}": some_bytes(1000, number) for number in range(len(paths))})
    document = msgspec.to_builtins(made.manifest)
    assert Manifest.parse(rfc8785.dumps(document)) == made.manifest
    for file, path in zip(document["files"], paths, strict=True):
        file["path"] = path
    with pytest.raises(DataError):
        Manifest.parse(rfc8785.dumps(document))


def test_a_chunk_list_that_is_longer_than_the_files_is_refused(world: FetchWorld) -> None:
    made = world.publish("embed", "1", {"file": some_bytes(500_000)})
    data = made.chunks.encode()
    for bad in (data + data[:42], data[42:], data[::-1]):
        document = msgspec.to_builtins(made.manifest)
        document["chunks"] = {"sha256": sha256(bad).hexdigest(), "count": len(bad) // 42}
        with pytest.raises(DataError):
            Manifest.parse(rfc8785.dumps(document)).chunk_list(bad)
