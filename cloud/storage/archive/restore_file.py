"""Restore into a new SQLite file that becomes a store only when it is whole.

The file is built under another name with SQLite's durability switched off (it is worth nothing until it is
finished), then synced as a whole, renamed, and its directory synced. What always holds: under ``path`` there is
either nothing or a complete, verified, durable store; an existing one is never touched.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloud.ports import KeyService, ObjectStore
from cloud.storage.archive.anchor import Anchor
from cloud.storage.archive.reader import fleets as fleets_in
from cloud.storage.archive.restore import Progress, Restored, restore_fleet
from cloud.storage.files import sync_path
from cloud.storage.sqlite_schema import connect
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import InvalidValue, NotFound, StorageError
from sync.ports import RandomSource

_BUILD_CACHE_KIB = 256 << 10


def restore_file(
    objects: ObjectStore,
    keys: KeyService,
    path: Path,
    *,
    random: RandomSource,
    fleets: Sequence[bytes] = (),
    position: int | None = None,
    at_ms: int | None = None,
    manifest: int | None = None,
    anchor: Anchor | None = None,
    progress: Progress | None = None,
) -> list[Restored]:
    """Restore fleets (by default all in the object store) into a new SQLite store at ``path``.

    ``position`` and ``manifest`` are of one fleet and need it to be the only one. The rest is ``restore_fleet``'s.
    Raises InvalidValue if there is a store at ``path``, and NotFound if there is nothing to restore.
    """
    for name in (path, _beside(path, "-wal"), _beside(path, "-journal")):
        if name.exists():
            raise InvalidValue(f"{name} exists already", hint="restore to a new path; move the old store away first")
    wanted = list(fleets) or fleets_in(objects)
    if not wanted:
        raise NotFound("there is no archive in this object store", hint="check the URL")
    if len(wanted) > 1 and (position is not None or manifest is not None):
        raise InvalidValue("a position or a manifest is of one fleet", hint="name the fleet")
    with _building(path) as store, _no_collector():
        return [
            restore_fleet(
                objects,
                keys,
                store,
                fleet,
                random=random,
                position=position,
                at_ms=at_ms,
                manifest=manifest,
                anchor=anchor,
                progress=progress,
            )
            for fleet in wanted
        ]


@contextmanager
def _building(path: Path) -> Iterator[SqliteStore]:
    """A store that becomes ``path`` if the block ends well, and nothing otherwise."""
    draft = _beside(path, ".restoring")
    _remove(draft)
    db = connect(str(draft))
    db.pragma("journal_mode", "off")
    db.pragma("synchronous", "off")
    db.pragma("cache_size", -_BUILD_CACHE_KIB)
    store = SqliteStore(str(draft), db, None)
    try:
        yield store
        db.pragma("journal_mode", "wal")  # is kept in the file
    except BaseException:
        store.close()
        _remove(draft)
        raise
    store.close()
    try:
        sync_path(draft)
        draft.rename(path)
        sync_path(path.parent)
    except OSError as error:
        raise StorageError(f"cannot put the restored store at {path}: {error.strerror}") from error


@contextmanager
def _no_collector() -> Iterator[None]:
    """Hundreds of thousands of tuples come and stay, none of them in a cycle: looking through them costs a fifth."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _remove(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        _beside(draft, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
