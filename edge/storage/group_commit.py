"""Leader–follower group commit: writers that come while a commit is under way share the next one.

The first writer leads: it commits its own job at once, alone, and never waits for company. Those that arrive meanwhile
queue up; when the leader is done, the first of them leads and takes all the others along. So the number of fsyncs falls as
the number of writers grows, and nobody chose a delay.

What always holds: every job that ``run`` was given is finished exactly once, by a result or an error, whatever its leader
raises; a leader that is interrupted passes its office on. What a commit is, and which jobs of a group fail alone, is the
business of the ``commit`` callback, which runs in one thread at a time.

``_thread`` rather than ``threading``: the import of the latter is 4 of the 100 ms that a cold put may take.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
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
        self.turn: LockType | None = None  # released when the job is finished, or is to lead


class GroupCommit:
    """``commit(jobs)`` must set ``result`` or ``error`` on every job; if it raises, all of them fail with that."""

    def __init__(self, commit: Callable[[list[Job]], None]) -> None:
        self._commit = commit
        self._mutex = allocate_lock()
        self._queue: list[Job] = []
        self._led = False

    def run(self, writes: Sequence[Any]) -> Any:
        """The job's result, when it is durable. Raises its error."""
        job = Job(writes)
        with self._mutex:
            if self._led:
                job.turn = allocate_lock()
                job.turn.acquire()
                self._queue.append(job)
            else:
                self._led = True
        if job.turn is not None:
            self._await(job, job.turn)
        if not job.done:
            self._lead(job)
        if job.error is not None:
            raise job.error
        return job.result

    def _await(self, job: Job, turn: LockType) -> None:
        try:
            turn.acquire()
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
            self._commit(group)
        except BaseException as error:
            for job in group:
                if job.error is None:
                    job.error = error if job is own else _copy(error)
            if not isinstance(error, Exception):
                raise
        finally:
            for job in group:
                job.done = True
                if job is not own and job.turn is not None:
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
                assert job.turn is not None
                job.leads = True
                job.turn.release()
            else:
                self._led = False


def _copy(error: BaseException) -> BaseException:
    """One instance for each thread: an exception that several raise collects all their tracebacks."""
    return type(error)(error.message, hint=error.hint) if isinstance(error, AgentDBError) else error
