"""The routes of attachments' bodies: signed as all others, each fleet for itself, parts never replaced, all bounded."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.server import app, bodies
from cloud.storage.archive.names import Names
from cloud.storage.bodies import Bodies
from cloud.storage.objects import open_objects
from edge.link.signing import CONTENT_TYPE, sign_request
from sync.bodies import PART_SEALED_BYTES_MAX, body_name, seal_part
from sync.keys import DeviceKey, KeyRing
from sync.messages import BodiesFound, BodyKept, Failure, FindBodies, decode, encode
from tests.cloud.identity_world import World
from tests.cloud.server_world import CountingPlane, LiveServer, hello

RING = KeyRing({1: b"k" * 32})
BODIES = "/v1/bodies"


class Door:
    """A server that keeps bodies, and a device that asks it."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.objects = open_objects(str(directory / "bucket"))
        bodies = Bodies(lambda: self.objects, self.world.random)
        self.server = LiveServer(self.world, CountingPlane(self.world), bodies=bodies)
        self.key = self.world.joined()
        self.fleet = self.world.fleet
        self.name = body_name(RING, 1, self.fleet, b"d" * 32)
        self._nonce = 0

    def part(self, data: bytes = b"data", number: int = 0, parts: int = 3, fleet: bytes | None = None) -> bytes:
        place = {"epoch": 1, "name": self.name, "number": number, "parts": parts}
        return seal_part(data, ring=RING, fleet=fleet or self.fleet, **place)  # type: ignore[arg-type]

    def path(self, number: object = 0) -> str:
        return f"{BODIES}/{self.name.hex()}/{number}"

    def place(self) -> bytes:
        answer = self.ask("POST", BODIES, encode(FindBodies([])))[1]
        assert isinstance(answer, BodiesFound)
        return answer.place

    def ask(self, method: str, path: str, body: bytes = b"", key: DeviceKey | None = None) -> tuple[int, object]:
        self._nonce += 1
        headers = sign_request(key or self.key, self._nonce, method, path, body)
        return self.send(method, path, body, headers)

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, object]:
        connection = http.client.HTTPConnection(*self.server.address, timeout=20)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        return response.status, decode(data) if response.headers["Content-Type"] == CONTENT_TYPE else data


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    with door.server:
        yield door
    door.world.store.close()


def code(answer: tuple[int, object]) -> tuple[int, str]:
    assert isinstance(answer[1], Failure), answer
    return answer[0], answer[1].code


def test_a_part_is_kept_found_and_sent(door: Door) -> None:
    sealed = door.part()
    place = door.place()
    asked = encode(FindBodies([door.name, bytes(32)]))
    assert door.ask("POST", BODIES, asked) == (200, BodiesFound([[], []], place))
    assert code(door.ask("GET", door.path())) == (404, "not-found")
    assert door.ask("PUT", door.path(), sealed) == (200, BodyKept(created=True))
    assert door.ask("PUT", door.path(2), door.part(number=2)) == (200, BodyKept(created=True))
    assert door.ask("GET", door.path()) == (200, sealed)
    assert door.ask("POST", BODIES, encode(FindBodies([door.name, bytes(32)]))) == (
        200,
        BodiesFound([[0, 2], []], place),
    )


def test_a_part_is_never_replaced(door: Door) -> None:
    first = door.part()
    door.ask("PUT", door.path(), first)
    assert door.ask("PUT", door.path(), door.part(b"other")) == (200, BodyKept(created=False))
    assert door.ask("GET", door.path()) == (200, first)


def test_what_is_no_part_of_that_place_is_refused(door: Door) -> None:
    for sealed in (door.part(number=1), door.part(fleet=bytes(16)), door.part()[:-1], b"", b"x" * 500):
        status, what = code(door.ask("PUT", door.path(), sealed))
        assert (status, what in ("broken-chain", "malformed")) in ((409, True), (400, True))
    assert list(door.objects.list("")) == []


