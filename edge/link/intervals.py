"""What a policy lets gather before it is sent: ``interval_s`` of a [[sync]] (ADR 24).

The log is one chain, so what is due takes along what lies before it; what comes after waits for its own time. What
always holds: a write is due at the latest ``interval_s`` after it was made, across restarts. A sync that somebody asks
for waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.log_reader import unpack_hidden
from sync.lanes import BULK, NORMAL, URGENT
from sync.stamps import wall_ms_of

if TYPE_CHECKING:
    from edge.link.gate import Interval, LinkRules
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

COUNTED_MAX = 10_000
_ROWS_PER_READ = 200
_UNSENT = (
    "SELECT o.seq, o.ts, c.name, o.key, o.fields FROM operations o JOIN collections c ON c.id = o.collection "
    "WHERE o.seq > ? ORDER BY o.seq LIMIT ?"
)


class Unsent(NamedTuple):
    """An operation that the cloud has not acknowledged. ``size`` is in bytes, ``wait_s`` what its rule lets it wait."""

    lane: str
    size: int
    ts: int
    wait_s: int

    def due_in_ms(self, now_ms: int) -> int:
        """0: now. ``now_ms`` is of the clock that stamps (``log.clock``)."""
        age_ms = now_ms - wall_ms_of(self.ts)
        return self.wait_s * 1000 - min(max(age_ms, 0), self.wait_s * 1000)


def unsent(log: DeltaLog, rules: LinkRules, after: int | None = None) -> Iterator[Unsent]:
    """In order, those behind ``after``, or behind what is acknowledged; ``COUNTED_MAX`` at the most. Raises
    StorageError.
    """
    priority, interval, left = rules.priority, rules.interval, COUNTED_MAX
    after = log.acked_seq if after is None else after
    while left and (rows := log.reader.all(_UNSENT, after, min(left, _ROWS_PER_READ))):
        for after, ts, collection, key, packed in rows:  # noqa: B007 - the last one's is where the next read goes on
            fields = partial(_fields, packed)
            lane = NORMAL if priority is None else priority(collection, key, fields)
            wait_s = 0 if interval is None else interval(collection, key, fields)
            lane = lane if lane in (URGENT, NORMAL, BULK) else NORMAL
            yield Unsent(lane, len(packed) + len(key) + 16, ts, wait_s)
        left -= len(rows)


class Intervals:
    """Of one live link."""

    def __init__(self, log: DeltaLog, rules: LinkRules, clock: Clock) -> None:
        self._log = log
        self._rules = rules
        self._clock = clock
        self._hurried = 0
        self._seen: tuple[Interval, int, int, int] | None = None  # rule, acked, head, when due (monotonic)

    def hurry(self, head: int) -> None:
        """What is in the log up to ``head`` is due now. From any thread."""
        self._hurried = max(self._hurried, head)

    def wait_ms(self, acked: int, head: int) -> int:
        """How long a push may wait yet; 0: something is due. Reads only what was written since. Raises StorageError."""
        interval = self._rules.interval
        if interval is None or acked >= head or acked < self._hurried:
            self._seen = None
            return 0
        now_ms = self._clock.monotonic_ms()
        seen = self._seen
        if seen is None or seen[0] is not interval or seen[1] != acked:
            seen = (interval, acked, acked, now_ms + self._first(acked, head))
        elif seen[2] != head:
            seen = (interval, acked, head, min(seen[3], now_ms + self._first(seen[2], head)))
        self._seen = (*seen[:2], head, seen[3])
        return max(0, seen[3] - now_ms)

    def _first(self, after: int, head: int) -> int:
        """Until the first of them is due. So many that they are not looked at one by one are due now."""
        if head - after > COUNTED_MAX:
            return 0
        wall_ms = wall_ms_of(self._log.clock.reading())
        return min((one.due_in_ms(wall_ms) for one in unsent(self._log, self._rules, after=after)), default=0)


def _fields(packed: bytes) -> Mapping[str, Any]:
    return unpack_hidden(packed)[0]
