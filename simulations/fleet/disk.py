"""The simulated disk: a SQLite VFS that knows what was synced, and can lose the rest.

Real SQLite, with its real WAL, its shared-memory index and the product's page checksums, stands on it; below it are
ordinary files in a scratch directory, which are never synced for real. Every write passes through ``_File``, which
keeps for each file what a power cut would certainly leave (``durable``) and what was written since the last sync, in
order. So a database in memory would have been faster, and would have proved less: which bytes survive a power cut is
SQLite's business and ours together.

A ``Disk`` is one machine's. It can be told to fail (full, input/output errors, failing syncs), to die at the n-th
write or sync from now (from then on nothing that the dead process still holds can change a file), to lose what was not
synced (whole writes, or single sectors of them), and to flip bits.

What is not simulated here: files that do not pass through SQLite (keys, the exact tier's matrix, LanceDB's tables) are
as durable as the product asked for; the power-cut tests with real processes (``simulations.crash``) cover those.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import apsw

from edge.storage.page_checksums import VFS, checksum_vfs, load

SECTOR = 512
FULL, IO, SYNC = "full", "io", "sync"
_NAME = "simulated"


class _Write(NamedTuple):
    """``data`` at ``offset``; without data the file is cut, or grows by zeros, to ``offset``."""

    offset: int
    data: bytes | None


class _Contents:
    """One file, as a power cut would find it."""

    def __init__(self, durable: bytes) -> None:
        self.durable = bytearray(durable)
        self.pending: list[_Write] = []

    def sync(self) -> None:
        for write in self.pending:
            _apply(self.durable, write)
        self.pending.clear()


class Disk:
    """One machine's disk: the files under ``root``."""

    def __init__(self, root: Path, dice: Random) -> None:
        self.root = root
        self.dice = dice
        self.dead = False
        self.deaths = 0
        self.failures = 0
        self.fault = ""
        self.fault_share = 0.0
        self.crash_in: int | None = None  # writes and syncs from now
        self._files: dict[str, _Contents] = {}
        _disks[os.fspath(root) + os.sep] = self

    def forget(self) -> None:
        """The machine is gone; its files stay where they are."""
        _disks.pop(os.fspath(self.root) + os.sep, None)

    # -- what the fleet does with it --------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process is gone: nothing that it still holds open writes any more."""
        if not self.dead:
            self.dead = True
            self.deaths += 1
        self.crash_in = None

    def revive(self, *, power_cut: bool) -> int:
        """The machine starts again. With ``power_cut``, only what was synced is sure to be there. Returns how many
        writes were lost or torn.
        """
        lost = 0
        for name in sorted(self._files):
            contents = self._files[name]
            if power_cut:
                lost += self._cut(name, contents)
        if power_cut:
            for shared in sorted(self.root.rglob("*-shm")):
                shared.unlink()
        self.dead = False
        return lost

    def rot(self, name: str, bits: int) -> None:
        """Flip so many bits of a file, anywhere in it. The process must be down."""
        path = self.root / name
        data = bytearray(path.read_bytes())
        for _ in range(bits):
            at = self.dice.randrange(len(data))
            data[at] ^= 1 << self.dice.randrange(8)
        self.put(path, bytes(data))

    def put(self, path: Path, data: bytes) -> None:
        """A file from elsewhere, durable."""
        path.write_bytes(data)
        self._files[os.fspath(path)] = _Contents(data)

    def reload(self) -> None:
        """The files were changed from outside (copied, removed): what is there now is durable."""
        self._files.clear()

    def _cut(self, name: str, contents: _Contents) -> int:
        """What a power cut leaves of one file: everything synced, and of the rest nothing, all, a beginning, or an
        arbitrary part with torn sectors.
        """
        dice, pending = self.dice, contents.pending
        fate = dice.randrange(4)
        kept: list[_Write] = []
        if fate == 1:
            kept = list(pending)
        elif fate == 2 and pending:
            kept = pending[: dice.randrange(len(pending) + 1)]
        elif fate == 3:
            kept = [part for write in pending if dice.random() < 0.6 for part in _torn(write, dice)]
        for write in kept:
            _apply(contents.durable, write)
        lost = len(pending) - (len(kept) if fate < 3 else 0)
        contents.pending.clear()
        path = Path(name)
        if path.exists():
            path.write_bytes(contents.durable)
        return lost

    # -- what its files tell it -------------------------------------------------------------------------------------

    def spend(self, kind: str) -> None:
        """Before a write or a sync; raises what SQLite is to see of a fault."""
        if self.dead:
            raise apsw.IOError("the machine is off")
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.kill()
                raise apsw.IOError("the machine is off")
        if self.fault and self.dice.random() < self.fault_share:
            if self.fault == SYNC and kind != SYNC:
                return
            self.failures += 1
            raise apsw.FullError("no space") if self.fault == FULL else apsw.IOError("input/output error")

    def contents(self, name: str) -> _Contents:
        found = self._files.get(name)
        if found is None:
            path = Path(name)
            durable = path.read_bytes() if path.exists() else b""
            found = self._files[name] = _Contents(durable)
        return found

    def deleted(self, name: str) -> None:
        self._files.pop(name, None)


