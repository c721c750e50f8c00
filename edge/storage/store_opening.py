"""Opening a store: for writing, with its lock; or for reading, beside whoever writes.

``open_to_write`` makes what is not there (``store_making``). ``open_to_read`` takes no lock and makes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from edge.config import EdgeConfig, config_of
from edge.ports import SystemClock, SystemRandom
from edge.storage.delta_log import DeltaLog
from edge.storage.paths import path_of
from edge.storage.store_lock import StoreLock, holding
from edge.storage.store_making import (
    LOG_FILE,
    begin,
    check_vacant,
    made,
    make_directory,
    new_device,
)
from sync.errors import CorruptStore, NotFound
from sync.ports import Clock, RandomSource

if TYPE_CHECKING:
    from edge.storage.log_follower import Follower

LOCK_FILE = "lock"
_LOOKS = 3
Config = EdgeConfig | str | os.PathLike[str] | None


class Opened(NamedTuple):
    """What an ``Edge`` is made of. ``lock`` is None if it only reads."""

    path: str
    config: EdgeConfig
    log: DeltaLog
    lock: StoreLock | None
    clock: Clock
    random: RandomSource


def open_to_write(
    path: str | os.PathLike[str],
    *,
    config: Config,
    clock: Clock | None,
    random: RandomSource | None,
    create: bool,
    vfs: str | None,
    wait_s: float,
) -> Opened:
    """Raises NotFound, StoreLocked, InvalidConfig, CorruptStore, StorageError; InvalidValue."""
    store = path_of("a store", path)
    log_path, lock_path = os.path.join(store, LOG_FILE), os.path.join(store, LOCK_FILE)
    if not os.path.exists(log_path):
        check_vacant(store, used=not create and os.path.exists(lock_path))
        if not create:
            raise _missing(store, path)
    settings = config_of(config, store)
    clock, random = clock or SystemClock(), random or SystemRandom()
    make_directory(store)
    used = os.path.exists(lock_path)
    lock = StoreLock(lock_path, wait_s, clock=clock, random=random)
    try:
        begin(store, used=used)
        log = DeltaLog.open(
            log_path,
            clock=clock,
            random=random,
            device=lambda: new_device(store, random),
            vfs=vfs,
            durability=settings.durability,
        )
        try:
            made(store)
        except BaseException:
            log.close()
            raise
    except BaseException:
        lock.release()
        raise
    return Opened(store, settings, log, lock, clock, random)


def open_to_read(
    path: str | os.PathLike[str],
    *,
    config: Config,
    clock: Clock | None,
    random: RandomSource | None,
    vfs: str | None,
) -> Opened:
    """Raises NotFound, InvalidConfig, CorruptStore, StorageError; InvalidValue."""
    from edge.storage.log_follower import Follower

    store = path_of("a store", path)
    log_path = os.path.join(store, LOG_FILE)
    if not os.path.exists(log_path):
        check_vacant(store, used=os.path.exists(os.path.join(store, LOCK_FILE)))
        raise _missing(store, path)
    settings = config_of(config, store)
    clock, random = clock or SystemClock(), random or SystemRandom()
    log = Follower.follow(log_path, clock=clock, random=random, vfs=vfs)
    try:
        _check_end(log, os.path.join(store, LOCK_FILE))
    except BaseException:
        log.close()
        raise
    return Opened(store, settings, log, None, clock, random)


def _check_end(log: Follower, lock_path: str) -> None:
    """Where nobody writes, what a crash left must be whole. Whoever begins to write meanwhile looks for himself."""
    for left in reversed(range(_LOOKS)):
        if holding(lock_path) is not None:
            return
        try:
            log.check_end()
            return
        except CorruptStore:
            if not left:
                raise


def _missing(store: str, path: str | os.PathLike[str]) -> NotFound:
    return NotFound(f"there is no store at {store}", hint=f"agentdb-edge init {path!s}")
