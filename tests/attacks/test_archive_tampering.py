"""Whoever can write to the bucket, but has no keys, can destroy the archive and cannot change what it says.

Each attack ends in an error that names the object, in ``restore`` and in ``verify`` alike; the last state before
it can be restored if it is asked for by the number of its manifest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cloud.identity.key_service import MemoryKeyService
from cloud.rows import RecordRow
from cloud.storage.archive import envelope, manifest
from cloud.storage.archive.anchor import Anchored, AnchorFile
from cloud.storage.archive.errors import MissingObject, RolledBack
from cloud.storage.archive.reader import fleets
from cloud.storage.archive.rebuild import Rebuilder
from cloud.storage.archive.restore import restore_fleet
from cloud.storage.archive.verify import verify
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import BadSignature, BrokenChain, CorruptStore, DataError, DecryptionFailed, Malformed, TooLarge
from tests.cloud.archive_world import ArchiveWorld, digest_of, put, rows_in
from tests.cloud.identity_world import SeededRandom

RUNS = 5
SNAPSHOT = 2


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArchiveWorld:
    """Five manifests, the third with a snapshot; every kind of object is needed for a restore."""
    monkeypatch.setattr("cloud.storage.archive.writer.INLINE_BYTES_MAX", 300)
    world = ArchiveWorld(tmp_path)
    for number in range(RUNS):
        world.push_random(number, rows=3)
        world.conflict()
        (world.archive.snapshot if number == SNAPSHOT else world.archive.run_once)()
    return world


def kept(world: ArchiveWorld, prefix: str, nth: int = -1) -> str:
    return world.names(prefix)[nth]


def fails(world: ArchiveWorld, name: str, *kinds: type[Exception]) -> None:
    """Restore and verify both name the object; nothing half restored is left usable."""
    with pytest.raises(kinds or (DataError, TooLarge)) as caught:
        world.restore()
    assert name in str(caught.value)
    assert name in {problem.object for problem in world.verify().problems}


def needed(world: ArchiveWorld) -> list[str]:
    """Every object that a restore of the newest state reads."""
    newest = world.reader.manifest(RUNS).manifest
    tail = [world.reader.manifest(number).manifest for number in range(SNAPSHOT + 2, RUNS + 1)]
    found = [world.reader.names.manifest(number) for number in range(SNAPSHOT + 1, RUNS + 1)]
    found += [segment.object.name for item in tail for segment in item.segments]
    found += [side.object.name for side in (*newest.identity, *newest.stream) if side.object]
    snapshot = world.reader.manifest(SNAPSHOT + 1).manifest.snapshot
    assert snapshot is not None
    found += [ref.name for part in snapshot.parts for ref in (part.object, part.side)]
    return found


def test_every_object_when_it_is_missing(world: ArchiveWorld) -> None:
    for name in needed(world):
        data = world.objects.get(name)
        world.objects.delete(name)
        fails(world, name, MissingObject, RolledBack)
        world.objects.put(name, data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="emptied"),
        pytest.param(lambda data: data[: len(data) // 2], id="halved"),
        pytest.param(lambda data: data[:-1], id="truncated"),
        pytest.param(lambda data: data + b"\0", id="extended"),
        pytest.param(lambda data: bytes(len(data)), id="zeroed"),
        pytest.param(lambda data: data[:200] + data[200:][::-1], id="reversed"),
    ],
)
def test_every_object_when_it_is_damaged(world: ArchiveWorld, damage: Callable[[bytes], bytes]) -> None:
    for name in needed(world):
        data = world.objects.get(name)
        world.objects.put(name, damage(data))
        fails(world, name)
        world.objects.put(name, data)
    assert world.verify().problems == []


def test_single_bits(world: ArchiveWorld) -> None:
    dice = random.Random(7)
    for name in needed(world):
        data = world.objects.get(name)
        for _ in range(4):
            at = dice.randrange(len(data))
            world.objects.put(name, data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :])
            fails(world, name)
        world.objects.put(name, data)


def test_every_bit_of_a_manifest_without_its_successor(world: ArchiveWorld) -> None:
    """The newest manifest has no successor that demands its hash: its signature has to do."""
    name = kept(world, "manifest/")
    data = world.objects.get(name)
    for at in range(0, len(data), 3):
        world.objects.put(name, data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises((DataError, TooLarge)) as caught:
            world.reader.manifest(RUNS)
        assert name in str(caught.value)


@pytest.mark.parametrize("prefix", ["seg/", "manifest/", "meta/"])
def test_two_objects_swapped(world: ArchiveWorld, prefix: str) -> None:
    one, other = [name for name in needed(world) if prefix in name][:2]
    first, second = world.objects.get(one), world.objects.get(other)
    world.objects.put(one, second)
    world.objects.put(other, first)
    with pytest.raises(DataError) as caught:
        world.restore()
    assert one in str(caught.value) or other in str(caught.value)
    assert {one, other} <= {problem.object for problem in world.verify().problems}


def test_an_older_object_under_a_newer_name(world: ArchiveWorld) -> None:
    for prefix in ("seg/", "manifest/"):
        newest = kept(world, prefix)
        data = world.objects.get(newest)
        world.objects.put(newest, world.objects.get(kept(world, prefix, -2)))
        fails(world, newest, BrokenChain, RolledBack)
        world.objects.put(newest, data)


def test_a_manifest_removed_from_the_middle(world: ArchiveWorld) -> None:
    """Also one that the restore itself could do without."""
    for number in (1, 4):
        name = world.reader.names.manifest(number)
        data = world.objects.get(name)
        world.objects.delete(name)
        fails(world, name, MissingObject)
        world.objects.put(name, data)


def test_the_best_earlier_state_if_it_is_asked_for(world: ArchiveWorld) -> None:
    at = world.reader.manifest(RUNS - 1).manifest.head
    broken = kept(world, "seg/")
    world.objects.put(broken, b"gone")
    with pytest.raises(BrokenChain):
        world.restore()
    store, restored = world.restore(manifest=RUNS - 1)
    assert restored.position == at
    assert rows_in(store, world.fleet) == world.expected(at)
    world.history = world.history[:at]
    world.store = store
    world.archive = world.archive_of(store)
    world.push([put("after the damage")])
    world.archive.run_once()
    again, _ = world.restore("again.db")
    assert rows_in(again, world.fleet) == world.expected()
    assert [problem.object for problem in world.verify().problems] == [broken], "abandoned, and still reported"


def test_after_a_manifest_that_cannot_be_read_a_restored_server_goes_on(world: ArchiveWorld) -> None:
    world.objects.put(kept(world, "manifest/"), b"nonsense")
    store, restored = world.restore(manifest=RUNS - 1)
    world.history = world.history[: restored.position]
    world.store, world.archive = store, world.archive_of(store)
    world.push([put("after the damage")])
    world.archive.run_once()
    assert world.archive.state.number == RUNS + 1
    again, _ = world.restore("again.db")
    assert rows_in(again, world.fleet) == world.expected()
    with again.reading() as view:
        assert view.head(world.fleet).generation >= 4, "the unreadable one may have hidden an incarnation"


def test_the_newest_manifests_taken_away(world: ArchiveWorld, tmp_path: Path) -> None:
    """A bucket alone cannot show it; the anchor beside the keys can."""
    for prefix in ("manifest/", "seg/"):
        world.objects.delete(kept(world, prefix))
    fails(world, world.reader.names.manifest(RUNS), RolledBack)
    world.push([put("more")])
    with pytest.raises((RolledBack, MissingObject), match=world.reader.names.manifest(RUNS)):
        world.archive_of(world.store).run_once()
    unguarded, restored = world.restore(anchor=None)
    assert restored.manifest == RUNS - 1
    unguarded.close()
    store, restored = world.restore(manifest=RUNS - 1)
    world.archive_of(store).run_once()
    assert world.verify().problems == []


def test_the_chain_replaced_by_another_of_the_same_length(world: ArchiveWorld, tmp_path: Path) -> None:
    """What a restored server wrote, swapped for what the abandoned one would have written: both are signed."""
    genuine = {name: world.objects.get(name) for name in world.names()}
    anchored = world.anchor.last(world.fleet)
    assert anchored is not None
    world.objects.delete(kept(world, "manifest/"))
    world.anchor.note(world.fleet, anchored._replace(number=RUNS - 1, sha256=world.reader.manifest_sha256(RUNS - 1)))
    store, _ = world.restore(manifest=RUNS - 1)
    world.archive_of(store).run_once()
    assert genuine[world.reader.names.manifest(RUNS)] != world.objects.get(world.reader.names.manifest(RUNS))
    world.anchor.note(world.fleet, anchored)
    fails(world, world.reader.names.manifest(RUNS), RolledBack)


def test_objects_of_another_fleet(world: ArchiveWorld, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ArchiveWorld(tmp_path / "other", world.objects)
    other.keys = world.keys  # the same control plane
    other.enrollment._keys = world.keys
    other.fleet = other.enrollment.create_fleet("other").fleet
    assert other.fleet != world.fleet
    other.archive = other.archive_of(other.store)
    other.replicas = [key.device_id + bytes([0, 0, 0, 1]) for key in (other.joined("a"), other.joined("b"))] * 2
    other._seqs = dict.fromkeys(other.replicas, 0)
    other.push_random(1, rows=3)
    other.archive.snapshot()
    assert fleets(world.objects) == sorted([world.fleet, other.fleet])
    for prefix in ("manifest/", "seg/"):
        name = kept(world, prefix)
        data = world.objects.get(name)
        world.objects.put(name, other.objects.get(kept(other, prefix)))
        fails(world, name, BrokenChain, RolledBack)
        world.objects.put(name, data)
    world.objects.put(world.reader.names.manifest(1), other.objects.get(other.reader.names.manifest(1)))
    with pytest.raises(BrokenChain, match="another fleet"):
        world.reader.manifest(1)


def test_a_manifest_signed_with_another_key(world: ArchiveWorld) -> None:
    """Somebody with the fleet's content key, a device for one, forges the next manifest."""
    forger = MemoryKeyService(SeededRandom(99))
    newest = world.reader.manifest(RUNS)
    forged = manifest.Manifest(
        **{
            field: getattr(newest.manifest, field)
            for field in manifest.Manifest.__struct_fields__
            if field not in ("number", "previous", "segments", "snapshot")
        },
        number=RUNS + 1,
        previous=newest.sha256,
        segments=[],
        snapshot=None,
    )
    data = envelope.seal_envelope(
        envelope.MANIFEST,
        manifest.encode(forged),
        fleet=world.fleet,
        number=RUNS + 1,
        previous=newest.sha256,
        ring=world.reader.ring,
        signer=forger.service_key,
    )
    name = world.reader.names.manifest(RUNS + 1)
    world.objects.put(name, data)
    fails(world, name, BadSignature)
    world.push([put("more")])
    with pytest.raises(BadSignature, match=name):
        world.archive_of(world.store).run_once()


