"""Batches: the writes of one thread, from ``with edge.batch():`` to its end, become one transaction.

Which thread has one open is known by the thread's number, so that ``collection.put`` needs no other argument.

What always holds: a batch is committed once, at its end, or not at all; writes outside of one never join it.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from _weakref import ref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from sync.errors import TooLarge

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.transaction import Write

BATCH_WRITES_MAX = 1_000_000
Batches = dict[int, "ref[Batch]"]  # by thread


class Batch:
    """The writes of one thread that become one transaction. See ``Edge.batch``.

    A signal handler that raises may do so on the way into ``__exit__``, before anything in it is done. So an open batch
    is only referred to weakly, and asked whether it is open: nobody's later writes join one that was left like that.
    """

    def __init__(self, log: DeltaLog, batches: Batches) -> None:
        self._log = log
        self._open = batches
        self._thread = 0
        self._outermost = False
        self.writes: list[Write] = []

    def __enter__(self) -> Self:
        self._outermost = open_batch(self._open) is None
        if self._outermost:
            self._thread = get_ident()
            self._open[self._thread] = ref(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._outermost:
            try:
                writes, self.writes = self.writes, []
            finally:
                self._open.pop(self._thread, None)
            if error is None:
                self._log.submit(writes)

    def extend(self, writes: Sequence[Write]) -> None:
        """Raises TooLarge."""
        if len(self.writes) >= BATCH_WRITES_MAX:
            raise TooLarge(f"a batch has at most {BATCH_WRITES_MAX} writes", hint="make several batches")
        self.writes.extend(writes)

    def was_left(self) -> bool:
        """Whether the exception that is being handled came out of this batch's own ``__enter__`` or ``__exit__``."""
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


_BATCH_CODE = (Batch.__enter__.__code__, Batch.__exit__.__code__)


def open_batch(batches: Batches) -> Batch | None:
    """This thread's, if it has one."""
    found = batches.get(get_ident())
    batch = found() if found is not None else None
    if batch is not None and not batch.was_left():
        return batch
    batches.pop(get_ident(), None)
    return None
