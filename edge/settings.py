"""Settings: tuples of options whose misspelt ones are the caller's mistake, and said as such."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from sync.errors import InputError

T = TypeVar("T")


def settings(error: type[InputError]) -> Callable[[type[T]], type[T]]:
    """For a NamedTuple: an option that it has not is this error, with the names of those that it has."""

    def closed(kind: type[T]) -> type[T]:
        made: Any = kind.__new__
        names: tuple[str, ...] = getattr(kind, "_fields", ())

        @wraps(made)
        def new(cls: type[T], *args: Any, **options: Any) -> Any:
            unknown = sorted(options.keys() - {*names})
            if unknown:
                raise error(f"{kind.__name__} has no {unknown[0]!r:.60}", hint=f"it has {', '.join(names)}")
            if len(args) > len(names):
                raise error(f"{kind.__name__} has {len(names)} options, not {len(args)}", hint="name them")
            return made(cls, *args, **options)

        kind.__new__ = new  # type: ignore[method-assign, assignment]
        return kind

    return closed
