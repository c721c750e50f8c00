"""The vectors of records that changed after a projection's position: what makes a search see every acknowledged write.

``refresh`` reads the log from where it last stopped, so that a search after each write costs only the new records.

What always holds: after ``refresh`` every key that changed in (base, position] is in ``slots``; its slot is a row, or
None if the record is gone or has no vector to search. The projection's own row of such a key is stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.storage.vectors import lengths_of, row_of
from sync.errors import StorageError
from sync.images import image_values
from sync.schema import VectorSpec

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.vectors import Floats

PAGE = 2048


class LogTrimmed(StorageError):
    """The log no longer holds the changes after the position that was asked for; rebuild from the images."""

    code = "log-trimmed"


class Overlay:
    """``base`` is the position of the projection that this lies over. Not thread-safe: its owner locks."""

    def __init__(self, log: DeltaLog, collection: str, spec: VectorSpec, base: int) -> None:
        import numpy as np

        self.position = base
        self.slots: dict[str, int | None] = {}
        self.keys: list[str] = []  # by slot; a slot whose key has moved on holds ""
        self._log = log
        self._collection = collection
        self._spec = spec
        self._store: Floats = np.empty((64, spec.dimensions), dtype=np.float32)

    @property
    def rows(self) -> Floats:
        return self._store[: len(self.keys)]

    @property
    def lengths(self) -> Floats | None:
        return lengths_of(self._spec, self.rows)

    def dead(self) -> list[int]:
        """Slots whose row must not be found."""
        return [slot for slot, key in enumerate(self.keys) if not key]

    def refresh(self) -> list[str]:
        """Catch up with the log; returns the keys that changed since the last call. Raises LogTrimmed."""
        changed: dict[str, None] = {}
        while page := changes_after(self._log, self.position, PAGE):
            keys = [key for _, collection, key in page if collection == self._collection]
            images = self._log.images(self._collection, list(dict.fromkeys(keys)))
            for _, collection, key in page:
                if collection == self._collection:
                    self._put(key, images.get(key))
                    changed[key] = None
            self.position = page[-1][0]
        return list(changed)

    def _put(self, key: str, image: bytes | None) -> None:
        values = None if image is None else image_values(image)  # None: deleted so long ago that it is forgotten
        row = None if values is None else row_of(self._spec, values.get(self._spec.field))
        slot = self.slots.get(key)
        if row is None:
            if slot is not None:
                self.keys[slot] = ""
            self.slots[key] = None
            return
        if slot is None:
            slot = self.slots[key] = len(self.keys)
            self.keys.append(key)
            self._reserve()
        self._store[slot] = row

    def _reserve(self) -> None:
        import numpy as np

        if len(self.keys) > len(self._store):
            grown = np.empty((2 * len(self._store), self._spec.dimensions), dtype=np.float32)
            grown[: len(self._store)] = self._store
            self._store = grown


def changes_after(log: DeltaLog, position: int, limit: int) -> list[tuple[int, str, str]]:
    """``log.changes``, made safe to follow. Raises LogTrimmed.

    Positions are dense, so a hole is what was trimmed. A change is in the log's table a moment before its image can be
    read and ``log.position`` counts it; what is beyond that is left for the next time, or it would be taken for gone.
    """
    head = log.position
    if head == position:
        return []
    page = log.changes(position, limit)
    while page and page[-1][0] > head:
        page.pop()
    if page[-1][0] != position + len(page) if page else head > position:
        raise LogTrimmed(f"the log holds no change {position + 1} any more", hint="rebuild from the record images")
    return page
