"""Virtual time: one queue of events, one seed, one trace.

An event is a function and a time in milliseconds; those of the same time run in the order in which they were
scheduled. Nothing in a run depends on anything but the seed: every part draws from its own stream of random numbers
(``dice``), so that one more draw in one place does not change all the others.

The trace is what happened, a line for each event that somebody would want to read; its SHA-256 is the run's name. The
ciphers salt themselves (docs/adr, DESIGN: traces hash what was said, not its ciphertext), so nothing that depends on
ciphertext is ever noted or decided upon.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from random import Random

from simulations.fleet.violation import Violation

START_MS = 1_700_000_000_000
EVENTS_MAX = 400_000  # a run of a thousand devices has about 200,000


class World:
    """``now_ms`` is the true time; nodes only see their own clocks."""

    def __init__(self, seed: int, on_line: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now_ms = 0
        self.counts: Counter[str] = Counter()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._hash = sha256(str(seed).encode())
        self._on_line = on_line
        self.tail: list[str] = []

    def dice(self, name: str) -> Random:
        """A stream of random numbers of its own."""
        return Random(f"{self.seed}/{name}")

    def at(self, delay_ms: int, run: Callable[[], None]) -> None:
        """Run it after so many milliseconds."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_ms + max(0, delay_ms), self._number, run))

    def run_until(self, end_ms: int) -> None:
        """Everything up to and with this time."""
        queue = self._queue
        while queue and queue[0][0] <= end_ms:
            self.now_ms, _, run = heapq.heappop(queue)
            self.counts["events"] += 1
            if self.counts["events"] > EVENTS_MAX:
                raise Violation("bounded", f"more than {EVENTS_MAX} events")
            run()
        self.now_ms = max(self.now_ms, end_ms)

    def note(self, who: str, what: str, *, count: str = "") -> None:
        """A line of the trace; ``count`` is what it counts as in the statistics."""
        if count:
            self.counts[count] += 1
        line = f"{_clock(self.now_ms)}  {who:<9} {what}"
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        self.tail.append(line)
        if len(self.tail) > 400:
            del self.tail[:200]
        if self._on_line is not None:
            self._on_line(line)

    @property
    def trace(self) -> str:
        """The run so far, as a hash."""
        return self._hash.hexdigest()


def _clock(ms: int) -> str:
    days, rest = divmod(ms, 86_400_000)
    return f"{days:>3}d {rest // 3_600_000:02}:{rest // 60_000 % 60:02}:{rest // 1000 % 60:02}.{rest % 1000:03}"


class SeededRandom:
    """``sync.ports.RandomSource`` from a seed: keys and jitter, the same in every run."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def token(self, size: int) -> bytes:
        return self._dice.randbytes(size)

    def uniform(self) -> float:
        return self._dice.random()


class MachineClock:
    """One machine's clock: off by ``error_ms``, drifting by ``drift`` (share of the time since), or stopped. The
    monotonic clock is right, as crystals are, and begins anew with each start of the machine.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.error_ms = 0
        self.drift = 0.0
        self._since_ms = 0
        self._stopped_at: int | None = None

    def wall_ms(self) -> int:
        now = self._world.now_ms
        if self._stopped_at is not None:
            return self._stopped_at
        return max(0, START_MS + now + self.error_ms + int((now - self._since_ms) * self.drift))

    def monotonic_ms(self) -> int:
        return self._world.now_ms

    def step(self, error_ms: int, drift: float = 0.0) -> None:
        """Wrong by so much from now on."""
        self._stopped_at = None
        self._since_ms = self._world.now_ms
        self.error_ms, self.drift = error_ms, drift

    def stop(self) -> None:
        self._stopped_at = self.wall_ms()

    def set_to_1970(self) -> None:
        self.step(-START_MS - self._world.now_ms)
