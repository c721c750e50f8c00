"""Attack: making the server hold what it cannot hold: bodies and heads without end, bytes that come too slowly.

Expected: 413, 408 or a closed connection within the bound, while a well-behaved device is served all the time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edge.link.signing import CONTENT_TYPE, sign_request
from sync.keys import DeviceKey
from sync.limits import MESSAGE_BYTES_MAX
from sync.messages import PullPage, Push, encode
from tests.cloud.server_world import ENROLL, SYNC, CountingPlane, LiveServer, live, pull

CHUNK = bytes(1 << 16)


class Scene:
    def __init__(self, key: DeviceKey, plane: CountingPlane, server: LiveServer) -> None:
        self.key, self.plane, self.server = key, plane, server
        self.nonce = 0

    def still_serves(self) -> None:
        self.nonce += 1
        started = time.monotonic()
        assert self.server.post(self.key, self.nonce, Push(b"segment")).status == 200
        assert time.monotonic() - started < 10

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.address, timeout=20)

    def head(self, path: str, fields: dict[str, str], length: str) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}{length}\r\n\r\n".encode()

    def signed_head(self, length: str, nonce: int = 500) -> bytes:
        """A member's, so that its body is read at all."""
        return self.head(SYNC, sign_request(self.key, nonce, "POST", SYNC, b""), length)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with live(tmp_path) as (world, plane, server):
        yield Scene(world.joined(), plane, server)


def _status(sock: socket.socket) -> int:
    line = sock.recv(1 << 16).split(b"\r\n")[0]
    return int(line.split()[1]) if line else 0


def test_a_length_over_the_bound_is_refused_before_a_byte_is_read(scene: Scene) -> None:
    for path, most in ((SYNC, MESSAGE_BYTES_MAX), (ENROLL, 8 << 10)):
        with scene.connect() as sock:
            sock.sendall(scene.head(path, {"Content-Type": CONTENT_TYPE}, f"Content-Length: {most + 1}"))
            assert _status(sock) == 413
    with scene.connect() as sock:
        sock.sendall(scene.signed_head(f"Content-Length: {1 << 62}"))
        assert _status(sock) == 413
    scene.still_serves()


def test_a_body_without_a_length_is_cut_off_at_the_bound(scene: Scene) -> None:
    with scene.connect() as sock:
        sock.sendall(scene.signed_head("Transfer-Encoding: chunked"))
        sent = 0
        try:
            while sent < 4 * MESSAGE_BYTES_MAX:
                sock.sendall(b"10000\r\n" + CHUNK + b"\r\n")
                sent += len(CHUNK)
            status = _status(sock)
        except (BrokenPipeError, ConnectionResetError):
            status = 413  # closed on us while we were still talking
        assert status == 413
    scene.still_serves()


def test_a_stranger_s_body_is_not_read(scene: Scene) -> None:
    """The signature is checked on the head: the answer comes although the body never does."""
    fields = sign_request(scene.key, 500, "POST", SYNC, b"")
    fields["Signature"] = fields["Signature"].replace("agentdb=:", "agentdb=:AAAA", 1)[: len(fields["Signature"])]
    with scene.connect() as sock:
        sock.sendall(scene.head(SYNC, fields, f"Content-Length: {MESSAGE_BYTES_MAX}"))
        assert _status(sock) == 401
    scene.still_serves()


def test_a_body_that_comes_byte_by_byte(scene: Scene) -> None:
    """Slowloris with a member's key: the body has its time (1 s here), each byte does not buy more."""
    with scene.connect() as sock:
        sock.sendall(scene.signed_head("Content-Length: 1000"))
        started = time.monotonic()
        sock.settimeout(0.1)
        status = 0
        while time.monotonic() - started < 30 and not status:
            try:
                sock.sendall(b"x")
                status = _status(sock)
            except TimeoutError:
                scene.still_serves()
        assert status == 408, "a hundred seconds' bytes"


def test_an_enrollment_that_never_comes(scene: Scene) -> None:
    with scene.connect() as sock:
        sock.sendall(scene.head(ENROLL, {"Content-Type": CONTENT_TYPE}, "Content-Length: 100"))
        assert _status(sock) == 408
    scene.still_serves()


def test_many_connections_that_say_nothing(scene: Scene) -> None:
    """They cost a file descriptor each until they are dropped as idle; they do not cost anybody else his answer."""
    socks = [scene.connect() for _ in range(200)]
    for sock in socks[:100]:
        sock.sendall(b"POST /v1/sync HT")
    scene.still_serves()
    for sock in socks:
        sock.close()
    scene.still_serves()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(5000)) + b"\r\n",
    ],
    ids=["line", "field", "fields"],
)
def test_a_head_without_end(scene: Scene, head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with scene.connect() as sock:
        try:
            sock.sendall(head)
            status = _status(sock)
        except (BrokenPipeError, ConnectionResetError):
            status = 400
        assert status == 400
    assert caplog.text == ""  # nor can strangers fill the log
    scene.still_serves()


def test_answers_that_nobody_reads(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that asks for pages and does not take them has them kept in memory for so long, and no longer."""
    monkeypatch.setattr("cloud.server.requests.SEND_S_MAX", 0.5)
    page = PullPage([bytes(1 << 20)] * 3, 1, 1, 0)
    monkeypatch.setattr(scene.plane, "handle", lambda _message, _caller: page)
    body = encode(pull(scene.key.device_id))
    socks = []
    for nonce in range(500, 508):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.connect(scene.server.address)
        fields = sign_request(scene.key, nonce, "POST", SYNC, body)
        sock.sendall(scene.head(SYNC, fields, f"Content-Length: {len(body)}") + body)
        socks.append(sock)
    time.sleep(1.5)
    for sock in socks:
        with sock, suppress(ConnectionResetError):
            received = 0
            while part := sock.recv(1 << 16):
                received += len(part)
                assert received < 3 << 20, "all of it was still there"
    assert scene.server.post(scene.key, 600, pull(scene.key.device_id)).status == 200


def test_an_enormous_number_of_array_elements(scene: Scene) -> None:
    """A few bytes of msgpack that announce 2**32 - 1 elements: refused by the decoder without making room for them."""
    for body in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000, b"\xde\xff\xff", b""):
        scene.nonce += 1
        fields = sign_request(scene.key, scene.nonce, "POST", SYNC, body)
        assert scene.server.send("POST", SYNC, fields.items(), body).status == 400
    assert scene.plane.handled == []
    scene.still_serves()
