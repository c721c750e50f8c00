"""What only the SQLite store can get wrong: a full disk, a locked file, a reader that outlives the store."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from cloud.storage import sqlite_schema
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import AgentDBError, CorruptStore, DiskFull, StorageError, StoreLocked, UnsupportedVersion
from tests.cloud.stream_world import Fleet
from tests.edge.faulty_vfs import faulty_vfs


def test_a_full_disk_refuses_a_push_and_loses_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    van = fleet.device("van")
    van.declare("notes")
    van.push()
    before = (fleet.head(), fleet.digest())
    for n in range(50):
        van.put("notes", f"n{n}", text="x" * 2_000)
    sealed = van.seal(van.log[1:])
    db = fleet.store._db
    db.pragma("max_page_count", db.pragma("page_count"))
    with pytest.raises(DiskFull) as full:
        van.send(sealed.data)
    assert full.value.retryable
    assert (fleet.head(), fleet.digest()) == before
    db.pragma("max_page_count", 1 << 30)
    assert van.send(sealed.data).last_seq == 51
    fleet.close()


def test_a_file_that_another_process_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_schema, "BUSY_MS", 20)
    store = SqliteStore.open(tmp_path / "cloud.db")
    other = apsw.Connection(str(tmp_path / "cloud.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked), store.writing():
        pass
    assert store.is_empty(), "reading goes on"
    other.execute("ROLLBACK")
    with store.writing():
        pass
    other.close()
    store.close()


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    SqliteStore.open(tmp_path / "cloud.db").close()
    db = sqlite_schema.connect(str(tmp_path / "cloud.db"))
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UnsupportedVersion):
        SqliteStore.open(tmp_path / "cloud.db")


def test_closing_while_somebody_reads(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "cloud.db")
    with store.reading() as view:
        store.close()
        assert view.fleets() == []
    assert store._readers.empty()


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"not a database, but long enough to be looked at closely" * 40)
    with pytest.raises(CorruptStore):
        SqliteStore.open(tmp_path / "text.db")
    with pytest.raises(AgentDBError):
        SqliteStore.open(tmp_path / "missing" / "cloud.db")


def test_flipped_bits_are_found_or_change_nothing(tmp_path: Path) -> None:
    """A bit in every 509th byte: what still opens and verifies without a word reads as it was written."""
    fleet = Fleet(tmp_path)
    van = fleet.device("van")
    van.declare("notes")
    for n in range(100):
        van.put("notes", f"n{n}", text=f"the note of number {n}")
    van.push()
    digest = fleet.digest()
    fleet.close()
    path = tmp_path / "cloud.db"
    whole = path.read_bytes()
    tried = found = 0
    for offset in range(7, len(whole), 509):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        tried += 1
        try:
            store = SqliteStore.open(path)
        except (CorruptStore, UnsupportedVersion):
            found += 1
            continue
        fleet.store = store
        try:
            problems = store.verify()
            found += bool(problems)
            assert problems or fleet.digest() == digest
        finally:
            store.close()
    assert found > 0.9 * tried, "the rest are pages on SQLite's list of free ones"


def test_another_vfs_does_not_write_over_checksums(tmp_path: Path) -> None:
    SqliteStore.open(tmp_path / "cloud.db").close()
    with pytest.raises(StorageError, match="has page checksums"):
        SqliteStore.open(tmp_path / "cloud.db", vfs="unix")


def test_a_database_that_can_only_be_read_for_a_moment_is_not_opened(tmp_path: Path) -> None:
    """SQLite then reads it: every request that writes would fail for as long as the server runs."""
    path = tmp_path / "cloud.db"
    SqliteStore.open(path).close()
    with faulty_vfs() as faults:
        faults.opens_fail = 1
        with pytest.raises(StorageError, match=r"cloud\.db cannot be opened to be written") as caught:
            SqliteStore.open(path)
        assert "start again" in caught.value.hint
        assert faults.opens_fail == 0
        store = SqliteStore.open(path)
        try:
            with store.writing() as tx:
                assert tx.devices(b"f") == []
        finally:
            store.close()
