"""What Lance's failures become: one kind for reads that may be repeated, StorageError for work that was undone.

Which class lancedb raises for a damaged file or a full disk is a matter of chance: OSError, RuntimeError, ValueError,
NotImplementedError, and for a panic in its Rust a class that cannot be imported (flipped bits in a text index do that).
So everything counts that is neither ours nor a mistake in our own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.storage.durable import storage_error
from sync.errors import AgentDBError

_NOT_LANCE = (AgentDBError, AssertionError, AttributeError, NameError)


class Unreadable(Exception):
    """A table could not be read. ``str()`` says in a line why; the cause is what Lance raised."""


@contextmanager
def reading() -> Iterator[None]:
    """Raises Unreadable for whatever Lance raises inside."""
    try:
        yield
    except _NOT_LANCE:
        raise
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {str(error)[:200]}") from error


@contextmanager
def changing(what: str, undo: Callable[[], None]) -> Iterator[None]:
    """Calls ``undo`` if anything fails inside, and raises StorageError for what Lance raises."""
    try:
        yield
    except BaseException as error:
        undo()
        if isinstance(error, _NOT_LANCE) or not isinstance(error, Exception):
            raise
        raise storage_error(what, error) from error
