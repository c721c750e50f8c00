"""Publishing: what is published can be read back from packs, keys and manifest alone; what is there is not stored
again; what fails leaves nothing that is listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from cloud.control_rows import ChannelRow
from cloud.fleet.model_registry import GC_AFTER_MS, Details
from cloud.fleet.packs import PackWriter
from cloud.ports import SystemClock
from cloud.storage.bucket_setup import ensure_bucket
from cloud.storage.objects import open_objects
from sync.chunks import PACK_BYTES_MAX
from sync.errors import InvalidFilter, InvalidValue, Malformed, NotFound, Refused, StorageError, Unreachable
from sync.models import Golden, Loads, Manifest, Needs, Soak
from tests.cloud.fleet.model_world import FLEET, ModelWorld, some_bytes

FILES = {
    "model.safetensors": some_bytes(3_000_000),
    "tokenizer/words.txt": b"a b c\n" * 10,
    "tokenizer/empty": b"",
    "copy.safetensors": some_bytes(3_000_000),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ModelWorld]:
    world = ModelWorld(tmp_path)
    yield world
    world.store.close()


def test_what_is_published_is_read_back_from_what_is_signed(world: ModelWorld) -> None:
    details = Details(
        lineage={"parent": "none"},
        metrics={"recall": 0.9},
        needs=Needs(runner="embed", memory_bytes=5),
        probes=[Loads(5), Golden("x", [1, 2.5], 0.1)],
        soak=Soak(60, 5),
    )
    seen: list[tuple[int, int]] = []
    made = world.registry.publish(
        world.folder("m", FILES), "embed", "1.0", details, progress=lambda *done: seen.append(done)
    )
    assert world.read_back(made) == FILES
    manifest = Manifest.parse(made.manifest)
    assert [file.path for file in manifest.files] == sorted(FILES)
    assert (manifest.probes, manifest.soak, manifest.needs) == (details.probes, details.soak, details.needs)
    assert (manifest.lineage, manifest.metrics, manifest.runs_code) == ({"parent": "none"}, {"recall": 0.9}, False)
    total = sum(map(len, FILES.values()))
    assert (made.size, made.number, made.files) == (total, 1, 4)
    assert made.reused_bytes == 3_000_000, "the copy is the same chunks"
    assert seen[-1] == (total, total)
    assert all(file.sha256 == "" for file in manifest.files)


def test_packs_are_bounded_and_a_file_keeps_its_name(world: ModelWorld) -> None:
    file = world.folder("m", {"large.gguf": some_bytes(40 << 20)}) / "large.gguf"
    made = world.registry.publish(file, "large", "1", plain_sha256=True)
    packs = world.packs()
    assert len(packs) == 3
    assert made.stored_bytes == sum(map(len, packs.values()))
    assert all(len(data) <= PACK_BYTES_MAX for data in packs.values())
    manifest = Manifest.parse(made.manifest)
    assert manifest.files[0].sha256 == sha256(file.read_bytes()).hexdigest()
    assert manifest.files[0].path == "large.gguf"
    assert world.read_back(made) == {"large.gguf": file.read_bytes()}


def test_a_bucket_tells_no_content_and_no_digest_of_a_file(world: ModelWorld) -> None:
    canary = b"the canary sings at noon " * 4000
    world.registry.publish(world.folder("m", {"secret-name.onnx": canary}), "secret", "1")
    ((name, data),) = world.packs().items()
    for told in (b"canary", b"secret", sha256(canary).digest()):
        assert told not in data
        assert told not in bytes.fromhex(name)


def test_the_next_version_stores_what_is_new(world: ModelWorld) -> None:
    old = some_bytes(6_000_000)
    new = b"prefix" + old[:3_000_000] + some_bytes(50_000, 9) + old[3_000_000:]
    first = world.registry.publish(world.folder("a", {"m.onnx": old}), "embed", "1")
    second = world.registry.publish(world.folder("b", {"m.onnx": new}), "embed", "2")
    other = world.registry.publish(world.folder("c", {"x/y.onnx": old}), "other", "1")
    assert second.number == 2
    assert second.stored_bytes < 1_000_000
    assert (other.number, other.stored_bytes, other.packs, other.reused_bytes) == (1, 0, 0, 6_000_000)
    assert Manifest.parse(other.manifest).packs == Manifest.parse(first.manifest).packs
    assert world.read_back(second) == {"m.onnx": new}


def test_after_a_new_epoch_old_chunks_stay_under_their_key(world: ModelWorld) -> None:
    old = some_bytes(1_000_000)
    world.registry.publish(world.folder("a", {"m.onnx": old}), "embed", "1")
    world.ring.add(2, b"l" * 32)
    made = world.registry.publish(world.folder("b", {"m.onnx": old + some_bytes(500_000, 2)}), "embed", "2")
    assert {pack.epoch for pack in Manifest.parse(made.manifest).packs} == {1, 2}
    assert world.read_back(made) == {"m.onnx": old + some_bytes(500_000, 2)}


def test_versions_and_names_are_found_and_not_replaced(world: ModelWorld) -> None:
    registry = world.registry
    source = world.folder("m", {"m.onnx": b"x"})
    for version in ("1.0", "1.1"):
        registry.publish(source, "embed", version)
    with pytest.raises(InvalidValue, match="number 2"):
        registry.publish(source, "embed", "1.1")
    assert registry.set_alias("embed", "champion", "1.0").number == 1
    registry.set_alias("embed", "canary", "")
    found = {which: registry.find("embed", which).number for which in ("", "1", "champion", "canary", "1.1")}
    assert found == {"": 2, "1": 1, "champion": 1, "canary": 2, "1.1": 2}
    with pytest.raises(InvalidValue, match="canary"):
        registry.remove("embed", "2")
    registry.drop_alias("embed", "canary")
    registry.remove("embed", "2")
    assert registry.find("embed", "").number == 1
    assert registry.publish(source, "embed", "1.1").number == 3, "a number is given out once"
    for name, which in (("embed", "2"), ("embed", "nothing"), ("none", "")):
        with pytest.raises(NotFound):
            registry.find(name, which)
    for name in ("Embed", "../x", "", "a" * 65):
        with pytest.raises(InvalidValue):
            registry.publish(source, name, "1")
    with pytest.raises(InvalidFilter, match="at 5"):
        registry.publish(source, "embed", "9", Details(needs=Needs(hardware="gpu > 3")))
    for alias in ("7", "A b"):
        with pytest.raises(InvalidValue):
            registry.set_alias("embed", alias, "1")


def test_what_devices_may_be_given_is_not_removed(world: ModelWorld) -> None:
    world.registry.publish(world.folder("m", {"m.onnx": b"x"}), "embed", "1.0")
    with world.store.writing() as tx:
        tx.put_channel(FLEET, ChannelRow("models/embed", "models/embed/1.json"))
    with pytest.raises(Refused, match="is assigned") as raised:
        world.registry.remove("embed", "1")
    assert "--nothing" in raised.value.hint
    with world.store.writing() as tx:
        tx.drop_channel(FLEET, "models/embed")
    assert world.registry.remove("embed", "1").number == 1


def test_links_and_odd_files_are_refused(world: ModelWorld, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"the operator's secret")
    folders = [world.folder(f"m{number}", {"m.onnx": b"x"}) for number in range(3)]
    (folders[0] / "link").symlink_to(outside)
    (folders[1] / "folder").symlink_to(tmp_path)
    os.mkfifo(folders[2] / "pipe")
    for folder in folders:
        with pytest.raises(InvalidValue):
            world.registry.publish(folder, "embed", "1")
    (tmp_path / "alone").symlink_to(outside)
    for bad in (tmp_path / "alone", tmp_path / "none"):
        with pytest.raises((InvalidValue, StorageError)):
            world.registry.publish(bad, "embed", "1")
    (tmp_path / "void").mkdir()
    with pytest.raises(InvalidValue, match="no files"):
        world.registry.publish(tmp_path / "void", "embed", "1")
    with pytest.raises(Malformed):
        world.registry.publish(world.folder("clash", {"a": b"1", "A": b"2"}), "embed", "1")
    assert world.registry.versions() == []
    assert world.packs() == {}


def test_what_fails_lists_nothing_and_the_next_try_finds_its_packs(
    world: ModelWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = world.folder("m", {"m.onnx": some_bytes(20 << 20)})
    put = world.objects.put
    names: list[str] = []

    def failing(name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        names.append(name)
        if len(names) == 2:
            raise Unreachable("the bucket is away")
        return put(name, data, create_only=create_only)

    monkeypatch.setattr(world.objects, "put", failing)
    with pytest.raises(Unreachable):
        world.registry.publish(source, "m", "1")
    assert world.registry.versions() == []
    assert len(world.packs()) == 1
    made = world.registry.publish(source, "m", "1")
    assert names[2:] == names[:2], "the same chunks make the same packs"
    assert world.read_back(made) == {"m.onnx": some_bytes(20 << 20)}


def test_what_nothing_names_goes_after_a_week_and_nothing_else(world: ModelWorld) -> None:
    registry = world.registry
    world.clock.now_ms = SystemClock().wall_ms()
    both, own = some_bytes(2_000_000), some_bytes(2_000_000, 2)
    registry.publish(world.folder("a", {"m.onnx": both}), "a", "1")
    registry.publish(world.folder("b", {"m.onnx": both, "n.onnx": own}), "b", "1")
    kept = set(world.packs())
    assert len(kept) == 2
    registry.remove("b", "1")
    assert registry.gc()._asdict() == {"packs": 0, "bytes": 0, "kept": 1}
    world.clock.now_ms += GC_AFTER_MS + 60_000
    assert registry.gc().packs == 1
    assert set(world.packs()) == {pack.id for pack in Manifest.parse(registry.find("a", "1").manifest).packs}
    again = registry.publish(world.folder("c", {"n.onnx": own}), "c", "1")
    assert again.stored_bytes > 2_000_000, "it is not taken for stored"
    assert world.read_back(again) == {"n.onnx": own}
    assert registry.gc().packs == 0


def test_a_pack_that_vanished_is_noticed_and_stored_anew(world: ModelWorld) -> None:
    source = world.folder("m", {"m.onnx": some_bytes(1_000_000)})
    world.registry.publish(source, "m", "1")
    ((name, _),) = world.packs().items()
    world.objects.delete(world.registry._names.pack(bytes.fromhex(name)))
    with pytest.raises(StorageError, match="no object"):
        world.registry.publish(source, "m", "2")
    made = world.registry.publish(source, "m", "2")
    assert world.read_back(made) == {"m.onnx": some_bytes(1_000_000)}


def test_a_pack_writer_holds_no_more_than_three_packs(world: ModelWorld) -> None:
    chunk = memoryview(bytearray(some_bytes(250_000)))
    with PackWriter(world.objects, lambda pack: f"pack/{pack.hex()}", 1, b"k" * 32) as writer:
        for number in range(500):
            writer.add(chunk, number.to_bytes(32, "big"))
            assert writer._made <= 3
        assert len(writer.finish()) == 8


@pytest.mark.s3
def test_a_bucket_behind_a_real_s3_interface(tmp_path: Path) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"region": "us-east-1", "access_key_id": "test", "secret_access_key": "test"}
        options = {"endpoint": f"http://{host}:{port}", **keys}
        ensure_bucket("s3://models/here", options=options)
        world = ModelWorld(tmp_path, open_objects("s3://models/here", options=options))
        files = {"model.safetensors": some_bytes(20_000_000), "words.txt": b"a b c"}
        made = world.registry.publish(world.folder("m", files), "embed", "1")
        assert made.packs == 2
        assert world.read_back(made) == files
        again = world.registry.publish(world.folder("m", files), "embed", "2")
        assert again.stored_bytes == 0
        for version in ("1", "2"):
            world.registry.remove("embed", version)
        world.clock.now_ms = SystemClock().wall_ms() + GC_AFTER_MS + 60_000
        assert world.registry.gc().packs == 2
        assert world.packs() == {}
        world.store.close()
    finally:
        server.stop()
