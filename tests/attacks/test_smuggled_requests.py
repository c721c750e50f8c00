"""Attack: one request that two programs (a proxy and we, the signature check and the handler) read differently.

Expected: refused with 400 or 401, never merged or guessed at, and nothing reaches the control plane.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.link.signing import CONTENT_TYPE, sign_request
from sync.keys import DeviceKey
from sync.messages import Push, encode
from tests.cloud.server_world import SYNC, CountingPlane, LiveServer, live

BODY = encode(Push(b"segment"))
BAD = (b"HTTP/1.1 400", b"HTTP/1.0 400")
SIGNED = ["Content-Type", "Content-Digest", "Signature-Input", "Signature"]


class Scene:
    def __init__(self, key: DeviceKey, plane: CountingPlane, server: LiveServer) -> None:
        self.key, self.plane, self.server = key, plane, server

    def fields(self, nonce: int = 1) -> list[tuple[str, str]]:
        return list(sign_request(self.key, nonce, "POST", SYNC, BODY).items())

    def raw(self, head: str, body: bytes = BODY) -> bytes:
        """The status line and all else that a request of these bytes gets back."""
        host = "{}:{}".format(*self.server.address)
        return self.server.raw(head.replace("\n", "\r\n").format(host=host).encode("latin-1") + b"\r\n" + body)

    def head(self, extra: str = "", length: str = "Content-Length: {size}\n") -> str:
        lines = "".join(f"{name}: {value}\n" for name, value in self.fields())
        return f"POST {SYNC} HTTP/1.1\nHost: {{host}}\nConnection: close\n{lines}{extra}" + length.format(
            size=len(BODY)
        )

    def nothing_happened(self) -> None:
        assert self.plane.handled == []


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with live(tmp_path) as (world, plane, server):
        scene = Scene(world.joined(), plane, server)
        assert scene.raw(scene.head()).startswith(b"HTTP/1.1 200")  # what is below differs from this in one thing
        plane.handled.clear()
        scene.key = world.joined()
        yield scene


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("spelled", [str.title, str.lower, str.upper])
def test_a_signed_field_twice(scene: Scene, name: str, spelled: object) -> None:
    fields = scene.fields()
    [value] = [value for field, value in fields if field == name]
    assert callable(spelled)
    for extra in ((spelled(name), value), (spelled(name), "x"), (spelled(name), "")):
        for both in ([*fields, extra], [extra, *fields]):
            assert scene.server.send("POST", SYNC, both, BODY).status in (400, 401)
    scene.nothing_happened()


def test_two_lengths(scene: Scene) -> None:
    answer = scene.raw(scene.head(extra="Content-Length: 3\n"))
    assert answer.startswith(BAD)
    answer = scene.raw(scene.head(extra="Transfer-Encoding: chunked\n"), b"0\r\n\r\n" + BODY)
    assert answer.startswith(BAD)
    scene.nothing_happened()


@pytest.mark.parametrize(
    "length",
    ["Content-Length: +{size}\n", "Content-Length: {size},{size}\n", "Content-Length: 0x9\n", "Content-Length: -1\n",
     "Content-Length : {size}\n", "Transfer-Encoding: chunked, identity\n", "Transfer-Encoding: xchunked\n"],
)  # fmt: skip
def test_a_length_that_is_none(scene: Scene, length: str) -> None:
    answer = scene.raw(scene.head(length=length))
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    scene.nothing_happened()


@pytest.mark.parametrize(
    "extra",
    ["X-Folded: a\n b\n", "Bad Name: x\n", "X-Nul: a\0b\n", ": no name\n", "No colon\n", "X-Bare: a\rb\n"],
)  # fmt: skip
def test_fields_that_are_none(scene: Scene, extra: str) -> None:
    assert scene.raw(scene.head(extra=extra)).startswith(BAD)
    scene.nothing_happened()


def test_a_second_request_in_the_body_of_the_first(scene: Scene) -> None:
    """A body longer than its length says: the rest is a request of its own, and unsigned."""
    inner = f"POST {SYNC} HTTP/1.1\r\nHost: x\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: 0\r\n\r\n".encode()
    answer = scene.raw(scene.head().replace("Connection: close\n", ""), BODY + inner)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"401"]
    assert len(scene.plane.handled) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "gzip, gzip", "x"])
def test_an_encoded_body(scene: Scene, encoding: str) -> None:
    """Nothing is decompressed before it is verified; a bomb stays what it is."""
    bomb = gzip.compress(bytes(64 << 20))
    fields = [*sign_request(scene.key, 1, "POST", SYNC, bomb).items(), ("Content-Encoding", encoding)]
    assert scene.server.send("POST", SYNC, fields, bomb).status == 400
    scene.nothing_happened()


def test_a_chunked_body_is_read_as_what_it_is(scene: Scene) -> None:
    """Allowed by HTTP, and the digest is over the content, not over its framing."""
    chunked = b"".join(b"1\r\n" + BODY[i : i + 1] + b"\r\n" for i in range(len(BODY))) + b"0\r\n\r\n"
    answer = scene.raw(scene.head(length="Transfer-Encoding: chunked\n"), chunked)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", CONTENT_TYPE + ";x=y", CONTENT_TYPE.upper()]
)
def test_another_content_type(scene: Scene, content_type: str) -> None:
    fields = [(name, content_type if name == "Content-Type" else value) for name, value in scene.fields()]
    assert scene.server.send("POST", SYNC, fields, BODY).status in (400, 401)
    scene.nothing_happened()


def test_the_same_connection_is_no_proof(scene: Scene) -> None:
    """Each request is verified by itself; one that was accepted lends nothing to the next."""
    connection = scene.server.connection()
    fields = dict(scene.fields())
    connection.request("POST", SYNC, BODY, fields)
    first = connection.getresponse()
    first.read()
    connection.request("POST", SYNC, BODY, {"Content-Type": CONTENT_TYPE})
    second = connection.getresponse()
    second.read()
    connection.close()
    assert (first.status, second.status) == (200, 401)