def test_without_the_right_keys_there_is_nothing(world: ArchiveWorld, tmp_path: Path) -> None:
    strangers = MemoryKeyService(SeededRandom(5))
    strangers.create_epoch(world.fleet)
    store = SqliteStore.open(tmp_path / "nothing.db")
    with pytest.raises(BadSignature):
        restore_fleet(world.objects, strangers, store, world.fleet, random=world.random)
    assert len(verify(world.objects, strangers, world.fleet).problems) >= RUNS
    strangers.service_key = world.keys.service_key
    with pytest.raises(DecryptionFailed, match="another key"):
        restore_fleet(world.objects, strangers, store, world.fleet, random=world.random)
    assert store.is_empty()


@pytest.mark.parametrize("junk", ["zzz", "9" * 20, f"{10**18:020d}"])
def test_junk_beside_the_manifests(world: ArchiveWorld, junk: str) -> None:
    name = world.reader.names.manifests + junk
    world.objects.put(name, b"junk")
    with pytest.raises(Malformed, match=name):
        world.restore()
    with pytest.raises(Malformed, match=name):
        world.restore(manifest=RUNS)
    with pytest.raises(Malformed, match=name):
        world.verify()


def test_a_manifest_far_ahead(world: ArchiveWorld) -> None:
    """A number that one could have, some day: looking for all that are missing before it would not end."""
    names = world.reader.names
    world.objects.put(names.manifest(10**9), b"junk")
    found = [problem.object for problem in world.verify().problems]
    assert found[:2] == [names.manifest(RUNS + 1), names.manifest(RUNS + 2)]
    assert len(found) < 200
    assert names.manifest(10**9) in found
    with pytest.raises(MissingObject, match=names.manifest(RUNS + 1)):
        world.restore()


