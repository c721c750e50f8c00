"""One writing process at a time: an advisory lock on ``<dir>/lock`` that names its holder and vanishes with it.

``flock`` belongs to the open file, so a crash or SIGKILL releases it and no lock is ever stale. What is in the file,
process id, command and since when, is only for whoever comes second: for the error message, and for ``agentdb-edge
status``. Nobody asks whether a process of that id lives: it may be another by now.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from edge.storage.log_schema import translate
from sync.errors import InvalidValue, StorageError, StoreLocked

if TYPE_CHECKING:
    from sync.ports import Clock, RandomSource

_TRY_S = 0.05
_LOOKED_AT_S = 0.005  # for a moment, who asks whether it is held (``holding``) holds it
WAIT_S_MAX = 86_400
_NAMES_ITSELF_TRIES = 5  # a holder writes its name right after it has the lock
_COMMAND_CHARACTERS_MAX = 60
_HOLDER_BYTES_MAX = 512


class Holder(NamedTuple):
    """The process that has a store open. ``command`` is its program's name, never its arguments: they hold tokens.
    ``since_ms``: milliseconds since 1970 by its clock, 0 if it did not say.
    """

    pid: int
    command: str
    since_ms: int = 0

    def __str__(self) -> str:
        name = f"{self.pid} ({self.command})" if self.command else str(self.pid)
        if not self.since_ms:
            return name
        from datetime import UTC, datetime

        try:
            return f"{name} since {datetime.fromtimestamp(self.since_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
        except (OverflowError, ValueError, OSError):
            return name


class StoreLock:
    """Held from construction to ``release``. Waits ``wait_s`` seconds for whoever holds it, then raises StoreLocked,
    which names the process. Raises InvalidValue, StorageError if the file system cannot lock.
    """

    def __init__(self, path: str, wait_s: float = 0.0, *, clock: Clock, random: RandomSource) -> None:
        if type(wait_s) not in (int, float) or not 0 <= wait_s <= WAIT_S_MAX:
            raise InvalidValue(f"wait_s is 0 to {WAIT_S_MAX} seconds, not {wait_s!r:.40}")
        self._process = os.getpid()
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translate(error, path) from error
        try:
            self._take(path, wait_s, random)
            said = f"{os.getpid()} {_command()}\n{clock.wall_ms()}\n"
            os.pwrite(self._handle, said.encode("utf-8", "replace"), 0)
        except OSError as error:
            self.release()
            raise translate(error, path) from error
        except BaseException:
            os.close(self._handle)
            self._handle = -1
            raise

    def _take(self, path: str, wait_s: float, random: RandomSource) -> None:
        left_s = max(float(wait_s), _LOOKED_AT_S)
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(self._handle, 0)
                return
            except BlockingIOError as error:
                if left_s <= 0:
                    holder = _named(self._handle)
                    raise StoreLocked(
                        f"the store at {os.path.dirname(path)} is open in process {holder or 'unknown'}",
                        hint="one process writes to a store at a time: close it there first, wait for it (wait_s), or "
                        "read beside it (read_only=True). A program that has it open syncs by itself with "
                        "edge.start_sync(), without `agentdb-edge run`",
                    ) from error
            except OSError as error:
                raise StorageError(
                    f"{path} cannot be locked: {error}", hint="keep the store on a local file system"
                ) from error
            pause_s = min(left_s, _TRY_S * (0.5 + random.uniform()))  # two that wait do not ask in step
            left_s -= pause_s
            time.sleep(pause_s)

    def release(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            try:
                if os.getpid() == self._process:  # a fork has the same lock, and would let go of its parent's
                    os.ftruncate(handle, 0)  # whoever comes next must not be called by our name
                    fcntl.flock(handle, fcntl.LOCK_UN)  # closing it would leave it to a fork that lives on
            except OSError:
                pass
            finally:
                os.close(handle)


def holder(path: str) -> Holder | None:
    """Who wrote its name into the lock at ``path`` last: of a store that is locked, the one who has it open.

    Takes no lock, so that asking keeps nobody out.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _named(handle)
    finally:
        os.close(handle)


def holding(path: str) -> Holder | None:
    """Who has the store whose lock is at ``path`` open at this moment; its id is 0 if it has not said it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for no longer than it takes to let go of it
        fcntl.flock(handle, fcntl.LOCK_UN)
    except BlockingIOError:
        return _named(handle) or Holder(0, "")
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


def _named(handle: int) -> Holder | None:
    for _ in range(_NAMES_ITSELF_TRIES):
        try:
            text = os.pread(handle, _HOLDER_BYTES_MAX, 0).decode("utf-8", "replace")
        except OSError:
            return None
        name, _, since = text.partition("\n")
        pid, _, command = name.partition(" ")
        if text.endswith("\n") and pid.isdigit():
            return Holder(int(pid), command.strip(), int(since) if since.strip().isdecimal() else 0)
        time.sleep(_TRY_S / 5)
    return None


def _command() -> str:
    """``agentdb-edge run`` for our own commands, the name of the script for others."""
    words = sys.argv
    name = os.path.basename(words[0]) if words and words[0] else ""
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(words[0]))
    elif name in ("-c", "-m"):
        name = "python"
    if name == "agentdb-edge" and len(words) > 1 and words[1].isalpha():
        name = f"{name} {words[1]}"
    printable = "".join(character for character in name if character.isprintable())
    return printable[:_COMMAND_CHARACTERS_MAX]
