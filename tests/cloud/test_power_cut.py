"""What makes or changes a control plane's directory is on the disk, with its name, before it is said to be done.

``tests/crash`` cuts the power for real stores and fills their disks; here it is what no step of theirs does, or in
short.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud import config as configuration
from cloud.server.creation import create_home
from cloud.server.recovery import restore_home
from cloud.server.relocation import move_archive
from cloud.storage.sqlite_schema import connect
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import StorageError

CONFIG = '[archive]\nurl = "objects"\n'


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The inodes of what was fsynced: a file may be renamed afterwards."""
    found: list[str] = []
    fsync: Callable[[int], None] = os.fsync

    def noted(handle: int) -> None:
        found.append(str(os.fstat(handle).st_ino))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def _inode(path: Path) -> str:
    return str(path.stat().st_ino)


def test_a_new_home_and_the_directories_above_it_stay(tmp_path: Path, synced: list[str]) -> None:
    home = tmp_path / "above" / "home"
    create_home(home, "fleet", CONFIG)
    for durable in (tmp_path, tmp_path / "above", home, home / configuration.FILE, home / configuration.KEYS):
        assert _inode(durable) in synced, durable


def test_a_moved_archive_is_known_after_a_power_cut(tmp_path: Path, synced: list[str]) -> None:
    home = tmp_path / "home"
    create_home(home, "fleet", CONFIG)
    synced.clear()
    move_archive(home, str(tmp_path / "elsewhere"), {}, fresh=True)
    assert _inode(home / configuration.FILE) in synced
    assert _inode(home) in synced[synced.index(_inode(home / configuration.FILE)) + 1 :]


def test_a_restored_home_stays(tmp_path: Path, synced: list[str]) -> None:
    home, target = tmp_path / "home", tmp_path / "above" / "target"
    create_home(home, "fleet", CONFIG)
    move_archive(home, str(tmp_path / "elsewhere"), {}, fresh=True)
    synced.clear()
    restore_home(target, str(tmp_path / "elsewhere"), home / configuration.KEYS)
    for durable in (tmp_path, target.parent, target, target / configuration.FILE, target / configuration.KEYS):
        assert _inode(durable) in synced, durable


def test_half_a_database_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk closing leaves the write-ahead log, without an error; a reader keeps it there as well."""
    readers = []
    opened = SqliteStore.open

    def open_and_read(path: Path) -> SqliteStore:
        store = opened(path)
        readers.append(connect(str(path), read_only=True))
        readers[0].execute("BEGIN; SELECT * FROM fleets").fetchall()
        return store

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "open", staticmethod(open_and_read))
        with pytest.raises(StorageError, match="could not be written"):
            create_home(tmp_path / "home", "fleet", CONFIG)
    readers[0].close()
    assert not (tmp_path / "home").exists()
    create_home(tmp_path / "home", "fleet", CONFIG)


def test_a_configuration_that_cannot_be_replaced_is_an_error_of_ours(tmp_path: Path) -> None:
    home = tmp_path / "home"
    create_home(home, "fleet", CONFIG)
    (home / f"{configuration.FILE}.new").mkdir()
    with pytest.raises(StorageError, match=configuration.FILE):
        move_archive(home, str(tmp_path / "elsewhere"), {}, fresh=True)
    assert (home / configuration.FILE).read_text() == CONFIG
