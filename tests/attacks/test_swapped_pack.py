"""A server, or a bucket, that gives out other bytes than a model's: nothing of them is written, and no answer holds a
device, whatever its length.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from random import Random

import pytest

from edge.control.model_filling import Filling
from edge.control.model_slots import Documents
from edge.link.model_client import ModelClient
from sync.chunks import open_chunk_into, seal_chunk_into
from sync.errors import DecryptionFailed, Malformed, ProtocolError, SyncError, Unreachable
from tests.cloud.fleet.model_world import some_bytes
from tests.edge.control.fetch_world import FetchWorld, contents, digests

FILES = {"model.safetensors": some_bytes(2_000_000)}


@pytest.fixture
def world(fetched_from: FetchWorld) -> FetchWorld:
    return fetched_from


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def written(world: FetchWorld, model: Documents) -> int:
    """How many of the slot's bytes are a chunk's; all others have to be the zeros that the file was made of."""
    data = (world.slot("a") / "model.safetensors").read_bytes()
    at = right = 0
    for chunk in model.chunks.chunks:
        part = data[at : at + chunk.length]
        assert part in (FILES["model.safetensors"][at : at + chunk.length], bytes(chunk.length))
        right += chunk.length * (part != bytes(chunk.length))
        at += chunk.length
    return right


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_anywhere_is_found_and_what_came_before_is_kept(world: FetchWorld, seed: int) -> None:
    model = world.publish("embed", "1", FILES)
    at = Random(seed).randrange(model.chunks.chunks[0].sealed_length, 2_000_000)
    world.objects.on_range = lambda _, data: flipped(data, at)
    with pytest.raises(DecryptionFailed) as refused:
        world.fetch()(Filling(world.slot("a"), model))
    assert model.manifest.packs[0].id in refused.value.hint
    assert 0 < written(world, model) <= at
    world.objects.on_range = lambda _, data: data
    world.fetch()(Filling(world.slot("a"), model))
    assert contents(world.slot("a")) == digests(FILES)


def test_another_pack_of_the_fleet_s_own_is_not_taken(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    other = world.publish("other", "1", {"m": some_bytes(2_100_000, 2)})
    theirs = world.objects.get(world.registry._names.pack(bytes.fromhex(other.manifest.packs[0].id)))
    world.objects.on_range = lambda _, data: theirs[: len(data)]
    with pytest.raises(DecryptionFailed):
        world.fetch()(Filling(world.slot("a"), model))
    assert written(world, model) == 0


def test_chunks_that_changed_places_are_not_taken(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    first, second = model.chunks.chunks[:2]
    world.objects.on_range = lambda _, data: data[second.offset :] + data[: second.offset]
    with pytest.raises(DecryptionFailed):
        world.fetch()(Filling(world.slot("a"), model))
    assert written(world, model) == 0
    assert first != second


def test_not_even_from_a_device_that_has_the_fleet_s_key(world: FetchWorld) -> None:
    model = world.publish("embed", "1", FILES)
    chunk = model.chunks.chunks[0]
    out = memoryview(bytearray(chunk.sealed_length))
    seal_chunk_into(bytes(chunk.length), chunk.digest, world.ring.key(1), out)
    with pytest.raises(Malformed):
        open_chunk_into(out, chunk, world.ring.key(1), memoryview(bytearray(1 << 20)))
    world.objects.on_range = lambda _, data: bytes(out) + data[len(out) :]
    with pytest.raises(Malformed):
        world.fetch()(Filling(world.slot("a"), model))
    assert written(world, model) == 0


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


@contextmanager
def liar(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that says what it likes, to one connection after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                with accepted:
                    try:
                        accepted.recv(65_536)
                        answer(accepted)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def endless(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def endless_failure(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 500 No\r\nContent-Type: application/vnd.agentdb+msgpack\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while True:
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def endless_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")


def trickle(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def silence(_connection: socket.socket) -> None:
    time.sleep(3)


LIES: dict[str, tuple[Callable[[socket.socket], None], type[SyncError]]] = {
    "endless": (endless, ProtocolError),
    "an endless failure": (endless_failure, SyncError),
    "an endless head": (endless_head, Unreachable),
    "a byte now and then": (trickle, Unreachable),
    "silence": (silence, Unreachable),
    "more": (lambda to: to.sendall(HEAD + b"Content-Length: 100001\r\n\r\n" + bytes(100_001)), ProtocolError),
    "less": (lambda to: to.sendall(HEAD + b"Content-Length: 99999\r\n\r\n" + bytes(99_999)), ProtocolError),
    "cut": (lambda to: to.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(99_999)), Unreachable),
    "no HTTP": (lambda to: to.sendall(b"SSH-2.0-OpenSSH_9.9\r\n"), Unreachable),
    "a page": (lambda to: to.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), ProtocolError),
    "a detour": (
        lambda to: to.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"),
        ProtocolError,
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_none_ends_within_its_bounds(world: FetchWorld, lie: str) -> None:
    answer, error = LIES[lie]
    buffer = memoryview(bytearray(100_000))
    with liar(answer) as url:
        client = ModelClient(url, world.key, world.nonces, part_s_max=1.0)
        started = time.monotonic()
        with pytest.raises(error), closing(client), client.read("0" * 64, 0, len(buffer)) as stream:
            stream.read_into(buffer)
        assert time.monotonic() - started < 5


def test_a_device_may_be_told_to_stop_while_it_waits(world: FetchWorld) -> None:
    with liar(silence) as url:
        client = ModelClient(url, world.key, world.nonces, part_s_max=30.0)
        threading.Timer(0.2, client.abort).start()
        started = time.monotonic()
        with pytest.raises(Unreachable), client.read("0" * 64, 0, 10):
            pass
        assert time.monotonic() - started < 5
        with pytest.raises(Unreachable), client.read("0" * 64, 0, 10):
            pass
