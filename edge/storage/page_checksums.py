"""A checksum on every page of the delta log, by SQLite's own checksum VFS (https://sqlite.org/cksumvfs.html).

Without it, a bit that flips on the disk inside a record is read, synced and merged into the whole fleet, and one
that flips inside an index hides a record: SQLite notices neither. With it, a page that is not what was written is an
error (``SQLITE_IOERR_DATA``), of which ``log_schema.translate`` makes a ``CorruptStore``.

The VFS comes with the apsw wheel as a loadable extension. It keeps eight bytes at the end of each page, which have to
be reserved before the first page is written.

What always holds: a file that has checksums is only ever written through this VFS, and the process's default VFS is
what it was: other users of apsw do not notice.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from array import array

import apsw

from sync.errors import StorageError

VFS = "cksmvfs"
_RESERVED_BYTES = 8
_EXTENSION = os.path.join(os.path.dirname(apsw.__file__), "sqlite_extra_binaries", "cksumvfs")
_lock = allocate_lock()


def checksum_vfs() -> str:
    """The VFS's name, once it is there. Raises StorageError if this apsw does not have it."""
    with _lock:
        if VFS not in apsw.vfs_names():
            load(_EXTENSION)
    return VFS


def load(extension: str) -> None:
    """Put the VFS over the one that is the default now, which stays the default."""
    default = apsw.vfs_names()[0]
    db = apsw.Connection(":memory:")
    try:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
        db.load_extension(extension)
    except apsw.Error as error:
        raise StorageError(
            f"this apsw does not come with the checksum VFS: {error}",
            hint="install apsw from its wheel, not from its sources",
        ) from error
    finally:
        db.close(True)
        apsw.set_default_vfs(default)


def reserve(db: apsw.Connection) -> None:
    """Make room for checksums in a new, still empty file."""
    _reserved(db, _RESERVED_BYTES)


def has_checksums(db: apsw.Connection) -> bool:
    return _reserved(db, -1) == _RESERVED_BYTES


def _reserved(db: apsw.Connection, wanted: int) -> int:
    """``SQLITE_FCNTL_RESERVE_BYTES``: sets it unless ``wanted`` is negative; what it was."""
    box = array("i", [wanted])
    db.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, box.buffer_info()[0])
    return box[0]
