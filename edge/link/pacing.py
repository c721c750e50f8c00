"""Between a session and the gate: how much it may load now, in which lane its messages go, what they may weigh.

The replicator (or a simulator) calls ``before`` when it steps the session, and ``refused`` for a message that the gate
did not let through. What always holds: a link without limits is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.link.gate import Gate
from edge.link.intervals import Intervals, unsent
from sync.budgets import BUDGET, CLASS, DAY_MS, INTERVAL, REQUEST_OVERHEAD_BYTES, SIZE, STALE, LinkLimits, Wait
from sync.effects import PULL, PUSH, SessionLimits
from sync.lanes import CONTROL, LANES, NORMAL, URGENT
from sync.limits import LONG_POLL_MS_MAX
from sync.messages import FetchRecords, Hello, Message, Pull, PullBaseline, Push, encode
from sync.pacing import PacedSession

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

#: Reasons for which nothing is worth waiting on the spot.
LONG = (BUDGET, CLASS, SIZE, STALE)
LOOK_AGAIN_MS = 10_000  # the class of the link may be another, and nobody says so
POLL_BYTES = 1_024  # an empty long poll and its heads
POLL_SHARE = 10  # of a day's bytes, empty polls take at most one part of so many
_ANSWER_BYTES = {Hello: 4_096, Push: 512, Pull: 1_024}
_PAGE_BYTES_MAX = 1 << 20  # of a baseline, which has no bound of its own
_OTHER_BYTES = 64 << 10
_POLLED_BYTES_MAX = 32 << 10
URGENT_REACH = 4  # one part in so many of what urgent may still use today
_LEAST_BYTES = 1_024


class Pacing:
    """Of one session. ``limits`` are the session's own, for a link without limits."""

    def __init__(
        self,
        session: PacedSession,
        gate: Gate,
        log: DeltaLog,
        clock: Clock,
        limits: SessionLimits | None = None,
        *,
        live: bool = True,
    ) -> None:
        self.stuck: Wait | None = None
        self._session = session
        self._gate = gate
        self._log = log
        self._clock = clock
        self._limits = limits or SessionLimits()
        self._live = live
        self._intervals = Intervals(log, gate.rules, clock)
        self._needs: dict[str, tuple[str, int]] = {}  # PUSH or PULL -> what it was refused: in which lane, of what size
        self._polled_ms: int | None = None
        self._looked: tuple[int, int, int] | None = None
        self._lane = NORMAL

    def before(self) -> int | None:
        """Set what the session may do now; ms until this has to be called again, if nothing else happens before.
        ``stuck`` says why there is something to do that has to wait for long. Raises StorageError.
        """
        gate, session = self._gate, self._session
        limits, self.stuck = gate.limits, None
        gathers_ms = self._gathers_ms()
        if limits is None:
            held = frozenset({PUSH} if gathers_ms else ())
            if session.held != held or self._looked is not None:
                session.pace(self._limits, held)
                self._looked = None
                self._needs.clear()
            return gathers_ms or None
        batch = gate.batch()
        lane = self._push_lane(batch)
        waits = {PUSH: Wait(gathers_ms, INTERVAL)} if gathers_ms else {}
        pushes = session.connected and session.pushes and PUSH not in waits
        if pushes and (wait := self._waits(PUSH, lane)) is not None:
            waits[PUSH] = wait
        pulls = session.connected and (self._live or not session.polls)
        if pulls and (wait := self._waits_to_pull(limits)) is not None:
            waits[PULL] = wait
        push, pull = self._fitting(lane, batch), min(self._fitting(NORMAL, batch), self._limits.pull_bytes)
        if session.polls:  # it takes as much of the day as long as it waits
            pull = min(pull, _POLLED_BYTES_MAX)
        poll_ms = LONG_POLL_MS_MAX if limits.bytes_per_day else self._limits.long_poll_ms
        paced = self._limits._replace(push_bytes=push, pull_bytes=pull, long_poll_ms=poll_ms)
        session.pace(paced, frozenset(waits))
        self.stuck = next(
            (wait for flight, wait in waits.items() if wait.why in LONG and (flight == PUSH or not session.polls)), None
        )
        return min((min(wait.ms, LOOK_AGAIN_MS) for wait in waits.values()), default=None)

    def lane_of(self, message: Message) -> str:
        if isinstance(message, Push):
            return self._lane
        return NORMAL if isinstance(message, (Pull, PullBaseline, FetchRecords)) else CONTROL

    def size_of(self, message: Message) -> int:
        """What it and its answer may be, in bytes, heads included. Raises StorageError."""
        if isinstance(message, Pull):
            self._polled_ms = self._clock.monotonic_ms() if message.wait_ms else None
        return self._size_of(message)

    def _size_of(self, message: Message) -> int:
        size = REQUEST_OVERHEAD_BYTES + len(encode(message))
        if isinstance(message, Pull):
            return size + message.max_bytes + _ANSWER_BYTES[Pull]
        if isinstance(message, (PullBaseline, FetchRecords)):
            left = self._gate.left(NORMAL)
            return size + (_PAGE_BYTES_MAX if left is None else min(_PAGE_BYTES_MAX, max(left - size, 64 << 10)))
        return size + _ANSWER_BYTES.get(type(message), _OTHER_BYTES)

    def refused(self, number: int, message: Message, wait: Wait) -> None:
        """The gate did not let it through, and will not for a while."""
        lane = PUSH if isinstance(message, Push) else PULL
        self._session.withdraw(number)
        self._needs[lane] = (self.lane_of(message), self._size_of(message))
        self.stuck = wait

    def hurry(self) -> None:
        """Somebody waits for what was written until now: it does not gather any longer. From any thread."""
        self._intervals.hurry(self._log.head_seq)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _gathers_ms(self) -> int:
        position = self._session.position
        if not self._live or position.repair:
            return 0
        return self._intervals.wait_ms(position.acked[0], position.head_seq)

    def _waits(self, flight: str, lane: str) -> Wait | None:
        least = REQUEST_OVERHEAD_BYTES + 2 * _LEAST_BYTES
        wanted, size = self._needs.get(flight, ("", 0))
        refusal = self._gate.ask(lane, max(least, size) if wanted == lane else least)
        if refusal is not None and refusal.why in LONG:
            return refusal
        self._needs.pop(flight, None)
        return None

    def _waits_to_pull(self, limits: LinkLimits) -> Wait | None:
        if self._session.polls and limits.bytes_per_day and self._polled_ms is not None:
            pause_ms = DAY_MS * POLL_SHARE * POLL_BYTES // limits.bytes_per_day
            if pause_ms > LONG_POLL_MS_MAX:  # the connection is not kept so long
                pause_ms += DAY_MS * POLL_SHARE * self._gate.connection_bytes // limits.bytes_per_day
            since_ms = self._clock.monotonic_ms() - self._polled_ms
            if since_ms < pause_ms:
                return Wait(pause_ms - since_ms, INTERVAL)
        return self._waits(PULL, NORMAL)

    def _fitting(self, lane: str, batch: int) -> int:
        left = self._gate.left(lane)
        if left is None:
            return batch
        return max(_LEAST_BYTES, min(batch, left - REQUEST_OVERHEAD_BYTES - 2 * _LEAST_BYTES))

    def _push_lane(self, batch: int) -> str:
        """The first lane of those that are in what would be pushed next. An urgent write cannot overtake the log that
        it is in, so what lies before it goes as urgent with it, as far as that leaves most of what urgent may use.
        """
        session = self._session
        if self._gate.rules.priority is None or session.position.repair:
            self._lane, self._looked = NORMAL, (0, 0, 0)
            return NORMAL
        position = session.position
        looked = (position.acked[0], position.head_seq, batch)
        if looked != self._looked:
            left, size, first = self._gate.left(URGENT), 0, len(LANES)
            reach = batch if left is None else max(batch, left // URGENT_REACH)
            for one in unsent(self._log, self._gate.rules):
                lane, before, size = one.lane, size, size + one.size
                if before and size > reach:
                    break
                if not before or size <= batch or lane == URGENT:
                    first = min(first, LANES.index(lane))
            self._lane = LANES[first] if first < len(LANES) else NORMAL
            self._looked = looked
        return self._lane
