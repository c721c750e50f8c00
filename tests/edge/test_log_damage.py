"""Damage under the delta log. Whatever changes on the disk below a store, no call returns something that was not
written: it is right, or an error says that the store is damaged.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import apsw
import pytest

from edge.node import Edge
from edge.storage.log_schema import connect
from edge.storage.page_checksums import has_checksums
from sync.errors import CorruptStore, StorageError, UnsupportedVersion
from tests.edge.stores import SeededRandom, TickingClock

RECORDS = {f"k{n:03}": {"text": f"the record of number {n}", "n": n} for n in range(60)}
EXPECTED = {**RECORDS, "k007": {"text": "changed", "n": 7}}


def open_store(folder: Path) -> Edge:
    return Edge.open(folder, clock=TickingClock(), random=SeededRandom(), create=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of some pages, closed in order, so that all of it is in one file."""
    folder = tmp_path / "store"
    with Edge.open(folder, clock=TickingClock(), random=SeededRandom()) as edge:
        notes = edge.collection("notes")
        for key, fields in RECORDS.items():
            notes.put(key, fields)
        notes.patch("k007", {"text": "changed"})
        notes.put("gone", {"text": "deleted"})
        notes.delete("gone")
        edge.log.fold()  # operations and images, both in their tables
    assert not (folder / "log.db-wal").exists()
    return folder


def use(folder: Path) -> None:
    """Read everything there is, every way there is. Raises StorageError, or shows what was written."""
    with open_store(folder) as edge:
        notes = edge.collection("notes")
        assert dict(notes.scan()) == EXPECTED
        assert {key: notes.get(key) for key in EXPECTED} == EXPECTED
        assert notes.get("gone") is None
        assert notes.count() == len(EXPECTED)
        operations = edge.log.pending(0, 1000, 1 << 20)
        assert [operation.seq for operation in operations] == list(range(1, len(RECORDS) + 5))
        assert {o.key: o.fields for o in operations[1:61]} == RECORDS


def test_a_new_store_has_checksums_and_so_has_its_snapshot(folder: Path, tmp_path: Path) -> None:
    with open_store(folder) as edge:
        edge.snapshot(tmp_path / "snapshot")
    for place in (folder, tmp_path / "snapshot"):
        db = connect(str(place / "log.db"))
        assert has_checksums(db)
        assert db.execute("PRAGMA checksum_verification").get == "1"
        db.close()
    with open_store(tmp_path / "snapshot") as copy:
        assert dict(copy.collection("notes").scan()) == EXPECTED
        copy.collection("notes").put("new", {"text": "in the copy"})
    assert apsw.vfs_names()[0] != "cksmvfs", "other users of apsw in this process have their own default"


def test_flipped_bits_are_found_or_change_nothing(folder: Path) -> None:
    """A bit in every 61st byte of the file: each page several times, headers, indexes, free space and records. (Every
    byte of every file is the work of ``make soak``.)
    """
    path = folder / "log.db"
    whole = path.read_bytes()
    source = random.Random(1)
    found = tried = 0
    for offset in range(source.randrange(61), len(whole), 61):
        tried += 1
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        try:
            use(folder)
        except (StorageError, UnsupportedVersion):
            found += 1
            continue
        with open_store(folder) as edge:  # a page that nothing of the above looks at
            found += any("not what was written" in problem for problem in edge.verify())
    assert found > 0.9 * tried, "the rest are pages on SQLite's list of free ones"
    path.write_bytes(whole)
    use(folder)


def test_a_record_with_other_words_in_it_is_not_read_and_not_sent(folder: Path) -> None:
    """What would still decode: one digit of one record, in its operation and in its image."""
    path = folder / "log.db"
    whole = path.read_bytes()
    places = [match.end() - 1 for match in re.finditer(b"the record of number 30", whole)]
    assert len(places) >= 2
    for place in places:
        damaged = bytearray(whole)
        damaged[place] = ord("1")
        path.write_bytes(damaged)
        with pytest.raises(CorruptStore, match="not what was written"):
            use(folder)


def test_another_vfs_does_not_write_over_checksums(folder: Path) -> None:
    with pytest.raises(StorageError, match="has page checksums"):
        Edge.open(folder, vfs="unix")
    use(folder)
