"""Wakes long polls when what devices are to run has changed, whoever changed it: the command line is another process.

The store's count of such changes is read while somebody waits: every 30 ms in a fleet with trust (20 to 40 µs each),
every second in one without.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor

from cloud.ports import Store
from cloud.server.polls import Polls

LOOK_S = 0.03
LOOK_UNTRUSTED_S = 1.0
logger = logging.getLogger(__name__)


async def watch(store: Store, polls: Polls, readers: Executor) -> None:
    """Until it is cancelled. A look that fails is logged, once while it goes on, and the next is taken a moment later:
    nothing else tells those who wait.
    """
    loop = asyncio.get_running_loop()
    said = ""
    seen: dict[bytes, int] = {}
    while True:
        fleets = polls.fleets()
        try:
            found = await loop.run_in_executor(readers, _changes, store, fleets) if fleets else {}
            said = ""
        except Exception as error:
            if said != repr(error):  # not 33 times a second
                logger.exception("what devices are to run cannot be looked up; polls still end when they are due")
            said, found = repr(error), {}
        for fleet, changed in found.items():
            if seen.get(fleet) != changed:  # the first time, it may have changed since somebody began to wait
                polls.moved(fleet)
            seen[fleet] = changed
        await asyncio.sleep(LOOK_S if any(seen.values()) else LOOK_UNTRUSTED_S)


def _changes(store: Store, fleets: list[bytes]) -> dict[bytes, int]:
    with store.reading() as view:
        return {fleet: view.control(fleet) for fleet in fleets}
