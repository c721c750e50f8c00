"""A property that is made once, by one thread, while the others wait.

``functools.cached_property`` was that up to Python 3.11; since 3.12 two threads may make two. Of what has locks and
caches in it there must be one.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - as property is
    """Made with its first use, and kept in the instance under its name."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._lock = RLock()
        self._name = ""
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, one: None, owner: type) -> Self: ...
    @overload
    def __get__(self, one: object, owner: type) -> T: ...

    def __get__(self, one: object | None, owner: type) -> Self | T:
        if one is None:
            return self
        held = vars(one)
        with self._lock:
            if self._name not in held:
                held[self._name] = self._make(one)
        value: T = held[self._name]
        return value
