"""AsyncEdge: the same names as ``Edge``, awaited: every call runs on a thread of the store's own pool, so a slow disk,
or a slow search, never holds up the event loop.

    async with await AsyncEdge.open("data") as edge:
        notes = await edge.collection("notes")
        await notes.put("n1", {"body": "the pump is loud"})
        async for key, fields in notes.scan():
            ...

What always holds: one object of this module stands for one of the synchronous ones, and adds nothing but the waiting. A
call that is cancelled may still be carried out: what was being written is written, or not, as with a lost connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from edge.agent.agents import Agent, Snapshots
from edge.agent.attachments import Attachments
from edge.agent.documents import Documents
from edge.agent.memory import Memory
from edge.agent.thread import Thread
from edge.agent.vectors import Vectors
from edge.aio_calls import Awaited, Store, Streamed, Wrapper, to_its_end
from edge.aio_models import AsyncModels
from edge.aio_steering import AsyncPolicy, AsyncTrust, AsyncTwin
from edge.node import Edge
from edge.storage.batch import Batch
from edge.storage.cache import Cache
from edge.storage.collection import Collection
from sync.errors import InvalidValue

R = TypeVar("R")
WORKERS = 16


class AsyncCollection(Wrapper[Collection]):
    """``Collection``, awaited."""

    put = Awaited(Collection.put)
    patch = Awaited(Collection.patch)
    increment = Awaited(Collection.increment)
    add = Awaited(Collection.add)
    remove = Awaited(Collection.remove)
    delete = Awaited(Collection.delete)
    get = Awaited(Collection.get)
    scan = Streamed(Collection.scan)
    count = Awaited(Collection.count)
    search = Awaited(Collection.search)
    within = Awaited(Collection.within)
    vector_status = Awaited(Collection.vector_status)
    to_arrow = Awaited(Collection.to_arrow)

    @property
    def name(self) -> str:
        return self.inner.name


class AsyncThread(Wrapper[Thread]):
    """``Thread``, awaited."""

    put = Awaited(Thread.put)
    prune = Awaited(Thread.prune)
    delete = Awaited(Thread.delete)
    get = Awaited(Thread.get)
    head = Awaited(Thread.head)
    history = Streamed(Thread.history)
    heads = Awaited(Thread.heads)
    put_again = Awaited(Thread.put_again)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def agent(self) -> str:
        return self.inner.agent

    @property
    def type(self) -> str:
        return self.inner.type

    async def fork(self, name: str, **options: Any) -> AsyncThread:
        """See ``Thread.fork``."""
        return AsyncThread(self.store, await self.store.run(lambda: self.inner.fork(name, **options)))


class AsyncMemory(Wrapper[Memory]):
    """``Memory``, awaited."""

    add = Awaited(Memory.add)
    supersede = Awaited(Memory.supersede)
    retract = Awaited(Memory.retract)
    update = Awaited(Memory.update)
    touch = Awaited(Memory.touch)
    get = Awaited(Memory.get)
    all = Streamed(Memory.all)
    search = Awaited(Memory.search)
    similar = Awaited(Memory.similar)
    history = Awaited(Memory.history)
    forget = Awaited(Memory.forget)
    restore = Awaited(Memory.restore)
    reembed = Awaited(Memory.reembed)

    async def consolidate(self, *args: Any, **options: Any) -> list[str]:
        """See ``Memory.consolidate``; returns the ids of the new memories."""
        future = await self.store.run(lambda: self.inner.consolidate(*args, **options))
        return await asyncio.wrap_future(future)


class AsyncDocuments(Wrapper[Documents]):
    """``Documents``, awaited."""

    add = Awaited(Documents.add)
    delete = Awaited(Documents.delete)
    get = Awaited(Documents.get)
    text = Awaited(Documents.text)
    all = Streamed(Documents.all)
    search = Awaited(Documents.search)
    reembed = Awaited(Documents.reembed)


class AsyncAttachments(Wrapper[Attachments]):
    """``Attachments``, awaited. ``open`` gives a plain file: its reads are of this disk."""

    add = Awaited(Attachments.add)
    delete = Awaited(Attachments.delete)
    pin = Awaited(Attachments.pin)
    unpin = Awaited(Attachments.unpin)
    get = Awaited(Attachments.get)
    open = Awaited(Attachments.open)
    read = Awaited(Attachments.read)
    all = Streamed(Attachments.all)
    search = Awaited(Attachments.search)


class AsyncCache(Wrapper[Cache]):
    """``Cache``, awaited."""

    status = Awaited(Cache.status)
    pin = Awaited(Cache.pin)
    unpin = Awaited(Cache.unpin)
    evict = Awaited(Cache.evict)


class AsyncVectors(Wrapper[Vectors]):
    """``Vectors``, awaited."""

    upsert = Awaited(Vectors.upsert)
    upsert_many = Awaited(Vectors.upsert_many)
    delete = Awaited(Vectors.delete)
    get = Awaited(Vectors.get)
    all = Streamed(Vectors.all)
    knn = Awaited(Vectors.knn)
    range = Awaited(Vectors.range)
    count = Awaited(Vectors.count)
    status = Awaited(Vectors.status)


class AsyncAgent(Wrapper[Agent]):
    """``Agent``, awaited."""

    export = Awaited(Agent.export)
    erase = Awaited(Agent.erase)
    lift_erasure = Awaited(Agent.lift_erasure)

    def thread(self, *args: Any, **options: Any) -> AsyncThread:
        """See ``Agent.thread``; nothing is read yet, so nothing is awaited."""
        return AsyncThread(self.store, self.inner.thread(*args, **options))

    async def memory(self, *args: Any, **options: Any) -> AsyncMemory:
        """See ``Agent.memory``."""
        return AsyncMemory(self.store, await self.store.run(lambda: self.inner.memory(*args, **options)))

    async def documents(self, *args: Any, **options: Any) -> AsyncDocuments:
        """See ``Agent.documents``."""
        return AsyncDocuments(self.store, await self.store.run(lambda: self.inner.documents(*args, **options)))

    async def attachments(self, *args: Any, **options: Any) -> AsyncAttachments:
        """See ``Agent.attachments``."""
        return AsyncAttachments(self.store, await self.store.run(lambda: self.inner.attachments(*args, **options)))

    async def vectors(self, *args: Any, **options: Any) -> AsyncVectors:
        """See ``Agent.vectors``."""
        return AsyncVectors(self.store, await self.store.run(lambda: self.inner.vectors(*args, **options)))

    async def spaces(self) -> list[AsyncVectors]:
        """See ``Agent.spaces``."""
        return [AsyncVectors(self.store, one) for one in await self.store.run(self.inner.spaces)]

    async def threads(self, **options: Any) -> list[AsyncThread]:
        """See ``Agent.threads``."""
        found = await self.store.run(lambda: self.inner.threads(**options))
        return [AsyncThread(self.store, thread) for thread in found]


class AsyncSnapshots(Wrapper[Snapshots]):
    """``Snapshots``, awaited."""

    take = Awaited(Snapshots.take)
    agents = Awaited(Snapshots.agents)
    all = Awaited(Snapshots.all)
    restore = Awaited(Snapshots.restore)
    delete = Awaited(Snapshots.delete)


class AsyncBatch:
    """``async with edge.batch():`` makes all writes inside it one transaction, at its end: those of this task, and of
    tasks that it starts in there and waits for (``gather``, ``wait_for``). They are carried out one after the other.

    A task that goes on after the end writes by itself. A batch in a batch joins the outer one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._batch: Batch | None = None
        self._turn = asyncio.Lock()
        self.ended = False

    async def __aenter__(self) -> Self:
        """Raises InvalidValue if it was entered before."""
        if self._batch is not None:  # a task of then may still go on, and would write into what is begun now
            raise InvalidValue("this batch was entered before", hint="edge.batch() makes another one")
        outer = self._store.batch.get()
        if outer is None or outer.ended:
            self._batch = self._store.edge.batch()
            self._store.batch.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        batch = self._batch
        if batch is None:
            return
        self.ended = True
        self._store.batch.set(None)
        async with self._turn:  # of a child task that is in the middle of a call
            writes = batch.end()
        if error is None:
            await to_its_end(self._store.submit(lambda: batch.commit(writes)))

    async def run(self, work: Callable[[], R]) -> R:
        """A call, when it is its turn. Raises InvalidValue if the batch has ended by then."""
        batch = self._batch
        assert batch is not None

        def lent() -> R:
            with batch.lent():
                return work()

        async with self._turn:
            return await to_its_end(self._store.submit(lent))


