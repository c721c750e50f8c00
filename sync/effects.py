"""What a ``SyncSession`` is made of and what it asks its caller to do; see ``sync.session`` for the rules."""

from __future__ import annotations

from typing import NamedTuple

from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.messages import Message, Refusal
from sync.operations import Operation

PUSH, PULL = "push", "pull"


class Send(NamedTuple):
    number: int
    lane: str
    message: Message


class Load(NamedTuple):
    """Local operations with seq > ``after_seq``, in order, within both bounds (at least one if there is any)."""

    after_seq: int
    max_operations: int
    max_bytes: int


class LoadState(NamedTuple):
    """The next part of the whole store as state operations, after a place that ``loaded_state`` was told."""

    after: tuple[str, str] | None
    max_operations: int
    max_bytes: int


class Learn(NamedTuple):
    """The cloud's clock (ms since 1970, at the handshake) and the fleet's epoch keys, to be kept."""

    time_ms: int
    keys: dict[int, bytes]


class Persist(NamedTuple):
    """Whatever is not None, as in ``Position``: what the cloud acknowledged, what is about to be sent, which cloud and
    cursor hold now.
    """

    acked: tuple[int, bytes] | None = None
    sent: tuple[tuple[int, bytes], ...] | None = None
    refusals: tuple[Refusal, ...] = ()
    incarnation: bytes | None = None
    cursor: int | None = None
    repair: bool | None = None
    own_until: int | None = None


class Apply(NamedTuple):
    """Merge and store together with ``cursor`` (or, within a baseline, with its ``baseline`` token). ``pristine``: only
    if the device has written nothing yet, for the page has no tombstones; else say ``advance(effect, done=False)``.
    """

    operations: list[Operation]
    cursor: int | None
    baseline: bytes | None
    pristine: bool = False


class NewIncarnation(NamedTuple):
    """Become a new replica; tell the session with ``reincarnated(replica)``, then ``advance``."""


Effect = Send | Load | LoadState | Learn | Persist | Apply | NewIncarnation


class Position(NamedTuple):
    """What the delta log remembers of the link.

    ``sent`` are the segments noted before sending, as (last seq, id), since the last ack: a request that was given up
    may still arrive, so any of them may be what the cloud holds. ``baseline`` is the token of a baseline under way,
    ``repair`` says that the whole state has still to be pushed. ``own_until`` is the last feed position up to which all
    that stands there under this replica's name is known to be its own: a device is never sent its own operations, so
    what a clone wrote under its name after that has passed it by.
    """

    replica: bytes
    head_seq: int
    acked: tuple[int, bytes]
    sent: tuple[tuple[int, bytes], ...]
    cursor: int
    incarnation: bytes
    baseline: bytes | None
    repair: bool = False
    own_until: int = 0


class SessionKeys(NamedTuple):
    """``ring`` is shared with the caller and gains what the cloud hands out."""

    fleet: bytes
    device: DeviceKey
    cloud: PublicIdentity
    ring: KeyRing


class SessionLimits(NamedTuple):
    push_operations: int = 2_500
    push_bytes: int = 4 << 20
    pull_operations: int = 2_500
    pull_bytes: int = 900 << 10
    long_poll_ms: int = 20_000
