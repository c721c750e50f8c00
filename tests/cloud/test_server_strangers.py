"""Strangers at the door: whatever they hold open, devices are served and the log stays quiet."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.server import app, connections
from edge.link.signing import CONTENT_TYPE, sign_request
from sync.keys import DeviceKey
from sync.messages import Enrolled, Push, encode
from tests.cloud.identity_world import World, enroll_request
from tests.cloud.server_world import ENROLL, SYNC, CountingPlane, LiveServer, hello, live
from tests.cloud.tls_files import self_signed

HALF_A_HEAD = b"POST /v1/enroll HTTP/1.1\r\nHost:"
NO_BODY = (
    b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Type: "
    + CONTENT_TYPE.encode()
    + b"\r\nContent-Length: 400\r\n\r\n"
)


@contextmanager
def _crowd(server: LiveServer, size: int, said: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(server.address, timeout=5)) for _ in range(size)]
        for sock in socks:
            sock.sendall(said)
        yield socks


def _until(condition: Callable[[], bool], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _closed_after_s(sock: socket.socket) -> float:
    started = time.monotonic()
    sock.settimeout(5)
    with suppress(ConnectionResetError):
        assert sock.recv(100) == b""
    return time.monotonic() - started


def test_enrollments_without_a_body_keep_no_device_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with live(tmp_path, body_timeout_s=30.0) as (world, _, server):
        key = world.joined()
        with _crowd(server, app.REQUESTS_MAX + 20, NO_BODY):
            _until(lambda: server.service.connections.strangers == connections.STRANGERS_MAX)
            assert server.service.under_way == 0
            assert server.post(key, 1, hello(world.fleet, key.device_id)).status == 200
            newcomer = world.new_key()
            assert isinstance(server.enroll(enroll_request(world.token(), newcomer)).message, Enrolled)
        _until(lambda: server.service.connections.strangers <= 1)
        assert server.post(key, 2, hello(world.fleet, key.device_id)).status == 200
    assert caplog.text == ""  # each of them hung up in mid-body


def test_enrollments_at_once_are_bounded_and_cost_devices_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "ENROLLMENTS_MAX", 0)
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        reply = server.enroll(enroll_request(world.token(), world.new_key()))
        assert (reply.status, reply.code) == (503, "unreachable")
        assert server.post(key, 1, Push(b"segment")).status == 200


def test_the_body_of_an_enrollment_has_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ENROLL_BODY_S_MAX", 0.3)
    with live(tmp_path, body_timeout_s=30.0) as (_, _, server), _crowd(server, 1, NO_BODY) as (sock,):
        started = time.monotonic()
        assert b"408" in sock.recv(1000).split(b"\r\n")[0]
        assert time.monotonic() - started < 5
        assert ENROLL.encode() in NO_BODY


def test_a_newcomer_takes_the_place_of_the_oldest_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STRANGERS_MAX", 3)
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        known = server.connection()
        known.connect()
        assert server.post(key, 1, Push(b"segment")).status == 200
        with _crowd(server, 4, HALF_A_HEAD) as socks:
            assert _closed_after_s(socks[0]) < 5
            assert server.service.connections.strangers == 3
            assert server.post(key, 2, Push(b"segment")).status == 200
        known.close()


def test_a_connection_that_a_device_has_signed_on_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.link.signing import sign_request
    from sync.messages import encode
    from tests.cloud.server_world import SYNC, read

    monkeypatch.setattr(connections, "STRANGERS_MAX", 2)
    with live(tmp_path) as (world, _, server):
        key, connection = world.joined(), server.connection()
        for nonce in (1, 2):
            body = encode(Push(b"segment"))
            connection.request("POST", SYNC, body, sign_request(key, nonce, "POST", SYNC, body))
            assert read(connection).status == 200
            with _crowd(server, 5, HALF_A_HEAD) as socks:
                assert _closed_after_s(socks[2]) < 5
        connection.close()


def test_half_a_head_is_not_waited_for(tmp_path: Path) -> None:
    with live(tmp_path) as (_, _, server):
        server.service.connections._head_s_max = 0.3
        with _crowd(server, 1, HALF_A_HEAD) as (half,), _crowd(server, 1, b"") as (silent,):
            assert _closed_after_s(half) < 3
            assert _closed_after_s(silent) < 3
            assert server.service.connections.strangers == 0


def test_the_connections_in_all_are_bounded(tmp_path: Path) -> None:
    with live(tmp_path) as (_, _, server):
        server.service.connections._most = 4
        with _crowd(server, 3, HALF_A_HEAD) as socks:  # half of the room is not for strangers
            assert _closed_after_s(socks[0]) < 3
            assert server.service.connections.strangers == 2
            server.service.connections._most = 2
            with _crowd(server, 1, b"") as (one_more,):
                assert _closed_after_s(one_more) < 3


def test_a_request_that_comes_with_the_end_of_the_handshake(tmp_path: Path) -> None:
    """In one packet: the request is there before the connection was handed on."""
    certificate, private = self_signed(tmp_path)
    world = World(tmp_path)
    config = ServerConfig(port=0, tls_certificate_file=certificate, tls_key_file=private)
    context = ssl.create_default_context(cafile=certificate)
    with LiveServer(world, CountingPlane(world), config) as server:
        for _ in range(20):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            with socket.create_connection(server.address, timeout=5) as sock:
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(1 << 16))
                tls.write(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                sock.sendall(outgoing.read())  # the handshake's last message and the request
                answer = b""
                while b"time_ms" not in answer:
                    incoming.write(sock.recv(1 << 16))
                    with suppress(ssl.SSLWantReadError):
                        answer += tls.read(1 << 16)
                assert b"200 OK" in answer
    world.store.close()


def test_the_same_behind_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate, private = self_signed(tmp_path)
    world = World(tmp_path)
    config = ServerConfig(port=0, tls_certificate_file=certificate, tls_key_file=private, body_timeout_s=30.0)
    trusting = ssl.create_default_context(cafile=certificate)
    with LiveServer(world, CountingPlane(world), config) as server:
        server.service.connections._head_s_max = 0.5
        with socket.create_connection(server.address, timeout=5) as silent:
            assert _closed_after_s(silent) < 4  # never shook hands
        with socket.create_connection(server.address, timeout=5) as plain:
            plain.sendall(b"GET /v1/health HTTP/1.1\r\n\r\n")  # not TLS at all
            plain.settimeout(5)
            while plain.recv(1000):
                pass
        with trusting.wrap_socket(
            socket.create_connection(server.address, timeout=5), server_hostname="127.0.0.1"
        ) as tls:
            tls.sendall(HALF_A_HEAD)
            tls.settimeout(5)
            started = time.monotonic()
            with pytest.raises((ssl.SSLError, ConnectionError)):  # closed without a word, not even TLS's last
                tls.recv(100) or tls.unwrap()
            assert time.monotonic() - started < 4
        with trusting.wrap_socket(
            socket.create_connection(server.address, timeout=5), server_hostname="127.0.0.1"
        ) as tls:
            tls.sendall(NO_BODY)
            time.sleep(0.1)
        _until(lambda: server.service.connections.strangers == 0)
    world.store.close()
    assert caplog.text == ""


def _head(key: DeviceKey, nonce: int, body: bytes) -> bytes:
    fields = {"Host": "x", **sign_request(key, nonce, "POST", SYNC, body), "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {SYNC} HTTP/1.1\r\n{lines}\r\n".encode() + body


def test_a_request_that_is_sent_again_makes_nobody_known(tmp_path: Path) -> None:
    """Whoever has a copy of one signed request is a stranger still."""
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        request = _head(key, 1, encode(hello(world.fleet, key.device_id)))
        with _crowd(server, 30, request) as socks:
            for sock in socks:
                sock.recv(1 << 16)
            assert server.service.connections.strangers == 29


def test_a_device_has_only_so_many_connections(tmp_path: Path) -> None:
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        with _crowd(server, 40, b"") as socks:
            for nonce, sock in enumerate(socks, 1):
                sock.sendall(_head(key, nonce, encode(hello(world.fleet, key.device_id))))
                assert b" 200 " in sock.recv(1 << 16)
            for sock in socks[: -connections.DEVICE_CONNECTIONS_MAX]:
                assert _closed_after_s(sock) < 5
            nonce = len(socks) + 1
            socks[-1].sendall(_head(key, nonce, encode(hello(world.fleet, key.device_id))))
            assert b" 200 " in socks[-1].recv(1 << 16)
