"""What a segment is to the cloud before it is looked into: new, held already, or out of place; and what is
answered.

What always holds: nothing here changes anything, so it may be asked before a segment is decrypted, and
must be asked again in the transaction that takes it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloud.ports import Reading
from cloud.rows import DeadLetter, ReplicaRow
from sync.errors import BrokenChain, Refused
from sync.messages import PushAck, Refusal
from sync.segment import FLAG_STATE, GENESIS, SegmentHeader

# 65,536 refusals without their reasons take 2 MiB of the 4 that a message may have.
_REASONS_BYTES_MAX = 1 << 20
_HELLO_HINT = "say hello again: the answer tells what the cloud holds"


def admit(view: Reading, header: SegmentHeader, fleet: bytes, segment: bytes | None = None) -> bool:
    """Whether the segment is new; False if all of it is held. ``segment`` is its id, where it is known
    already.

    Raises BrokenChain, or Refused for a revoked device.
    """
    bound = view.revocation(fleet, header.replica)
    row = view.replica(fleet, header.replica)
    last_seq, last_segment = (row.last_seq, row.last_segment) if row else (0, GENESIS)
    if header.flags & FLAG_STATE:
        if bound is not None:
            raise Refused("this device was revoked", hint="ask whoever runs the fleet")
        return segment is None or segment != last_segment
    if header.last_seq <= last_seq:
        if header.last_seq == last_seq and segment not in (None, last_segment):
            raise BrokenChain("another segment is held in this place", hint=_HELLO_HINT)
        return False
    if header.first_seq != last_seq + 1:
        raise BrokenChain(f"the segment starts at {header.first_seq}; {last_seq} is held", hint=_HELLO_HINT)
    if header.previous != last_segment:
        raise BrokenChain("the segment does not continue the one that is held", hint=_HELLO_HINT)
    if bound is not None and header.last_seq > bound:
        raise Refused("this device was revoked", hint="ask whoever runs the fleet")
    return True


def acknowledge(view: Reading, fleet: bytes, header: SegmentHeader, time_ms: int) -> PushAck:
    """What is held of a replica, and what was refused in this segment's range."""
    row = view.replica(fleet, header.replica)
    state = bool(header.flags & FLAG_STATE)
    refused = [] if state else view.refused(fleet, header.replica, header.first_seq, header.last_seq)
    return PushAck(
        row.last_seq if row else 0,
        shown_segment(row),
        refusals(refused),
        view.head(fleet).position,
        time_ms,
    )


def refusals(letters: Sequence[DeadLetter]) -> list[Refusal]:
    """As an answer carries them: all of them, with their reasons as long as there is room in a message."""
    out = []
    room = _REASONS_BYTES_MAX
    for letter in letters:
        reason = letter.reason if room > 0 else ""
        room -= 4 * len(reason)
        out.append(Refusal(letter.seq, letter.code, reason))
    return out


def shown_segment(row: ReplicaRow | None) -> bytes:
    """As messages say it: empty for none."""
    return b"" if row is None or row.last_segment == GENESIS else row.last_segment
