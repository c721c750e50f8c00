"""A link that stays: a live replicator until it is stopped, and beside it what brings bodies and hears what is to run.

A failure of the network, or of a disk that is full for a while, is never an error of the agent: it tries again for
ever, and ``status`` says what is wrong. What always holds: all of its threads are told to end before any is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.link.body_care import BodyCare
from edge.link.control import ControlCare
from sync.errors import AgentDBError, Unreachable

if TYPE_CHECKING:
    from edge.link.replicator import Progress
    from edge.link.runner import Link
    from sync.ports import Clock

STOP_MS_MAX = 30_000
STUCK_MS = 500
_log = logging.getLogger("agentdb.edge")


class LiveLink:
    """A live replicator in a thread of its own, attachments' bodies in another, and what is to run, if it hears of
    that, in a third.
    """

    def __init__(
        self, link: Link, *, url: str | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        self._link = link
        self._control = ControlCare(link.control(url), link.trust(), link.random)
        self._replicator = link.replicator(
            live=True, url=url, on_progress=on_progress, on_assignment=self._control.hear
        )
        self.failure: BaseException | None = None
        self._bodies = BodyCare(link, url)
        self._thread = threading.Thread(target=self._run, name="agentdb-sync", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> Progress:
        return self._replicator.progress

    @property
    def idle(self) -> bool:
        """What it heard of to run may be a policy, which wants more here: then the replicator is not, any more."""
        return self._replicator.idle and self._bodies.idle and self._control.idle and self._replicator.idle

    @property
    def running(self) -> bool:
        """False once something ended it that trying again does not mend; ``failure`` says what."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """As ``end``. Raises also what ended it before, if anything."""
        self.end()
        if self.failure is not None:
            raise self.failure

    def end(self) -> None:
        """Ends all its threads, also once something ended the replicator; what is under way is taken up again by the
        next link. Takes ``STOP_MS_MAX`` at the most. Raises Unreachable if the replicator's does not end in time.
        """
        self._replicator.stop()
        self._bodies.stop()
        self._control.stop()
        clock = self._link.clock
        ends_ms = clock.monotonic_ms() + STOP_MS_MAX  # of all of them: each has been told
        for join in (self._thread.join, self._bodies.join, self._control.join):
            join(max(0, ends_ms - clock.monotonic_ms()) / 1000)
        self._link.rest()
        if self._thread.is_alive():
            raise Unreachable("the sync thread did not stop in time", hint="it will end with the process")

    def wait_idle(self, timeout_ms: int | None, clock: Clock) -> Progress:
        """Until both sides have everything, as far as known. Raises the last error, or Unreachable, when time is
        over or the link was stopped meanwhile.
        """
        started = unstuck = clock.monotonic_ms()
        self._replicator.hurry()
        while not self.idle:
            ended = not self.running
            if self.failure is not None:
                raise self.failure
            if ended:
                raise Unreachable("the link was stopped", hint="what has arrived is kept; `start_sync` begins it again")
            waits = self._replicator.stuck or (self._bodies.deferred if self._replicator.idle else None)
            if waits is None:
                unstuck = clock.monotonic_ms()
            elif clock.monotonic_ms() - unstuck >= STUCK_MS:
                raise waits
            if timeout_ms is not None and clock.monotonic_ms() - started >= timeout_ms:
                why = self.progress.error or self._bodies.problem or self._control.problem or "not in sync in time"
                raise Unreachable(why, hint="the link goes on trying")
            time.sleep(0.01)
        return self.progress

    def _run(self) -> None:
        try:
            asyncio.run(self._replicator.run())
        except AgentDBError as error:
            self.failure = error
            _log.error("sync stopped: %s (%s)", error, error.hint)
        except BaseException as error:
            self.failure = error
            _log.exception("sync stopped by an unexpected error")
            raise
