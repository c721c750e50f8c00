"""The control plane's online key, in a file: ``keys/control.key``, an Ed25519 private key as PEM (PKCS 8), 0600.

It signs timestamp, snapshot and assignments (ADR 23). ``agentdb-cloud trust init`` makes it with the offline keys, for
the root names it. Who steals it can withhold, and hand out what was signed offline; a new root that names another,
signed offline, ends that. The key service's own key is another.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloud.storage.files import replace_private
from sync.errors import CorruptStore, InvalidValue, StorageError

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey

FILE = "control.key"


class ControlKeyFile:
    """The key in a directory, read again when it was changed: a server learns of one that was put there meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._held: tuple[tuple[int, int], SigningKey] | None = None

    def __call__(self) -> SigningKey | None:
        """None if there is none. Raises InvalidConfig (others can read it), CorruptStore."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if self._held is None or self._held[0] != stamp:
            self._held = (stamp, self._read())
        return self._held[1]

    def put(self, key: SigningKey) -> None:
        """In the place of the one that was there, whole and durable. Raises StorageError."""
        try:
            replace_private(self.path, key.to_pem())
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}", hint="check the disk; nothing was changed") from error

    def _read(self) -> SigningKey:
        from cloud.fleet.signing import SigningKey  # 80 ms, which a fleet without trust does not pay
        from cloud.fleet.trust_files import read_key_file

        try:
            key = read_key_file(self.path)
        except InvalidValue as error:
            raise CorruptStore(
                f"{self.path}: {error.message}", hint="put it back from where you keep a copy"
            ) from error
        if not isinstance(key, SigningKey):
            raise CorruptStore(f"{self.path} is a public key", hint="the private one belongs there")
        return key
