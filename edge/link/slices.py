"""One large request that passes the gate in slices: what it carries goes on when its lane may, and lets others by.

The day is asked for the whole request before it begins: one that was begun and not ended would have been for nothing.
What always holds: a slice is what the link carries in a quarter of a second, so nobody waits longer for it; together
they wait ``PAUSES_MS_MAX`` at most, since the server drops a request that takes too long, and then what is left goes
without waiting, and is paid for by those who come after.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Self

from edge.link.gate import Gate, Ticket, deferred
from edge.link.pacing import LONG
from sync.budgets import REQUEST_OVERHEAD_BYTES, Wait
from sync.errors import Unreachable

PAUSES_MS_MAX = 15_000


class Slices:
    """Of one request."""

    def __init__(self, gate: Gate, ticket: Ticket, stopped: Callable[[], bool]) -> None:
        self._gate = gate
        self._ticket = ticket
        self._stopped = stopped
        self._paused_ms = 0
        self.moved = 0

    def connecting(self) -> None:
        """A connection has to be made."""
        self.moved += self._gate.connection_bytes

    @classmethod
    @contextmanager
    def of(
        cls, gate: Gate | None, lane: str, request_bytes: int, answer_bytes: int, stopped: Callable[[], bool]
    ) -> Iterator[Self | None]:
        """None for a link without limits. Raises Deferred."""
        if gate is None or gate.limits is None:
            yield None
            return
        size = REQUEST_OVERHEAD_BYTES + request_bytes + answer_bytes
        answer = gate.take(lane, size, sliced=True)
        if isinstance(answer, Wait):
            assert answer.why in LONG, "the day alone was asked"
            raise deferred(answer, lane)
        slices = cls(gate, answer, stopped)
        try:
            yield slices
        finally:
            gate.land(answer, REQUEST_OVERHEAD_BYTES + slices.moved, sliced=True)

    def sending(self, body: bytes) -> Generator[bytes]:
        """The body, a slice at a time. Raises Unreachable if the link is stopped."""
        at = 0
        while at < len(body) or not at:
            part = body[at : at + self._gate.batch()]
            with self._slice(len(part) + (0 if at else REQUEST_OVERHEAD_BYTES)):
                yield part
            self.moved += len(part)
            at += len(part) or 1

    def receiving(self, read: Callable[[int], bytes], most: int) -> bytes:
        """What ``read`` gives until its end, ``most`` bytes at most, a slice at a time."""
        parts: list[bytes] = []
        left = most
        while left:
            size = min(left, self._gate.batch())
            with self._slice(size) as through:
                part = read(size)
                through(len(part))
            self.moved += len(part)
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def into(self, readinto: Callable[[memoryview], int], buffer: memoryview) -> int:
        """One read into the buffer, of a slice at most. Returns how many bytes it was."""
        size = min(len(buffer), self._gate.batch())
        with self._slice(size) as through:
            read = readinto(buffer[:size])
            through(read)
        self.moved += read
        return read

    @contextmanager
    def _slice(self, size: int) -> Iterator[Callable[[int], None]]:
        """Yields what is to be told how many bytes it was, if it may have been fewer."""
        gate, ticket = self._gate, self._ticket
        while True:
            patient = self._paused_ms < PAUSES_MS_MAX
            wait = gate.slice(ticket, size, force=not patient)
            if wait is None:
                break
            if self._stopped():
                gate.withdraw(ticket.lane)
                raise Unreachable("the link was stopped")
            self._paused_ms += gate.wait(wait.ms)
        moved = [size]
        try:
            yield moved.append
        finally:
            gate.land_slice(ticket, size - moved[-1])
