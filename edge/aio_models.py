"""``ModelStore``, awaited: a part of ``edge.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from edge.aio_calls import Awaited, Wrapper, to_its_end
from edge.control.model_reader import Watcher, check_timeout
from edge.control.model_store import ModelStore

_LOOKS_S = 0.25


class AsyncModels(Wrapper[ModelStore]):
    """``ModelStore``, awaited."""

    report_use = Awaited(ModelStore.report_use)
    status = Awaited(ModelStore.status)
    remove = Awaited(ModelStore.remove)
    retry = Awaited(ModelStore.retry)
    verify = Awaited(ModelStore.verify)

    async def path(self, name: str) -> Path:
        """See ``ModelStore.path``."""
        return await self.store.run(lambda: self.inner.path(name))

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Path]:
        """See ``ModelStore.use``."""
        held = (await self.there()).use(name)
        entered = self.store.submit(held.__enter__)
        try:
            yield await to_its_end(entered)
        finally:
            held.__exit__(None, None, None)  # it waits for nobody

    async def watch(self, name: str, *, timeout_s: float | None = None) -> AsyncIterator[Path | None]:
        """See ``ModelStore.watch``. It looks four times a second; no thread waits for it."""
        check_timeout(timeout_s)
        watcher = Watcher(await self.there(), name)
        waited_s = 0.0
        try:
            while not self.store.closed:
                if await to_its_end(self.store.submit(partial(watcher.moved, 0))):  # else it might hold one for ever
                    yield watcher.path
                    waited_s = 0.0
                elif timeout_s is not None and waited_s >= timeout_s:
                    return
                await asyncio.sleep(_LOOKS_S)
                waited_s += _LOOKS_S
        finally:
            watcher.close()
