"""How ``AsyncEdge`` gets a call onto a thread of the store's own pool, and its result back to who awaits it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from sync.errors import StorageError

if TYPE_CHECKING:
    from edge.node import Edge

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
_CHUNK = 200


class OpenBatch(Protocol):
    """A batch that calls join until it has ended."""

    ended: bool

    async def run(self, work: Callable[[], R]) -> R: ...


class Store:
    """The open store, its threads, and how a call gets to one of them."""

    def __init__(self, edge: Edge, workers: int) -> None:
        self.edge = edge
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="agentdb-aio")
        self.batch: ContextVar[OpenBatch | None] = ContextVar("batch", default=None)
        self.closed = False

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


async def to_its_end(under_way: Future[R]) -> R:
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


class Awaited(Generic[S, P, R]):
    """A method of the synchronous class, awaited."""

    def __init__(self, method: Callable[Concatenate[S, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, one: None, owner: type) -> Self: ...
    @overload
    def __get__(self, one: Wrapper[S], owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, one: Wrapper[S] | None, owner: type) -> Self | Callable[P, Coroutine[Any, Any, R]]:
        if one is None:
            return self
        method, whose = self._method, one

        @functools.wraps(method)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
            return await whose.store.run(lambda: method(whose.inner, *args, **kwargs))

        return awaited


class Streamed(Generic[S, P, T]):
    """A method that returns an iterator, as an asynchronous one: fetched many at a time."""

    def __init__(self, method: Callable[Concatenate[S, P], Iterator[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, one: None, owner: type) -> Self: ...
    @overload
    def __get__(self, one: Wrapper[S], owner: type) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, one: Wrapper[S] | None, owner: type) -> Self | Callable[P, AsyncIterator[T]]:
        if one is None:
            return self
        method, whose, store = self._method, one, one.store

        @functools.wraps(method)
        async def streamed(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
            items = await store.run(lambda: method(whose.inner, *args, **kwargs))
            while chunk := await store.run(lambda: list(islice(items, _CHUNK))):
                for item in chunk:
                    yield item

        return streamed


class Wrapper(Generic[S]):
    """Of the synchronous one."""

    def __init__(self, store: Store, inner: S) -> None:
        self.store = store
        self._made: Callable[[], S] = lambda: inner
        self._named = repr(inner)

    @classmethod
    def late(cls, store: Store, made: Callable[[], S]) -> Self:
        """Of one that ``made`` gives, which may import, or read the disk: on a thread of the store's, at each call."""
        one = cls.__new__(cls)
        one.store, one._made, one._named = store, made, cls.__name__  # noqa: SLF001 - what it is made of
        return one

    @property
    def inner(self) -> S:
        """The synchronous one."""
        return self._made()

    async def there(self) -> S:
        """The same, made on a thread of the store's."""
        return await to_its_end(self.store.submit(self._made))

    def __repr__(self) -> str:
        return f"<async {self._named}>"
