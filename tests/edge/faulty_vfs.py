"""A SQLite VFS whose disk fills up, fails, or loses what was not synced, when the test says so."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import apsw

from edge import Edge
from edge.storage.page_checksums import VFS, checksum_vfs, load
from tests.edge.stores import SeededRandom, TickingClock


class Faults:
    """``writes_left``: how many writes still succeed (None: all); the next one then fails as ``kind`` says.

    ``kind``: "full" (SQLite is told there is no space), "short" (half of it is written, then no space), "io", "sync"
    (writes succeed and fsync fails). ``reads_fail``: so does every read, with an I/O error. ``opens_fail``: so often a
    database cannot be opened to be written, upon which SQLite opens it to be read.
    """

    def __init__(self) -> None:
        self.writes_left: int | None = None
        self.kind = "full"
        self.failed = 0
        self.writes = 0
        self.reads_fail = False
        self.opens_fail = 0

    def spend(self) -> bool:
        """Whether this write is to fail."""
        self.writes += 1
        if self.writes_left is None:
            return False
        if self.writes_left > 0:
            self.writes_left -= 1
            return False
        self.failed += 1
        return True


class _FaultyFile(apsw.VFSFile):
    def __init__(self, base: str, name: Any, flags: list[int], faults: Faults) -> None:
        self._faults = faults
        super().__init__(base, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - apsw's name
        if self._faults.reads_fail:
            raise apsw.IOError("input/output error")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's name
        faults = self._faults
        if faults.kind != "sync" and faults.spend():
            if faults.kind == "short":
                super().xWrite(bytes(data)[: len(data) // 2], offset)
                raise OSError(errno.ENOSPC, "No space left on device")
            raise apsw.FullError("disk full") if faults.kind == "full" else apsw.IOError("input/output error")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        if self._faults.kind == "sync" and self._faults.spend():
            raise apsw.IOError("fsync failed")
        super().xSync(flags)


class FaultyVFS(apsw.VFS):
    def __init__(self, name: str, faults: Faults) -> None:
        self.name = name
        self._faults = faults
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        if self._faults.opens_fail and flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            self._faults.opens_fail -= 1
            flags[0] = flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
        return _FaultyFile("", name, flags, self._faults)


@contextmanager
def faulty_vfs() -> Iterator[Faults]:
    """Every delta log that is opened inside stands on it, with its page checksums between: a second copy of their VFS,
    loaded over the faulty one, takes the place of the first by its name.
    """
    apsw.unregister_vfs(checksum_vfs())
    faults = Faults()
    default = apsw.vfs_names()[0]
    vfs = FaultyVFS(f"faulty-{id(faults)}", faults)
    try:
        apsw.set_default_vfs(vfs.name)
        with TemporaryDirectory() as folder:  # loaded from the path of the first it would be the first
            extension = next(Path(apsw.__file__).parent.glob("sqlite_extra_binaries/cksumvfs.*"))
            load(shutil.copy(extension, folder))
        apsw.set_default_vfs(default)
        yield faults
    finally:
        apsw.set_default_vfs(default)
        apsw.unregister_vfs(VFS)
        vfs.unregister()
        checksum_vfs()


class FaultyStore:
    """A store on such a disk."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self.folder, self.faults = folder, faults
        self.edge = self.open()

    def open(self) -> Edge:
        return Edge.open(self.folder, clock=TickingClock(), random=SeededRandom())

    @classmethod
    @contextmanager
    def at(cls, folder: Path) -> Iterator[Self]:
        """Closed afterwards, on a disk that is well again."""
        with faulty_vfs() as faults:
            store = cls(folder, faults)
            yield store
            faults.writes_left = None
            store.edge.close()
