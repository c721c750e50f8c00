"""Searching a store that another process writes: its projections are borrowed, and left as they are (ADR 18)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge import Edge
from edge.storage.exact_borrowed import BorrowedIndex
from edge.storage.tables_borrowed import BorrowedTables
from tests.edge.readers_world import ROOT, both, child, contents, keys

SEARCHED_WRITER = """
import sys
from edge import Edge
edge = Edge.open(sys.argv[1], wait_s=20)
notes = edge.collection("notes", text=["body"], vector=("v", 4))
tables = edge.projections.tables()
first = 1 + max((int(key[4:]) for key, _ in notes.scan("twin")), default=-1)
for number in range(first, 1 << 30):
    with edge.batch():
        notes.put(f"k{number}", {"body": f"pump word{number}"})
        notes.put(f"twin{number}", {"body": f"twin{number}", "v": [number % 7, number // 7, 1, 0]})
    for key, _ in list(notes.scan("k")):
        if int(key[1:]) < number - 3:
            notes.delete(key)
    print(number, flush=True)
    if number % 3 == 0:
        tables.flush()
    if number % 5 == 0:
        tables.maintain(force=True)
    if number % 7 == 0:
        notes.search(vector=[1, 1, 0, 0])
        edge.projections.exact(notes.schema).fold()
    edge.log.acknowledge(edge.log.head_seq, bytes(32))
    edge.projections.trim()
"""


@pytest.mark.slow
def test_searches_see_what_was_acknowledged_while_the_writer_compacts(tmp_path: Path) -> None:
    store = tmp_path / "s"
    searches = 0
    reader: Edge | None = None
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SEARCHED_WRITER, str(store)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as writer:
            assert writer.stdout is not None
            for _ in range(40):
                acked = int(writer.stdout.readline())
                reader = reader or Edge.open(store, read_only=True)
                notes = reader.collection("notes")
                vector = [acked % 7, acked // 7, 1, 0]
                assert [hit.key for hit in notes.search(f"twin{acked}", k=3)] == [f"twin{acked}"]
                assert [hit.key for hit in notes.search(vector=vector, k=1)] == [f"twin{acked}"]
                assert [hit.key for hit in notes.search(f"twin{acked}", vector, k=1)] == [f"twin{acked}"]
                if acked > 10:
                    assert notes.search(f"word{acked - 8}", k=3) == [], "it is deleted"
                searches += 1
                if searches % 25 == 0:
                    assert reader.verify() == []
                    reader.close()
                    reader = None
            writer.kill()
    assert reader is not None
    acked = max(int(key.removeprefix("twin")) for key, _ in reader.collection("notes").scan("twin"))
    assert [hit.key for hit in reader.collection("notes").search(f"twin{acked}")] == [f"twin{acked}"]
    reader.close()


def test_files_that_the_writer_removes_are_borrowed_anew(tmp_path: Path) -> None:
    with both(tmp_path) as (writer, reader):
        notes = writer.collection("notes", text=["body"], vector=("v", 2))
        found = reader.collection("notes")
        for number in range(20):
            notes.put(f"k{number:02}", {"body": f"pump {number}", "v": [number, 1]})
        assert keys(notes.search("pump", k=30)) == keys(found.search("pump", k=30))
        tables = reader.projections.tables()
        assert isinstance(tables, BorrowedTables)
        lent = dict(tables._lent)
        for number in range(20, 40):
            notes.put(f"k{number:02}", {"body": f"pump {number}", "v": [number, 1]})
            if number % 4 == 0:
                writer.projections.tables().maintain(force=True)
        shutil.rmtree(tables._folder / "notes.lance" / "data")  # as if all that was linked had gone
        assert keys(notes.search("pump 3", k=50)) == keys(found.search("pump 3", k=50))
        assert tables._lent != lent
        assert not any(tables.rebuilds.values()), "it was borrowed, not built"
        writer.projections.tables().rebuild("notes")
        notes.put("last", {"body": "pump last", "v": [99, 1]})
        assert keys(notes.search("pump last", k=50)) == keys(found.search("pump last", k=50))


def test_a_projection_that_the_writer_never_made_is_the_readers_own(tmp_path: Path) -> None:
    with both(tmp_path) as (writer, reader):
        notes = writer.collection("notes", text=["body"], vector=("v", 2))
        notes.put("a", {"body": "the pump is loud", "v": [1, 0]})
        found = reader.collection("notes")
        assert [hit.key for hit in found.search("loud")] == ["a"]
        assert [hit.key for hit in found.search(vector=[1, 0])] == ["a"]
        assert not (tmp_path / "lance").exists()
        assert not (tmp_path / "exact").exists()
        notes.put("b", {"body": "loud, too", "v": [1, 0.1]})
        assert {hit.key for hit in found.search("loud")} == {"a", "b"}
        assert keys(notes.search("loud")) == keys(found.search("loud"))
        notes.put("c", {"body": "loud, three", "v": [1, 0.2]})
        assert keys(notes.search("loud")) == keys(found.search("loud"))


def test_the_matrix_is_borrowed_and_never_extended(tmp_path: Path) -> None:
    with both(tmp_path) as (writer, reader):
        notes = writer.collection("notes", vector=("v", 2))
        with writer.batch():
            for number in range(50):
                notes.put(f"k{number}", {"v": [number, 1]})
        assert len(notes.search(vector=[1, 1], k=99)) == 50
        found = reader.collection("notes")
        index = reader.projections.exact(found.schema)
        assert isinstance(index, BorrowedIndex)
        assert len(found.search(vector=[1, 1], k=99)) == 50
        assert index._borrowed
        before = contents(tmp_path / "exact")
        with writer.batch():
            for number in range(50, 1300):  # more than is kept in memory only
                notes.put(f"k{number}", {"v": [number, 1]})
        notes.delete("k3")
        assert len(found.search(vector=[1, 1], k=2000)) == 1299
        assert not index._borrowed
        assert contents(tmp_path / "exact") == before
        assert notes.search(vector=[7, 1], k=20) == found.search(vector=[7, 1], k=20)
        notes.put("more", {"v": [7, 1]})
        assert notes.search(vector=[7, 1], k=20) == found.search(vector=[7, 1], k=20)
        assert index.verify() == []


def test_what_a_killed_reader_left_goes_with_the_next(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        edge.collection("notes", vector=("v", 2)).put("a", {"v": [1, 0]})
    temporary = tmp_path / "t"
    temporary.mkdir()
    script = (
        "import sys, os; from edge import Edge\nedge = Edge.open(sys.argv[1], read_only=True)\n"
        "edge.collection('notes').search(vector=[1, 0])\n"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    child(script + "os._exit(0)", tmp_path / "s", env=environment)
    (left,) = temporary.iterdir()
    child(script, tmp_path / "s", env=environment)  # and does not close it
    assert not left.exists()
    assert list(temporary.iterdir()) == []


def test_damage_in_what_is_borrowed_is_reported_and_changes_no_answer(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", text=["body"], vector=("v", 2))
        for number in range(30):
            notes.put(f"k{number:02}", {"body": f"pump {number}", "v": [number, 1]})
        expected = [hit.key for hit in notes.search(vector=[5, 1], k=30)]
        assert len(notes.search("pump", k=40)) == 30
    (matrix,) = (tmp_path / "exact" / "notes").glob("rows-*")
    data = bytearray(matrix.read_bytes())
    data[50] ^= 1
    matrix.write_bytes(data)
    (rows,) = (tmp_path / "lance" / "notes.lance" / "data").glob("*")
    damaged = bytearray(rows.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    rows.write_bytes(damaged)
    with Edge.open(tmp_path, read_only=True) as reader:
        found = reader.collection("notes")
        assert [hit.key for hit in found.search(vector=[5, 1], k=30)] == expected
        assert len(found.search("pump", k=40)) == 30
        vectors, table = reader.verify()
        assert vectors.startswith("vectors of 'notes': rows-")
        assert table.startswith("table of 'notes': ")
        assert vectors.endswith("rebuilt")
        assert table.endswith("opened for writing, it is rebuilt")
    assert matrix.read_bytes() == bytes(data)
    assert rows.read_bytes() == bytes(damaged)


def test_a_table_that_its_writer_is_writing_anew_is_not_a_damaged_one(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", text=["body"])
        notes.put("k", {"body": "pump"})
        assert len(notes.search("pump")) == 1
        edge.log.set_checkpoint("lance:notes", {"position": 0})  # as ``LanceTable.rebuild`` begins
        with Edge.open(tmp_path, read_only=True) as reader:
            assert reader.verify() == []
            assert len(reader.collection("notes").search("pump")) == 1
