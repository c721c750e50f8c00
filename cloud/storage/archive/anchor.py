"""The anchor: the key holder's note of the newest manifest that was committed, for each fleet.

A bucket alone cannot show that its newest objects were taken away: an earlier state of it is as well signed as the
last. The note is a small file that belongs beside the keys (``keys/archive.anchor``), so that a restore from
"the bucket and the keys" notices. It is a lower bound: a crash between the commit and the note loses nothing.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple, Protocol

import msgspec

from cloud.storage.files import replace_private
from sync.errors import CorruptStore, StorageError
from sync.messages import U63, UNDECODABLE, Hash32, Id16


class Anchored(NamedTuple):
    """A manifest that is known to have been committed."""

    number: int
    sha256: bytes


class Anchor(Protocol):
    def last(self, fleet: bytes) -> Anchored | None: ...

    def note(self, fleet: bytes, anchored: Anchored) -> None:
        """Durable on return. A lower number replaces a higher one: after a restore that was told to go back."""
        ...

    def forget(self, fleet: bytes) -> None:
        """Durable on return: for an archive that begins anew at another place."""
        ...


class MemoryAnchor:
    """For tests and the simulator."""

    def __init__(self) -> None:
        self._notes: dict[bytes, Anchored] = {}

    def last(self, fleet: bytes) -> Anchored | None:
        return self._notes.get(fleet)

    def note(self, fleet: bytes, anchored: Anchored) -> None:
        self._notes[fleet] = anchored

    def forget(self, fleet: bytes) -> None:
        self._notes.pop(fleet, None)


_decoder = msgspec.msgpack.Decoder(tuple[Literal["agentdb.anchor.v1"], list[tuple[Id16, U63, Hash32]]])


class AnchorFile:
    """msgpack ``["agentdb.anchor.v1", [[fleet, number, sha256], …]]``, replaced whole. Raises CorruptStore."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def last(self, fleet: bytes) -> Anchored | None:
        return self._read().get(fleet)

    def note(self, fleet: bytes, anchored: Anchored) -> None:
        self._replace(fleet, anchored)

    def forget(self, fleet: bytes) -> None:
        self._replace(fleet, None)

    def _replace(self, fleet: bytes, anchored: Anchored | None) -> None:
        with self._lock:
            notes = self._read()
            notes.pop(fleet, None)
            if anchored is not None:
                notes[fleet] = anchored
            entries = [(owner, *note) for owner, note in sorted(notes.items())]
            self._write(msgspec.msgpack.encode(("agentdb.anchor.v1", entries)))

    def _read(self) -> dict[bytes, Anchored]:
        try:
            _, entries = _decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except UNDECODABLE as error:
            raise CorruptStore(
                f"{self._path}: {error}",
                hint="remove it if the archive itself verifies; it only guards against rollback",
            ) from error
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        return {fleet: Anchored(number, digest) for fleet, number, digest in entries}

    def _write(self, data: bytes) -> None:
        try:
            replace_private(self._path, data)
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}", hint="check the disk") from error
