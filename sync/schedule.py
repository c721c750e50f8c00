"""When to try again: exponential backoff with full jitter; and when to shake hands again.

Source: Marc Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015 ("full jitter": uniform between 0
and the exponential bound), which spreads a fleet that comes back all at once.
"""

from __future__ import annotations

from sync.limits import RETRY_AFTER_MS_MAX
from sync.ports import RandomSource


class Backoff:
    """Delays in milliseconds; at least ``floor_ms``, so that an unlucky draw is not a busy loop."""

    def __init__(self, random: RandomSource, *, base_ms: int = 250, cap_ms: int = 60_000, floor_ms: int = 20) -> None:
        self._random = random
        self._base_ms = base_ms
        self._cap_ms = cap_ms
        self._floor_ms = floor_ms
        self.failures = 0

    def next_ms(self, at_least_ms: int = 0) -> int:
        """The delay before the next try, after one more failure. ``at_least_ms``: what the peer asked for; it is heard
        up to ten minutes, so that one wrong answer parks no device for good. The jitter comes on top of it: those who
        were asked at the same moment would all come back at the same moment.
        """
        bound = min(self._cap_ms, self._base_ms << min(self.failures, 20))
        self.failures += 1
        asked_ms = min(at_least_ms, RETRY_AFTER_MS_MAX)
        return max(asked_ms + int(self._random.uniform() * max(bound, asked_ms // 2)), self._floor_ms)

    def reset(self) -> None:
        self.failures = 0


class Greetings:
    """When a link that is up shakes hands again: ``every_ms`` after the last time (None: never); if somebody ``asked``,
    the session does as soon as it is settled. What is under way is paid for, and if it were given up, nothing would
    ever arrive for whoever asks more often than answers come.
    """

    def __init__(self, every_ms: int | None) -> None:
        self.asked = False
        self.last_ms = 0
        self._every_ms = every_ms

    def due_ms(self, now_ms: int) -> int | None:
        """In how many milliseconds, if nobody asks; None: never."""
        return None if self._every_ms is None else max(0, self.last_ms + self._every_ms - now_ms)
