"""Device and control plane in one process: the real replicator over a transport that is a function call.

Crash tests of storage need both sides and nothing of the network between them; HTTP, requests' signatures and their
nonces are tested elsewhere. Messages are encoded and decoded, as on the wire.
"""

from __future__ import annotations

import asyncio

from cloud.ports import Caller
from cloud.server.home import Home
from edge import Edge
from edge.link.membership import accept, enroll_request, find_membership
from edge.link.replicator import Progress, Replicator
from edge.ports import SystemClock, SystemRandom
from sync.errors import ProtocolError
from sync.keys import DeviceKey
from sync.messages import Answer, Enrolled, Message, decode, encode

_SYNC_MS_MAX = 60_000


class Direct:
    """A transport to a control plane in this process, as the device whose key it is."""

    def __init__(self, home: Home, key: DeviceKey) -> None:
        self._plane = home.plane
        self._caller = Caller(home.fleet.fleet, key.device_id, key.public)

    async def exchange(self, message: Message) -> Answer:
        return decode(encode(self._plane.answer(decode(encode(message)), self._caller)))  # type: ignore[return-value]

    async def close(self) -> None:
        return None


def join(edge: Edge, home: Home, name: str) -> None:
    """Idempotent, as ``Edge.join`` is. Raises AgentDBError."""
    if find_membership(edge.log) is not None:
        return
    token = home.plane.create_token(home.fleet.fleet)
    answer = home.plane.handle(enroll_request(edge.log, edge.path, token, name), None)
    if not isinstance(answer, Enrolled):
        raise ProtocolError(f"an enrollment was answered by {type(answer).__name__}")
    accept(edge.log, edge.path, token, answer, "http://localhost", name)


def synchronise(edge: Edge, home: Home, timeout_ms: int = _SYNC_MS_MAX) -> Progress:
    """Until both sides have everything of each other. Raises AgentDBError, some only when time is over."""
    transport = Direct(home, edge.device_key())
    clock, random = SystemClock(), SystemRandom()
    replicator = Replicator(edge.log, edge.path, transport, clock=clock, random=random, live=False)
    return asyncio.run(replicator.run(timeout_ms))
