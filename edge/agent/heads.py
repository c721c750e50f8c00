"""The newest checkpoint of each thread, kept in memory, and the numbers that were given out.

What always holds: what is kept is what a scan would find. Local puts say so themselves, what a page from the cloud
brought empties all of it, and a thread that an open batch has put to is looked up until that batch is settled.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING
from zlib import crc32

from edge.agent.names import TICKS, make_id, number_of

if TYPE_CHECKING:
    from edge.storage.batch import Batch
    from edge.storage.delta_log import DeltaLog

_LOCKS = 64
_KNOWN_MAX = 10_000


class Heads:
    """``open_batch`` returns the batch of the thread or task that asks, or None."""

    def __init__(self, log: DeltaLog, open_batch: Callable[[], Batch | None]) -> None:
        self._log = log
        self._open_batch = open_batch
        self._locks = [threading.RLock() for _ in range(_LOCKS)]
        self._known: dict[str, str | None] = {}
        self._applied = log.applied
        self._moves = 0
        self._issued: dict[str, int] = {}
        self._unsettled: dict[str, weakref.ref[Batch]] = {}

    def lock(self, prefix: str) -> threading.RLock:
        """For whoever puts to the thread."""
        return self._locks[crc32(prefix.encode()) % _LOCKS]

    def newest(self, prefix: str, find: Callable[[], str | None]) -> str | None:
        """The id; ``find`` asks the store."""
        applied = self._log.applied
        if applied != self._applied:
            self._known.clear()
            self._applied = applied
        waits_for = self._unsettled.get(prefix)
        if waits_for is not None:
            batch = waits_for()
            if batch is not None and not batch.settled:
                return find()
            self._unsettled.pop(prefix, None)
            self._known.pop(prefix, None)
        if prefix in self._known:
            return self._known.get(prefix)
        moves = self._moves
        found = find()
        if (self._log.applied, self._moves) == (applied, moves):
            self._make_room(self._known)
            self._known[prefix] = found
        return found

    def following(self, prefix: str, find: Callable[[], str | None]) -> str | None:
        """What the next checkpoint follows: in a batch, what was put in it before."""
        batch = self._open_batch()
        put = None if batch is None else batch.notes.get(prefix)
        return put if put is not None else self.newest(prefix, find)

    def next_id(self, prefix: str, newest: str | None, at_ms: int) -> str:
        """Larger than the newest and than any that was given out for this thread, whatever the clock says."""
        number = max(at_ms << TICKS, 0 if newest is None else number_of(newest) + 1, self._issued.get(prefix, 0) + 1)
        self._make_room(self._issued)
        self._issued[prefix] = number
        return make_id(number, self._log.replica)

    def moved(self, prefix: str, newest: str) -> None:
        """This thread of execution has put it: it is on disk, or in its open batch."""
        self._moves += 1
        batch = self._open_batch()
        if batch is None:
            self._known[prefix] = newest
        else:
            batch.notes[prefix] = newest
            self._unsettled[prefix] = weakref.ref(batch)

    def forget(self, prefix: str) -> None:
        self._moves += 1
        self._known.pop(prefix, None)

    @staticmethod
    def _make_room(held: dict[str, str | None] | dict[str, int]) -> None:
        while len(held) >= _KNOWN_MAX:
            held.pop(next(iter(held)), None)
