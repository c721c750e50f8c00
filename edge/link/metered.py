"""A transport that passes the gate: each message waits for its turn, and is counted with its answer.

Without limits for the present class of link it adds nothing. What always holds: what may have gone over the link is
counted, also of a request that failed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from edge.link.gate import ASK_AGAIN_MS, Gate, Ticket
from edge.link.pacing import LONG
from edge.link.transport import NoAnswer, Transport
from sync.budgets import REQUEST_OVERHEAD_BYTES, Wait
from sync.messages import Answer, Message, Pull, encode

if TYPE_CHECKING:
    from sync.ports import Clock


KEPT_MS = 14_000  # a connection that nobody uses; aiohttp closes it a second later


class Held(Exception):
    """The gate does not let it through for a while: it was not sent."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(wait.why)
        self.wait = wait


class Metered:
    """``inner`` behind a gate."""

    def __init__(self, inner: Transport, gate: Gate, clock: Clock) -> None:
        self._inner = inner
        self._gate = gate
        self._clock = clock
        self._kept: list[int] = []  # connections that nobody uses, by when they were last used

    async def exchange(self, message: Message, lane: str, size: int) -> Answer:
        """As ``Transport.exchange``. ``size``: of it and its answer, heads included, at most. Raises Held."""
        size += self._gate.connection_bytes
        ticket = await self._ticket(message, lane, size)
        if ticket.of is None:
            return await self._inner.exchange(message)
        connecting = self._connecting()
        started = self._clock.monotonic_ms()
        asked = REQUEST_OVERHEAD_BYTES + len(encode(message)) + connecting
        actual, took_ms = size, None
        try:
            answer = await self._inner.exchange(message)
            self._kept.append(self._clock.monotonic_ms())
            actual = asked + len(encode(answer))
            took_ms = None if ticket.idle else self._clock.monotonic_ms() - started
            return answer
        except NoAnswer as error:
            actual = asked + error.received if error.sent else 0
            raise
        except asyncio.CancelledError:
            actual = asked if ticket.idle else size
            raise
        finally:
            self._gate.land(ticket, actual, took_ms)

    async def close(self) -> None:
        await self._inner.close()

    def _connecting(self) -> int:
        """Bytes of the connection that has to be made, 0 if one is kept."""
        last = self._kept.pop() if self._kept else None
        if last is not None and self._clock.monotonic_ms() - last < KEPT_MS:
            return 0
        self._kept.clear()
        return self._gate.connection_bytes

    async def _ticket(self, message: Message, lane: str, size: int) -> Ticket:
        idle = isinstance(message, Pull) and message.wait_ms > 0
        answer = self._gate.take(lane, size, idle=idle)
        if isinstance(answer, Ticket):
            return answer
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits
                loop.call_soon_threadsafe(changed.set)

        self._gate.listeners.append(wake)
        try:
            while isinstance(answer, Wait):
                if answer.why in LONG:
                    raise Held(answer)
                changed.clear()
                with suppress(TimeoutError):  # the time is what was waited for
                    await asyncio.wait_for(changed.wait(), min(answer.ms, ASK_AGAIN_MS) / 1000 + 0.001)
                answer = self._gate.take(lane, size, idle=idle)
            return answer
        except asyncio.CancelledError:
            self._gate.withdraw(lane)
            raise
        finally:
            self._gate.listeners.remove(wake)
