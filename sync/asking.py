"""What a device says, given where it stands: its greeting, what it asks of the feed, and what it pushes, sealed; and
whether the answer to that is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sync.effects import Position, SessionKeys, SessionLimits
from sync.errors import BrokenChain, ProtocolError
from sync.limits import INT_MAX, LONG_POLL_MS_MAX
from sync.messages import EPOCHS_MAX, Hello, Pull, PullBaseline, PushAck
from sync.operations import Operation
from sync.segment import Sealed, seal


def greeting(position: Position, keys: SessionKeys, versions: Sequence[int]) -> Hello:
    """What the device says first: what it has, and what it believes the cloud has."""
    return Hello(
        list(versions),
        keys.fleet,
        position.replica,
        position.head_seq,
        position.acked[0],
        position.acked[1],
        position.cursor,
        position.incarnation,
        list(keys.ring.epochs()[-EPOCHS_MAX:]) if max(versions) > 1 else [],
        position.assignment if max(versions) > 2 else 0,
    )


def ask_page(position: Position, limits: SessionLimits, version: int, assignment: int, *, wait: bool) -> Pull:
    """The next page of the feed; ``wait`` for it if there is none yet, nor (version 3) a greater ``assignment``."""
    wait_ms = min(limits.long_poll_ms, LONG_POLL_MS_MAX) if wait else 0
    size = (limits.pull_operations, limits.pull_bytes)
    heard = assignment if version > 2 else INT_MAX
    return Pull(position.replica, position.cursor, *size, wait_ms, position.incarnation, heard, position.scope)


def ask_baseline(position: Position, *, everything: bool) -> PullBaseline:
    """The next page of the baseline that is under way."""
    return PullBaseline(position.replica, position.baseline or b"", everything, position.incarnation, position.scope)


def seal_push(
    operations: Sequence[Operation], keys: SessionKeys, replica: bytes, first_seq: int, previous: bytes, flags: int
) -> Sealed:
    """Raises TooLarge if they are too many for one segment."""
    return seal(
        operations,
        fleet=keys.fleet,
        stream=replica,
        replica=replica,
        first_seq=first_seq,
        previous=previous,
        ring=keys.ring,
        signer=keys.device,
        flags=flags,
    )


def check_ack(ack: PushAck, sealed: Sealed) -> None:
    """The answer to a segment of the log. Raises BrokenChain or ProtocolError."""
    first, last = sealed.header.first_seq, sealed.header.last_seq
    if (ack.last_seq, ack.last_segment) != (last, sealed.id):
        raise BrokenChain("the cloud acknowledged another segment than the one that was sent")
    if not all(first <= refusal.seq <= last for refusal in ack.refusals):
        raise ProtocolError("the cloud refused operations that were not sent")
