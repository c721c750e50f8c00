"""Stamps: a total order over all operations of a fleet that respects causality.

A timestamp is a hybrid logical clock reading (Kulkarni, Demirbas et al., *Logical Physical Clocks*, 2014) packed into
63 bits: milliseconds since 1970 in the upper 47, a counter in the lower 16. A stamp is that timestamp and the 16-byte
replica id; replicas are distinct, so two stamps of different operations are never equal.

What always holds: ``HybridClock.now()`` is larger than everything it returned or observed before, whatever the wall
clock does. It is its owner's duty to persist the largest timestamp (the delta log does, with every operation).
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
    error.
    """

    def __init__(self, clock: Clock, last: int = 0, offset_ms: int = 0) -> None:
        self._clock = clock
        self.last = last
        self.offset_ms = offset_ms

    def now(self) -> int:
        """A timestamp larger than every one returned or observed before. Raises FutureStamp if there is none."""
        wall = timestamp_of(max(0, self._clock.wall_ms() + self.offset_ms))
        ts = wall if wall > self.last else self.last + 1
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
