"""A model's files on the disk, chunk by chunk: which are right already, and writing the others at their place.

No note is kept of what was written: a note can lie after a power cut, the bytes cannot. So every place is read and
hashed when a slot is taken up again. What always holds: nothing is written but a chunk's own bytes at its own places;
no link is followed; files have the size that the manifest says from the beginning, so what is not there yet reads as
something else. Syncing what was written is the caller's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from edge.storage.durable import storage_error
from sync.chunks import CHUNK_BYTES_MAX, Chunk, ChunkList
from sync.models import FileRef, Manifest

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Place(NamedTuple):
    """Where a chunk is in a file; ``offset`` in bytes."""

    file: FileRef
    offset: int
    chunk: Chunk


def places(manifest: Manifest, chunks: ChunkList) -> Iterable[Place]:
    """In the order of the files."""
    for file in manifest.files:
        offset = 0
        for chunk in chunks.chunks[slice(*file.chunks)]:
            yield Place(file, offset, chunk)
            offset += chunk.length


class ChunkFiles:
    """The files of a manifest in ``folder``, which is there. Not for several threads; ``close`` it."""

    def __init__(self, folder: Path, manifest: Manifest, chunks: ChunkList) -> None:
        self._folder = folder
        self._manifest = manifest
        self._chunks = chunks
        self._wanted: dict[bytes, list[Place]] = {}
        self._open_file: FileRef | None = None
        self._handle = -1
        self._buffer = memoryview(bytearray(CHUNK_BYTES_MAX))

    @property
    def wanted(self) -> dict[bytes, list[Place]]:
        """By digest, the places that are not right yet: all, before ``take_up``."""
        return self._wanted

    def take_up(self, stopped: Callable[[], bool]) -> None:
        """Make the files, and look which places are right. Raises StorageError; stops early when it is told to."""
        try:
            for file in self._manifest.files:
                handle = self._opened(file)
                if os.fstat(handle).st_size != file.size:
                    os.ftruncate(handle, file.size)
            self._wanted.clear()
            for place in places(self._manifest, self._chunks):
                if stopped():
                    return
                if not self._is_right(place):
                    self._wanted.setdefault(place.chunk.digest, []).append(place)
        except OSError as error:
            raise storage_error(f"writing to {self._folder}", error) from error

    def write(self, digest: bytes, data: memoryview) -> None:
        """To all places that want it. ``data`` was hashed. Raises StorageError."""
        try:
            for place in self._wanted[digest]:
                handle, at = self._opened(place.file), 0
                while at < len(data):
                    at += os.pwrite(handle, data[at:], place.offset + at)
        except OSError as error:
            raise storage_error(f"writing to {self._folder}", error) from error
        del self._wanted[digest]

    def take_from(self, folder: Path, manifest: Manifest, chunks: ChunkList, stopped: Callable[[], bool]) -> None:
        """Copy the chunks that are wanted and that an installed version has in ``folder``, hashed on the way. What is
        not there, or is damaged, stays wanted. Raises StorageError if it cannot be written.
        """
        if not self._wanted:
            return
        source = ChunkFiles(folder, manifest, chunks)
        try:
            for place in places(manifest, chunks):
                if stopped():
                    return
                if place.chunk.digest in self._wanted:
                    try:
                        right = source._is_right(place, make=False)
                    except OSError:
                        continue
                    if right:
                        self.write(place.chunk.digest, source._buffer[: place.chunk.length])
        finally:
            source.close()

    def close(self) -> None:
        """Idempotent."""
        handle, self._handle, self._open_file = self._handle, -1, None
        if handle >= 0:
            os.close(handle)

    def _is_right(self, place: Place, *, make: bool = True) -> bool:
        """Its bytes are in the buffer then. Raises OSError."""
        handle, length = self._opened(place.file, make=make), place.chunk.length
        if _is_hole(handle, place.offset, length):
            return False
        part, at = self._buffer[:length], 0
        while at < length and (read := os.preadv(handle, [part[at:]], place.offset + at)):
            at += read
        return at == length and sha256(part).digest() == place.chunk.digest

    def _opened(self, file: FileRef, *, make: bool = True) -> int:
        """One file is open at a time: chunks come in the order of files. Raises OSError."""
        if self._open_file is not file:
            self.close()
            path = self._folder / file.path
            if make:
                self._make_folders(path.parent)
                self._handle = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
            else:
                self._handle = os.open(path, os.O_RDONLY | _FLAGS)
            self._open_file = file
        return self._handle

    def _make_folders(self, folder: Path) -> None:
        """Those within ours. Raises OSError for a link among them: it may lead anywhere."""
        missing = []
        while folder != self._folder:
            if folder.is_symlink():
                raise NotADirectoryError(20, "a link in a model's folder", str(folder))
            missing.append(folder)
            folder = folder.parent
        for made in reversed(missing):
            made.mkdir(mode=0o700, exist_ok=True)


def _is_hole(handle: int, offset: int, length: int) -> bool:
    """Whether nothing was written there yet: reading it would only make zeros (a third of the time of a download)."""
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        return error.errno == errno.ENXIO  # no data up to the end; else the file system does not tell
