"""Packs: sealed chunks gathered into objects of 16 MiB, in the fleet's object store (``sync.chunks`` has their form).

What always holds: chunks are sealed straight into the pack's own buffer, which is the only place that they lie in; a
pack is created only if it is not there (the same chunks make the same id, so a publication that is done again finds
it); no more than ``UPLOADS`` packs are in memory, one of them being filled; when ``finish`` returns all are durable.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

from cloud.ports import ObjectStore
from sync.chunks import PACK_BYTES_MAX, pack_id, seal_chunk_into, sealed_length

UPLOADS = 3  # while one is sent another is filled; a third hides that sending takes longer now and then


class Place(NamedTuple):
    """``pack`` counts this writer's packs from 0."""

    pack: int
    offset: int


class PackWriter:
    """Use it as a context manager: leaving it waits for what is under way. Not for several threads."""

    def __init__(self, objects: ObjectStore, name: Callable[[bytes], str], epoch: int, key: bytes) -> None:
        self._objects = objects
        self._name = name
        self.epoch = epoch
        self._key = key
        self._pool = ThreadPoolExecutor(UPLOADS - 1, "packs")
        self._free: list[bytearray] = []
        self._under_way: list[tuple[Future[bool], bytearray]] = []
        self._buffer = bytearray(PACK_BYTES_MAX)
        self._at = 0
        self._entries: list[tuple[bytes, int]] = []
        self._made = 1
        self.ids: list[bytes] = []
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def add(self, data: memoryview, digest: bytes) -> Place:
        """Seal a chunk into a pack. Raises what the object store raises, for an earlier pack too."""
        size = sealed_length(len(data))
        if self._at + size > PACK_BYTES_MAX:
            self._send()
        place = Place(len(self.ids), self._at)
        with memoryview(self._buffer) as whole, whole[self._at : self._at + size] as out:
            seal_chunk_into(data, digest, self._key, out)
        self._at += size
        self._entries.append((digest, len(data)))
        return place

    def finish(self) -> list[bytes]:
        """The packs' ids, in the order of ``Place.pack``. Raises what the object store raises."""
        if self._entries:
            self._send()
        while self._under_way:
            self._wait()
        return self.ids

    def _send(self) -> None:
        name = pack_id(self._key, self._entries)
        pack, size = self._buffer, self._at
        self.ids.append(name)
        self.bytes += size
        self._under_way.append((self._pool.submit(self._put, self._name(name), pack, size), pack))
        self._at, self._entries = 0, []
        while self._under_way and (self._under_way[0][0].done() or (not self._free and self._made == UPLOADS)):
            self._wait()
        if not self._free:
            self._free.append(bytearray(PACK_BYTES_MAX))
            self._made += 1
        self._buffer = self._free.pop()

    def _wait(self) -> None:
        future, buffer = self._under_way.pop(0)
        future.result()
        self._free.append(buffer)

    def _put(self, name: str, pack: bytearray, size: int) -> bool:
        with memoryview(pack) as whole, whole[:size] as view:
            return self._objects.put(name, view, create_only=True)
