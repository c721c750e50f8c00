"""AsyncModels: who is cancelled holds no files, and what is wrong is said as ``ModelStore`` says it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from edge import AsyncEdge, AsyncModels, Edge, InvalidValue, ModelStore
from edge.aio_calls import Store
from sync.activation import Version


class HeldModels:
    """What ``AsyncModels`` asks of a model store, of which a version comes when it is let."""

    def __init__(self) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        self.held = 0

    def await_another(self, *_: object) -> bool:
        return True

    def taken(self, _: str) -> tuple[Version, HeldModels]:
        self.asked.set()
        assert self.let.wait(10)
        self.held += 1
        return Version("a", 1, b"d" * 32), self

    def slots(self, _: str) -> HeldModels:
        return self

    def path(self, slot: str) -> Path:
        return Path(slot)

    def release(self) -> None:
        self.held -= 1

    @contextmanager
    def use(self, name: str) -> Iterator[Path]:
        self.taken(name)
        try:
            yield Path("a")
        finally:
            self.release()


@pytest.mark.parametrize("how", ["use", "watch"])
def test_a_model_is_held_no_longer_than_its_user_is_there(how: str) -> None:
    async def work() -> None:
        inner, store = HeldModels(), Store(cast("Edge", None), 1)
        models = AsyncModels(store, cast("ModelStore", inner))

        async def use() -> None:
            async with models.use("m"):
                raise AssertionError("it was cancelled")

        async def watch() -> None:
            async for _ in models.watch("m"):
                raise AssertionError("it was cancelled")

        user = asyncio.create_task(use() if how == "use" else watch())
        assert await asyncio.to_thread(inner.asked.wait, 10)
        user.cancel()
        await asyncio.sleep(0.01)
        inner.let.set()
        with pytest.raises(asyncio.CancelledError):
            await user
        await asyncio.to_thread(store.pool.shutdown)
        assert inner.held == 0

    asyncio.run(work())


def test_a_time_that_is_none_is_said(tmp_path: Path) -> None:
    async def work() -> None:
        async with await AsyncEdge.open(tmp_path / "s") as edge:
            with pytest.raises(InvalidValue, match="timeout_s"):
                async for _ in edge.models.watch("m", timeout_s=cast("float", "soon")):
                    pass

    asyncio.run(work())
