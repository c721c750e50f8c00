"""One publication: a model's files read, cut, and stored as far as no listed model has them.

What always holds: every byte is read once, hashed once and sealed at most once; chunks keep the order of the files;
links are refused, so nothing from beside the folder gets into a model.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cloud.fleet.chunking import average_for, cut
from cloud.fleet.packs import PackWriter
from cloud.fleet.pickles import runs_code
from cloud.model_rows import ChunkRow
from sync.chunks import CHUNKS_MAX, Chunk, file_digest
from sync.errors import InvalidValue, StorageError, TooLarge
from sync.models import FileRef, check_paths

Progress = Callable[[int, int], None]
Known = Callable[[Sequence[bytes]], dict[bytes, ChunkRow]]


class Source(NamedTuple):
    path: str
    file: Path
    size: int


class Publication:
    """One publication: chunks in the order of the files, each with where it lies or will lie.

    A new chunk's pack has no name before it is full, so until ``store`` returns it is known by its number here.
    """

    def __init__(
        self, known: Known, total: int, *, plain_sha256: bool = False, progress: Progress | None = None
    ) -> None:
        self._known = known
        self._total = total
        self._average = average_for(total)
        self._plain = plain_sha256
        self._progress = progress
        self._read = 0
        self._old: dict[bytes, ChunkRow] = {}
        self._new: dict[bytes, tuple[int, int, int]] = {}  # length, number of the pack, offset
        self._epoch = 0
        self.chunks: list[tuple[bytes, int]] = []
        self.ids: list[bytes] = []
        self.stored_bytes = self.reused_bytes = 0

    def store(self, sources: Sequence[Source], packs: PackWriter) -> list[FileRef]:
        """Raises StorageError, TooLarge, and what the object store raises. What it returns is durable."""
        with packs as writer:
            files = [self._file(source, writer) for source in sources]
            self.ids = writer.finish()
            self.stored_bytes, self._epoch = writer.bytes, writer.epoch
        return files

    def new_rows(self) -> list[ChunkRow]:
        return [
            ChunkRow(digest, length, self.ids[pack], self._epoch, offset)
            for digest, (length, pack, offset) in self._new.items()
        ]

    def packs(self) -> list[tuple[bytes, int]]:
        """(id, epoch) of those that the model has chunks in."""
        reused = {row.pack: row.epoch for row in self._old.values()}
        return [*reused.items(), *((pack, self._epoch) for pack in self.ids if pack not in reused)]

    def reused_packs(self) -> list[bytes]:
        return list(dict.fromkeys(row.pack for row in self._old.values()))

    def placed(self) -> tuple[Chunk, ...]:
        numbers = {pack: number for number, (pack, _) in enumerate(self.packs())}
        rows = self._old | {row.digest: row for row in self.new_rows()}
        return tuple(
            Chunk(digest, length, numbers[rows[digest].pack], rows[digest].offset) for digest, length in self.chunks
        )

    def _file(self, source: Source, writer: PackWriter) -> FileRef:
        first, size = len(self.chunks), 0
        plain = sha256() if self._plain else None
        try:
            with source.file.open("rb", buffering=0) as file:
                for portion in cut(file.readinto, self._average):
                    size += self._portion(portion, writer)
                    if plain is not None:
                        for data in portion:
                            plain.update(data)
        except OSError as error:
            raise StorageError(f"{source.file}: {error.strerror or error}", hint="nothing was published") from error
        chunks = [Chunk(digest, length, 0, 0) for digest, length in self.chunks[first:]]
        digest = file_digest(chunks).hex()
        return FileRef(
            source.path, size, (first, len(self.chunks)), digest, plain.hexdigest() if plain is not None else ""
        )

    def _portion(self, portion: list[memoryview], writer: PackWriter) -> int:
        digests = [sha256(data).digest() for data in portion]
        strange = [digest for digest in digests if digest not in self._old and digest not in self._new]
        self._old |= self._known(strange)
        size = 0
        for digest, data in zip(digests, portion, strict=True):
            size += len(data)
            if digest in self._old or digest in self._new:
                self.reused_bytes += len(data)
            else:
                self._new[digest] = (len(data), *writer.add(data, digest))
            self.chunks.append((digest, len(data)))
        if len(self.chunks) > CHUNKS_MAX:
            raise TooLarge(f"a model of more than {CHUNKS_MAX} chunks", hint="publish its parts under several names")
        self._read += size
        if self._progress is not None:
            self._progress(self._read, max(self._total, self._read))
        return size


def sources_of(path: Path) -> list[Source]:
    """The files of a folder, or one file, by their path in the model. Raises InvalidValue, StorageError, Malformed."""
    try:
        if not path.is_dir():
            found = [(path.name, path)]
        else:
            found = sorted((file.relative_to(path).as_posix(), file) for file in _walk(path))
        sources = [Source(name, file, _size(file)) for name, file in found]
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}", hint="nothing was published") from error
    if not sources:
        raise InvalidValue(f"{path} has no files")
    check_paths([source.path for source in sources])
    return sources


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=_raise):
        for name in folders:
            if (Path(root) / name).is_symlink():
                raise _link(Path(root) / name)
        for name in names:
            yield Path(root) / name


def _size(file: Path) -> int:
    found = file.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise _link(file)
    if not stat.S_ISREG(found.st_mode):
        raise InvalidValue(f"{file} is not a file")
    return found.st_size


def _link(path: Path) -> InvalidValue:
    return InvalidValue(f"{path} is a link; a model has files of its own", hint="cp -rL makes a copy without links")


def _raise(error: OSError) -> None:
    raise error


def why_refused(source: Source) -> str:
    """Why it has to be taken for a file that runs code when it is loaded; "" if it has not. Raises StorageError."""
    try:
        return runs_code(source.path, lambda: source.file.open("rb"))
    except OSError as error:
        raise StorageError(f"{source.file}: {error.strerror or error}", hint="nothing was published") from error
