"""What the server does between requests: the archive's runs and snapshots, each on its schedule.

What always holds: one job runs at a time, on a thread of its own; a job that fails is logged, noted in ``state`` and
run again when it is due; no failure reaches the server. ``finish`` runs those that ask for it once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sync.errors import AgentDBError
from sync.ports import Clock

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """``run`` blocks and may raise. ``at_shutdown``: run it a last time when the server stops."""

    name: str
    interval_s: float
    run: Callable[[], object]
    at_shutdown: bool = False


class JobState(NamedTuple):
    """When it last succeeded and last failed (0: never); the error and its hint while the last run failed."""

    succeeded_ms: int = 0
    failed_ms: int = 0
    error: str = ""
    hint: str = ""


class Jobs:
    """``changed`` is called on the job's thread when a job begins to fail, fails differently, or works again;
    ``before``: what it was last told in an earlier life.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        clock: Clock,
        changed: Callable[[str, JobState], None] | None = None,
        before: Mapping[str, JobState] | None = None,
    ) -> None:
        self._jobs = tuple(jobs)
        self._clock = clock
        self._changed = changed
        self._executor = ThreadPoolExecutor(1, "jobs")
        self._tasks: list[asyncio.Task[None]] = []
        self.state: dict[str, JobState] = {job.name: (before or {}).get(job.name, JobState()) for job in self._jobs}

    @property
    def failing(self) -> list[str]:
        return [name for name, state in self.state.items() if state.error]

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._jobs]

    async def finish(self) -> None:
        """Stop the schedules, let a run that is under way end, and run what wants to be run at the end, if they were
        started at all: a server that could not listen has taken in nothing.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for job in self._jobs:
            if job.at_shutdown and self._tasks:
                await loop.run_in_executor(self._executor, self._run, job)
        await loop.run_in_executor(None, self._executor.shutdown)

    async def _repeat(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(job.interval_s)
            await loop.run_in_executor(self._executor, self._run, job)

    def _run(self, job: Job) -> None:
        before = self.state[job.name]
        try:
            job.run()
        except Exception as error:
            known = isinstance(error, AgentDBError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            hint = error.hint if isinstance(error, AgentDBError) else ""
            if text != before.error:  # one line when it begins to fail, not one every interval
                told = f"{text} (hint: {hint})" if hint else text
                logger.error("%s failed: %s", job.name, told, exc_info=None if known else error)  # noqa: TRY400
            after = JobState(before.succeeded_ms, self._clock.wall_ms(), text, hint)
        else:
            if before.error:
                logger.warning("%s works again", job.name)
            after = JobState(self._clock.wall_ms(), before.failed_ms)
        self.state[job.name] = after
        if self._changed is not None and after.error != before.error:
            self._notify(job.name, after)

    def _notify(self, name: str, state: JobState) -> None:
        assert self._changed is not None
        try:
            self._changed(name, state)
        except AgentDBError as error:
            logger.error("the state of %s could not be noted: %s", name, error)  # noqa: TRY400 - a known cause
