"""Fetching a model from a real server: only what is missing, each chunk once, and nothing that is not the chunk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge.control.model_filling import Filling, Installed
from edge.control.model_slots import Documents
from sync.chunks import RANGE_BYTES_MAX
from sync.errors import DecryptionFailed, DiskFull, NotFound, StorageError, Unauthenticated, Unreachable
from sync.keys import KeyRing
from tests.cloud.fleet.model_world import some_bytes
from tests.edge.control.fetch_world import FetchWorld, Served, contents, digests

FILES = {
    "model.safetensors": some_bytes(6_000_000),
    "a/b/words.txt": b"a b c",
    "empty": b"",
    "copy": some_bytes(900_000, 2),
}


@pytest.fixture
def world(fetched_from: FetchWorld) -> FetchWorld:
    return fetched_from


def ranges(world: FetchWorld) -> list[Served]:
    return [served for served in world.objects.served if isinstance(served, Served)]


def received(world: FetchWorld) -> int:
    """And forgotten."""
    size = sum(served.length for served in ranges(world))
    world.objects.served.clear()
    return size


def test_a_model_is_fetched_whole_in_large_ranges(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    seen: list[tuple[int, int]] = []
    filling = Filling(world.slot("a"), model, progress=lambda *done: seen.append(done))
    world.fetch()(filling)
    assert contents(filling.folder) == digests(FILES)
    assert all((filling.folder / path).stat().st_mode & 0o777 == 0o600 for path in FILES)
    assert len(world.objects.served) == 2
    assert max(served.length for served in ranges(world)) <= RANGE_BYTES_MAX
    assert seen[0] == (0, received(world))
    assert seen[-1][0] == seen[-1][1] == seen[0][1]
    world.fetch()(filling)
    assert received(world) == 0, "all of it is right"


def test_what_an_installed_model_has_is_not_fetched(world: FetchWorld) -> None:
    old = world.publish("embed", "1", FILES)
    world.fetch()(Filling(world.slot("a"), old))
    received(world)
    changed = {**FILES, "model.safetensors": b"prefix" + FILES["model.safetensors"][:4_000_000] + some_bytes(50_000, 7)}
    new = world.publish("embed", "2", changed)
    installed = Installed(world.slot("a"), old)
    world.fetch()(Filling(world.slot("b"), new, [installed]))
    assert contents(world.slot("b")) == digests(changed)
    assert received(world) < 800_000
    assert contents(world.slot("a")) == digests(FILES), "it is read only"
    other = world.publish("other", "1", {"half": FILES["copy"], "more/half": some_bytes(900_000, 8)})
    world.fetch()(Filling(world.slot("c"), other, [installed, Installed(world.slot("b"), new)]))
    assert 900_000 < received(world) < 905_000


def test_a_damaged_or_missing_installed_file_is_no_source(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    world.fetch()(Filling(world.slot("a"), model))
    received(world)
    with (world.slot("a") / "model.safetensors").open("r+b") as file:
        file.seek(3_000_000)
        file.write(b"damaged")
    (world.slot("a") / "copy").unlink()
    world.fetch()(Filling(world.slot("b"), model, [Installed(world.slot("a"), model)]))
    assert contents(world.slot("b")) == digests(FILES)
    assert 900_000 < received(world) < 1_300_000


def test_what_is_in_the_slot_already_is_kept_whatever_was_there(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    slot = world.slot("a")
    data = bytearray(FILES["model.safetensors"] + b"longer than it should be")
    data[100] ^= 1
    (slot / "model.safetensors").write_bytes(data)
    (slot / "copy").write_bytes(FILES["copy"][:500_000])
    world.fetch()(Filling(slot, model))
    assert contents(slot) == digests(FILES)
    assert received(world) < 1_100_000


def test_stopping_keeps_what_came(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    seen: list[int] = []
    filling = Filling(
        world.slot("a"), model, stopped=lambda: len(seen) > 20, progress=lambda done, _total: seen.append(done)
    )
    world.fetch()(filling)
    assert len(seen) == 21
    received(world)
    world.fetch()(Filling(world.slot("a"), model))
    assert contents(world.slot("a")) == digests(FILES)
    assert received(world) == sum(chunk.sealed_length for chunk in model.chunks.missing(())) - seen[-1]


def test_only_packs_of_what_is_assigned_are_given_out(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    other = world.publish("other", "1", {"m": some_bytes(100_000, 5)})
    world.assigned -= {pack.id for pack in other.manifest.packs}
    with pytest.raises(NotFound):
        world.fetch()(Filling(world.slot("b"), other))
    world.fetch()(Filling(world.slot("a"), model))
    world.world.enrollment.revoke(world.world.fleet, world.key.device_id)
    with pytest.raises(Unauthenticated):
        world.fetch()(Filling(world.slot("c"), model))


def test_without_the_epoch_s_key_nothing_is_asked_for(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    world.ring = KeyRing({2: b"z" * 32})
    with pytest.raises(DecryptionFailed, match="epoch 1"):
        world.fetch()(Filling(world.slot("a"), model))
    assert received(world) == 0


def test_a_full_disk_is_said_and_the_rest_comes_when_there_is_room(
    world: FetchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.publish("embed", "1", FILES)
    real, left = os.pwrite, [2_000_000]

    def full(handle: int, data: memoryview, offset: int) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        world.fetch()(Filling(world.slot("a"), model))
    monkeypatch.setattr(os, "pwrite", real)
    received(world)
    world.fetch()(Filling(world.slot("a"), model))
    assert contents(world.slot("a")) == digests(FILES)
    assert received(world) < sum(chunk.sealed_length for chunk in model.chunks.missing(())) - 1_700_000


def test_no_link_is_followed(world: FetchWorld, tmp_path: Path) -> None:
    model = world.publish("embed", "1", FILES)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "words.txt").write_bytes(b"mine")
    for name, link in (("a", "model.safetensors"), ("b", "a"), ("c", "a/b")):
        slot = world.slot(name)
        (slot / link).parent.mkdir(exist_ok=True)
        (slot / link).symlink_to(outside if "." not in link else outside / "words.txt")
        with pytest.raises(StorageError):
            world.fetch()(Filling(slot, model))
    assert contents(outside) == digests({"words.txt": b"mine"})


def test_no_server_is_said_at_once(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    world.server.stop()
    with pytest.raises(Unreachable):
        world.fetch()(Filling(world.slot("a"), model))


def test_a_copy_of_a_chunk_in_one_model_is_fetched_once(world: FetchWorld) -> None:
    twice = {"one": some_bytes(1_000_000, 3), "two": some_bytes(1_000_000, 3)}
    model: Documents = world.publish("embed", "1", twice)
    world.fetch()(Filling(world.slot("a"), model))
    assert contents(world.slot("a")) == digests(twice)
    assert received(world) < 1_010_000
