"""Fetching a model: what its files have already, what an installed version has, and the rest from the cloud's packs.

What always holds: a chunk is asked for only if no place of it is right and no installed file has it; what arrives is
opened and hashed before it is written; a chunk that was written is not asked for again, after a cut neither, nor by the
next process (``chunk_files`` looks). What it leaves to others: whether the manifest and its list were signed; room on
the disk; syncing, and hashing the whole once more before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from edge.control.chunk_files import ChunkFiles
from sync.chunks import CHUNK_BYTES_MAX, Chunk, ChunkList, Range, open_chunk_into, ranges, sealed_length
from sync.errors import DataError, Unreachable
from sync.keys import KeyRing
from sync.models import Manifest


class Documents(Protocol):
    """A version as it was signed."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def chunks(self) -> ChunkList: ...


class Installed(Protocol):
    """A version whose files are in ``folder``; they may be damaged."""

    @property
    def folder(self) -> Path: ...
    @property
    def documents(self) -> Documents: ...


class Filling(Protocol):
    """What is to be fetched into ``folder``, which is there. ``stopped()``: give up, by returning; ``progress(done,
    total)``: bytes that were to be fetched when it began, as they lie in the packs.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def documents(self) -> Documents: ...
    @property
    def installed(self) -> Iterable[Installed]: ...
    @property
    def stopped(self) -> Callable[[], bool]: ...
    @property
    def progress(self) -> Callable[[int, int], None]: ...


class Stream(Protocol):
    """A range of a pack, as it arrives."""

    def read_into(self, buffer: memoryview) -> None:
        """Fill all of it. Raises Unreachable when it was cut, ProtocolError."""
        ...


class PackSource(Protocol):
    """Where packs are: ``edge.link.model_client``."""

    def read(self, pack: str, offset: int, length: int) -> AbstractContextManager[Stream]:
        """Raises SyncError and its kinds, NotFound, Refused. Leaving it early ends the connection."""
        ...

    def close(self) -> None: ...


class ModelFetch:
    """Call it with what is to be filled. ``connect`` makes a connection, ``ring`` gives the fleet's keys; before each
    range ``admit`` is asked with its bytes: it may wait, or raise.
    """

    def __init__(
        self,
        connect: Callable[[], PackSource],
        ring: Callable[[], KeyRing],
        admit: Callable[[int], None] | None = None,
    ) -> None:
        self._connect = connect
        self._ring = ring
        self._admit = admit
        self._sealed = memoryview(bytearray(sealed_length(CHUNK_BYTES_MAX)))
        self._opened = memoryview(bytearray(CHUNK_BYTES_MAX))

    def __call__(self, filling: Filling) -> None:
        """Returns when all chunks are in their places, or when it was stopped. Raises Unreachable (the rest is asked
        for by the next call), what the cloud refused it with, DataError (bytes that are not the chunk: nothing of them
        is written), DecryptionFailed without the epoch's key, StorageError.
        """
        documents = filling.documents
        files = ChunkFiles(filling.folder, documents.manifest, documents.chunks)
        try:
            files.take_up(filling.stopped)
            for installed in filling.installed:
                of = installed.documents
                files.take_from(installed.folder, of.manifest, of.chunks, filling.stopped)
            if not filling.stopped():
                self._fetch(filling, files)
        finally:
            files.close()

    def _fetch(self, filling: Filling, files: ChunkFiles) -> None:
        wanted = _wanted(files)
        told = _Told(filling, sum(chunk.sealed_length for chunk in wanted))
        client: PackSource | None = None
        try:
            while wanted and not filling.stopped():
                client = client or self._connect()
                before = len(wanted)
                try:
                    for part in ranges(wanted):
                        self._range(filling, files, client, part, told)
                        if filling.stopped():
                            return
                except Unreachable:
                    client.close()
                    client, wanted = None, _wanted(files)
                    if len(wanted) == before:  # a link over which not one chunk comes is for later
                        raise
                else:
                    return
        finally:
            if client is not None:
                client.close()

    def _range(self, filling: Filling, files: ChunkFiles, client: PackSource, part: Range, told: _Told) -> None:
        pack = filling.documents.manifest.packs[part.pack]
        key = self._ring().key(pack.epoch)
        if self._admit is not None:
            self._admit(part.length)
        with client.read(pack.id, part.offset, part.length) as stream:
            for chunk in part.chunks:
                sealed = self._sealed[: chunk.sealed_length]
                stream.read_into(sealed)
                try:
                    opened = open_chunk_into(sealed, chunk, key, self._opened)
                except DataError as error:
                    error.hint = error.hint or f"pack {pack.id} is damaged, or was swapped; nothing of it was kept"
                    raise
                files.write(chunk.digest, opened)
                told.more(chunk.sealed_length)
                if filling.stopped():
                    return


class _Told:
    """How much has come of what was to be fetched."""

    def __init__(self, filling: Filling, total: int) -> None:
        self._filling = filling
        self._done, self._total = 0, total
        filling.progress(0, total)

    def more(self, size: int) -> None:
        self._done += size
        self._filling.progress(self._done, self._total)


def _wanted(files: ChunkFiles) -> list[Chunk]:
    return [found[0].chunk for found in files.wanted.values()]
