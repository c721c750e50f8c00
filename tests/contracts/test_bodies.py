"""Attachments between two devices over a real server: what one attached the other reads when it wants it; what the
cloud has may go from a device, and nothing else; a cloud that lies is not believed.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.storage.bucket_setup import ensure_bucket
from cloud.storage.objects import open_objects
from edge import (
    BodyNotHere,
    BrokenChain,
    CorruptStore,
    DataError,
    DecryptionFailed,
    Edge,
    EdgeConfig,
    Malformed,
    Unreachable,
)
from edge.link import runner, signed_client
from edge.link.control import ControlLink
from edge.link.membership import session_keys
from edge.link.signed_client import SignedClient
from sync.bodies import body_name, seal_part
from sync.errors import Deferred, ProtocolError, SyncError
from tests.contracts.body_world import (
    PATIENCE_S,
    PHOTO,
    BodyWorld,
    attachments,
    away,
    body_file,
    body_world,
    some_bytes,
    sync,
    world,
)

__all__ = ["world"]


def test_what_one_attached_another_reads_when_it_wants_it(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    added = attachments(a).add(PHOTO, media_type="image/png", text="the pump")
    empty = attachments(a).add(b"", id="empty")
    sync(a, b)
    there = attachments(b).get(added.id)
    assert there == added._replace(here=False)
    assert there.added_by == "a"
    assert b.cache.status().away == (2, len(PHOTO))
    assert not world.objects.gets, "nothing is fetched before it is read"
    assert attachments(b).read(added.id) == PHOTO
    assert attachments(b).read(empty.id) == b""
    assert len(world.objects.gets) == 3 + 1
    assert attachments(b).read(added.id) == PHOTO
    assert len(world.objects.gets) == 4, "it is here now"
    assert b.cache.status().away == (0, 0)
    assert (b.cache.status().unconfirmed.count, a.cache.status().unconfirmed.count) == (0, 0)
    sync(b, a)
    assert len(world.objects.puts) == 4, "what the cloud has is not sent again"


def test_a_bucket_tells_neither_content_nor_digest(world: BodyWorld) -> None:
    a = world.device("a")
    canary = b"the canary sings at noon " * 10
    added = attachments(a).add(canary, text="a bird nobody may know", id="secret-name")
    sync(a)
    files = [path for path in world.bucket.rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes() + str(path.relative_to(world.bucket)).encode()
        for told in (b"canary", b"bird", b"secret-name", added.digest.encode(), bytes.fromhex(added.digest)):
            assert told not in data


LIES: dict[str, Any] = {
    "a flipped bit": (lambda data, _: data[:500] + bytes([data[500] ^ 1]) + data[501:], DecryptionFailed),
    "another part": (lambda _, parts: parts[1], BrokenChain),
    "a short part": (lambda data, _: data[:-1], Malformed),
    "nothing": (lambda _data, _parts: b"", Malformed),
    "something": (lambda _data, _parts: b"x" * 1000, Malformed),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_is_not_believed(world: BodyWorld, lie: str) -> None:
    change, error = LIES[lie]
    a, b = world.device("a"), world.device("b")
    attachments(a).add(PHOTO, id="photo")
    sync(a, b)
    parts = [path.read_bytes() for path in sorted(world.bucket.rglob("body/*/*"))]
    world.objects.on_get = lambda name, data: change(data, parts) if name.endswith("/0000") else data
    with pytest.raises(DataError) as failure:
        attachments(b).read("photo")
    assert type(failure.value) is error
    assert not body_file(b, PHOTO).exists()
    world.objects.on_get = lambda _, data: data
    assert attachments(b).read("photo") == PHOTO


def plant(world: BodyWorld, edge: Edge, digest: bytes, data: bytes) -> None:
    """As a device of the fleet that is broken or malicious does: other bytes under the name of a digest."""
    keys = session_keys(edge.log, edge.path)
    epoch = keys.ring.current
    name = body_name(keys.ring, epoch, keys.fleet, digest)
    sealed = seal_part(data, ring=keys.ring, epoch=epoch, fleet=keys.fleet, name=name, number=0, parts=1)
    assert world.bodies.put(keys.fleet, name, 0, sealed)


def test_what_another_device_put_there_is_looked_at_before_it_is_trusted(world: BodyWorld) -> None:
    a = world.device("a")
    mine, wrong = some_bytes(5000, 1), some_bytes(5000, 2)
    attachments(a).add(mine, id="mine")
    plant(world, a, sha256(mine).digest(), wrong)
    with pytest.raises(CorruptStore, match="other bytes"):
        sync(a)
    assert a.cache.status().unconfirmed.count == 1
    assert "other bytes" in a.status()["cache"]["problem"]
    assert a.cache.evict(0).bodies == 0, "the only right copy stays"
    assert attachments(a).read("mine") == mine


def test_other_bytes_under_a_digest_are_refused_by_who_reads(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    mine, wrong = some_bytes(5000, 1), some_bytes(5000, 2)
    attachments(a).add(mine, id="mine")
    plant(world, a, sha256(mine).digest(), wrong)
    with pytest.raises(CorruptStore):
        sync(a)
    sync(b)
    with pytest.raises(Malformed, match="something else"):
        attachments(b).read("mine")
    assert not attachments(b).get("mine").here  # type: ignore[union-attr]
    assert list((b.cache.bodies.root / "incoming").iterdir()) == []


def test_the_same_bytes_of_two_devices_are_stored_once(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    for edge in (a, b):
        attachments(edge).add(PHOTO, id="photo")
    sync(a, b)
    assert len(world.objects.puts) == 3
    assert len(world.objects.gets) == 3, "the second looked at what the first had put there"
    assert (a.cache.evict(0).bodies, b.cache.evict(0).bodies) == (1, 1)


def test_an_interrupted_upload_goes_on_where_it_was(world: BodyWorld) -> None:
    a = world.device("a")
    attachments(a).add(PHOTO, id="photo")

    def refuse(name: str, data: bytes) -> bytes:
        if name.endswith("/0001"):
            raise Unreachable("the object store is away")
        return data

    world.objects.on_put = refuse
    with pytest.raises(Unreachable):
        a.sync(timeout_s=1)
    assert a.cache.evict(0).bodies == 0, "a part of it is not all of it"
    a.close()
    world.objects.on_put = lambda _, data: data
    a = world.device("a")
    sync(a)
    assert [name[-4:] for name in world.objects.puts] == ["0000", "0001", "0002"]
    assert world.objects.gets == [], "what was sent is not read again"


def test_an_interrupted_fetch_goes_on_where_it_was(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    attachments(a).add(PHOTO, id="photo")
    sync(a, b)

    def refuse(name: str, data: bytes) -> bytes:
        if name.endswith("/0002"):
            raise Unreachable("the object store is away")
        return data

    world.objects.on_get = refuse
    with pytest.raises(BodyNotHere, match="object store is away"):
        attachments(b).read("photo")
    b.close()
    world.objects.on_get = lambda _, data: data
    b = world.device("b")
    sync(b)  # collects what nobody waits for
    world.objects.gets.clear()
    assert attachments(b).read("photo") == PHOTO
    assert [name[-4:] for name in world.objects.gets] == ["0002"]


def test_a_body_the_cloud_has_not_got_says_who_has(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    attachments(a).add(PHOTO, id="photo")
    world.objects.on_put = away
    with pytest.raises(SyncError):
        a.sync(timeout_s=1)
    sync(b)
    with pytest.raises(BodyNotHere, match=r"added by a.*has not got it") as failure:
        attachments(b).read("photo")
    assert "sync the device" in failure.value.hint


def test_a_damaged_body_comes_back_from_the_cloud(world: BodyWorld) -> None:
    a = world.device("a")
    attachments(a).add(PHOTO, id="photo")
    file = body_file(a, PHOTO)
    file.write_bytes(b"x" + PHOTO[1:])
    with pytest.raises(CorruptStore):
        attachments(a).read("photo")
    with pytest.raises(CorruptStore):
        sync(a)  # and it is not what the cloud gets
    assert world.objects.puts == []
    file.write_bytes(PHOTO)
    sync(a)
    file.write_bytes(b"x" + PHOTO[1:])
    assert attachments(a).read("photo") == PHOTO
    assert file.read_bytes() == PHOTO


def test_a_deleted_attachment_goes_from_every_device(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    attachments(a).add(PHOTO, id="photo")
    sync(a, b)
    attachments(b).read("photo")
    attachments(a).delete("photo")
    assert not body_file(a, PHOTO).exists()
    sync(a, b)
    assert attachments(b).get("photo") is None
    assert not body_file(b, PHOTO).exists()


def test_a_control_exchange_that_fails_or_hangs_keeps_no_attachment_here(
    world: BodyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = world.device("a")
    monkeypatch.setattr(runner, "CONTROL_S_MAX", 0.2)

    def hanging(self: ControlLink, *, ask: bool, using: Callable[[SignedClient], None] = lambda _: None) -> None:
        client = self._client()
        using(client)
        tried.append(ask)
        while len(tried) == 1 and not client._aborted:
            time.sleep(0.01)
        raise errors[len(tried) > 1]

    for errors in ([Unreachable("stopped"), ProtocolError("odd")], [Deferred("later"), Deferred("later")]):
        tried: list[bool] = []
        monkeypatch.setattr(ControlLink, "exchange", hanging)
        attachments(a).add(some_bytes(1000, len(world.objects.puts)))
        with pytest.raises(type(errors[1])):
            a.sync(timeout_s=PATIENCE_S)
        assert len(tried) == 2, "once before the attachments, once after them"
        assert a.cache.status().unconfirmed.count == 0
    monkeypatch.undo()
    sync(a)


def test_attachments_that_fail_keep_no_assignment_from_being_asked_for(
    world: BodyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = world.device("a")
    asked: list[SyncError | None] = [Unreachable("lost"), None]
    tried: list[SyncError | None] = []

    def exchange(*_: object, **__: object) -> None:
        tried.append(failure := asked.pop(0))
        if failure is not None:
            raise failure

    monkeypatch.setattr(ControlLink, "exchange", exchange)
    attachments(a).add(PHOTO)
    world.objects.on_put = away
    with pytest.raises(Unreachable):
        a.sync(timeout_s=0.5)
    assert len(tried) == 2


def test_a_live_link_brings_bodies_up_by_itself(world: BodyWorld) -> None:
    a, b = world.device("a"), world.device("b")
    a.start_sync()
    added = [attachments(a).add(some_bytes(50_000, number), id=str(number)) for number in range(5)]
    a.sync(timeout_s=PATIENCE_S)
    assert a.cache.status().unconfirmed.count == 0
    b.start_sync()
    b.sync(timeout_s=PATIENCE_S)
    done: list[bytes] = []
    readers = [threading.Thread(target=lambda: done.append(attachments(b).read("3"))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE_S)
    assert done == [some_bytes(50_000, 3)] * 4
    assert len(world.objects.gets) == 1, "four that want it fetch it once"
    assert [attachments(b).read(one.id) for one in added] == [some_bytes(50_000, number) for number in range(5)]
    for edge in (a, b):
        edge.stop_sync()


def test_a_live_link_stops_in_the_middle_of_a_part(world: BodyWorld) -> None:
    a = world.device("a")
    waiting, gate = threading.Event(), threading.Event()

    def hold(_: str, data: bytes) -> bytes:
        waiting.set()
        gate.wait(PATIENCE_S)
        return data

    world.objects.on_put = hold
    attachments(a).add(PHOTO, id="photo")
    a.start_sync()
    assert waiting.wait(PATIENCE_S)
    began = time.monotonic()
    a.stop_sync()
    assert time.monotonic() - began < 10
    gate.set()
    assert a.cache.status().unconfirmed.count == 1
    sync(a)
    assert a.cache.status().unconfirmed.count == 0


@pytest.mark.s3
def test_bodies_in_s3(tmp_path: Path) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint": f"http://{host}:{port}", "region": "us-east-1", "access_key_id": "test"}
    options["secret_access_key"] = "test"
    try:
        assert ensure_bucket("s3://bodies/some/prefix", options=options)
        with body_world(tmp_path, open_objects("s3://bodies/some/prefix", options=options)) as world:
            a, b = world.device("a"), world.device("b")
            attachments(a).add(PHOTO, id="photo")
            sync(a, b)
            assert attachments(b).read("photo") == PHOTO
    finally:
        server.stop()


def test_a_server_that_drips_is_hung_up_on(world: BodyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    a = world.device("a")
    held = attachments(a)
    held.add(PHOTO, id="photo")
    sync(a)
    a.cache.evict(0)
    monkeypatch.setattr(signed_client, "REQUEST_S_MAX", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()
        dripping = threading.Thread(target=drip, args=(listening, over))
        dripping.start()
        port = listening.getsockname()[1]
        a.close()
        with Edge.open(a.path, config=EdgeConfig(sync_url=f"http://127.0.0.1:{port}")) as again:
            began = time.monotonic()
            with pytest.raises(BodyNotHere, match="no answer"):
                attachments(again).read("photo")
            assert time.monotonic() - began < 5
        over.set()
        dripping.join(PATIENCE_S)


def drip(listening: socket.socket, over: threading.Event) -> None:
    connection, _ = listening.accept()
    with connection, suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not over.wait(0.1):
            connection.sendall(b"x")
