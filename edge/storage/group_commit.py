"""Leader-follower group commit: writers that come while a commit is under way share the next one.

The first writer leads: it commits its own job at once, alone, and never waits for company. Those that arrive
meanwhile queue up; then the first of them leads and takes all the others along. So the number of fsyncs falls as the
number of writers grows, and nobody chose a delay.

The office is handed on from caller to caller: by the leader through its finished group, each waking the next, and by
the last of them to the first in the queue. One interpreter runs one thread at a time: if a leader woke all of its
group at once, they would wake only to wait for each other, and to hold up the next leader on its way to the disk and
back. So they also have the time to come again and join the next group, which becomes twice as large. Measured with
16 writers on a fast disk: half the time for each put, and half the fsyncs. The price is paid when another thread
keeps the interpreter busy: then every hand-over waits for its turn.

What always holds: every job that ``run`` was given is finished exactly once, by a result or an error, whatever its
leader raises, and none by a result that is not on disk. A signal handler that raises (Ctrl-C) may do so between any
two steps of a main thread: so what a caller owes the others is done by ``_settle``, which can be begun again at any
point and is, until it has come to its end. What a commit is, and which jobs of a group fail alone, is the business of
the two callbacks, of which one runs at a time.

``_thread`` rather than ``threading``: the import of the latter is 4 of the 100 ms that a cold put may take.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections.abc import Callable, Sequence
from typing import Any

from sync.errors import AgentDBError, StorageError

GROUP_WRITES_MAX = 10_000
_TRIES_MAX = 100


class Job:
    """One caller's writes, and what became of them: ``result`` or ``error``, when ``done``."""

    # Defaults in the class: an instance costs a third of one that sets them all.
    result: Any = None
    error: BaseException | None = None
    done = False
    gone = False  # nobody waits for it any more
    next: Job | None = None  # who has the office after it, in its group
    heir: Job | None = None  # who has the office after it, and is to be woken
    turn: LockType | None = None  # if its caller waits: released when it has the office
    group: list[Job] | None = None  # if it led
    failure: BaseException | None = None  # of the whole group

    def __init__(self, writes: Sequence[Any]) -> None:
        self.writes = writes


class GroupCommit:
    """``alone(writes)`` commits one caller's writes and returns the result. ``together(jobs)`` commits several
    callers' at once and sets ``result`` or ``error`` on every job; if it raises, all of them fail with that.
    """

    def __init__(self, alone: Callable[[Sequence[Any]], Any], together: Callable[[Sequence[Job]], None]) -> None:
        self._alone = alone
        self._together = together
        self._mutex = allocate_lock()  # guards the next two, and who comes next
        self._queue: list[Job] = []
        self._holder: Job | None = None  # of the office

    def run(self, writes: Sequence[Any]) -> Any:
        """The result for these writes, when they are durable. Raises their error."""
        job = Job(writes)
        try:
            with self._mutex:
                if self._holder is None:
                    self._holder = job
                else:
                    job.turn = allocate_lock()
                    job.turn.acquire()
                    self._queue.append(job)
            if job.turn is None:  # nobody else is there
                return self._alone(writes)
            job.turn.acquire()
            if not job.done:
                self._lead(job)
        finally:
            try:
                self._settle(job)
            except BaseException:
                self._settle_surely(job)
                raise
        if job.error is not None:
            raise job.error
        return job.result

    def _lead(self, own: Job) -> None:
        own.group = group = [own]
        own.failure = InterruptedError()  # unless what follows comes to its end
        try:
            with self._mutex:
                if self._queue:
                    self._join(group)
            self._together(group)
            own.failure = None
        except BaseException as error:
            own.failure = error
            if not isinstance(error, Exception):
                raise

    def _join(self, group: list[Job]) -> None:
        """Move jobs from the queue into the group, up to a bound that keeps one commit's memory in check."""
        queue = self._queue
        if queue[0] is group[0]:
            del queue[0]  # who passed the office on was interrupted in the middle of it
        writes, taken = len(group[0].writes), 0
        while taken < len(queue) and writes < GROUP_WRITES_MAX:
            writes += len(queue[taken].writes)
            taken += 1
        group += queue[:taken]
        del queue[:taken]

    def _settle(self, job: Job) -> None:
        """The caller of this job goes. If it led, its group is finished; if it has the office, the next of the group
        gets it, or the first that waits. Doing it twice does no harm.
        """
        with self._mutex:
            job.gone = True
            if self._holder is job:
                if job.group is not None:
                    _finish(job, job.group)
                heir = job.next
                while heir is not None and heir.gone:
                    heir = heir.next
                if heir is not None:
                    job.heir = self._holder = heir
                elif self._queue:
                    job.heir = self._holder = self._queue[0]
                    del self._queue[0]
                else:
                    self._holder = None
            elif not job.done and job in self._queue:  # interrupted while it waited
                self._queue.remove(job)
        if job.heir is not None:
            turn = job.heir.turn
            if turn is not None and turn.locked():
                turn.release()
            job.heir = None

    def _settle_surely(self, job: Job) -> None:
        for _ in range(_TRIES_MAX):
            try:
                self._settle(job)
                return
            except BaseException:  # noqa: BLE001, S112 - raised by a signal handler; the first one is on its way
                continue


def _finish(leader: Job, group: Sequence[Job]) -> None:
    """Whatever the jobs of the group do not know yet: that they failed with their leader, and who comes after whom."""
    following = None
    for job in reversed(group):
        if leader.failure is not None and job.error is None:
            job.error = leader.failure if job is leader else _copy(leader.failure)
        job.next, following = following, job
        job.done = True


def _copy(error: BaseException) -> AgentDBError:
    """One instance for each thread: an exception that several raise collects all their tracebacks. What interrupted
    the leader's thread was not meant for the others.
    """
    if isinstance(error, AgentDBError):
        return type(error)(error.message, hint=error.hint)
    return StorageError(
        f"the thread that committed for this one was interrupted: {type(error).__name__}",
        hint="nobody knows whether the write is on disk: look, or repeat it",
    )
