"""A model's two slots on the disk, ``<store>/models/<name>/a`` and ``b``, and what is beside them.

``<digest>.json`` and ``<digest>.chunks`` are the manifests and chunk lists of the versions that are in a slot or on
their way to one, under the SHA-256 of the manifest; ``a.lock`` and ``b.lock`` are what whoever uses a slot has locked,
in this process or in another. What always holds: a document is on the disk before a note names its digest, and is
checked whenever it is read; a slot that somebody holds is not emptied or filled.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from edge.storage.durable import fsync_path, list_files, remove_tree, replace_file, storage_error
from sync.activation import SLOTS
from sync.chunks import CHUNK_BYTES_MAX, CHUNK_LIST_BYTES_MAX, ChunkList
from sync.errors import CorruptStore, Malformed, StoreLocked, TooLarge, UnsupportedVersion
from sync.models import MANIFEST_BYTES_MAX, FileRef, Manifest

MODELS_DIRECTORY = "models"
_MANIFEST, _CHUNKS = ".json", ".chunks"
_HOLDERS_SHOWN = 5


class Documents(NamedTuple):
    """What a version is, as it was signed."""

    manifest: Manifest
    chunks: ChunkList


class Hold:
    """The right to a slot's files until ``release``: they stay as they are."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._process = os.getpid()

    def release(self) -> None:
        """Idempotent."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(OSError):
                if os.getpid() == self._process:  # a fork has the same lock, and would let go of its parent's
                    fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)


class Slots:
    """Of one name."""

    def __init__(self, store: str, name: str) -> None:
        self.folder = Path(store, MODELS_DIRECTORY, name)

    def path(self, slot: str) -> Path:
        return self.folder / slot

    # -- documents ----------------------------------------------------------------------------------------------------

    def keep(self, digest: bytes, manifest: bytes | None, chunks: bytes | None) -> None:
        """Durable when it returns; what is None is there, or is kept later, the same way. Raises StorageError."""
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for folder in (self.folder.parent, self.folder.parent.parent):
                    fsync_path(folder)
            for slot in SLOTS:
                self._lock_path(slot).touch(mode=0o600)
            for ending, data in ((_CHUNKS, chunks), (_MANIFEST, manifest)):
                if data is not None:
                    replace_file(self.folder / (digest.hex() + ending), data)
        except OSError as error:
            raise storage_error(f"writing to {self.folder}", error) from error

    def documents(self, digest: bytes) -> Documents:
        """Raises CorruptStore if they are not there, or not those of that digest; UnsupportedVersion as ``manifest``;
        StorageError.
        """
        manifest = self.manifest(digest)
        path = self.folder / (digest.hex() + _CHUNKS)
        try:
            return Documents(manifest, manifest.chunk_list(_read(path, CHUNK_LIST_BYTES_MAX)))
        except (Malformed, TooLarge) as error:
            raise CorruptStore(f"{path}: {error}", hint=_AGAIN) from error

    def documents_with(self, digest: bytes, target: Callable[[str], bytes] | None) -> Documents:
        """The same; a chunk list that is not here is brought by ``target``. Raises as ``documents``, and what
        ``target`` does.
        """
        try:
            return self.documents(digest)
        except CorruptStore:
            if target is None:
                raise
            manifest = self.manifest(digest)
            chunks = target(manifest.chunks.sha256)
            manifest.chunk_list(chunks)
            self.keep(digest, None, chunks)  # of the manifest, the bytes that were signed stay
            return self.documents(digest)

    def manifest(self, digest: bytes) -> Manifest:
        """Raises CorruptStore if it is not there, or not that of this digest; UnsupportedVersion if it is, and this
        software, older than what kept it, does not understand it; StorageError.
        """
        path = self.folder / (digest.hex() + _MANIFEST)
        data = _read(path, MANIFEST_BYTES_MAX)
        if sha256(data).digest() != digest:
            raise CorruptStore(f"{path} has other bytes than were written", hint=_AGAIN)
        try:
            return Manifest.parse(data)
        except (Malformed, UnsupportedVersion) as error:
            raise UnsupportedVersion(
                f"{path} is not understood here: {error.message}", hint="update this device's software"
            ) from error

    def forget_but(self, wanted: Container[str]) -> None:
        """Remove documents of other digests (in hex). Raises StorageError."""
        try:
            for path in self.folder.glob("*.*"):
                if path.suffix in (_MANIFEST, _CHUNKS) and path.stem not in wanted:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"removing from {self.folder}", error) from error

    # -- files --------------------------------------------------------------------------------------------------------

    def make(self, slot: str, manifest: Manifest) -> Path:
        """The slot, without anything but files of that manifest, to be filled. Raises StorageError."""
        folder, wanted = self.path(slot), {file.path for file in manifest.files}
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for name in list_files(folder):
                if name not in wanted or (folder / name).is_symlink():
                    (folder / name).unlink()
        except OSError as error:
            raise storage_error(f"making {folder}", error) from error
        return folder

    def seal(self, slot: str, documents: Documents) -> None:
        """Hash everything that is in the slot and make it durable. Raises CorruptStore if it is not what the documents
        say, StorageError.
        """
        folder = self.path(slot)
        if problems := self.problems(slot, documents):
            raise CorruptStore(f"{folder}: {problems[0]}", hint="it is fetched again")
        folders = {folder, self.folder}
        try:
            for file in documents.manifest.files:
                path = folder / file.path
                path.chmod(0o600)
                fsync_path(path)
                folders.update(above for above in path.parents if above.is_relative_to(folder))
            for above in sorted(folders, reverse=True):
                fsync_path(above)
        except OSError as error:
            raise storage_error(f"writing to {folder}", error) from error

    def problems(self, slot: str, documents: Documents, *, hashed: bool = True) -> list[str]:
        """What in the slot is not as the documents say, in sentences. Not ``hashed``: names and sizes only."""
        folder = self.path(slot)
        present = list_files(folder)
        files = {file.path: file for file in documents.manifest.files}
        problems = [f"{name} does not belong there" for name in sorted(present.keys() - files.keys())]
        for name, file in files.items():
            if name not in present:
                problems.append(f"{name} is missing")
            elif present[name] != file.size:
                problems.append(f"{name} has {present[name]} bytes instead of {file.size}")
            elif hashed and not _is_right(folder / name, file, documents.chunks):
                problems.append(f"{name} has been altered")
        return problems

    def size(self, slot: str) -> int:
        """What the slot's files take, in bytes."""
        return sum(list_files(self.path(slot)).values())

    def empty(self, slot: str) -> None:
        """Raises StoreLocked, StorageError."""
        with self.alone(slot):
            remove_tree(self.path(slot))

    # -- who uses a slot ----------------------------------------------------------------------------------------------

    def hold(self, slot: str) -> Hold:
        """The files of the slot stay as they are until it is released. Raises StorageError."""
        path = self._lock_path(slot)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(f"opening {path}", error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # whoever has it alone lets go at once, or fills what is nobody's yet
        except OSError as error:
            os.close(handle)
            raise storage_error(f"locking {path}", error) from error
        return Hold(handle)

    @contextmanager
    def alone(self, slot: str) -> Iterator[None]:
        """Nobody else uses the slot meanwhile. Raises StoreLocked, StorageError."""
        path = self._lock_path(slot)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            yield  # there is no such model, and nothing to hold
            return
        except OSError as error:
            raise storage_error(f"opening {path}", error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreLocked(
                    f"{self.path(slot)} is still in use by {_holders(handle)}",
                    hint="it is filled when they take another path, or have ended",
                ) from error
            except OSError as error:
                raise storage_error(f"locking {path}", error) from error
            yield
        finally:
            os.close(handle)

    def _lock_path(self, slot: str) -> Path:
        return self.folder / f"{slot}.lock"


_AGAIN = "it comes again with the next assignment; agentdb-edge models remove gives the name up until then"


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except FileNotFoundError as error:
        raise CorruptStore(f"{path} is missing", hint=_AGAIN) from error
    except OSError as error:
        raise storage_error(f"reading {path}", error) from error


def _is_right(path: Path, file: FileRef, chunks: ChunkList) -> bool:
    buffer = memoryview(bytearray(CHUNK_BYTES_MAX))
    try:
        with path.open("rb", buffering=0) as source:
            for chunk in chunks.chunks[slice(*file.chunks)]:
                part = buffer[: chunk.length]
                at = 0
                while at < chunk.length and (read := source.readinto(part[at:])):
                    at += read
                if at < chunk.length or sha256(part).digest() != chunk.digest:
                    return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(f"reading {path}", error) from error
    return True


def _holders(handle: int) -> str:
    """Who has it locked, as far as the system tells."""
    inode = os.fstat(handle).st_ino
    found: list[str] = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and int(words[5].rpartition(":")[2]) == inode:
                found.append("this process" if int(words[4]) == os.getpid() else f"process {words[4]}")
    return ", ".join(dict.fromkeys(found[:_HOLDERS_SHOWN])) or "another process"
