"""Which of a device's requests goes first, and how large the next one may be (ADR 24).

Four lanes, in strict order: **control** (handshake, assignment, reports), **urgent**, **normal** (push and pull) and
**bulk** (bodies of attachments, chunks of models). A request is never interrupted, so what keeps an urgent record's
wait short is that nothing before it is long: a request is as large as what the link carries in ``REQUEST_MS_MAX``, and
bulk goes in slices of that size, one at a time, and only while nobody else wants the link.

No I/O, no clock: the caller says what time it is, in monotonic milliseconds.
"""

from __future__ import annotations

from collections import deque

CONTROL, URGENT, NORMAL, BULK = "control", "urgent", "normal", "bulk"
LANES = (CONTROL, URGENT, NORMAL, BULK)

REQUEST_MS_MAX = 250
REQUEST_BYTES_MIN = 16 << 10
REQUEST_BYTES_MAX = 1 << 20
OFFER_MS = 5_000  # an offer that nobody repeats is forgotten: who made it has gone
_TRIPS = 16
_RATE_BYTES_MIN = 4 << 10  # what is smaller says how long a round trip is, not how much the link carries


class Lanes:
    """Who wants to send, and who may. Whoever is not let go offers again, at the latest after ``OFFER_MS``."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[int, int]] = {}  # lane -> bytes, due
        self._flying = dict.fromkeys(LANES, 0)

    def offer(self, lane: str, size: int, due_ms: int) -> None:
        """Somebody wants to send so many bytes in that lane, not before ``due_ms``."""
        assert lane in self._flying, lane
        self._offers[lane] = (size, due_ms)

    def withdraw(self, lane: str) -> None:
        """Nobody in that lane wants to send any more, or for now; without effect if nobody did."""
        self._offers.pop(lane, None)

    def next(self, now_ms: int) -> str | None:
        """The first lane that may send now. Bulk waits for whoever is sending, and for its own turn."""
        for lane in LANES:
            if self._wants(lane, now_ms) and (lane != BULK or not any(self._flying.values())):
                return lane
        return None

    def would(self, lane: str, now_ms: int) -> bool:
        """Whether whoever wants to send in that lane may, if nobody else offers meanwhile."""
        before = LANES[: LANES.index(lane)]
        return not any(self._wants(other, now_ms) for other in before) and not (
            lane == BULK and any(self._flying.values())
        )

    def _wants(self, lane: str, now_ms: int) -> bool:
        if lane not in self._offers:
            return False
        _, due_ms = self._offers[lane]
        if now_ms > due_ms + OFFER_MS:
            del self._offers[lane]
        return due_ms <= now_ms <= due_ms + OFFER_MS

    def depart(self, lane: str) -> None:
        """A request of that lane is under way; its offer is taken."""
        self.withdraw(lane)
        self._flying[lane] += 1

    def land(self, lane: str) -> None:
        assert self._flying[lane] > 0, lane
        self._flying[lane] -= 1

    def flying(self, lane: str) -> int:
        """How many requests of that lane are under way."""
        return self._flying[lane]


class Batches:
    """How many bytes the next request may carry, from what the last ones took.

    A request takes a round trip and then its bytes. The round trip is the shortest of the last small requests: without
    it a far away server would look like a slow link, and the smaller requests that follow from that like a slower one.
    """

    def __init__(self, bytes_per_s: int = 0) -> None:
        self._limit = _within(bytes_per_s * REQUEST_MS_MAX // 1000) if bytes_per_s else REQUEST_BYTES_MAX
        self._size = min(64 << 10, self._limit)
        self._trips: deque[int] = deque(maxlen=_TRIPS)

    @property
    def size(self) -> int:
        """``REQUEST_BYTES_MIN`` to ``REQUEST_BYTES_MAX``."""
        return self._size

    def took(self, size: int, ms: int) -> None:
        """A request and its answer, ``size`` bytes in all, took ``ms``, without what the server waited."""
        if size < _RATE_BYTES_MIN:
            self._trips.append(ms)
            return
        carried = size * REQUEST_MS_MAX // max(1, ms - min(self._trips, default=0))
        # Halfway, and never more than twice as much: one request that was lucky, or held up, says little.
        self._size = min(_within((self._size + min(carried, 2 * self._size)) // 2), self._limit)


def _within(size: int) -> int:
    return min(max(size, REQUEST_BYTES_MIN), REQUEST_BYTES_MAX)
