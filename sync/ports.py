"""What the core needs from outside, as protocols: the clock and the source of randomness.

Adapters live in ``edge.ports`` and ``cloud.ports``; the simulator has its own. Nothing else may read the time or
randomness (a lint rule forbids it), so that a run is a function of its seed.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC as this machine believes; may jump either way."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds from an arbitrary start; never goes back while the process lives."""
        ...


class RandomSource(Protocol):
    def token(self, size: int) -> bytes:
        """``size`` bytes fit for keys and identifiers."""
        ...

    def uniform(self) -> float:
        """A float in [0, 1), for jitter."""
        ...
