"""A checksum on every page of the control plane's database, by SQLite's own checksum VFS (docs/adr/0009 says why).

A bit that flipped on this disk would go to every device with the next page or baseline. ``edge.storage.page_checksums``
is the same for the device's log; neither package knows the other.

What always holds: a file that has checksums is only ever written through this VFS, and the process's default VFS is
what it was.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from threading import Lock

import apsw

from sync.errors import StorageError

VFS = "cksmvfs"
_RESERVED_BYTES = 8
_lock = Lock()


def checksum_vfs() -> str:
    """The VFS's name, once it is there. Raises StorageError if this apsw does not have it."""
    with _lock:
        if VFS not in apsw.vfs_names():
            _load()
    return VFS


def _load() -> None:
    default = apsw.vfs_names()[0]
    db = apsw.Connection(":memory:")
    try:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
        db.load_extension(str(Path(apsw.__file__).parent / "sqlite_extra_binaries" / "cksumvfs"))
    except apsw.Error as error:
        hint = "install apsw from its wheel, not from its sources"
        raise StorageError(f"this apsw does not come with the checksum VFS: {error}", hint=hint) from error
    finally:
        db.close(True)
        apsw.set_default_vfs(default)


def prepare(db: apsw.Connection, path: str, *, vfs: str | None) -> None:
    """Before a writing connection's first write. Raises StorageError if ``vfs``, which somebody named, would write
    over checksums.
    """
    box = array("i", [-1])  # SQLITE_FCNTL_RESERVE_BYTES: asks, unless it is positive
    db.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, box.buffer_info()[0])
    if vfs is not None:
        if box[0] == _RESERVED_BYTES:
            raise StorageError(f"{path} has page checksums, which VFS {vfs!r} would not keep")
    elif db.execute("PRAGMA page_count").get == 0:
        box[0] = _RESERVED_BYTES
        db.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, box.buffer_info()[0])
