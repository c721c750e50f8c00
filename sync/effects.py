"""What a ``SyncSession`` is made of and what it asks its caller to do; see ``sync.session`` for the rules."""

from __future__ import annotations

from typing import NamedTuple

from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.messages import Message, Refusal
from sync.operations import Operation
from sync.places import Whole

PUSH, PULL = "push", "pull"
_NOTED_MAX = 16

Ticket = tuple[tuple[str, str, int], ...]  # collection, key, and which of its versions was loaded


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


class LoadKept(NamedTuple):
    """The next of what was kept back and may go by now (ADR 24), as state, after a place that ``loaded_kept`` was told;
    within both bounds. Noted durably as told before it is handed over.
    """

    after: tuple[str, str] | None
    max_operations: int
    max_bytes: int


class Release(NamedTuple):
    """The cloud has answered to what ``LoadKept`` brought, by its ``ticket``: it is kept back no longer, unless it was
    written again since; or, with ``refused`` (code and reason), stays.
    """

    ticket: Ticket
    refused: tuple[str, str] | None = None


class LoadPlaces(NamedTuple):
    """The next places whose records have left the device and have to be fetched, at most ``FETCHED_RECORDS_MAX``."""


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


class Growth(NamedTuple):
    """Where the fetching of another scope stands: of the policy of that digest, after ``token``, in that life of the
    cloud; ``gaps``: something of it was left out.
    """

    scope: bytes
    token: bytes = b""
    incarnation: bytes = b""
    gaps: bool = False


class GrowthPage(NamedTuple):
    """A page of the growth ``of``; ``after`` None: the last one."""

    of: Growth
    after: Growth | None
    gaps: bool


class Apply(NamedTuple):
    """Merge and store together with ``cursor`` (or, within a baseline, with its ``baseline`` token). ``pristine``: only
    if the device has written nothing yet, for the page has no tombstones; ``growth``: only if that is where the growth
    stands; else say ``advance(effect, done=False)``. ``narrowed``: some of the scope was left out. ``whole``: they are
    whole records.
    """

    operations: list[Operation]
    cursor: int | None
    baseline: bytes | None
    pristine: bool = False
    narrowed: bool = False
    growth: GrowthPage | None = None
    whole: Whole | None = None


class Mend(NamedTuple):
    """Correct what was stamped by a wrong clock: ``Learn`` came before, and nothing that was sent may still be taken.
    ``as_state``: the whole store is pushed next. Tell the session with ``mended``, then ``advance``.
    """

    as_state: bool


class Sweep(NamedTuple):
    """Everything of the feed that was there when ``stable`` was said is applied, and everything local acknowledged:
    what is deleted now is so at feed positions up to ``until``. Forget what was noted to be deleted up to ``stable``.
    """

    stable: int
    until: int


class Leave(NamedTuple):
    """Everything local is acknowledged, all of the scope is here, and the feed's head is ``head``: what is to leave the
    device may be marked, and what was marked up to the position ``archived`` may go.
    """

    head: int
    archived: int


class NewIncarnation(NamedTuple):
    """Become a new replica; tell the session with ``reincarnated(replica)``, then ``advance``."""


Effect = (
    Send
    | Load
    | LoadState
    | LoadKept
    | LoadPlaces
    | Learn
    | Persist
    | Apply
    | Mend
    | Sweep
    | Leave
    | Release
    | NewIncarnation
)
FLEETING = (Send, Load, LoadState, LoadKept, LoadPlaces)  # what is not made durable; a new handshake begins without it


class Position(NamedTuple):
    """What the delta log remembers of the link.

    ``sent`` are the segments noted before sending, as (last seq, id), since the last ack: a request that was given up
    may still arrive, so any of them may be what the cloud holds. ``baseline`` is the token of a baseline under way,
    ``repair`` says that the whole state has still to be pushed. ``own_until`` is the last feed position up to which all
    that stands there under this replica's name is known to be its own: a device is never sent its own operations, so
    what a clone wrote under its name after that has passed it by. ``swept``: of records that were deleted up to this
    position, in the cloud's present life, the device may have forgotten the delete. ``assignment`` (ADR 23): the number
    of the one that it holds. ``scope`` (ADR 24): SHA-256 of the policy under which its data is complete as of the
    cursor, b"" for everything; ``growth``: towards another; ``owed``: some of it was left out since.
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
    swept: int = 0
    assignment: int = 0
    scope: bytes = b""
    growth: Growth | None = None
    owed: bool = False

    @property
    def sent_until(self) -> int:
        """The last seq that the cloud may hold or still take."""
        return max((last for last, _ in self.sent), default=0)

    def sending(self, last_seq: int, segment: bytes) -> tuple[tuple[int, bytes], ...]:
        """``sent`` with one more."""
        return (*self.sent[1 - _NOTED_MAX :], (last_seq, segment))

    def noting(self, effect: Persist) -> Position:
        """After ``effect`` is durable."""
        return self._replace(
            acked=effect.acked or self.acked,
            sent=self.sent if effect.sent is None else effect.sent,
            incarnation=self.incarnation if effect.incarnation is None else effect.incarnation,
            cursor=self.cursor if effect.cursor is None else effect.cursor,
            repair=self.repair if effect.repair is None else effect.repair,
            own_until=self.own_until if effect.own_until is None else effect.own_until,
        )

    def growing(self, page: GrowthPage) -> Position:
        """After a page of a growth is durable."""
        if page.after is not None:
            return self._replace(growth=page.after)
        return self._replace(scope=page.of.scope, growth=None, owed=page.gaps)


class SessionKeys(NamedTuple):
    """``ring`` is shared with the caller and gains what the cloud hands out."""

    fleet: bytes
    device: DeviceKey
    cloud: PublicIdentity
    ring: KeyRing


class SessionLimits(NamedTuple):
    """``hello_ms``: a live link shakes hands again after so long, for the clock, new keys, and what the fleet knows."""

    push_operations: int = 2_500
    push_bytes: int = 4 << 20
    pull_operations: int = 2_500
    pull_bytes: int = 900 << 10
    long_poll_ms: int = 20_000
    hello_ms: int = 3_600_000