def test_strangers_are_refused(door: Door) -> None:
    stranger = DeviceKey.from_bytes(b"s" * 64)
    sealed = door.part()
    for method, path, body in (
        ("PUT", door.path(), sealed),
        ("GET", door.path(), b""),
        ("POST", BODIES, encode(FindBodies([]))),
    ):
        assert code(door.ask(method, path, body, stranger)) == (401, "unauthenticated")
        assert door.send(method, path, body, {"Content-Type": CONTENT_TYPE})[0] == 401
        signed = sign_request(door.key, 900 + len(body), method, path, body)
        assert code(door.send(method, path, body + b"x", signed))[0] in (401, 413), "another body than was signed"
        other = {"PUT": "GET", "GET": "PUT", "POST": "PUT"}[method]
        assert door.send(other, path, body, signed)[0] in (401, 405, 413), "another method than was signed"
    assert list(door.objects.list("")) == []


def test_a_nonce_counts_once_here_and_in_the_sync(door: Door) -> None:
    body = encode(FindBodies([]))
    headers = sign_request(door.key, 500, "POST", BODIES, body)
    assert door.send("POST", BODIES, body, headers)[0] == 200
    assert code(door.send("POST", BODIES, body, headers)) == (401, "stale-nonce")
    assert door.server.post(door.key, 500, hello(door.fleet, door.key.device_id)).code == "stale-nonce"


def test_a_fleet_sees_its_own_bodies_only(door: Door) -> None:
    door.objects.put(Names(b"x" * 16).body_part(door.name, 0), door.part(fleet=b"x" * 16))
    assert code(door.ask("GET", door.path())) == (404, "not-found")
    assert door.ask("POST", BODIES, encode(FindBodies([door.name]))) == (200, BodiesFound([[]], door.place()))


@pytest.mark.parametrize("number", ["00", "01", "-1", "10000", "x", "1?x=1"])
def test_other_paths_are_none(door: Door, number: str) -> None:
    path = door.path(number)
    headers = sign_request(door.key, 700, "GET", path.partition("?")[0], b"")
    assert door.send("GET", path, b"", headers)[0] in (400, 404)


def test_what_is_too_large_is_refused_unread(door: Door) -> None:
    assert code(door.ask("PUT", door.path(), bytes(PART_SEALED_BYTES_MAX + 1))) == (413, "too-large")
    assert code(door.ask("GET", door.path(), b"x")) == (413, "too-large")
    assert code(door.ask("GET", door.path(1024))) == (400, "invalid-value")


def test_a_control_plane_without_an_object_store_says_so(tmp_path: Path) -> None:
    door = Door(tmp_path)
    door.server = LiveServer(door.world, CountingPlane(door.world))
    with door.server:
        assert code(door.ask("PUT", door.path(), door.part())) == (403, "refused")
    door.world.store.close()


def test_an_object_store_that_hangs_holds_up_no_sync(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REQUESTS_MAX", 12)
    monkeypatch.setattr(bodies, "UNDER_WAY_MAX", 6)
    going, answers = threading.Event(), []

    def hang(*_: object) -> bytes:
        going.wait(20)
        return b""

    monkeypatch.setattr(Bodies, "get", hang)
    keys = [door.key, door.world.joined(), door.world.joined()]

    def get(key: DeviceKey, nonce: int) -> None:
        headers = sign_request(key, nonce, "GET", door.path(), b"")
        answers.append(door.send("GET", door.path(), b"", headers)[0])

    threads = [threading.Thread(target=get, args=(key, 10 + at)) for key in keys[:2] for at in range(6)]
    for one in threads:
        one.start()
    try:
        for _ in range(500):
            if len(answers) == 6:
                break
            time.sleep(0.01)
        assert answers == [503] * 6, "what is too much is told so at once"
        reply = door.server.post(keys[2], 1, hello(door.fleet, keys[2].device_id))
        assert reply.status == 200
    finally:
        going.set()
        for one in threads:
            one.join()
    assert sorted(answers) == [200] * 6 + [503] * 6
