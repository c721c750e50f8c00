"""Leader-follower group commit: writers that come while a commit is under way share the next one.

The first writer leads: it commits its own job at once, alone, and never waits for company. Those that arrive
meanwhile queue up; when the leader is done, the first of them leads and takes all the others along. So the number
of fsyncs falls as the number of writers grows, and nobody chose a delay.

What always holds: every job that ``run`` was given is finished exactly once, by a result or an error, whatever its
leader raises; a leader that is interrupted passes its office on. What a commit is, and which jobs of a group fail
alone, is the business of the two callbacks, of which one runs at a time.

``_thread`` rather than ``threading``: the import of the latter is 4 of the 100 ms that a cold put may take.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Sequence
from typing import Any

from sync.errors import AgentDBError

GROUP_WRITES_MAX = 10_000


class Job:
    """One caller's writes, and what became of them: ``result`` or ``error``."""

    __slots__ = ("done", "error", "leads", "result", "turn", "writes")

    def __init__(self, writes: Sequence[Any]) -> None:
        self.writes = writes
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.leads = False
        self.turn = allocate_lock()  # released when the job is finished, or is to lead
        self.turn.acquire()


class GroupCommit:
    """``alone(writes)`` commits one caller's writes and returns the result. ``together(jobs)`` commits several
    callers' at once and sets ``result`` or ``error`` on every job; if it raises, all of them fail with that.
    """

    def __init__(self, alone: Callable[[Sequence[Any]], Any], together: Callable[[Sequence[Job]], None]) -> None:
        self._alone = alone
        self._together = together
        self._mutex = allocate_lock()
        self._queue: list[Job] = []
        self._led = False

    def run(self, writes: Sequence[Any]) -> Any:
        """The result for these writes, when they are durable. Raises their error."""
        with self._mutex:
            if self._led:
                job = Job(writes)
                self._queue.append(job)
            else:
                self._led = True
                job = None
        if job is None:  # nobody else is there
            try:
                return self._alone(writes)
            finally:
                self._pass_on()
        self._await(job)
        if not job.done:
            self._lead(job)
        if job.error is not None:
            raise job.error
        return job.result

    def _await(self, job: Job) -> None:
        try:
            job.turn.acquire()
        except BaseException:  # interrupted while waiting: leave the queue, or hand on what was given to us
            with self._mutex:
                if job in self._queue:
                    self._queue.remove(job)
            if job.leads:
                self._pass_on()
            raise

    def _lead(self, own: Job) -> None:
        group = [own]
        try:
            with self._mutex:
                if self._queue:
                    self._join(group)
            self._together(group)
        except BaseException as error:
            for job in group:
                if job.error is None:
                    job.error = error if job is own else _copy(error)
            if not isinstance(error, Exception):
                raise
        finally:
            for job in group:
                job.done = True
                if job is not own:
                    job.turn.release()
            self._pass_on()

    def _join(self, group: list[Job]) -> None:
        """Move jobs from the queue into the group, up to a bound that keeps one commit's memory in check."""
        writes = len(group[0].writes)
        while self._queue and writes < GROUP_WRITES_MAX:
            job = self._queue.pop(0)
            writes += len(job.writes)
            group.append(job)

    def _pass_on(self) -> None:
        with self._mutex:
            if self._queue:
                job = self._queue.pop(0)
                job.leads = True
                job.turn.release()
            else:
                self._led = False


def _copy(error: BaseException) -> BaseException:
    """One instance for each thread: an exception that several raise collects all their tracebacks."""
    return type(error)(error.message, hint=error.hint) if isinstance(error, AgentDBError) else error
