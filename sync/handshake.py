"""What follows from a handshake: a pure comparison of what the device remembers with what the cloud holds.

* **renew**: the cloud holds more of this replica than its log has, or another segment at the same place. Somebody else
  wrote under this name: the store was restored from a copy, or cloned. Go on as a new replica, repair, and read the
  feed again from where all that stood there under the old name was surely our own.
* **repair**: the cloud was restored to an earlier time: it knows less than it acknowledged, or its present life began
  before our cursor. Push the whole state, which merging makes safe, and read the feed again from where both agree.
* **adopt**: what the cloud holds is what is acknowledged. That covers a lost ack.
"""

from __future__ import annotations

from typing import NamedTuple

from sync.effects import Apply, Effect, Mend, Persist, Position, SessionKeys, Sweep
from sync.keys import unwrap
from sync.messages import Welcome
from sync.segment import GENESIS
from sync.stamps import incarnation_of

RENEW, REPAIR, ADOPT = "renew", "repair", "adopt"


class Verdict(NamedTuple):
    """``cursor`` and ``own_until``: those of the position after a repair. ``baseline``: begin one (again)."""

    action: str
    cursor: int = 0
    baseline: bool = False
    own_until: int = 0


class Repair:
    """Where a repair by state stands; ``cursor`` and ``own_until`` are those of the position afterwards."""

    def __init__(self, cursor: int, own_until: int, incarnation: bytes) -> None:
        self.cursor = cursor
        self.own_until = own_until
        self.incarnation = incarnation
        self.previous = GENESIS
        self.after: tuple[str, str] | None = None
        self.next_after: tuple[str, str] | None = None
        self.last = False


def compare(position: Position, welcome: Welcome) -> Verdict:
    """Who knows more than the other."""
    other_life = position.incarnation not in (b"", welcome.incarnation)
    held = (welcome.last_seq, welcome.last_segment)
    ours = held == position.acked or held in position.sent
    # In another life of the cloud what it holds may be an older segment of ours: one that was acknowledged, and came
    # before that life began.
    since = bool(welcome.last_segment) and welcome.last_head >= welcome.restored_head
    beyond = welcome.last_seq > position.acked[0]
    foreign = not ours and (beyond or (since if other_life else welcome.last_seq == position.acked[0]))
    if welcome.last_seq > position.head_seq or foreign:
        return Verdict(RENEW)
    lost_feed = position.cursor > (welcome.restored_head if other_life else welcome.head)
    lost_ours = welcome.last_seq < position.acked[0] or (other_life and not ours)
    if lost_feed or lost_ours or position.repair:
        # What is known of positions after the restore is known of another life of the cloud.
        own_until = min(position.own_until, welcome.restored_head) if other_life else position.own_until
        known = (position.cursor, own_until)
        cursor = min(*known, welcome.restored_head, welcome.head) if lost_feed else min(known)
        # Records that were deleted since, and whose deletes nobody may remember, live again: no feed tells of them.
        forgotten = other_life and position.swept > welcome.restored_head
        return Verdict(REPAIR, cursor, baseline=forgotten, own_until=own_until)
    wanted = welcome.baseline and position.baseline is None
    return Verdict(ADOPT, baseline=wanted or (other_life and position.baseline is not None))


def consequences(verdict: Verdict, position: Position, welcome: Welcome) -> list[Effect]:
    """What a repair, or adopting what the cloud holds, begins with. Stamps are mended unless the cloud may yet take
    something that was sent (``Mend``, always the last).
    """
    effects: list[Effect] = []
    mended = True
    held = (welcome.last_seq, welcome.last_segment)
    if verdict.action == REPAIR:
        if welcome.last_seq > position.acked[0]:  # ours, and its ack was lost; what state leaves out comes after it
            effects.append(Persist(held, None, tuple(welcome.refusals), repair=True))
        elif not position.repair:
            effects.append(Persist(repair=True))
    else:
        sent = None if held == position.acked else ()
        effects.append(Persist(held, sent, tuple(welcome.refusals), welcome.incarnation, own_until=welcome.head))
        mended = sent is not None or position.sent_until <= position.acked[0]
    if verdict.baseline:
        effects.append(Apply([], None, b""))
    return [*effects, Mend(as_state=verdict.action == REPAIR)] if mended else effects


def sweep(position: Position, welcome: Welcome) -> Sweep | None:
    """What may be forgotten, once everything is here that the cloud had at that welcome; None if it is not yet."""
    acknowledged = position.acked[0] >= position.head_seq and position.baseline is None and position.growth is None
    if not acknowledged or position.cursor < welcome.head:
        return None
    return Sweep(welcome.stable, max(position.cursor, position.own_until))


def take_keys(keys: SessionKeys, welcome: Welcome) -> dict[int, bytes]:
    """The epoch keys in it that the device did not have; its ring has them now. Raises DecryptionFailed."""
    fresh = {
        item.epoch: unwrap(item.wrapped, keys.device, keys.fleet, item.epoch)
        for item in welcome.keys
        if item.epoch not in keys.ring
    }
    for epoch, key in fresh.items():
        keys.ring.add(epoch, key)
    return fresh


def owes(position: Position, head: int) -> bool:
    """Whether, having read the feed, it is time to push the state that a page of it made necessary."""
    return position.repair and position.baseline is None and position.cursor >= head


def is_pristine(position: Position) -> bool:
    """Whether this device never held anything, so that tombstones tell it nothing."""
    return position.cursor == 0 and position.head_seq == 0 and incarnation_of(position.replica) == 1
