"""Long polls: requests that wait until their fleet's feed moves on.

What always holds: a waiter is registered before its caller looks at the feed, so no movement falls in between; a device
has one waiter (a newer poll releases the older, whose connection is probably dead); ``close`` releases all.

Runs on one event loop; ``moved`` alone may be called from any thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Polls:
    """``subscribe(fleet, callback)`` is the control plane's: call back, on any thread, when the fleet's head moves."""

    def __init__(self, subscribe: Callable[[bytes, Callable[[], None]], object], *, most: int) -> None:
        self._subscribe = subscribe
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: dict[bytes, dict[bytes, asyncio.Event]] = {}
        self._count = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._count

    @contextmanager
    def waiter(self, fleet: bytes, device: bytes) -> Iterator[asyncio.Event | None]:
        """An event that is set when the head moves; None if nobody may wait now (closing, or too many do)."""
        if self._closed or self._count >= self._most:
            yield None
            return
        if fleet not in self._waiters:
            self._loop = asyncio.get_running_loop()
            self._waiters[fleet] = {}
            self._subscribe(fleet, lambda: self.moved(fleet))
        devices = self._waiters[fleet]
        if device in devices:
            devices[device].set()
        event = devices[device] = asyncio.Event()
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            if devices.get(device) is event:
                del devices[device]

    def current(self, fleet: bytes, device: bytes, event: asyncio.Event) -> bool:
        """Whether no newer poll of this device has taken its place."""
        return self._waiters.get(fleet, {}).get(device) is event

    def fleets(self) -> list[bytes]:
        """Those of which somebody waits."""
        return [fleet for fleet, devices in self._waiters.items() if devices]

    def moved(self, fleet: bytes) -> None:
        """Wake everybody of this fleet, soon. From any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, fleet)

    def close(self) -> None:
        """Wake everybody; nobody waits from now on."""
        self._closed = True
        for fleet in self._waiters:
            self._wake(fleet)

    @property
    def closed(self) -> bool:
        return self._closed

    def _wake(self, fleet: bytes) -> None:
        for event in self._waiters.get(fleet, {}).values():
            event.set()