@pytest.mark.parametrize("name", ["v1/ff/00/manifest/1", "v1/00/ff/x", "v1/zz", "v1/00/" + "0" * 32 + "/x"])
def test_objects_in_the_place_of_no_fleet(world: ArchiveWorld, name: str) -> None:
    """Whose hash they do not stand under: past that fleet's place they come once more, for ever."""
    world.objects.put(name, b"junk")
    with pytest.raises(Malformed, match=name):
        fleets(world.objects)


def test_a_decompression_bomb_in_an_envelope(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the cloud's own signature does not make an object larger than its header says."""
    with monkeypatch.context() as patch:
        patch.setattr(envelope, "len", lambda data: 100 if len(data) > 1 << 20 else len(data), raising=False)
        data = envelope.seal_envelope(
            envelope.META,
            bytes(8 << 20),
            fleet=world.fleet,
            number=1,
            ring=world.reader.ring,
            signer=world.keys.service_key,
        )
    with pytest.raises(Malformed, match="announced length"):
        world.reader.open_meta("meta", data)


def test_a_damaged_anchor_says_what_to_do(world: ArchiveWorld, tmp_path: Path) -> None:
    path = tmp_path / "archive.anchor"
    anchor = AnchorFile(path)
    assert anchor.last(world.fleet) is None
    anchor.note(world.fleet, Anchored(3, bytes(32)))
    anchor.note(bytes(16), Anchored(9, bytes(32)))
    assert AnchorFile(path).last(world.fleet) == (3, bytes(32))
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:3] + b"\xff" + whole[4:]):  # cut short, and text that is no UTF-8
        path.write_bytes(damaged)
        with pytest.raises(CorruptStore) as caught:
            AnchorFile(path).last(world.fleet)
        assert "remove it" in caught.value.hint


def test_the_digest_noted_in_a_manifest_is_compared(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that folds wrongly (a bug, a bad memory chip) is not a restore."""

    def forget_all(rebuilder: Rebuilder, rows: Sequence[RecordRow]) -> None:
        load(rebuilder, rows[:0])

    load = Rebuilder.load
    monkeypatch.setattr(Rebuilder, "load", forget_all)
    with pytest.raises(BrokenChain, match="digest"):
        world.restore()


def test_untouched_it_restores(world: ArchiveWorld) -> None:
    _, restored = world.restore()
    assert restored.digest == digest_of(world.expected())
    assert restored.compared
