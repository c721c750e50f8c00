"""What the fleet steers, awaited: a part of ``edge.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from edge.aio_calls import Awaited, Wrapper
from edge.control.policy import ActivePolicy
from edge.control.trust import TrustStore
from edge.control.twin import LOOK_S, Changes, Twin


class AsyncPolicy(Wrapper[ActivePolicy]):
    """``ActivePolicy``, awaited."""

    rule = Awaited(ActivePolicy.rule)
    may = Awaited(ActivePolicy.may)
    describe = Awaited(ActivePolicy.describe)


class AsyncTwin(Wrapper[Twin]):
    """``Twin``, awaited."""

    desired = Awaited(Twin.desired)
    reported = Awaited(Twin.reported)
    delta = Awaited(Twin.delta)
    report = Awaited(Twin.report)
    status = Awaited(Twin.status)

    async def watch(self, agent: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """See ``Twin.watch``."""
        changes = Changes(await self.there(), agent)
        while not self.store.closed:
            if (now := await self.store.run(changes.next)) is not None:
                yield now
            await asyncio.sleep(LOOK_S)


class AsyncTrust(Wrapper[TrustStore]):
    """``TrustStore``, awaited. Who runs what was agreed hears of it on the link's thread, as there."""

    status = Awaited(TrustStore.status)
    staleness_ms = Awaited(TrustStore.staleness_ms)
    documents = Awaited(TrustStore.documents)
    pin = Awaited(TrustStore.pin)
    verify = Awaited(TrustStore.verify)
