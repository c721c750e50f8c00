"""Putting objects and reading them back.

What always holds: an object that ``put`` or ``commit`` has vouched for was read from the store again, byte for
byte as it was meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from threading import Lock

from cloud.ports import ObjectStore
from cloud.storage.archive.errors import MissingObject
from cloud.storage.archive.manifest import ObjectRef
from sync.errors import NotFound, StorageError

_AT_ONCE = 6


class Putter:
    """Counts what it has put."""

    def __init__(self, objects: ObjectStore) -> None:
        self._store = objects
        self._lock = Lock()
        self.objects = 0
        self.bytes = 0

    def put(self, named: Sequence[tuple[str, bytes]]) -> list[ObjectRef]:
        """Immutable objects, several at once (an object store answers in tens of milliseconds).

        Names commit to contents, so a name that is taken is the same object from a run that crashed. Raises
        StorageError if it reads otherwise than it was written.
        """
        if len(named) == 1:
            return [self._put_one(*named[0])]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="archive-put") as pool:
            return list(pool.map(lambda item: self._put_one(*item), named))

    def commit(self, name: str, data: bytes) -> bool:
        """The one object of this name that there will ever be. False if the name went to somebody else's.

        "Taken" may also be the echo of our own request, repeated by a driver that saw no answer: the bytes tell.
        """
        created = self._store.put(name, data, create_only=True)
        found = self._read_back(name)
        if found != data:
            if created:
                raise StorageError(f"{name}: the object store returns other bytes than were written", hint=_HINT)
            return False
        self._count(data)
        return True

    def _put_one(self, name: str, data: bytes) -> ObjectRef:
        self._store.put(name, data, create_only=True)
        if self._read_back(name) != data:
            raise StorageError(f"{name}: the object store returns other bytes than were written", hint=_HINT)
        self._count(data)
        return ObjectRef(name, len(data), sha256(data).digest())

    def _read_back(self, name: str) -> bytes:
        try:
            return self._store.get(name)
        except NotFound as error:
            raise MissingObject(f"{name}: written, and not there", hint=_HINT) from error

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.objects += 1
            self.bytes += len(data)


_HINT = "this object store cannot be trusted with an archive; nothing was forgotten here"
