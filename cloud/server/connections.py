"""The door: TCP connections on their way in, before anything on them is a request.

A connection is a *stranger's* until a signed request on it was accepted. What always holds: a connection that brings no
request head within ``HEAD_S_MAX`` (TLS handshake included) is closed; strangers have at most ``STRANGERS_MAX``, and the
oldest goes when one too many comes; so it is with the ``DEVICE_CONNECTIONS_MAX`` of a device; there are no more than
``most`` in all. So what strangers hold open is bounded, and what one device does, and a device that comes while they
crowd has the time of ``STRANGERS_MAX`` newcomers to show its signature.

It is a protocol under aiohttp's, and hands the transport on: aiohttp has no bound on connections, and a connection
whose TLS handshake does not end would be known to nobody.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

HEAD_S_MAX = 10.0
STRANGERS_MAX = 512
DEVICE_CONNECTIONS_MAX = 16
# File descriptors that are not connections: the store, the archive's requests, the log.
_OTHER_FILES = 128
_TLS_CLOSE_S_MAX = 5.0


class _Stranger(NamedTuple):
    transport: asyncio.Transport
    timer: asyncio.TimerHandle  # until its first request head is here


class Connections:
    """Which connections there are. All on one event loop."""

    def __init__(self, most: int, *, head_s_max: float = HEAD_S_MAX) -> None:
        self._most = most
        self._head_s_max = head_s_max
        self._strangers: dict[asyncio.BaseProtocol, _Stranger] = {}  # oldest first; closed ones linger
        self._devices: dict[bytes, list[asyncio.Transport]] = {}  # oldest first; closed ones linger
        self._server: web.Server | None = None

    @property
    def strangers(self) -> int:
        """Open connections on which nobody has shown a valid signature."""
        return sum(not held.transport.is_closing() for held in self._strangers.values())

    def door(self, server: web.Server, context: ssl.SSLContext | None) -> Callable[[], asyncio.Protocol]:
        """For ``loop.create_server``, without TLS there: the door does it."""
        self._server = server
        return lambda: _Door(self, server, context)

    def spoke(self, protocol: asyncio.BaseProtocol) -> None:
        """A request head has come in on it."""
        if (held := self._strangers.get(protocol)) is not None:
            held.timer.cancel()

    def known(self, protocol: asyncio.BaseProtocol, device: bytes) -> None:
        """A signed request of the device was accepted on it."""
        if (held := self._forget(protocol)) is None:
            return
        mine = [transport for transport in self._devices.get(device, ()) if not transport.is_closing()]
        mine.append(held.transport)
        if len(mine) > DEVICE_CONNECTIONS_MAX:
            mine.pop(0).abort()
        self._devices[device] = mine

    def admit(self, protocol: asyncio.BaseProtocol, transport: asyncio.Transport) -> bool:
        """Make room for one more; False if there is none."""
        assert self._server is not None
        bound = max(1, min(STRANGERS_MAX, self._most // 2))  # where few files may be open, half is for devices
        if len(self._strangers) >= bound:
            for closed in [old for old, held in self._strangers.items() if held.transport.is_closing()]:
                self._forget(closed)
        if len(self._strangers) >= bound:
            self._drop(next(iter(self._strangers)))
        if len(self._server.connections) >= self._most:
            return False
        timer = asyncio.get_running_loop().call_later(self._head_s_max, self._drop, protocol)
        self._strangers[protocol] = _Stranger(transport, timer)
        return True

    def close(self) -> None:
        """Drop those on which nothing was asked yet; aiohttp closes the others in order."""
        for protocol in [protocol for protocol, held in self._strangers.items() if not held.timer.cancelled()]:
            self._drop(protocol)

    def _forget(self, protocol: asyncio.BaseProtocol) -> _Stranger | None:
        held = self._strangers.pop(protocol, None)
        if held is not None:
            held.timer.cancel()
        return held

    def _drop(self, protocol: asyncio.BaseProtocol) -> None:
        if (held := self._forget(protocol)) is not None:
            held.transport.abort()


class _Door(asyncio.Protocol):
    """Hands an accepted connection to aiohttp, if there is room for it and, with TLS, when hands were shaken."""

    def __init__(self, connections: Connections, server: web.Server, context: ssl.SSLContext | None) -> None:
        self._connections = connections
        self._server = server
        self._context = context
        self._shaking: asyncio.Task[None] | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        handler = self._server()
        if not self._connections.admit(handler, transport):
            transport.abort()
        elif self._context is None:
            transport.set_protocol(handler)
            handler.connection_made(transport)
        else:
            transport.pause_reading()  # until TLS reads
            self._shaking = asyncio.get_running_loop().create_task(self._shake(transport, handler, self._context))

    def data_received(self, data: bytes) -> None:
        """What came with the last words of the handshake, before the connection could be handed on."""
        self._early += data

    async def _shake(self, transport: asyncio.Transport, handler: web.RequestHandler, context: ssl.SSLContext) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=HEAD_S_MAX,
                ssl_shutdown_timeout=_TLS_CLOSE_S_MAX,
            )
        except OSError:  # of TLS, of the connection, or out of time: nobody of ours
            transport.abort()
            return
        if secured is None or secured.is_closing():
            return
        secured.set_protocol(handler)
        handler.connection_made(secured)
        if self._early:
            handler.data_received(self._early)


def room_for(wanted: int) -> int:
    """How many connections there may be: ``wanted``, or what the process may have open. Raises the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - _OTHER_FILES), 64)
