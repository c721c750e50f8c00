"""Files that stay: fsync of what a library wrote without it, digests to recognise it by, and atomic replacement.

A *manifest of files* maps a path relative to a directory to ``(size, SHA-256)``. ``seal`` makes a directory tree
durable and returns its manifest; ``damage`` says what no longer agrees with one. Neither knows what the files mean.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from sync.errors import DiskFull, StorageError

Files = dict[str, tuple[int, bytes]]
_CHUNK_BYTES = 1 << 20


def list_files(root: Path) -> dict[str, int]:
    """Every file under ``root``, by relative path, with its size; empty if there is no such directory."""
    found: dict[str, int] = {}
    for folder, _, names in os.walk(root):
        base = Path(folder)
        for name in names:
            path = base / name
            with suppress(FileNotFoundError):  # gone since it was listed, or a link to what is gone
                found[path.relative_to(root).as_posix()] = path.stat().st_size
    return found


def digest_of(path: Path) -> bytes:
    """SHA-256 of the file's content."""
    hasher = sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.digest()


def seal(root: Path, known: Mapping[str, tuple[int, bytes]], ignored: Collection[str] = ()) -> Files:
    """Make everything under ``root`` durable; return its manifest. What is in ``known`` is so already, and immutable.

    Order: the new files, then the directories that name them, up to and including ``root``'s parent.
    """
    sealed: Files = {}
    folders: set[Path] = set()
    for name, size in list_files(root).items():
        if name in ignored:
            continue
        if name in known:
            sealed[name] = known[name]
            continue
        path = root / name
        fsync_path(path)
        sealed[name] = (size, digest_of(path))
        folders.update(path.parents[: len(Path(name).parts)])
    for folder in sorted(folders, reverse=True):
        fsync_path(folder)
    if folders:
        fsync_path(root.parent)
    return sealed


def damage(
    root: Path,
    files: Mapping[str, tuple[int, bytes]],
    *,
    hash_bytes_max: int | None = None,
    first: Callable[[str], bool],
) -> list[str]:
    """What does not agree with the manifest: missing files, other sizes, other content.

    Content is hashed of at most ``hash_bytes_max`` bytes (None: of all), files for which ``first`` says so before
    others. Sizes are always compared.
    """
    problems: list[str] = []
    present = list_files(root)
    budget = hash_bytes_max
    for name in sorted(files, key=lambda name: (not first(name), name)):
        size, digest = files[name]
        if name not in present:
            problems.append(f"{name} is missing")
        elif present[name] != size:
            problems.append(f"{name} has {present[name]} bytes instead of {size}")
        else:
            within = budget is None or size <= budget or first(name)
            budget = budget if budget is None else budget - size
            try:
                if within and digest_of(root / name) != digest:
                    problems.append(f"{name} has been altered")
            except FileNotFoundError:
                problems.append(f"{name} is missing")
    return problems


def remove_files(root: Path, names: Iterable[str]) -> None:
    """Remove files under ``root``, durably; one that is not there is fine."""
    folders: set[Path] = set()
    for name in names:
        path = root / name
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in sorted(folders):
        if folder.exists():
            fsync_path(folder)


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader, even after a crash, finds the old bytes or the new, never a mix."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(folder: Path) -> None:
    """All of a folder, if it is there. Raises StorageError if anything of it stays."""
    for last in (False, False, True):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError as error:
            if not folder.exists():
                return
            if last:
                raise storage_error(f"removing {folder}", error) from error
        except OSError as error:
            # a library's thread may have made a file since the folder was listed
            if last or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise storage_error(f"removing {folder}", error) from error
        else:
            return


def write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take a part."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def storage_error(what: str, error: BaseException) -> StorageError:
    """The typed error for a failure of the disk, or of a library on top of it, while doing ``what``."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return DiskFull(f"{what}: the disk is full", hint="free some space; the projection catches up by itself")
    return StorageError(f"{what}: {error}")
