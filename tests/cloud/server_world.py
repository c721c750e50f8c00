"""A real server on loopback in front of a plane that only counts: what tests of the HTTP interface and attacks talk to.

``http.client`` sends what it is told, so a test can be as wrong as it likes.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from cloud.config import ServerConfig
from cloud.ports import Caller
from cloud.server.app import Plane, Service
from cloud.server.jobs import Job, Jobs
from cloud.server.models import Packs
from cloud.server.serve import running
from cloud.storage.bodies import Bodies
from edge.link.signing import CONTENT_TYPE, sign_request
from sync.keys import DeviceKey
from sync.messages import (
    Answer,
    AnyMessage,
    Enroll,
    Failure,
    Hello,
    Message,
    Pull,
    PullPage,
    Push,
    PushAck,
    Welcome,
    decode,
    encode,
)
from tests.cloud.identity_world import NOW_MS, World

SYNC, ENROLL = "/v1/sync", "/v1/enroll"
Fields = Iterable[tuple[str, str]]


class Reply(NamedTuple):
    status: int
    message: AnyMessage
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        assert isinstance(self.message, Failure), self.message
        return self.message.code


class CountingPlane:
    """Answers everything, and remembers what reached it. ``head`` is what ``advance`` moves."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._callbacks: dict[bytes, list[Callable[[], None]]] = {}
        self.handled: list[tuple[AnyMessage, Caller | None]] = []
        self.head = 0
        self.raises: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def handle(self, message: AnyMessage, caller: Caller | None) -> Answer:
        self.handled.append((message, caller))
        self.gate.wait(10)
        if self.raises is not None:
            raise self.raises
        match message:
            case Enroll():
                return self._world.enrollment.enroll(message)
            case Hello():
                return Welcome(1, NOW_MS, bytes(16), 0, 0, b"", self.head, False, [])
            case Push():
                return PushAck(1, b"", [], self.head, NOW_MS)
            case Pull():
                segments = [b"segment"] if self.head > message.cursor else []
                return PullPage(segments, max(self.head, message.cursor), self.head, NOW_MS)
        raise AssertionError(message)

    def on_head(self, fleet: bytes, callback: Callable[[], None]) -> None:
        self._callbacks.setdefault(fleet, []).append(callback)

    def advance(self, fleet: bytes) -> None:
        self.head += 1
        for callback in self._callbacks.get(fleet, []):
            callback()


class LiveServer:
    """Runs on a thread of its own inside ``with``."""

    def __init__(
        self,
        world: World,
        plane: Plane,
        config: ServerConfig | None = None,
        jobs: Iterable[Job] = (),
        bodies: Bodies | None = None,
        packs: Packs | None = None,
    ) -> None:
        self._config = config or ServerConfig(port=0, body_timeout_s=1.0, shutdown_timeout_s=5.0)
        self._jobs = Jobs(tuple(jobs), world.clock)
        self.service = Service(plane, world.store, self._jobs, self._config, world.clock, bodies, packs)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with running(self.service, self._jobs, self._config) as self.url:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            assert self._loop is not None
            assert self._stop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            assert not self._thread.is_alive()

    # -- as a client ----------------------------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=20)

    def send(self, method: str, path: str, fields: Fields, body: bytes) -> Reply:
        """Exactly these fields, and Content-Length unless one of them says how long it is."""
        fields = list(fields)
        connection = self.connection()
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in fields:
                connection.putheader(name, value)
            if not {"content-length", "transfer-encoding"} & {name.lower() for name, _ in fields}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            return read(connection)
        finally:
            connection.close()

    def post(self, key: DeviceKey, nonce: int, message: Message) -> Reply:
        """As a correct device."""
        body = encode(message)
        return self.send("POST", SYNC, sign_request(key, nonce, "POST", SYNC, body).items(), body)

    def enroll(self, message: Enroll) -> Reply:
        return self.send("POST", ENROLL, [("Content-Type", CONTENT_TYPE)], encode(message))

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are; everything that comes back until the server closes, or is silent for a while."""
        parts = []
        with socket.create_connection(self.address, timeout=0.3) as sock:
            sock.sendall(data)
            with suppress(TimeoutError, ConnectionResetError):
                while part := sock.recv(1 << 16):
                    parts.append(part)
        return b"".join(parts)


def read(connection: http.client.HTTPConnection) -> Reply:
    response = connection.getresponse()
    data = response.read()
    if response.headers["Content-Type"] != CONTENT_TYPE:  # refused by the HTTP parser, before any code of ours
        return Reply(response.status, Failure("http", data.decode(), "", retryable=False), dict(response.headers))
    return Reply(response.status, decode(data), dict(response.headers))


@contextmanager
def live(directory: Path, **config: object) -> Iterator[tuple[World, CountingPlane, LiveServer]]:
    """A world, a counting plane and a server in front of it."""
    world = World(directory)
    plane = CountingPlane(world)
    settings = ServerConfig(**{"port": 0, "body_timeout_s": 1.0, "shutdown_timeout_s": 5.0, **config})  # type: ignore[arg-type]
    try:
        with LiveServer(world, plane, settings) as server:
            yield world, plane, server
    finally:
        plane.gate.set()
        world.store.close()


def hello(fleet: bytes, device: bytes) -> Hello:
    return Hello([1], fleet, device + bytes(4), 0, 0, b"", 0, b"")


def pull(device: bytes, cursor: int = 0, wait_ms: int = 0) -> Pull:
    return Pull(device + bytes(4), cursor, 100, 1 << 20, wait_ms, bytes(16))
