"""A folder of a reading process's own, for what it derives from a store that it must not write to.

In the system's folder for temporary files, for this user only. It goes with ``close``, or at the end of the process;
what a killed one left goes when the next is made: it is known by its lock, which went with its process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from edge.storage.durable import storage_error

_PREFIX = "agentdb-reader-"
_LOCK = "lock"


class PrivateFolder:
    """Raises StorageError if there is no place for it."""

    def __init__(self) -> None:
        try:
            _remove_left()
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            # Under another name until it is locked: nobody may take it for one that was left.
            part = self.path / (_LOCK + ".part")
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            part.rename(self.path / _LOCK)
        except OSError as error:
            raise storage_error("making a folder for temporary files", error) from error
        self._close = weakref.finalize(self, _remove, self.path, handle, os.getpid())

    def close(self) -> None:
        """Idempotent."""
        self._close()


def _remove(path: Path, handle: int, process: int) -> None:
    if os.getpid() == process:  # a fork has the same folder
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue  # another's, or what somebody wants to be taken for ours
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(handle)
