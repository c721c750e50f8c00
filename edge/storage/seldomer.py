"""Seldomer: work of a round of care that is dear, and is done the seldomer the longer it fails.

What always holds: after a failure, which the caller gets, it is not tried again for a second, then two, then four, up
to ten minutes; once it has gone well, it is done whenever it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sync.ports import Clock

PAUSE_MS, PAUSE_MS_MAX = 1_000, 600_000


class Seldomer:
    """For one thread. ``work`` raises if it fails."""

    def __init__(self, work: Callable[[], None], clock: Clock) -> None:
        self._work = work
        self._clock = clock
        self._pause_ms, self._not_before_ms = PAUSE_MS, 0

    def __call__(self) -> None:
        """Raises as the work does."""
        if self._not_before_ms and self._clock.monotonic_ms() < self._not_before_ms:
            return
        try:
            self._work()
        except BaseException:
            self._not_before_ms = self._clock.monotonic_ms() + self._pause_ms
            self._pause_ms = min(2 * self._pause_ms, PAUSE_MS_MAX)
            raise
        self._pause_ms, self._not_before_ms = PAUSE_MS, 0
