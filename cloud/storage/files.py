"""Small files that are durable on return, and that only their owner may read.

What always holds: after a power cut a name stands for the whole of what was written under it, or for what was there
before. All of it raises OSError; what was there is then as it was.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """A new file, whatever the directory allows: it may hold keys or credentials. It is on the disk, and so is its
    name.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)  # whatever the umask is
        file.write(data)
        file.flush()
        os.fsync(handle)
    sync_path(path.parent)


def replace_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """The same under a name that may be taken: whole, or not at all. The caller keeps other writers away."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)  # of a writer that died
    write_private(beside, data, mode=mode)
    beside.replace(path)
    sync_path(path.parent)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """While no other process, or thread, is in here for the same directory."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock


def sync_path(path: Path) -> None:
    """Make a file's bytes durable, or the names in a directory."""
    handle = os.open(path, (os.O_DIRECTORY if path.is_dir() else 0) | os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
