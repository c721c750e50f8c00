"""Making a store: the directory, and what must not be mistaken for a new one.

A log without tables is a new store's, or what a damaged disk left of an old one. The difference is a file: ``making``
is on disk before a new store's keys are, and goes when its log is there. So a log that lost its tables beside keys
or search tables that were finished is damage, and is said to be: an empty store in its place would be pushed and
read as if nothing had ever been written. Keys with nothing else beside them are a wish to begin again under the same
name.
"""

from __future__ import annotations

import os

from edge.storage.keystore import DEVICE_KEY_FILE, KEYS_DIRECTORY, create_device_key
from edge.storage.log_schema import sync_directory, translate
from sync.errors import CorruptStore, InvalidValue
from sync.ports import RandomSource

LOG_FILE = "log.db"
_MAKING = "making"
_CLOUD_FILES = ("cloud.db", "cloud.toml")


def make_directory(path: str) -> None:
    """Raises InvalidValue where a file is in the way, StorageError."""
    try:
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700, exist_ok=True)  # another may make it at the same moment
            sync_directory(os.path.dirname(path))
    except (NotADirectoryError, FileExistsError) as error:
        raise InvalidValue(
            f"{path} cannot be a directory: there is a file at that path or above it", hint="choose another path"
        ) from error
    except OSError as error:
        raise translate(error, path) from error


def check_vacant_target(store: str, target: str) -> None:
    """A copy of ``store`` may be made at ``target``. Raises InvalidValue."""
    if os.path.exists(target):
        raise InvalidValue(f"{target} exists already", hint="choose a new path for the snapshot")
    if os.path.realpath(target).startswith(os.path.realpath(store) + os.sep):
        raise InvalidValue(
            f"{target} is inside the store that is copied", hint="choose a path outside of it, better on another disk"
        )


def check_vacant(store: str, *, used: bool) -> None:
    """A new store may be made here, or an interrupted making be finished; ``used``: a log or a lock was here before.

    Raises CorruptStore, InvalidValue.
    """
    for name in _CLOUD_FILES:
        if os.path.exists(os.path.join(store, name)):
            raise InvalidValue(
                f"{store} is a control plane's directory: {name} is in it",
                hint="give the device's store a directory of its own",
            )
    if os.path.exists(os.path.join(store, _MAKING)):
        return
    names = [os.path.join(KEYS_DIRECTORY, DEVICE_KEY_FILE)] if used else []
    left = [name for name in (*names, "exact", "lance") if os.path.exists(os.path.join(store, name))]
    if left:
        raise CorruptStore(
            f"{os.path.join(store, LOG_FILE)} is empty or missing, but {' and '.join(left)} of the store are there",
            hint="put log.db back from a snapshot or backup; to begin again without it, move everything but keys/ away "
            "and join again with a new token: what had been synced comes back from the fleet",
        )


def begin(store: str, *, used: bool) -> None:
    """If there is no log, say durably that one is about to be made. Raises as ``check_vacant``, and StorageError."""
    if os.path.exists(os.path.join(store, LOG_FILE)):
        return
    check_vacant(store, used=used)
    mark = os.path.join(store, _MAKING)
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_directory(store)
    except OSError as error:
        raise translate(error, mark) from error


def new_device(store: str, random: RandomSource) -> bytes:
    """The id of the device of a store whose log has no tables; its keys are made, or were.

    Raises CorruptStore, InvalidValue, StorageError.
    """
    check_vacant(store, used=True)
    return create_device_key(store, random).device_id


def made(store: str) -> None:
    """The log has its tables: from now on they must be there. Raises StorageError."""
    mark = os.path.join(store, _MAKING)
    if os.path.exists(mark):
        try:
            os.unlink(mark)
            sync_directory(store)
        except OSError as error:
            raise translate(error, mark) from error
