"""One process at a time: an advisory lock on ``<dir>/lock`` that names its holder and vanishes with it.

``flock`` belongs to the open file, so a crash or SIGKILL releases it and no lock is ever stale. The process id in the
file is only for the error message of whoever comes second.
"""

from __future__ import annotations

import fcntl
import os

from edge.storage.log_schema import translate
from sync.errors import StorageError, StoreLocked


class StoreLock:
    """Held from construction to ``release``. Raises StoreLocked, which names the process that holds the store."""

    def __init__(self, path: str) -> None:
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translate(error, path) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._handle, 20, 0).decode("ascii", "replace").strip()
            os.close(self._handle)
            raise StoreLocked(
                f"the store at {os.path.dirname(path)} is open in process {holder or 'unknown'}",
                hint="one process opens a store at a time; close it there first",
            ) from error
        except OSError as error:
            os.close(self._handle)
            raise StorageError(
                f"{path} cannot be locked: {error}", hint="keep the store on a local file system"
            ) from error
        try:
            os.truncate(self._handle, 0)
            os.pwrite(self._handle, str(os.getpid()).encode(), 0)
        except OSError as error:
            self.release()
            raise translate(error, path) from error

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
