"""The gate that a device's requests pass where its link has limits (ADR 24): lanes, bytes a second, bytes a day.

``take`` answers at once: a ticket, or how long to wait and why; ``land`` says what the request was in the end. Who
waits does so as it can: the replicator on its loop, bodies in their thread, the simulator in virtual time.

What always holds: bytes of a day are noted durably before they are used (``sync.budgets``); without limits for the
present class of link everything passes, and nothing is counted or written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Condition
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.budget_rows import BudgetRows
from sync.budgets import (
    CLASS,
    DAY_MS,
    DEFAULT_CLASS,
    LANE,
    RATE,
    STALE,
    Bucket,
    DayBudget,
    Granted,
    LinkLimits,
    Wait,
)
from sync.errors import Deferred
from sync.lanes import BULK, CONTROL, NORMAL, URGENT, Batches, Lanes
from sync.stamps import wall_ms_of

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

LinkClass = str | Callable[[], object]
Priority = Callable[[str, str, Callable[[], Mapping[str, Any]]], str]
Interval = Callable[[str, str, Callable[[], Mapping[str, Any]]], int]

ASK_AGAIN_MS = 250  # who waits for another lane, or for the bucket, asks at least so often
OTHER_CLASS_MS = 30_000  # whoever may not use this class of link asks again: it may be another by then
_SHORT = (LANE, RATE)
_UNBOUND = LinkLimits("")  # where there are no limits, and bulk waits all the same
_log = logging.getLogger("agentdb.edge")


class LinkRules:
    """What is known of a device's links and of what is written. Each may be replaced at any time: ``limits`` (of the
    configuration, or of a policy), ``link_class`` (a name, or what gives one, or gives what gives one, at each request)
    ``priority``: of a write, by collection, key and fields (called for them, if it looks at them), ``urgent``,
    ``normal`` or ``bulk``; None: all is normal; and ``interval``: for how many seconds a write may wait for others to
    go along with; None: none waits.
    """

    def __init__(
        self,
        limits: Sequence[LinkLimits] = (),
        link_class: LinkClass = "",
        priority: Priority | None = None,
    ) -> None:
        self.limits = tuple(limits)
        self.link_class = link_class
        self.priority = priority
        self.interval: Interval | None = None
        self.follow: Callable[[], None] = lambda: None  # called before they are looked at, to change them
        self.bulk_is_off: Callable[[], bool] = lambda: False  # on every link, while nothing fresh is heard
        self._complained = False

    def current(self) -> LinkLimits | None:
        """The limits that hold now: those of the link's class, or else of the class ``default``; None: there are
        none.
        """
        self.follow()
        if self.limits:
            named = self._class()
            known = {limits.link_class: limits for limits in self.limits}
            found = known.get(named) or known.get(DEFAULT_CLASS)
            if found is not None:
                return found
        return _UNBOUND if self.bulk_is_off() else None

    def _class(self) -> str:
        try:
            named: object = self.link_class
            while callable(named):
                named = named()
            return str(named)
        except Exception:  # noqa: BLE001 - logged, and the strictest that is known of an unknown link holds
            if not self._complained:
                _log.exception("the link's class cannot be told; %r holds", DEFAULT_CLASS)
            self._complained = True
            return DEFAULT_CLASS


class Ticket(NamedTuple):
    """The right to one request. ``idle``: it mostly waits (a long poll) and holds up nobody."""

    lane: str
    size: int
    granted: Granted | None = None
    of: _Metered | None = None
    idle: bool = False


class Today(NamedTuple):
    """Where the day of a class of link stands, in bytes: ``used`` and what is ``left``, by lane; it ends ``until_ms``
    (UTC). What was noted ahead counts as used where another process uses the link.
    """

    link_class: str
    bytes_per_day: int
    used: dict[str, int]
    left: dict[str, int]
    until_ms: int


class _Metered:
    """The limits of one class, and where they stand. ``before``: with the limits that it had until now."""

    def __init__(self, limits: LinkLimits, rows: BudgetRows, now_ms: int, before: _Metered | None) -> None:
        name = limits.link_class
        noted = rows.load(name) if limits.bytes_per_day else {}
        self.limits = limits
        if before is None:
            self.bucket = Bucket(limits.bytes_per_s, limits.burst_bytes, now_ms)
        else:  # the same one, to which what is under way gives back
            self.bucket = before.bucket
            self.bucket.change(limits.bytes_per_s, limits.burst_bytes, now_ms)
        self.batches = Batches(limits.bytes_per_s)
        self.day = DayBudget(limits.bytes_per_day, limits.urgent_share, noted) if limits.bytes_per_day else None


class Gate:
    """Of one store. Safe to use from several threads. ``listeners`` are called when whoever waits may try again."""

    def __init__(self, log: DeltaLog, rules: LinkRules, clock: Clock) -> None:
        self.rules = rules
        self.connection_bytes = 0  # what a new connection costs; whoever knows the URL says so
        self.listeners: list[Callable[[], None]] = []
        self._log = log
        self._clock = clock
        self._rows = BudgetRows(log)
        self._lanes = Lanes()
        self._metered: dict[str, _Metered] = {}
        self._changed = Condition()

    @property
    def limits(self) -> LinkLimits | None:
        return self.rules.current()

    def batch(self) -> int:
        """How many bytes the next request may carry. Raises StorageError."""
        with self._changed:
            metered = self._current()
            return metered.batches.size if metered is not None else 1 << 20

    def left(self, lane: str) -> int | None:
        """What of today's budget may still be used in that lane; None: there is no bound. Raises StorageError."""
        with self._changed:
            metered = self._current()
            return None if metered is None or metered.day is None else metered.day.left(lane, self.today_ms())

    def today(self) -> Today | None:
        """None: the day has no bound. Raises StorageError."""
        with self._changed:
            metered = self._current()
            if metered is None or metered.day is None:
                return None
            limits, day, now_ms = metered.limits, metered.day, self.today_ms()
            left = {lane: day.left(lane, now_ms) for lane in (URGENT, NORMAL, BULK) if lane in limits.lanes}
            return Today(limits.link_class, limits.bytes_per_day, day.used, left, (day.day + 1) * DAY_MS)

    def ask(self, lane: str, size: int) -> Wait | None:
        """Whether such a request would pass now: None, or why not; nothing is taken. Raises StorageError."""
        with self._changed:
            metered = self._current()
            return None if metered is None else self._refusal(metered, lane, size)

    def take(self, lane: str, size: int, *, idle: bool = False, sliced: bool = False) -> Ticket | Wait:
        """A ticket for a request and its answer of so many bytes at most. ``sliced``: only the day is asked; its slices
        are taken one by one (``slice``). Raises StorageError: the note could not be written, and nothing was taken that
        counts.
        """
        with self._changed:
            metered = self._current()
            if metered is None:
                return Ticket(lane, size)
            refusal = self._refusal(metered, lane, size, day_only=sliced)
            if refusal is not None:
                if refusal.why in _SHORT:
                    self._lanes.offer(lane, size, self._clock.monotonic_ms())
                else:
                    self._lanes.withdraw(lane)
                return refusal
            granted = self._grant(metered, lane, size)
            if not sliced:
                metered.bucket.take(size, self._clock.monotonic_ms())
                self._lanes.withdraw(lane) if idle else self._lanes.depart(lane)
            return Ticket(lane, size, granted, metered, idle)

    def slice(self, ticket: Ticket, size: int, *, force: bool = False) -> Wait | None:
        """So many bytes of a sliced ticket may go now (then ``land_slice`` says when they are through), or not yet,
        unless it is by ``force``.
        """
        metered = ticket.of
        if metered is None:
            return None
        with self._changed:
            now_ms = self._clock.monotonic_ms()
            refusal = None if force else self._not_now(metered, ticket.lane, size)
            if refusal is not None:
                self._lanes.offer(ticket.lane, size, now_ms)
                return refusal
            metered.bucket.take(size, now_ms)
            self._lanes.depart(ticket.lane)
            return None

    def land_slice(self, ticket: Ticket, unused: int) -> None:
        """A slice is through; so many bytes fewer than was said."""
        if ticket.of is not None:
            with self._changed:
                self._lanes.land(ticket.lane)
                ticket.of.bucket.give_back(unused)
                self._tell()

    def land(self, ticket: Ticket, actual: int, took_ms: int | None = None, *, sliced: bool = False) -> None:
        """The request is over: it and its answer were so many bytes, in ``took_ms`` if that says how fast the link is.
        Raises StorageError.
        """
        metered = ticket.of
        if metered is None:
            return
        with self._changed:
            if not ticket.idle and not sliced:
                self._lanes.land(ticket.lane)
            if not sliced:
                metered.bucket.give_back(ticket.size - actual)
            if took_ms is not None:
                metered.batches.took(actual, took_ms)
            self._tell()
            name = metered.limits.link_class
            day = self._metered.get(name, metered).day  # with other limits by now it has what was noted for this one
            if ticket.granted is not None and day is not None:
                note = day.settle(ticket.lane, ticket.granted, ticket.size, actual, self.today_ms())
                if note is not None:
                    self._rows.note(name, note)

    def withdraw(self, lane: str) -> None:
        """Whoever waited in that lane has given up."""
        with self._changed:
            self._lanes.withdraw(lane)
            self._tell()

    def wait(self, ms: int) -> int:
        """Of a thread: until somebody landed, or so long. Returns how long it was."""
        started = self._clock.monotonic_ms()
        with self._changed:
            self._changed.wait(max(1, min(ms, ASK_AGAIN_MS)) / 1000)
        return self._clock.monotonic_ms() - started

    def rest(self) -> None:
        """Nothing is under way: what of the leases was not used is given back. Raises StorageError."""
        with self._changed:
            for metered in self._metered.values():
                note = metered.day.rest() if metered.day is not None else None
                if note is not None:
                    self._rows.note(metered.limits.link_class, note)

    def today_ms(self) -> int:
        """The clock by which days are counted: the device's, as the cloud corrected it (``log_clock``)."""
        return wall_ms_of(self._log.clock.reading())

    # -- inside; the caller holds the lock ----------------------------------------------------------------------------

    def _current(self) -> _Metered | None:
        limits = self.rules.current()
        if limits is None:
            return None
        found = self._metered.get(limits.link_class)
        if found is None or found.limits != limits:
            found = _Metered(limits, self._rows, self._clock.monotonic_ms(), found)
            self._metered[limits.link_class] = found
        return found

    def _refusal(self, metered: _Metered, lane: str, size: int, *, day_only: bool = False) -> Wait | None:
        if lane != CONTROL and lane not in metered.limits.lanes:
            return Wait(OTHER_CLASS_MS, CLASS)
        if lane == BULK and self.rules.bulk_is_off():
            return Wait(OTHER_CLASS_MS, STALE)
        if metered.day is not None:
            today = metered.day.could(lane, size, self.today_ms())
            if today is not None:
                return today
        return None if day_only else self._not_now(metered, lane, size)

    def _not_now(self, metered: _Metered, lane: str, size: int) -> Wait | None:
        now_ms = self._clock.monotonic_ms()
        if not self._lanes.would(lane, now_ms):
            return Wait(ASK_AGAIN_MS, LANE)
        wait_ms = metered.bucket.wait_ms(size, now_ms)
        return Wait(wait_ms, RATE) if wait_ms else None

    def _grant(self, metered: _Metered, lane: str, size: int) -> Granted | None:
        if metered.day is None:
            return None
        granted = metered.day.take(lane, size, self.today_ms())
        assert isinstance(granted, Granted), "it was asked before"
        if granted.note is not None:
            try:
                self._rows.note(metered.limits.link_class, granted.note)
            except BaseException:
                del self._metered[metered.limits.link_class]  # what is durable is read again
                raise
        return granted

    def _tell(self) -> None:
        self._changed.notify_all()
        for listener in self.listeners:
            listener()


def deferred(wait: Wait, lane: str = NORMAL) -> Deferred:
    """Why somebody who cannot wait so long is told no."""
    what = "attachments wait" if lane == BULK else "what is not synced waits"
    if wait.why == CLASS:
        return Deferred(f"{what}: this class of link does not carry it", hint="it goes over another link")
    if wait.why == STALE:
        said = f"{what}: nothing fresh was heard of the fleet for so long that its policy has bulk wait"
        return Deferred(said, hint="`agentdb-edge trust status` says since when, and why")
    minutes = max(1, wait.ms // 60_000)
    return Deferred(
        f"{what}: the link's bytes of today are used ({wait.why})",
        hint=f"it goes on in {minutes // 60} h {minutes % 60} min; `agentdb-edge status` shows what waits",
    )
