"""Stamps: a total order over all operations of a fleet that respects causality.

A timestamp is a hybrid logical clock reading (Kulkarni, Demirbas et al., *Logical Physical Clocks*, 2014) packed into
63 bits: milliseconds since 1970 in the upper 47, a counter in the lower 16. A stamp is that timestamp and the 16-byte
replica id; replicas are distinct, so two stamps of different operations are never equal.

What always holds: ``HybridClock.now()`` is larger than everything it returned or observed before, whatever the wall
clock does, unless its owner sets ``last`` back (a device does when it learns that its clock was ahead, ADR 10). It is
the owner's duty to persist the largest timestamp (the delta log does, with every operation).
"""

from __future__ import annotations

from typing import NamedTuple

from sync.errors import FutureStamp
from sync.limits import FUTURE_MS_MAX, STAMP_MAX
from sync.ports import Clock

COUNTER_BITS = 16
REPLICA_BYTES = 16
DEVICE_BYTES = 12


class Stamp(NamedTuple):
    """Compared as a tuple: timestamp first, then replica id."""

    ts: int
    replica: bytes


NEVER = Stamp(0, b"")
_SET_BACK = (FUTURE_MS_MAX + 1_000) << COUNTER_BITS  # what was observed is at most this far ahead


def timestamp_of(wall_ms: int) -> int:
    return wall_ms << COUNTER_BITS


def wall_ms_of(ts: int) -> int:
    return ts >> COUNTER_BITS


def replica_id(device: bytes, incarnation: int) -> bytes:
    """12 bytes of device id, then the incarnation as a big-endian u32."""
    return device + incarnation.to_bytes(4, "big")


def device_of(replica: bytes) -> bytes:
    return replica[:DEVICE_BYTES]


def incarnation_of(replica: bytes) -> int:
    return int.from_bytes(replica[DEVICE_BYTES:], "big")


class HybridClock:
    """Hands out timestamps. ``offset_ms`` is added to the wall clock: what the cloud taught this device of its
    error. ``beyond`` is the largest timestamp that is known here and that this clock does not follow: it was too far
    ahead. ``shifted`` is the timestamp after which the wall clock was last found to have been set back. ``ahead``: this
    clock is known to be too far ahead, and the wall clock with its offset to be right.
    """

    def __init__(self, clock: Clock, last: int = 0, offset_ms: int = 0) -> None:
        self._clock = clock
        self.last = last
        self.offset_ms = offset_ms
        self.beyond = 0
        self.shifted = 0
        self.ahead = False

    def reading(self, ahead_ms: int = 0) -> int:
        """The corrected wall clock as a timestamp, or what it will be in ``ahead_ms``."""
        return timestamp_of(max(0, self._clock.wall_ms() + self.offset_ms + ahead_ms))

    def now(self) -> int:
        """A timestamp larger than every one returned or observed before. Raises FutureStamp if there is none."""
        wall = (self._clock.wall_ms() + self.offset_ms) << COUNTER_BITS  # ``reading``, without its three calls
        last = self.last
        if last - wall > _SET_BACK:
            self.keep_pace()
        ts = wall if wall > last else last + 1
        if ts > STAMP_MAX:  # nothing is kept of it: once the clock is set, the next call succeeds
            raise FutureStamp("the hybrid clock has run out of range", hint="set the device's clock")
        self.last = ts
        return ts

    def take(self, count: int) -> int:
        """The first of ``count`` consecutive timestamps, for writes that are made at once."""
        held = self.last
        first = self.now()
        if first + count - 1 > STAMP_MAX:
            self.last = held
            raise FutureStamp("the hybrid clock has run out of range", hint="set the device's clock")
        self.last = first + count - 1
        return first

    def correct(self, offset_ms: int) -> None:
        """The true error of the wall clock is known."""
        self.offset_ms, self.shifted = offset_ms, 0
        self.ahead = self.last - self.reading() > _SET_BACK

    def keep_pace(self) -> None:
        """If the wall clock was set back, go on from where this clock stands, at the wall clock's pace: how the writes
        that follow lie in time is then known, and once the true time is, so is theirs.
        """
        behind = self.last - self.reading()
        if behind > _SET_BACK and not self.ahead:
            self.offset_ms += wall_ms_of(behind)
            self.shifted = self.last

    def observe(self, ts: int) -> None:
        """Take note of a timestamp from elsewhere, so that what is written next comes after it."""
        if ts > self.last:
            self.last = ts


def check_not_future(ts: int, wall_ms: int, bound_ms: int = FUTURE_MS_MAX) -> None:
    """Raise FutureStamp if ``ts`` is more than ``bound_ms`` ahead of ``wall_ms``."""
    ahead_ms = wall_ms_of(ts) - wall_ms
    if ahead_ms > bound_ms:
        raise FutureStamp(
            f"stamped {ahead_ms / 1000:.0f} s ahead of the cloud's clock; the bound is {bound_ms / 1000:.0f} s",
            hint="set the device's clock; the write is kept in the dead-letter table",
        )
