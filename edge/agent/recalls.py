"""Recalls: how often and when memories were accessed: counted in memory, written many at a time.

Beside the memories, not in them: a count must not write a memory's text and vector anew, nor change what is searched.
The count is a counter and the time a maximum, so those of several devices add up. What a crash takes are hints.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from edge.storage.transaction import Write
from sync.errors import StorageError
from sync.images import image_values
from sync.operations import Kind
from sync.schema import declare

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

RECALLS = "_recalls"
NOTED_MAX = 256
HELD_MAX = 10_000


class Recalls:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._noted: dict[str, tuple[int, int]] = {}

    def note(self, memories: Iterable[str], at_ms: int) -> None:
        """An access to each. Written when there are many; a disk that fails then is no reason for a search to fail, as
        long as what is noted fits in memory. Nothing is noted where nothing can be written. Raises StorageError beyond
        that.
        """
        if self._log.read_only:
            return
        with self._lock:
            for memory in memories:
                count, last = self._noted.get(memory, (0, 0))
                self._noted[memory] = (count + 1, max(last, at_ms))
            noted = len(self._noted)
        if noted >= NOTED_MAX:
            try:
                self.flush()
            except StorageError:
                if noted >= HELD_MAX:
                    raise

    def forget(self, memories: Sequence[str]) -> None:
        """They are deleted. Raises StorageError."""
        with self._lock:
            for memory in memories:
                self._noted.pop(memory, None)
        known = self._log.images(RECALLS, memories)
        if known:
            self._log.submit([Write(Kind.DELETE, RECALLS, memory, upsert=True) for memory in known])

    def drop(self, concerned: Callable[[str], bool]) -> None:
        """What is noted of memories that are being erased."""
        with self._lock:
            self._noted = {memory: noted for memory, noted in self._noted.items() if not concerned(memory)}

    def of(self, memories: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(accesses, time of the last in milliseconds) of those that were ever accessed."""
        out: dict[str, tuple[int, int]] = {}
        for memory, image in self._log.images(RECALLS, memories).items():
            fields = image_values(image) or {}
            out[memory] = (int(fields.get("count", 0)), int(fields.get("last", 0)))
        with self._lock:
            for memory in memories:
                if memory in self._noted:
                    count, last = self._noted[memory]
                    known, before = out.get(memory, (0, 0))
                    out[memory] = (known + count, max(before, last))
        return out

    def flush(self) -> None:
        """Write what is noted, in one transaction. Raises StorageError; it is noted still, then."""
        shut = self._log.erasures.is_shut
        with self._lock:
            noted, self._noted = self._noted, {}
        noted = {memory: count for memory, count in noted.items() if not shut(RECALLS, memory)}
        if not noted:
            return
        try:
            if RECALLS not in self._log.schemas:
                self._log.declare(declare(RECALLS, fields={"count": ("int", "counter"), "last": ("int", "max")}))
            writes = []
            for memory, (count, last) in noted.items():
                writes.append(Write(Kind.INCREMENT, RECALLS, memory, {"count": count}, True))
                writes.append(Write(Kind.PATCH, RECALLS, memory, {"last": last}, True, self._log.schemas[RECALLS]))
            self._log.submit(writes)
        except BaseException:
            with self._lock:
                for memory, (count, last) in noted.items():
                    again, latest = self._noted.get(memory, (0, 0))
                    self._noted[memory] = (count + again, max(last, latest))
            raise
