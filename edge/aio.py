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
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from itertools import islice
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from edge.agent.agents import Agent, Snapshots
from edge.agent.documents import Documents
from edge.agent.memory import Memory
from edge.agent.thread import Thread
from edge.node import Edge
from edge.storage.batch import Batch
from edge.storage.collection import Collection
from sync.errors import InvalidValue, StorageError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
WORKERS = 16
_CHUNK = 200


class _Store:
    """The open store, its threads, and how a call gets to one of them."""

    def __init__(self, edge: Edge, workers: int) -> None:
        self.edge = edge
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="agentdb-aio")
        self.batch: ContextVar[AsyncBatch | None] = ContextVar("batch", default=None)

    async def run(self, work: Callable[[], R]) -> R:
        """On one of the store's threads; within the batch that is open here, if one is."""
        batch = self.batch.get()
        if batch is not None and not batch.ended:
            return await batch.run(work)
        return await asyncio.wrap_future(self.submit(work))

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Raises StorageError if the store is closed."""
        try:
            return self.pool.submit(work)
        except RuntimeError as error:
            raise StorageError("the store is closed") from error


async def _to_its_end(under_way: Future[R]) -> R:
    """Its result. A cancellation is held back until it is done: nothing goes on behind the caller's back."""
    future = asyncio.wrap_future(under_way)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # it was seen: the caller is told of the cancellation instead
        raise cancelled
    return future.result()


