"""What a request has to agree with before it is answered."""

from __future__ import annotations

from cloud.rows import Head
from sync.errors import BrokenChain, Refused
from sync.messages import Hello
from sync.stamps import device_of

HELLO_HINT = "say hello again"


def check_replica(replica: bytes, device: bytes) -> None:
    """Raises Refused for another device's."""
    if device_of(replica) != device:
        raise Refused("this replica belongs to another device")


def check_incarnation(incarnation: bytes, head: Head) -> None:
    """Raises BrokenChain for another life of the cloud."""
    if incarnation != head.incarnation:
        raise BrokenChain("the cloud's feed began anew since the last handshake", hint=HELLO_HINT)


def wants_baseline(hello: Hello, head: Head) -> bool:
    """Whether reading the feed from the device's cursor would be longer than the state, or impossible."""
    if hello.cursor == 0:
        return head.trimmed > 0 or head.position > head.living
    if hello.cursor < head.trimmed or hello.cursor > head.position:
        return True
    return hello.incarnation != head.incarnation and hello.cursor > head.restored_for(hello.incarnation)
