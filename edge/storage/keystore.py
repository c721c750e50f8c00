"""The device's private keys on its disk: ``<dir>/keys/device.key``, 64 bytes (Ed25519 seed, X25519 scalar), mode 0600.

They are made once, when the store is made, and are its identity: the device id is SHA-256(Ed25519 public key)[:12].
Nothing is read here when a store is opened and written: the log knows its device id, and ``cryptography`` (24 ms to
import) is loaded only when a key is made or used.

What always holds: a key file is whole and durable before anything refers to it, and nobody but its owner can read it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edge.storage.log_schema import sync_directory, translate
from sync.errors import CorruptStore, Malformed, StorageError
from sync.ports import RandomSource

if TYPE_CHECKING:
    from sync.keys import DeviceKey

KEYS_DIRECTORY = "keys"
DEVICE_KEY_FILE = "device.key"
_KEY_BYTES = 64
_LOST_HINT = (
    "restore the keys directory from a snapshot or a backup; without it, make another store and join with a new token: "
    "what had been synced comes back from the fleet"
)


def create_device_key(store: str, random: RandomSource) -> DeviceKey:
    """Make the keys of a new store; those of an earlier, interrupted attempt are used again. Raises StorageError."""
    from sync.keys import DeviceKey

    folder = os.path.join(store, KEYS_DIRECTORY)
    path = os.path.join(folder, DEVICE_KEY_FILE)
    if os.path.exists(path):
        return load_device_key(store)
    key = DeviceKey.generate(random)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        write_private(path, key.to_bytes())
        sync_directory(store)
    except OSError as error:
        raise translate(error, path) from error
    return key


def load_device_key(store: str) -> DeviceKey:
    """The store's keys. Raises CorruptStore if they are missing or damaged, StorageError if others may read them."""
    from sync.keys import DeviceKey

    data = _read(store)
    try:
        return DeviceKey.from_bytes(data)
    except Malformed as error:
        path = os.path.join(store, KEYS_DIRECTORY, DEVICE_KEY_FILE)
        raise CorruptStore(f"{path} is damaged: {error}", hint=_LOST_HINT) from error


def check_device_key(store: str, device: bytes | None = None) -> None:
    """The keys can be read and, if a device is named, are its keys: only then is ``cryptography`` loaded.

    Raises as ``load_device_key`` does.
    """
    path = os.path.join(store, KEYS_DIRECTORY, DEVICE_KEY_FILE)
    if device is None:
        if len(_read(store)) != _KEY_BYTES:
            raise CorruptStore(f"{path} is damaged: it has not {_KEY_BYTES} bytes", hint=_LOST_HINT)
    elif load_device_key(store).device_id != device:
        raise CorruptStore(f"{path} is the key of another device than {device.hex()}", hint=_LOST_HINT)


def key_problems(store: str, device: bytes | None = None) -> list[str]:
    """What ``check_device_key`` finds, in sentences."""
    try:
        check_device_key(store, device)
    except StorageError as error:
        return [f"{error.message}: this device cannot sync"]
    return []


def _read(store: str) -> bytes:
    path = os.path.join(store, KEYS_DIRECTORY, DEVICE_KEY_FILE)
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StorageError(
                    f"{path} can be read by others", hint=f"chmod 600 {path}, and consider a new device key"
                )
            return file.read(_KEY_BYTES + 1)
    except FileNotFoundError as error:
        raise CorruptStore(f"{path} is missing", hint=_LOST_HINT) from error
    except PermissionError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", hint="run this as the user that made the store"
        ) from error
    except OSError as error:
        raise translate(error, path) from error


def write_private(path: str, data: bytes) -> None:
    """Replace a file atomically and durably, mode 0600. Raises OSError."""
    part = path + ".part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(handle, 0o600)  # a file left over from a crash keeps its mode through O_CREAT
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(part, path)
    sync_directory(os.path.dirname(path))


def copy_keys(store: str, target: str) -> None:
    """Copy every key file of a store to another directory, durably, mode 0600. Raises StorageError, CorruptStore."""
    check_device_key(store)
    source = os.path.join(store, KEYS_DIRECTORY)
    copies = os.path.join(target, KEYS_DIRECTORY)
    try:
        os.mkdir(copies, mode=0o700)
        for name in sorted(os.listdir(source)):
            if not name.endswith(".part"):
                with open(os.path.join(source, name), "rb") as file:
                    write_private(os.path.join(copies, name), file.read())
        sync_directory(target)
    except OSError as error:
        raise translate(error, copies) from error