class _Awaited(Generic[S, P, R]):
    """A method of the synchronous class, awaited."""

    def __init__(self, method: Callable[Concatenate[S, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, one: None, owner: type) -> Self: ...
    @overload
    def __get__(self, one: _Wrapper[S], owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, one: _Wrapper[S] | None, owner: type) -> Self | Callable[P, Coroutine[Any, Any, R]]:
        if one is None:
            return self
        method, store, inner = self._method, one.store, one.inner

        @functools.wraps(method)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
            return await store.run(functools.partial(method, inner, *args, **kwargs))

        return awaited


class _Streamed(Generic[S, P, T]):
    """A method that returns an iterator, as an asynchronous one: fetched many at a time."""

    def __init__(self, method: Callable[Concatenate[S, P], Iterator[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, one: None, owner: type) -> Self: ...
    @overload
    def __get__(self, one: _Wrapper[S], owner: type) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, one: _Wrapper[S] | None, owner: type) -> Self | Callable[P, AsyncIterator[T]]:
        if one is None:
            return self
        method, store, inner = self._method, one.store, one.inner

        @functools.wraps(method)
        async def streamed(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
            items = await store.run(functools.partial(method, inner, *args, **kwargs))
            while chunk := await store.run(lambda: list(islice(items, _CHUNK))):
                for item in chunk:
                    yield item

        return streamed


class _Wrapper(Generic[S]):
    """``inner`` is the synchronous one."""

    def __init__(self, store: _Store, inner: S) -> None:
        self.store = store
        self.inner = inner

    def __repr__(self) -> str:
        return f"<async {self.inner!r}>"


class AsyncCollection(_Wrapper[Collection]):
    """``Collection``, awaited."""

    put = _Awaited(Collection.put)
    patch = _Awaited(Collection.patch)
    increment = _Awaited(Collection.increment)
    add = _Awaited(Collection.add)
    remove = _Awaited(Collection.remove)
    delete = _Awaited(Collection.delete)
    get = _Awaited(Collection.get)
    scan = _Streamed(Collection.scan)
    count = _Awaited(Collection.count)
    search = _Awaited(Collection.search)
    to_arrow = _Awaited(Collection.to_arrow)

    @property
    def name(self) -> str:
        return self.inner.name


class AsyncThread(_Wrapper[Thread]):
    """``Thread``, awaited."""

    put = _Awaited(Thread.put)
    prune = _Awaited(Thread.prune)
    delete = _Awaited(Thread.delete)
    get = _Awaited(Thread.get)
    head = _Awaited(Thread.head)
    history = _Streamed(Thread.history)
    heads = _Awaited(Thread.heads)
    put_again = _Awaited(Thread.put_again)

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


class AsyncMemory(_Wrapper[Memory]):
    """``Memory``, awaited."""

    add = _Awaited(Memory.add)
    supersede = _Awaited(Memory.supersede)
    retract = _Awaited(Memory.retract)
    update = _Awaited(Memory.update)
    touch = _Awaited(Memory.touch)
    get = _Awaited(Memory.get)
    all = _Streamed(Memory.all)
    search = _Awaited(Memory.search)
    similar = _Awaited(Memory.similar)
    history = _Awaited(Memory.history)
    forget = _Awaited(Memory.forget)
    restore = _Awaited(Memory.restore)
    reembed = _Awaited(Memory.reembed)

    async def consolidate(self, *args: Any, **options: Any) -> list[str]:
        """See ``Memory.consolidate``; returns the ids of the new memories."""
        future = await self.store.run(lambda: self.inner.consolidate(*args, **options))
        return await asyncio.wrap_future(future)


class AsyncDocuments(_Wrapper[Documents]):
    """``Documents``, awaited."""

    add = _Awaited(Documents.add)
    delete = _Awaited(Documents.delete)
    get = _Awaited(Documents.get)
    text = _Awaited(Documents.text)
    all = _Streamed(Documents.all)
    search = _Awaited(Documents.search)


class AsyncAgent(_Wrapper[Agent]):
    """``Agent``, awaited."""

    export = _Awaited(Agent.export)
    erase = _Awaited(Agent.erase)
    lift_erasure = _Awaited(Agent.lift_erasure)

    def thread(self, *args: Any, **options: Any) -> AsyncThread:
        """See ``Agent.thread``; nothing is read yet, so nothing is awaited."""
        return AsyncThread(self.store, self.inner.thread(*args, **options))

    async def memory(self, *args: Any, **options: Any) -> AsyncMemory:
        """See ``Agent.memory``."""
        return AsyncMemory(self.store, await self.store.run(lambda: self.inner.memory(*args, **options)))

    async def documents(self, *args: Any, **options: Any) -> AsyncDocuments:
        """See ``Agent.documents``."""
        return AsyncDocuments(self.store, await self.store.run(lambda: self.inner.documents(*args, **options)))

    async def threads(self, **options: Any) -> list[AsyncThread]:
        """See ``Agent.threads``."""
        found = await self.store.run(lambda: self.inner.threads(**options))
        return [AsyncThread(self.store, thread) for thread in found]


class AsyncSnapshots(_Wrapper[Snapshots]):
    """``Snapshots``, awaited."""

    take = _Awaited(Snapshots.take)
    agents = _Awaited(Snapshots.agents)
    all = _Awaited(Snapshots.all)
    restore = _Awaited(Snapshots.restore)
    delete = _Awaited(Snapshots.delete)


class AsyncBatch:
    """``async with edge.batch():`` makes all writes inside it one transaction, at its end: those of this task, and of
    tasks that it starts in there and waits for (``gather``, ``wait_for``). They are carried out one after the other.

    A task that goes on after the end writes by itself. A batch in a batch joins the outer one.
    """

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._batch: Batch | None = None
        self._turn = asyncio.Lock()
        self.ended = False

    async def __aenter__(self) -> Self:
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
            await _to_its_end(self._store.submit(lambda: batch.commit(writes)))

    async def run(self, work: Callable[[], R]) -> R:
        """A call, when it is its turn. Raises InvalidValue if the batch has ended by then."""
        batch = self._batch
        assert batch is not None

        def lent() -> R:
            with batch.lent():
                return work()

        async with self._turn:
            return await _to_its_end(self._store.submit(lent))


class AsyncEdge(_Wrapper[Edge]):
    """``Edge``, awaited. Build it with ``open``; close it, or use it with ``async with``."""

    agents = _Awaited(Edge.agents)
    erasures = _Awaited(Edge.erasures)
    carry_out_erasures = _Awaited(Edge.carry_out_erasures)
    join = _Awaited(Edge.join)
    sync = _Awaited(Edge.sync)
    start_sync = _Awaited(Edge.start_sync)
    stop_sync = _Awaited(Edge.stop_sync)
    device_key = _Awaited(Edge.device_key)
    lance = _Awaited(Edge.lance)
    digest = _Awaited(Edge.digest)
    verify = _Awaited(Edge.verify)
    snapshot = _Awaited(Edge.snapshot)
    status = _Awaited(Edge.status)

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
        return AsyncEdge(_Store(edge, workers), edge)

    async def close(self) -> None:
        """See ``Edge.close``. What is under way ends first."""
        await asyncio.to_thread(self.store.pool.shutdown)
        await asyncio.to_thread(self.inner.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

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
    def device(self) -> bytes:
        return self.inner.device


def _close_again(opening: asyncio.Future[Edge]) -> None:
    """Nobody waits for the store any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
