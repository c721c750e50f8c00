"""The one link of a device, in virtual time: what it carries queues up, and every byte is counted on its day."""

from __future__ import annotations

from collections.abc import Callable

from simulations.fleet.world import START_MS, World
from sync.budgets import DAY_MS

HEADS_BYTES = 670  # of a request over HTTP, as tests.contracts.test_metered_link has it from a proxy


class Pipe:
    """First come, first served, as the buffer of a modem is. ``by_day``: bytes, by day of UTC since 1970."""

    def __init__(self, world: World, bytes_per_s: int, trip_ms: int) -> None:
        self.by_day: dict[int, int] = {}
        self._world = world
        self._bytes_per_s = bytes_per_s
        self._trip_ms = trip_ms
        self._free_ms = 0

    def carry(self, size: int, then: Callable[[], None]) -> None:
        """``then`` is called when the other side has so many bytes."""
        world = self._world
        day = (START_MS + world.now_ms) // DAY_MS
        self.by_day[day] = self.by_day.get(day, 0) + size
        self._free_ms = max(self._free_ms, world.now_ms) + size * 1000 // self._bytes_per_s
        world.at(self._free_ms - world.now_ms + self._trip_ms // 2, then)
