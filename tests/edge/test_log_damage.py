"""Damage under the delta log. Whatever changes on the disk below a store, no call returns something that was not
written: it is right, or an error says that the store is damaged.
"""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import apsw
import pytest

from edge.config import EdgeConfig
from edge.node import Edge
from edge.storage.log_schema import connect
from edge.storage.page_checksums import has_checksums
from sync.errors import CorruptStore, StorageError, UnsupportedVersion
from tests.edge.faulty_vfs import faulty_vfs
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
            found += any(problem.startswith("database: ") for problem in edge.verify())
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


# -- the write-ahead log that a killed process leaves -----------------------------------------------------------------

_WRITES = 12


def killed(tmp_path: Path, durability: str = "full") -> tuple[Path, int]:
    """A store as a killed process leaves it, and the size of a frame of its write-ahead log."""
    folder, left = tmp_path / "store", tmp_path / "left"
    Edge.open(folder).close()
    with Edge.open(folder, config=EdgeConfig(durability=durability)) as edge:
        notes = edge.collection("notes")
        for number in range(_WRITES):
            notes.put(f"k{number:02}", {"n": number})
        shutil.copytree(folder, left)
        return left, 24 + int(edge.log.writer.db.execute("PRAGMA page_size").get)


def numbers(folder: Path) -> list[int]:
    with open_store(folder) as edge:
        assert edge.verify() == []
        return [fields["n"] for _, fields in edge.collection("notes").scan()]


def test_a_flipped_bit_in_the_write_ahead_log_is_found(tmp_path: Path) -> None:
    """But for its header, its last commit and the head of the frame before: there it looks like a write that the power
    cut short.
    """
    folder, frame = killed(tmp_path)
    path = folder / "log.db-wal"
    whole = path.read_bytes()
    last = len(whole) - frame
    assert (len(whole) - 32) % frame == 0
    source = random.Random(1)
    for start in range(32, last, frame):
        inside = start + 24 + source.randrange(frame - 24)
        for place in (inside, start, start + 9, start + 17)[: None if start + frame < last else 1]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << source.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(CorruptStore, match="-wal is damaged"):
                open_store(folder)
            assert path.read_bytes() == damaged, "nothing was made worse"
    damaged = bytearray(whole)
    damaged[last + 100] ^= 1
    path.write_bytes(damaged)
    assert numbers(folder) == list(range(_WRITES - 1))


def test_a_write_ahead_log_that_was_cut_short_is_none_that_was_damaged(tmp_path: Path) -> None:
    folder, frame = killed(tmp_path)
    path = folder / "log.db-wal"
    whole = path.read_bytes()
    for cut in range(32, len(whole) + 1, frame):
        for end in (b"", bytes(100), bytes(2 * frame), whole[cut : cut + 600] + bytes(frame - 600)):
            copy = tmp_path / f"{cut}-{len(end)}-{len(set(end))}"
            shutil.copytree(folder, copy)
            (copy / "log.db-wal").write_bytes(whole[:cut] + end)
            with Edge.open(copy) as edge:
                assert edge.verify() == []
            shutil.rmtree(copy)


def test_what_failed_commits_leave_behind_the_log_is_no_damage(tmp_path: Path) -> None:
    """Long ones, then shorter ones, over each other: commits, and frames that continue another one."""
    folder, left = tmp_path / "store", tmp_path / "left"
    with faulty_vfs() as faults:
        edge = Edge.open(folder)
        notes = edge.collection("notes")
        notes.put("first", {"n": 0})
        faults.kind = "sync"
        for size in (9000, 5000, 900, 1):
            faults.writes_left = 0
            with pytest.raises(StorageError):
                notes.put("failed", {"text": "x" * size})
        faults.writes_left = None
        notes.put("second", {"n": 1})
        shutil.copytree(folder, left)
        edge.close()
    assert numbers(left) == [0, 1]


def test_a_relaxed_store_may_have_lost_its_end(tmp_path: Path) -> None:
    """Its commits are not synced one by one: what the power left of them is in no order."""
    folder, frame = killed(tmp_path, "relaxed")
    path = folder / "log.db-wal"
    content = bytearray(path.read_bytes())
    content[-4 * frame + 200] ^= 1
    path.write_bytes(content)
    with Edge.open(folder) as edge:  # full from now on
        assert 0 < edge.collection("notes").count() < _WRITES
        edge.collection("notes").put("now", {"n": 99})
        assert edge.log.meta_get("relaxed") is None
    assert numbers(folder)[-1] == 99
