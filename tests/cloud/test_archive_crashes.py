"""The archive when things stop in the middle, and when there are two of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.ports import ObjectStore, Transaction
from cloud.rows import ObjectInfo
from cloud.storage.archive.errors import ForeignArchive, MissingObject
from cloud.storage.archive.restore import restore_fleet
from cloud.storage.objects import open_objects
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import CorruptStore, StorageError
from tests.cloud.archive_world import ArchiveWorld, digest_of, put, rows_in


class Crash(Exception):
    """The process is gone."""


class FaultyObjects:
    """Any object store, stopping at the n-th call: before it has its effect, or after, before the answer."""

    def __init__(self, objects: ObjectStore, at: int = 0, *, after: bool = False) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self.at = at
        self.after = after
        self.calls = 0
        self.lie: Callable[[str, bytes], bytes] | None = None

    def _step(self) -> bool:
        with self._lock:
            self.calls += 1
            crashed = bool(self.at) and self.calls >= self.at
            if crashed and (not self.after or self.calls > self.at):
                raise Crash
            return crashed

    def _read(self) -> None:
        if self._step():
            raise Crash

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        crashed = self._step()
        done = self._objects.put(name, self.lie(name, bytes(data)) if self.lie else data, create_only=create_only)
        if crashed:
            raise Crash
        return done

    def get(self, name: str) -> bytes:
        self._read()
        return self._objects.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._read()
        return self._objects.get_range(name, offset, length)

    def head(self, name: str) -> ObjectInfo:
        self._read()
        return self._objects.head(name)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._read()
        return self._objects.list(prefix, after)

    def delete(self, name: str) -> None:
        raise AssertionError("the archive deletes nothing")


class ForgetfulStore:
    """A store whose process dies at the n-th writing block, before or after its commit."""

    def __init__(self, store: SqliteStore, at: int, *, after: bool) -> None:
        self._store = store
        self._at = at
        self._after = after
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Transaction]:
        self.writes += 1
        if self.writes == self._at and not self._after:
            raise Crash
        with self._store.writing(durable=durable) as tx:
            yield tx
        if self.writes == self._at:
            raise Crash


def prepared(directory: Path) -> ArchiveWorld:
    world = ArchiveWorld(directory)
    world.push_random(1, rows=4)
    world.archive.run_once()
    world.push_random(2, rows=4)
    world.conflict()
    world.refuse()
    return world


def check(world: ArchiveWorld) -> None:
    report = world.verify()
    assert report.problems == []
    assert report.position == len(world.history)
    store, restored = world.restore()
    assert restored.digest == digest_of(world.expected())
    assert rows_in(store, world.fleet) == world.expected()
    with store.reading() as new, world.store.reading() as old:
        for read in ("devices", "replicas", "conflicts", "dead_letters", "audit"):
            assert getattr(new, read)(world.fleet) == getattr(old, read)(world.fleet)
    store.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("action", ["run_once", "snapshot"])
def test_a_crash_at_any_call_of_the_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, *, after: bool
) -> None:
    monkeypatch.setattr("cloud.storage.archive.batches.PASS_BYTES_MIN", 1)  # a segment for each row
    monkeypatch.setattr("cloud.storage.archive.writer.INLINE_BYTES_MAX", 200)
    steps = 0
    for at in range(1, 100):
        directory = tmp_path / str(at)
        directory.mkdir()
        world = prepared(directory)
        faulty = FaultyObjects(world.objects, at, after=after)
        archive = world.archive_of(world.store, faulty)
        try:
            getattr(archive, action)()
        except Crash:
            steps += 1
        if at % 2:  # sometimes life goes on before the next run
            world.push_random(3, rows=2)
        again = world.archive_of(world.store)
        again.run_once()
        assert again.state.position == len(world.history)
        check(world)
        world.store.close()
        if faulty.calls < at:
            break
    assert steps == at - 1 > 10


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_when_the_store_notes_the_manifest(tmp_path: Path, *, after: bool) -> None:
    world = prepared(tmp_path)
    number = world.archive.state.number
    archive = world.archive_of(ForgetfulStore(world.store, 1, after=after))  # type: ignore[arg-type]
    with pytest.raises(Crash):
        archive.run_once()
    world.push_random(3, rows=2)
    again = world.archive_of(world.store)
    assert again.run_once().manifests == 1
    assert again.state.number == number + 2, "the manifest of the crashed run was adopted, not written again"
    check(world)


def test_an_object_store_that_stores_other_bytes_is_found_out(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    state = world.archive.state
    for kind in ("seg/", "manifest/"):
        lying = FaultyObjects(world.objects)
        lying.lie = lambda name, data, kind=kind: data[:-1] + b"?" if kind in name else data
        with pytest.raises(StorageError, match=kind):
            world.archive_of(world.store, lying).run_once()
        assert world.archive.state == state


def test_a_lost_answer_to_the_commit_is_our_own(tmp_path: Path) -> None:
    """The driver repeats a request whose answer was lost; the repetition is told that the name is taken."""
    world = prepared(tmp_path)

    class Echo(FaultyObjects):
        def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
            super().put(name, data, create_only=create_only)
            return super().put(name, data, create_only=create_only)

    assert world.archive_of(world.store, Echo(world.objects)).run_once().manifests == 1
    check(world)


# -- two of them -----------------------------------------------------------------------------------------------


def test_of_two_writers_one_stops(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    other = world.archive_of(world.store)

    class Late(FaultyObjects):
        """Another process of the same control plane commits just before our manifest."""

        def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
            if "manifest/" in name and other.state.number < 2:
                other.run_once()
            return super().put(name, data, create_only=create_only)

    late = world.archive_of(world.store, Late(world.objects))
    with pytest.raises(ForeignArchive, match="another writer was faster"):
        late.run_once()
    assert late.run_once().manifests == 0, "it turns out to have been our own other process"
    check(world)


def test_a_stale_server_cannot_continue_after_a_restore(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    world.archive.run_once()
    stale, stale_archive = world.store, world.archive
    world.store, _ = world.restore("restored.db")
    world.archive = world.archive_of(world.store)
    world.archive.run_once()
    world.push([put("on the new one")])
    world.archive.run_once()
    kept = list(world.history)
    world.push([put("on the old one")], 1, store=stale)
    names = world.names()
    for archive in (stale_archive, world.archive_of(stale)):
        with pytest.raises(ForeignArchive, match=r"manifest/0+3: another control"):
            archive.run_once()
    assert world.names() == names
    world.history = kept
    assert world.verify().problems == []
    store, _ = world.restore("checked.db")
    assert rows_in(store, world.fleet) == world.expected()


def test_a_restored_server_finds_out_that_the_old_one_still_writes(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    world.archive.run_once()
    restored, _ = world.restore("restored.db")
    world.push([put("on the old one, still running")])
    world.archive.run_once()
    with pytest.raises(ForeignArchive, match="another control plane"):
        world.archive_of(restored).run_once()


def test_a_database_turned_back_is_noticed(tmp_path: Path) -> None:
    """A copy of an older database file: the same incarnation, and another future."""
    world = prepared(tmp_path)
    copy = tmp_path / "copy.db"
    world.store.close()
    copy.write_bytes((tmp_path / "cloud.db").read_bytes())
    world.store = SqliteStore.open(tmp_path / "cloud.db")
    world.archive = world.archive_of(world.store)
    world.push([put("a"), put("b")])
    world.archive.run_once()
    older = SqliteStore.open(copy)
    with pytest.raises(ForeignArchive, match="knows of more"):
        world.archive_of(older).run_once()
    world.push([put("x"), put("y"), put("z")], 1, store=older)
    with pytest.raises(ForeignArchive, match="another feed"):
        world.archive_of(older).run_once()


def test_a_new_store_does_not_take_over_an_archive(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    stranger = SqliteStore.open(tmp_path / "stranger.db")
    with world.store.reading() as view, stranger.writing() as tx:
        fleet, head = view.fleet(world.fleet), view.head(world.fleet)
        assert fleet is not None
        tx.create_fleet(fleet, head._replace(position=0, incarnation=bytes(16), living=0))
    with pytest.raises(ForeignArchive, match=r"manifest/0+1"):
        world.archive_of(stranger).run_once()


def test_a_feed_trimmed_too_early_is_said(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    with world.store.writing() as tx:
        tx.trim_feed(world.fleet, len(world.history))
    with pytest.raises(CorruptStore, match="does not go on at") as caught:
        world.archive.run_once()
    assert "trimmed" in caught.value.hint


def test_an_archive_that_lost_our_manifest_is_not_continued(tmp_path: Path) -> None:
    world = prepared(tmp_path)
    world.archive.run_once()
    world.push([put("a")])
    world.objects.delete(world.names("manifest/")[-1])
    with pytest.raises(MissingObject, match=r"manifest/0+2"):
        world.archive_of(world.store).run_once()


# -- through S3 --------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_through_the_api_of_s3(tmp_path: Path) -> None:
    from moto.server import ThreadedMotoServer

    from cloud.storage.bucket_setup import ensure_bucket

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "endpoint": f"http://{host}:{port}",
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
        }
        ensure_bucket("s3://archive/fleets", options=options)
        world = ArchiveWorld(tmp_path, open_objects("s3://archive/fleets", options=options))
        world.push_random(1, rows=5)
        world.archive.snapshot()
        world.push_random(2, rows=5)
        world.archive.run_once()
        check(world)
        stale = world.archive
        world.store, _ = world.restore("second.db", position=len(world.history) - 1)
        world.history.pop()
        world.archive = world.archive_of(world.store)
        world.archive.run_once()
        check(world)
        with pytest.raises(ForeignArchive):
            stale.run_once()
    finally:
        server.stop()


def test_no_plaintext_reaches_the_object_store(tmp_path: Path) -> None:
    world = ArchiveWorld(tmp_path)
    canary = "SECRET-CANARY"
    world.joined(f"{canary} device")
    world.push([put(f"{canary}-key-{n}", canary, canary) for n in range(3)])
    world.push([put(f"{canary}-{n}", f"{canary} {world.random.token(9000).hex()}") for n in range(30)], 1)
    world.conflict()
    world.archive.snapshot()
    world.archive.run_once()
    held = [*world.replicas, *(replica[:12] for replica in world.replicas), canary.encode(), b"device-0", b"notes"]
    for name in world.names():
        data = world.objects.get(name)
        assert canary not in name
        for secret in (*held, *(key for _, key in world.keys.ring(world.fleet).items())):
            assert secret not in data, name


def test_the_bucket_and_the_keys_are_enough(tmp_path: Path) -> None:
    """Restored by another process's objects: nothing but bytes is shared."""
    from cloud.identity.key_service import FileKeyService

    world = prepared(tmp_path)
    world.archive.run_once()
    keys = FileKeyService.create(tmp_path / "keys", world.random)
    (tmp_path / "keys" / "service.key").write_bytes(world.keys.service_key.to_bytes())
    import msgspec

    entries = [(world.fleet, epoch, key) for epoch, key in world.keys.ring(world.fleet).items()]
    (tmp_path / "keys" / "epoch.keys").write_bytes(msgspec.msgpack.encode(("agentdb.epoch-keys.v1", entries)))
    keys = FileKeyService(tmp_path / "keys", world.random)
    copied = open_objects(str(tmp_path / "bucket"))
    for name in world.names():
        copied.put(name, world.objects.get(name))
    store = SqliteStore.open(tmp_path / "new.db")
    restored = restore_fleet(copied, keys, store, world.fleet, random=world.random)
    assert restored.digest == digest_of(world.expected())