class AsyncEdge(Wrapper[Edge]):
    """``Edge``, awaited. Build it with ``open``; close it, or use it with ``async with``."""

    agents = Awaited(Edge.agents)
    erasures = Awaited(Edge.erasures)
    carry_out_erasures = Awaited(Edge.carry_out_erasures)
    join = Awaited(Edge.join)
    sync = Awaited(Edge.sync)
    start_sync = Awaited(Edge.start_sync)
    stop_sync = Awaited(Edge.stop_sync)
    device_key = Awaited(Edge.device_key)
    lance = Awaited(Edge.lance)
    digest = Awaited(Edge.digest)
    verify = Awaited(Edge.verify)
    maintain = Awaited(Edge.maintain)
    snapshot = Awaited(Edge.snapshot)
    status = Awaited(Edge.status)

    @staticmethod
    async def open(path: Any, *, workers: int = WORKERS, **options: Any) -> AsyncEdge:
        """See ``Edge.open``. ``workers`` is how many calls are carried out at the same time."""
        if type(workers) is not int or workers < 1:
            raise InvalidValue(f"workers is a whole number, 1 or more, not {workers!r:.40}")
        opening = asyncio.ensure_future(asyncio.to_thread(lambda: Edge.open(path, **options)))
        try:
            edge = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_again)
            raise
        return AsyncEdge(Store(edge, workers), edge)

    async def close(self) -> None:
        """See ``Edge.close``. What is under way ends first."""
        self.store.closed = True
        await asyncio.to_thread(self.store.pool.shutdown)
        await asyncio.to_thread(self.inner.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def is_syncing(self) -> bool:
        """See ``Edge.is_syncing``."""
        return self.inner.is_syncing

    @property
    def link_class(self) -> str | Callable[[], str]:
        """See ``Edge.link_class``; a function is called on the link's thread."""
        return self.inner.link_class

    @link_class.setter
    def link_class(self, link_class: str | Callable[[], str]) -> None:
        self.inner.link_class = link_class

    async def collection(self, name: str, **declaration: Any) -> AsyncCollection:
        """See ``Edge.collection``."""
        found = await self.store.run(lambda: self.inner.collection(name, **declaration))
        return AsyncCollection(self.store, found)

    def collections(self) -> list[str]:
        """See ``Edge.collections``; it is in memory, so nothing is awaited."""
        return self.inner.collections()

    def batch(self) -> AsyncBatch:
        """See ``Edge.batch``, and ``AsyncBatch`` for what joins it."""
        return AsyncBatch(self.store)

    @property
    def read_only(self) -> bool:
        return self.inner.read_only

    def agent(self, name: str) -> AsyncAgent:
        """See ``Edge.agent``."""
        return AsyncAgent(self.store, self.inner.agent(name))

    @property
    def snapshots(self) -> AsyncSnapshots:
        return AsyncSnapshots(self.store, self.inner.snapshots)

    @property
    def policy(self) -> AsyncPolicy:
        """What holds, whenever it is asked."""
        return AsyncPolicy.late(self.store, lambda: self.inner.policy)

    @property
    def twin(self) -> AsyncTwin:
        return AsyncTwin.late(self.store, lambda: self.inner.twin)

    @property
    def cache(self) -> AsyncCache:
        return AsyncCache.late(self.store, lambda: self.inner.cache)

    @property
    def trust(self) -> AsyncTrust:
        return AsyncTrust.late(self.store, lambda: self.inner.trust)

    @property
    def models(self) -> AsyncModels:
        return AsyncModels.late(self.store, lambda: self.inner.models)

    @property
    def device(self) -> bytes:
        return self.inner.device


def _close_again(opening: asyncio.Future[Edge]) -> None:
    """Nobody waits for the store any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
