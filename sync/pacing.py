"""A session on a link that has limits: it loads no more than may go now, and holds back what may not.

``held`` lanes ask for nothing until they are let go; ``pace`` says how large pushes and pages may be; ``withdraw``
takes back a ``Send`` that was not carried out, so that what it had may be sent otherwise. Without these calls it is a
``FetchingSession`` like any other.
"""

from __future__ import annotations

from sync.effects import PULL, PUSH, SessionLimits
from sync.fetching import FetchingSession


class PacedSession(FetchingSession):
    """``held`` has PUSH, PULL, both or none."""

    held: frozenset[str] = frozenset()

    def pace(self, limits: SessionLimits, held: frozenset[str]) -> None:
        """From now on, until the next call."""
        self._limits, self.held = limits, held

    def withdraw(self, number: int) -> None:
        """The ``Send`` of that number was not sent, and will not be. A segment that was noted for it stays noted, as
        one that may have been sent: that is harmless.
        """
        if self._flights.land(number) == PUSH:
            self._sealed = self._ticket = None

    @property
    def polls(self) -> bool:
        """Whether the next thing it asks the feed is to wait for news."""
        position = self.position
        reads = position.baseline is not None or position.growth is not None or position.cursor < self.head
        looks = position.owed and self._whole is None  # whether something is still left out
        return not (reads or looks or self.fetches)

    @property
    def pushes(self) -> bool:
        """Whether there is something to push."""
        return self._repair is not None or self.owes_kept or self.position.acked[0] < self.position.head_seq

    def _plan_push(self) -> None:
        if PUSH not in self.held:
            super()._plan_push()

    def _plan_pull(self) -> None:
        if PULL not in self.held:
            super()._plan_pull()