def _apply(data: bytearray, write: _Write) -> None:
    offset, content = write
    if content is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(content)] = content


def _torn(write: _Write, dice: Random) -> Iterator[_Write]:
    """The sectors of a write that reached the platter, in any number."""
    offset, data = write
    if data is None or dice.random() < 0.5:
        yield write
        return
    at = 0
    while at < len(data):
        end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
        if dice.random() < 0.7:
            yield _Write(offset + at, data[at:end])
        at = end


_disks: dict[str, Disk] = {}
_mounted: list[apsw.VFS] = []  # for good: a connection that nobody closed still refers to it


def _disk_of(name: str) -> Disk | None:
    for root, disk in _disks.items():
        if name.startswith(root):
            return disk
    return None


class _File(apsw.VFSFile):
    """A file that belongs to a simulated disk, and to the process that opened it."""

    def __init__(self, name: Any, flags: list[int], disk: Disk, path: str) -> None:
        self._disk = disk
        self._life = disk.deaths
        self._contents = disk.contents(path)
        super().__init__("", name, flags)

    def _spend(self, kind: str) -> None:
        if self._life != self._disk.deaths:
            raise apsw.IOError("this process is dead")
        self._disk.spend(kind)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's name
        self._spend(IO)
        super().xWrite(data, offset)
        self._contents.pending.append(_Write(offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802 - apsw's name
        self._spend(IO)
        super().xTruncate(size)
        self._contents.pending.append(_Write(size, None))

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802 - apsw's signature
        self._spend(SYNC)
        self._contents.sync()


class _VFS(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(_NAME, base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        disk = _disk_of(path) if path else None
        if disk is None:
            return apsw.VFSFile("", name, flags)
        if disk.dead:
            raise apsw.CantOpenError("the machine is off")
        return _File(name, flags, disk, path)

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: ARG002, N802 - apsw's signature
        disk = _disk_of(name)
        if disk is not None:
            disk.spend(IO)
            disk.deleted(name)
        super().xDelete(name, False)


def _unraisable(error: sys.UnraisableHookArgs) -> None:
    """A fault of ours that SQLite does not pass on, in a checkpoint while it closes for one: it has noted the code."""
    if not isinstance(error.exc_value, (apsw.IOError, apsw.FullError)):
        sys.__unraisablehook__(error)


@contextmanager
def mounted() -> Iterator[None]:
    """Inside, every database of the product that lies under a ``Disk`` stands on it, with its page checksums between:
    a second copy of their VFS, loaded over the simulated one, takes the place of the first by its name.
    """
    apsw.unregister_vfs(checksum_vfs())
    default = apsw.vfs_names()[0]
    if not _mounted:
        _mounted.append(_VFS())
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        apsw.set_default_vfs(_NAME)
        with TemporaryDirectory() as folder:  # loaded from the path of the first it would be the first
            extension = next(Path(apsw.__file__).parent.glob("sqlite_extra_binaries/cksumvfs.*"))
            load(shutil.copy(extension, folder))
        apsw.set_default_vfs(default)
        yield
    finally:
        apsw.set_default_vfs(default)
        apsw.unregister_vfs(VFS)
        checksum_vfs()
        _disks.clear()
        sys.unraisablehook = hook
