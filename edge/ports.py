"""The real clock and the real source of randomness: the only place on the device where either is read.

Everything else takes ``sync.ports.Clock`` and ``RandomSource`` as arguments, so that a run is a function of its seed.
"""

from __future__ import annotations

import os
import time


class SystemClock:
    """The machine's clock. ``wall_ms`` may jump either way; the hybrid clock above it never does."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def monotonic_us(self) -> int:
        """Microseconds, as ``monotonic_ms``: for what is measured, not decided by."""
        return time.monotonic_ns() // 1_000


class SystemRandom:
    """The operating system's randomness."""

    def token(self, size: int) -> bytes:
        return os.urandom(size)

    def uniform(self) -> float:
        return (int.from_bytes(os.urandom(7)) >> 3) / (1 << 53)
