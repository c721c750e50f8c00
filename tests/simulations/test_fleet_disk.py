"""The simulated disk does to SQLite what a machine does: what was synced stays, the rest may go, dead is dead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import apsw
import pytest

from cloud.storage.sqlite_store import SqliteStore
from edge.node import Edge
from edge.storage.page_checksums import checksum_vfs
from simulations.fleet.disk import FULL, IO, SYNC, Disk, mounted
from sync.errors import AgentDBError, DiskFull, StorageError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted():
        root = tmp_path / "machine"
        root.mkdir()
        yield Disk(root, Random(1))


def die(edge: Edge, disk: Disk) -> None:
    disk.kill()
    for close in (edge.log.close, edge.close):
        try:
            close()
        except AgentDBError:  # a dead process closes nothing in order
            continue


@pytest.mark.parametrize("power_cut", [False, True])
def test_an_acknowledged_put_survives_any_death(disk: Disk, power_cut: bool) -> None:
    dice, known = Random(7), 0
    for _ in range(60):
        edge = Edge.open(disk.root / "store")
        notes = edge.collection("notes")
        assert [key for key, _ in notes.scan()] == sorted(f"k{number}" for number in range(known))
        disk.crash_in = dice.randrange(40)
        with pytest.raises(StorageError):  # noqa: PT012 - which of the puts it is that fails, the dice say
            while True:
                notes.put(f"k{known}", {"n": known})
                known += 1
        die(edge, disk)
        # What was not acknowledged may have arrived all the same; then it is written once more.
        disk.revive(power_cut=power_cut)
        with Edge.open(disk.root / "store") as edge:
            known += edge.collection("notes").get(f"k{known}") is not None
    assert known > 60


def test_what_was_seen_after_a_death_survives_the_power_cut_after_it(disk: Disk) -> None:
    """A process dies between writing a commit and syncing it. Who opens the store next sees it, and may act on it."""
    dice, number = Random(7), 0
    for _ in range(60):
        edge = Edge.open(disk.root / "store")
        disk.crash_in = dice.randrange(40)
        with pytest.raises(StorageError):  # noqa: PT012 - which of the puts it is that fails, the dice say
            while True:
                edge.collection("notes").put(f"k{number}", {"n": number})
                number += 1
        die(edge, disk)
        disk.revive(power_cut=False)
        edge = Edge.open(disk.root / "store")
        seen = [key for key, _ in edge.collection("notes").scan()]
        die(edge, disk)
        disk.revive(power_cut=True)
        with Edge.open(disk.root / "store") as edge:
            assert [key for key, _ in edge.collection("notes").scan()] == seen


def test_what_a_control_plane_knew_after_a_death_survives_too(disk: Disk) -> None:
    """It answers a push that is repeated by what it finds."""
    dice, number = Random(7), 0

    def known(store: SqliteStore) -> int:
        return int(store._db.execute("SELECT coalesce(max(nonce), 0) FROM nonces").get)

    def dies(store: SqliteStore) -> None:
        disk.kill()
        with suppress(apsw.Error):
            store.close()

    SqliteStore.open(disk.root / "cloud.db").close()
    for _ in range(60):
        store = SqliteStore.open(disk.root / "cloud.db")
        number = known(store)
        disk.crash_in = dice.randrange(20)
        with pytest.raises(StorageError):  # noqa: PT012 - as above
            while True:
                number += 1
                with store.writing() as tx:
                    tx.advance_nonce(b"device-12345", number)
        dies(store)
        disk.revive(power_cut=False)
        store = SqliteStore.open(disk.root / "cloud.db")
        seen = known(store)
        dies(store)
        disk.revive(power_cut=True)
        store = SqliteStore.open(disk.root / "cloud.db")
        assert known(store) == seen
        store.close()
    assert number > 60


@pytest.mark.parametrize("fault", [FULL, IO, SYNC])
def test_a_control_plane_that_cannot_be_opened_says_so_in_our_words(disk: Disk, fault: str) -> None:
    """Closing fails as well, then: the first failure is the reason."""
    store = SqliteStore.open(disk.root / "cloud.db")
    with store.writing() as tx:
        tx.advance_nonce(b"device-12345", 1)
    disk.kill()
    with suppress(apsw.Error):
        store.close()
    disk.revive(power_cut=False)
    disk.fault, disk.fault_share = fault, 1.0
    with pytest.raises(StorageError):
        SqliteStore.open(disk.root / "cloud.db")
    disk.fault = ""
    SqliteStore.open(disk.root / "cloud.db").close()


def test_a_power_cut_takes_what_was_not_synced(disk: Disk) -> None:
    lost = 0
    for life in range(30):
        db = apsw.Connection(str(disk.root / f"relaxed-{life}.db"), vfs=checksum_vfs())
        db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE t (n)").fetchall()
        db.execute("PRAGMA wal_checkpoint").fetchall()
        for number in range(20):
            db.execute("INSERT INTO t VALUES (?)", (number,))
        disk.kill()
        with suppress(apsw.Error):  # a dead process closes nothing in order
            db.close(True)
        disk.revive(power_cut=True)
        db = apsw.Connection(str(disk.root / f"relaxed-{life}.db"), vfs=checksum_vfs())
        kept = [row[0] for row in db.execute("SELECT n FROM t")]
        db.close()
        assert kept == list(range(len(kept)))
        lost += len(kept) < 20
    assert 5 < lost < 30


@pytest.mark.parametrize(("fault", "error"), [(FULL, DiskFull), (IO, StorageError), (SYNC, StorageError)])
def test_a_disk_that_fails_is_a_typed_error_and_passes(disk: Disk, fault: str, error: type[StorageError]) -> None:
    with Edge.open(disk.root / "store") as edge:
        notes = edge.collection("notes")
        notes.put("before", {"n": 1})
        disk.fault, disk.fault_share = fault, 1.0
        with pytest.raises(error):
            notes.put("during", {"n": 2})
        disk.fault = ""
        notes.put("after", {"n": 3})
    assert disk.failures
    disk.revive(power_cut=True)
    with Edge.open(disk.root / "store") as edge:
        assert {"before", "after"} <= {key for key, _ in edge.collection("notes").scan()}


def test_a_dead_process_writes_nothing_any_more(disk: Disk) -> None:
    store = SqliteStore.open(disk.root / "cloud.db")
    disk.kill()
    before = (disk.root / "cloud.db").read_bytes()
    with pytest.raises(StorageError), store.writing() as tx:
        tx.advance_nonce(b"device-12345", 7)
    disk.revive(power_cut=False)
    with pytest.raises(StorageError), store.writing() as tx:  # revived is the machine, not the process
        tx.advance_nonce(b"device-12345", 7)
    with suppress(apsw.Error):
        store.close()
    assert (disk.root / "cloud.db").read_bytes() == before


def test_files_elsewhere_are_left_alone(disk: Disk, tmp_path: Path) -> None:
    disk.kill()
    with Edge.open(tmp_path / "elsewhere") as edge:
        edge.collection("notes").put("k", {"n": 1})
