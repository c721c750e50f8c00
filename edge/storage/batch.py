"""Batches: the writes of one thread, from ``with edge.batch():`` to its end, become one transaction.

Which thread, or which asyncio task, has one open is known by a context variable, so that ``collection.put`` needs no
other argument.

What always holds: a batch is committed once, at its end, or not at all; writes outside of one never join it.
"""

from __future__ import annotations

import sys
from _contextvars import ContextVar
from _thread import get_ident
from _weakref import ref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from sync.errors import InvalidValue, TooLarge

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.transaction import Write

BATCH_WRITES_MAX = 1_000_000
Open = ContextVar["ref[Batch] | None"]


class Batch:
    """The writes of one thread that become one transaction. See ``Edge.batch``.

    A signal handler that raises may do so on the way into ``__exit__``, before anything in it is done. So an open batch
    is only referred to weakly, and asked whether it is open: nobody's later writes join one that was left like that.
    """

    def __init__(self, log: DeltaLog, opened: Open) -> None:
        self._log = log
        self._open = opened
        self._outermost = False
        self._ended = False
        self._owner: object = None
        self.notes: dict[str, str] = {}  # of those who write: what they have put in it
        self.writes: list[Write] = []

    def __enter__(self) -> Self:
        """Raises InvalidValue if it is open already, here or in another thread."""
        if self._outermost and not self._ended:
            raise InvalidValue("this batch is open already", hint="edge.batch() makes another one")
        self._outermost = open_batch(self._open) is None
        if self._outermost:
            self._ended = False
            self._owner = _who()
            self._open.set(ref(self))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._outermost:
            try:
                writes = self.end()
            finally:
                self._ended = True
                self._open.set(None)
            if error is None:
                self._log.submit(writes)

    def end(self) -> list[Write]:
        """Nobody's writes join it any more. Returns those that did."""
        writes, self.writes = self.writes, []
        self._ended = True
        self.notes = {}
        return writes

    def commit(self, writes: Sequence[Write]) -> None:
        """What ``end`` returned, as one transaction. Raises what ``DeltaLog.submit`` does."""
        self._log.submit(writes)

    def extend(self, writes: Sequence[Write]) -> None:
        """Raises TooLarge."""
        if len(self.writes) >= BATCH_WRITES_MAX:
            raise TooLarge(f"a batch has at most {BATCH_WRITES_MAX} writes", hint="make several batches")
        self.writes.extend(writes)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """This thread works for whoever has the batch (``edge.aio``), one call at a time: its writes join it. Raises
        InvalidValue if it has ended.
        """
        if self._ended:
            raise InvalidValue("the batch that this call was made in has ended", hint="await every call inside it")
        self._owner = _who()
        token = self._open.set(ref(self))
        try:
            yield
        finally:
            self._open.reset(token)
            self._owner = None

    def is_over(self) -> bool:
        """Whether it ended, or is somebody else's (tasks and threads that were begun in it have a copy of the context),
        or the exception that is being handled came out of its own ``__enter__`` or ``__exit__``.
        """
        if self._ended or self._owner != _who():
            return True
        error = sys.exc_info()[1]
        while error is not None:
            trace = error.__traceback__
            while trace is not None:
                frame = trace.tb_frame
                if frame.f_code in _BATCH_CODE and frame.f_locals.get("self") is self:
                    return True
                trace = trace.tb_next
            error = error.__context__
        return False


def _who() -> tuple[int, object]:
    """This thread and asyncio task. Where nobody has imported asyncio there is none, nor while another thread is just
    importing it (as lancedb does): then half of the module is there.
    """
    current_task = getattr(sys.modules.get("asyncio"), "current_task", None)
    try:
        return get_ident(), None if current_task is None else current_task()
    except RuntimeError:  # no loop is running here
        return get_ident(), None


_BATCH_CODE = (Batch.__enter__.__code__, Batch.__exit__.__code__)


def open_batch(opened: Open) -> Batch | None:
    """This thread's or task's, if it has one."""
    found = opened.get()
    if found is None:
        return None
    batch = found()
    if batch is not None and not batch.is_over():
        return batch
    opened.set(None)
    return None
