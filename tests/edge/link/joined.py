"""A store that has joined a fleet whose server is not there."""

from __future__ import annotations

from edge.link import membership
from edge.node import Edge
from sync.keys import DeviceKey, wrap
from sync.messages import Enrolled, WrappedKey
from sync.tokens import JoinToken, fingerprint

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


def join_nowhere(store: str) -> None:
    cloud = DeviceKey.from_bytes(bytes(range(64)))
    token = JoinToken(b"t" * 16, b"s" * 32, b"f" * 16, fingerprint(cloud.public), NOWHERE)
    with Edge.open(store) as edge:
        key = edge.device_key()
        wrapped = WrappedKey(1, wrap(b"k" * 32, key.public, token.fleet, 1))
        answer = Enrolled(token.fleet, key.device_id, *cloud.public, [wrapped], 0)
        membership.accept(edge.log, edge.path, token, answer, NOWHERE, "lonely")
