"""What a link may carry: so many bytes a second (``Bucket``) and so many a day (``DayBudget``), by class of link.

Bytes are those of requests and answers, ``REQUEST_OVERHEAD_BYTES`` for each request's heads (670 were measured, TLS
puts a little on top), and ``CONNECTION_BYTES`` for a new connection with TLS; not those of TCP and IP, some 3% more.
An answer's size is not known when it is asked for: what it may be is taken, and what it was is settled afterwards.

What always holds of a day: what was granted is at most what was noted, and what was noted at most the limit. The caller
makes a note durable *before* what was granted is used, so whatever a crash leaves of it counts as used. Notes are made
ahead, by leases, so that a note is seldom. A day is one of UTC, and never an earlier one than was seen, unless the
clock turns out to have been ahead by more than a day: then it is put right, and what was spent ahead counts for today.

No I/O, no clock. Source of the bucket: the token bucket of RFC 2697, one rate, with debts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sync.lanes import BULK, CONTROL, LANES, NORMAL, URGENT

REQUEST_OVERHEAD_BYTES = 800
CONNECTION_BYTES = 5_000
DAY_MS = 86_400_000
LEASE_BYTES_MAX = 64 << 10
DAYS_KEPT = 31
BYTES_PER_DAY_MIN = 512 << 10  # less could not carry the largest operation
DEFAULT_CLASS = "default"

#: Why something waits.
BUDGET, RATE, INTERVAL, SIZE, CLASS, LANE = "budget", "rate", "interval", "size", "class", "lane"
STALE = "stale"


class LinkLimits(NamedTuple):
    """What a class of link may carry; 0 is no bound. ``urgent_share`` of a day is kept free for control and urgent, and
    as much again, by bulk, for normal: a backlog of bulk would use the day up in its first minutes. ``lanes`` are those
    that may use the link at all, besides control.
    """

    link_class: str = DEFAULT_CLASS
    bytes_per_day: int = 0
    bytes_per_s: int = 0
    burst_bytes: int = 262_144
    urgent_share: float = 0.2
    lanes: tuple[str, ...] = (URGENT, NORMAL, BULK)

    def problem(self) -> str:
        """What is wrong with it, in a sentence; empty if nothing is."""
        if not 0 < len(self.link_class) <= 64:
            return "class is a name of 1 to 64 characters"
        if self.bytes_per_day and not BYTES_PER_DAY_MIN <= self.bytes_per_day <= 1 << 50:
            return f"bytes_per_day is 0 (no bound) or at least {BYTES_PER_DAY_MIN}"
        if self.bytes_per_s and not 100 <= self.bytes_per_s <= 1 << 40:
            return "bytes_per_s is 0 (no bound) or at least 100"
        if not 16_384 <= self.burst_bytes <= 1 << 40:
            return "burst_bytes is at least 16384"
        if not 0 <= self.urgent_share <= 0.4:
            return "urgent_share is 0.0 to 0.4"
        if not self.lanes or not set(self.lanes) <= set(LANES[1:]):
            return "lanes are urgent, normal, bulk, one at least"
        return ""


class Note(NamedTuple):
    """To be made durable: of that day, bytes noted for each lane; what is noted for later days goes."""

    day: int
    lanes: dict[str, int]


class Granted(NamedTuple):
    """``note`` has to be durable before the bytes are used; None: it is already."""

    day: int
    note: Note | None = None


class Wait(NamedTuple):
    """Ask again in ``ms``."""

    ms: int
    why: str


class Bucket:
    """A request may go when the bucket has its bytes, or is full; then it may leave a debt. So in any span of time at
    most a full bucket (or the largest request, if that is more) and what flowed in meanwhile has gone.
    """

    def __init__(self, bytes_per_s: int, burst_bytes: int, now_ms: int) -> None:
        self._rate = bytes_per_s
        self._full = burst_bytes * 1000
        self._level = self._full  # thousandths of bytes, so that whole milliseconds fill it by whole numbers
        self._at_ms = now_ms

    def wait_ms(self, size: int, now_ms: int) -> int:
        """How long until so many bytes may go; 0: now."""
        if not self._rate:
            return 0
        self._fill(now_ms)
        missing = min(size * 1000, self._full) - self._level
        return -(-missing // self._rate) if missing > 0 else 0

    def change(self, bytes_per_s: int, burst_bytes: int, now_ms: int) -> None:
        """From now on with these limits. What is in it, or owed, stays: else each change would be one more burst.
        Without a rate until now there was no bound, and it is full.
        """
        self._fill(now_ms)
        bounded, self._rate, self._full = self._rate > 0, bytes_per_s, burst_bytes * 1000
        self._level = min(self._level, self._full) if bounded else self._full

    def take(self, size: int, now_ms: int) -> None:
        self._fill(now_ms)
        self._level -= size * 1000

    def give_back(self, size: int) -> None:
        """Of what was taken; below 0: it was more."""
        self._level = min(self._full, self._level + size * 1000)

    def _fill(self, now_ms: int) -> None:
        self._level = min(self._full, self._level + max(0, now_ms - self._at_ms) * self._rate)
        self._at_ms = max(self._at_ms, now_ms)


class DayBudget:
    """``noted``: what is durable, day -> lane -> bytes. All of it counts as used."""

    def __init__(self, limit: int, urgent_share: float, noted: Mapping[int, Mapping[str, int]]) -> None:
        self.limit = limit
        self.day = max(noted, default=-1)
        self._noted = {day: dict(lanes) for day, lanes in noted.items()}
        self._lease = max(1, min(LEASE_BYTES_MAX, limit // 100))
        self._kept = int(limit * urgent_share)
        self._shared = limit - self._kept
        self._used = dict(self._noted.get(self.day, {}))

    @property
    def used(self) -> dict[str, int]:
        """Bytes of the present day, by lane."""
        return {lane: size for lane, size in self._used.items() if size}

    def left(self, lane: str, now_ms: int) -> int:
        """What may still be taken in that lane today. ``now_ms`` is UTC, since 1970."""
        self._turn(now_ms)
        left = self.limit - sum(self._used.values())
        if lane in (CONTROL, URGENT):
            return max(0, left)
        shared = self._shared - self._used.get(NORMAL, 0) - self._used.get(BULK, 0)
        if lane == BULK:
            shared -= self._kept
        return max(0, min(left, shared))

    def take(self, lane: str, size: int, now_ms: int) -> Granted | Wait:
        """Bytes of today, or as ``could``."""
        refusal = self.could(lane, size, now_ms)
        if refusal is not None:
            return refusal
        used = self._used[lane] = self._used.get(lane, 0) + size
        return Granted(self.day, self._note(lane, used, self.left(lane, now_ms)))

    def could(self, lane: str, size: int, now_ms: int) -> Wait | None:
        """None if they may be taken, or how long until tomorrow; ``size`` is why if no day has so many."""
        if size <= self.left(lane, now_ms):
            return None
        whole = {NORMAL: self._shared, BULK: self._shared - self._kept}.get(lane, self.limit)
        return Wait(max(1, (self.day + 1) * DAY_MS - now_ms), SIZE if size > whole else BUDGET)

    def settle(self, lane: str, granted: Granted, size: int, actual: int, now_ms: int) -> Note | None:
        """What was taken as ``size`` was ``actual``. What ran past midnight counts for both days, whole. Returns what
        has to be noted, after the fact, if it was more than is noted.
        """
        self._turn(now_ms)
        change = actual - size if granted.day == self.day else actual
        used = self._used[lane] = max(0, self._used.get(lane, 0) + change)
        return self._note(lane, used, 0) if change > 0 else None

    def rest(self) -> Note | None:
        """Nothing is under way any more: what of the leases was not used is given back with this note."""
        if self.day < 0 or self._used == self._noted.get(self.day, {}):
            return None
        return self._set(dict(self._used))

    def _turn(self, now_ms: int) -> None:
        today = now_ms // DAY_MS
        if today > self.day:
            self.day, self._used = today, {}
            for old in sorted(self._noted)[:-DAYS_KEPT]:  # by number: a clock may jump over years, and come back
                del self._noted[old]
        elif today < self.day - 1:
            spent: dict[str, int] = dict(self._used)
            for day, lanes in self._noted.items():
                if today <= day < self.day:
                    for lane, size in lanes.items():
                        spent[lane] = spent.get(lane, 0) + size
            self.day, self._used = today, spent
            self._noted = {day: lanes for day, lanes in self._noted.items() if day < today}

    def _note(self, lane: str, used: int, spare: int) -> Note | None:
        """None if so much is noted. A lease takes nothing that others may still be granted: of what is left of the day
        (``spare``) first all leases are given back, then a new one is taken.
        """
        noted = self._noted.get(self.day, {})
        if used <= noted.get(lane, 0) and all(size <= noted.get(name, 0) for name, size in self._used.items()):
            return None
        lanes = {name: max(size, noted.get(name, 0)) for name, size in self._used.items()}
        lease = max(0, min(self._lease, spare, self.limit - sum(lanes.values())))
        if not lease:
            lanes = dict(self._used)
        lanes[lane] = max(lanes[lane], used + lease)
        return self._set(lanes)

    def _set(self, lanes: dict[str, int]) -> Note:
        self._noted[self.day] = lanes
        return Note(self.day, dict(lanes))
