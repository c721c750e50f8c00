"""The cloud's private keys: in files by default, in memory for tests and the simulator.

``<dir>/keys`` (0700) holds two files (0600), and with the archive they are all that a restore needs::

    service.key   64 bytes: the cloud's own identity (sync.keys.DeviceKey)
    epoch.keys    msgpack ["agentdb.epoch-keys.v1", [[fleet 16, epoch, key 32], …]]

What always holds: an epoch key is on the disk before anybody may seal with it, an epoch's key never changes, and files
are replaced whole. A key file that others may read is refused, as ssh does. The command line may add an epoch while the
server runs: each request for a ring looks whether the file has changed.

Who is given which epoch key is ``cloud.identity.enrollment``'s business.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Annotated, Literal, Protocol

import msgspec

from cloud.ports import KeyService
from cloud.storage.files import alone, replace_private
from sync.errors import CorruptStore, InvalidConfig, Malformed, StorageError
from sync.keys import EPOCH_KEY_BYTES, DeviceKey, KeyRing
from sync.messages import UNDECODABLE, Id16, Key32
from sync.ports import RandomSource

SERVICE_FILE = "service.key"
EPOCH_FILE = "epoch.keys"

_Epoch = Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]
_decoder = msgspec.msgpack.Decoder(tuple[Literal["agentdb.epoch-keys.v1"], list[tuple[Id16, _Epoch, Key32]]])


class FleetKeys(KeyService, Protocol):
    """A key service in which fleets and epochs can be begun."""

    def create_epoch(self, fleet: bytes) -> int:
        """A new random key for the fleet's next epoch (from 1), durable on return."""
        ...


class FileKeyService:
    """Raises InvalidConfig if files are missing or open to others, CorruptStore if they are damaged. Thread-safe."""

    def __init__(self, directory: Path, random: RandomSource) -> None:
        self._directory = directory
        self._random = random
        self._lock = Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._rings: dict[bytes, KeyRing] = {}
        try:
            self.service_key = DeviceKey.from_bytes(_read(directory / SERVICE_FILE))
        except Malformed as error:
            raise CorruptStore(f"{directory / SERVICE_FILE}: {error.message}", hint=_RESTORE) from error
        self._refresh()

    @staticmethod
    def create(directory: Path, random: RandomSource) -> FileKeyService:
        """New keys in a directory that has none. Raises InvalidConfig if it has some: keys are never overwritten."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for name in (SERVICE_FILE, EPOCH_FILE):
            if (directory / name).exists():
                raise InvalidConfig(
                    f"{directory / name} exists already", hint="choose another directory; keys are not replaced"
                )
        _write(directory / EPOCH_FILE, _encode({}))
        _write(directory / SERVICE_FILE, DeviceKey.generate(random).to_bytes())
        return FileKeyService(directory, random)

    def ring(self, fleet: bytes) -> KeyRing:
        """A copy: what is added to it is not kept."""
        with self._lock:
            self._refresh()
            return KeyRing(dict(self._rings.get(fleet, KeyRing()).items()))

    def fleets(self) -> list[bytes]:
        """Those with a key here."""
        with self._lock:
            self._refresh()
            return sorted(self._rings)

    def create_epoch(self, fleet: bytes) -> int:
        # Two processes that made the same epoch would each seal with a key, and one key would be lost.
        with self._lock, alone(self._directory):
            self._refresh()
            ring = KeyRing(dict(self._rings.get(fleet, KeyRing()).items()))
            epoch = ring.current + 1 if ring.epochs() else 1
            ring.add(epoch, self._random.token(EPOCH_KEY_BYTES))
            _write(self._directory / EPOCH_FILE, _encode({**self._rings, fleet: ring}))
            self._refresh()
            return epoch

    def _refresh(self) -> None:
        path = self._directory / EPOCH_FILE
        try:
            stat = path.stat()
        except OSError as error:
            raise InvalidConfig(f"{path}: {error.strerror}", hint=_RESTORE) from error
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return
        try:
            _, entries = _decoder.decode(_read(path))
        except UNDECODABLE as error:
            raise CorruptStore(f"{path}: {error}", hint=_RESTORE) from error
        rings: dict[bytes, KeyRing] = {}
        for fleet, epoch, key in entries:
            rings.setdefault(fleet, KeyRing()).add(epoch, key)
        self._rings, self._stamp = rings, stamp


class MemoryKeyService:
    """The same, kept nowhere."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._rings: dict[bytes, KeyRing] = {}
        self.service_key = DeviceKey.generate(random)

    def ring(self, fleet: bytes) -> KeyRing:
        return KeyRing(dict(self._rings.get(fleet, KeyRing()).items()))

    def create_epoch(self, fleet: bytes) -> int:
        ring = self._rings.setdefault(fleet, KeyRing())
        epoch = ring.current + 1 if ring.epochs() else 1
        ring.add(epoch, self._random.token(EPOCH_KEY_BYTES))
        return epoch


def copy_key_file(source: Path, target: Path) -> None:
    """With the same care as when it was made. Raises InvalidConfig if another one is there."""
    data = _read(source)
    if target.exists():
        if _read(target) != data:
            raise InvalidConfig(f"{target} exists and differs from {source}", hint="keys are not replaced")
        return
    _write(target, data)


_RESTORE = "put the fleet's keys back from where you keep a copy of them"


def _encode(rings: dict[bytes, KeyRing]) -> bytes:
    entries = [(fleet, epoch, key) for fleet, ring in sorted(rings.items()) for epoch, key in ring.items()]
    return msgspec.msgpack.encode(("agentdb.epoch-keys.v1", entries))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise InvalidConfig(f"{path} can be read by others", hint=f"chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}", hint=_RESTORE) from error


def _write(path: Path, data: bytes) -> None:
    """Whole and durable, or not at all."""
    try:
        replace_private(path, data)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", hint="check the disk; nothing was changed") from error
