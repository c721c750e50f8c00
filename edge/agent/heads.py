"""The newest checkpoint of each thread, kept in memory, and the numbers that are given out.

What always holds: what is kept is what a scan would find. It is used only while all that has changed of any checkpoint
since it was found was put by ``Thread`` in this process and noted here: an unbroken chain of positions, ``_since`` to
``_until``. So an agent that writes memories or other threads between its checkpoints does not scan for each.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.agent.names import DIGITS, TICKS, make_id

if TYPE_CHECKING:
    from edge.storage.batch import Batch
    from edge.storage.delta_log import DeltaLog
    from sync.ports import RandomSource

_KNOWN_MAX = 10_000
_CHANCE = 1 << 16  # drawn once: two copies of one store, that have one name, do not give out the same number


class Heads:
    """``collection`` has the checkpoints. A ``batch`` is the open one of the thread or task that asks, or None."""

    def __init__(self, log: DeltaLog, random: RandomSource, collection: str) -> None:
        self._log = log
        self._collection = collection
        self._lock = allocate_lock()  # guards the next two
        self._chance = int(random.uniform() * _CHANCE)
        self._known: dict[str, tuple[int, str | None]] = {}  # the position when it was found or put, and the id
        self._since = self._until = -1

    def newest(self, prefix: str, find: Callable[[], str | None]) -> str | None:
        """The id; ``find`` asks the store."""
        with self._lock:
            changed = self._log.changed_at(self._collection)
            if changed != self._until:
                self._since = self._until = changed
            known = self._known.get(prefix)
            if known is not None and known[0] >= self._since:
                return known[1]
        found = find()
        with self._lock:
            if changed == self._until:  # else it may be older than what was put meanwhile
                self._keep(prefix, changed, found)
        return found

    def following(self, prefix: str, batch: Batch | None, find: Callable[[], str | None]) -> str | None:
        """What the next checkpoint follows: in a batch, what was put in it before."""
        put = None if batch is None else batch.notes.get(prefix)
        return put if put is not None else self.newest(prefix, find)

    def next_id(self, newest: str | None, at_ms: int) -> str:
        """Larger than the newest, whatever the clock says."""
        made = make_id((at_ms << TICKS) + self._chance, self._log.replica)
        if newest is None or newest < made:
            return made
        return make_id(int(newest[:DIGITS], 16) + 1 + self._chance, self._log.replica)

    def moved(self, prefix: str, newest: str, before: int, batch: Batch | None) -> None:
        """It was put when the log stood at ``before``, by one write; or it is in the open batch."""
        if batch is not None:
            batch.notes[prefix] = newest
            return
        with self._lock:
            if self._log.position == before + 1:  # and nobody else has written meanwhile
                self._keep(prefix, before + 1, newest)
                self._until = before + 1

    def _keep(self, prefix: str, position: int, newest: str | None) -> None:
        while len(self._known) >= _KNOWN_MAX:
            self._known.pop(next(iter(self._known)), None)
        self._known[prefix] = (position, newest)
