"""Whatever becomes of one look at what devices are to run, there is a next one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.ports import Reading
from cloud.server import watching
from cloud.server.polls import Polls
from cloud.server.watching import watch
from sync.errors import StorageError
from tests.control_world import POLICY, POLICY_2, ControlWorld


class _Failing:
    """A store that cannot be read for some looks; it counts them."""

    def __init__(self, store: Any, *errors: Exception) -> None:
        self._store = store
        self.errors = list(errors)
        self.looks = 0

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)
        with self._store.reading() as view:
            yield view


@pytest.mark.parametrize("error", [StorageError("the disk is away"), ValueError("nobody thought of it")])
def test_a_look_that_fails_is_said_once_and_ends_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(watching, "LOOK_UNTRUSTED_S", 0.005)
    world = ControlWorld(tmp_path)
    world.publish()
    world.plane.assign(world.fleet, "policy", POLICY)
    store = _Failing(world.store, error, error, error)

    async def woken() -> None:
        polls = Polls(lambda fleet, callback: None, most=2)
        with ThreadPoolExecutor(1) as readers:
            task = asyncio.create_task(watch(store, polls, readers))  # type: ignore[arg-type]
            with polls.waiter(world.fleet, b"device") as event:
                assert event is not None
                await asyncio.wait_for(event.wait(), 5)  # the first look that succeeds
                event.clear()
                world.plane.assign(world.fleet, "policy", POLICY_2)
                await asyncio.wait_for(event.wait(), 5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with caplog.at_level(logging.WARNING):
        asyncio.run(woken())
    assert store.looks >= 5
    assert len([record for record in caplog.records if record.name == watching.__name__]) == 1
