"""The simulated object store: whole objects in memory, and the ways in which real ones fail.

An answer may be lost after the object was written, a request may never arrive; listings come in the order of their
names, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from cloud.rows import ObjectInfo
from sync.errors import InvalidValue, NotFound, Unreachable


class SimulatedObjects:
    """``cloud.ports.ObjectStore``. ``trouble`` is the share of requests that fail, half of them after they were
    carried out; ``forgets`` the share of writes that it acknowledges and does not keep.
    """

    def __init__(self, dice: Random) -> None:
        self.data: dict[str, bytes] = {}
        self.trouble = self.forgets = 0.0
        self._dice = dice

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        self._before()
        taken = create_only and name in self.data
        if not taken and not (self.forgets and self._dice.random() < self.forgets):
            self.data[name] = bytes(data)
        self._after()
        return not taken

    def get(self, name: str) -> bytes:
        self._before()
        self._after()
        try:
            return self.data[name]
        except KeyError:
            raise NotFound(f"no object {name}") from None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        found = self.get(name)[offset : offset + length]
        if length <= 0 or len(found) != length:
            raise InvalidValue(f"{name} has not got {length} bytes at {offset}")
        return found

    def head(self, name: str) -> ObjectInfo:
        return ObjectInfo(name, len(self.get(name)), 1)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._before()
        self._after()
        for name in sorted(self.data):
            if name.startswith(prefix) and name > after:
                yield ObjectInfo(name, len(self.data[name]), 1)

    def delete(self, name: str) -> None:
        self._before()
        self.data.pop(name, None)
        self._after()

    def _before(self) -> None:
        if self.trouble and self._dice.random() < self.trouble / 2:
            raise Unreachable("the object store does not answer")

    def _after(self) -> None:
        if self.trouble and self._dice.random() < self.trouble / 2:
            raise Unreachable("the object store's answer was lost")
