"""Reading a store that another process writes: what is seen, what is refused, and that nothing is written (ADR 18)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge import (
    AgentDBError,
    AsyncEdge,
    CorruptStore,
    Edge,
    Hit,
    NotFound,
    ReadOnly,
    StorageError,
    UnknownCollection,
)
from edge.storage.exact_borrowed import BorrowedIndex
from edge.storage.following_reader import connect_reading
from edge.storage.log_follower import Follower
from edge.storage.tables_borrowed import BorrowedTables
from sync.stamps import replica_id
from tests.edge.logs import FAR, NOTES, PLAIN, put, remote, reopen
from tests.edge.stores import SeededRandom, TickingClock

ROOT = Path(__file__).parent.parent.parent
KILLS = 24


@contextmanager
def both(store: Path) -> Iterator[tuple[Edge, Edge]]:
    """The writer, and a reader."""
    with Edge.open(store) as writer, Edge.open(store, read_only=True) as reader:
        yield writer, reader


def child(script: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done


def keys(hits: Sequence[Hit]) -> set[str]:
    return {hit.key for hit in hits}


# -- what is seen -----------------------------------------------------------------------------------------------------


def test_readers_see_what_was_acknowledged_while_writers_are_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.edge.reader_loop", str(tmp_path / "store"), str(KILLS), "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(r"(\d+) kills, (\d+) turns, (\d+) to (\d+) checks by each reader\n", done.stdout)
    assert found is not None
    assert int(found[1]) == KILLS
    assert int(found[2]) > KILLS


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_is_what_the_writer_is_after_every_step(tmp_path: Path, seed: int) -> None:
    """Whatever the writer does beneath: folds, trims, applies pages, becomes another replica."""
    rng = random.Random(seed)
    log = reopen(tmp_path)
    log.declare(NOTES)
    log.declare(PLAIN)
    reader = Follower.follow(str(tmp_path / "log.db"), clock=TickingClock(), random=SeededRandom())
    far = 0

    def remote_page() -> None:
        nonlocal far
        far += 1
        log.apply([remote(far, f"k{rng.randrange(8)}", log.clock.now(), a=far)], cursor=far)

    steps: list[Callable[[], object]] = [
        lambda: put(log, f"k{rng.randrange(8)}", a=rng.randrange(100)),
        lambda: put(log, f"k{rng.randrange(8)}", "notes", a=rng.randrange(100)),
        remote_page,
        log.fold,
        lambda: log.acknowledge(log.head_seq, bytes(32)),
        lambda: log.trim(log.position),
        log.new_incarnation,
        lambda: log.meta_set("x", 1),
        lambda: log.learn_time(log.clock.reading() >> 16),
        log.mend_stamps,
    ]
    weights = [10, 6, 3, 1, 1, 1, 1, 1, 1, 1]
    for _ in range(150):
        (step,) = rng.choices(steps, weights)
        step()
        if rng.random() < 0.5:
            continue  # the reader comes back after several steps, too
        assert (reader.head_seq, reader.position, reader.acked_seq) == (log.head_seq, log.position, log.acked_seq)
        for collection in ("plain", "notes"):
            assert reader.scan(collection) == log.scan(collection)
            assert reader.count(collection) == log.count(collection)
        assert reader.changes(0, 1000) == log.changes(0, 1000)
        assert reader.replica == log.replica
    assert reader.digest() == log.digest()
    assert reader.verify() == []
    assert log.replica != replica_id(FAR[:12], 1)
    reader.close()
    log.close()


def test_a_declaration_reaches_those_that_have_the_store_open(tmp_path: Path) -> None:
    with both(tmp_path) as (writer, reader):
        with pytest.raises(UnknownCollection):
            reader.collection("notes")
        writer.collection("notes", fields={"n": "counter"}).increment("a", "n", upsert=True)
        assert reader.collections() == ["notes"]
        assert reader.collection("notes").get("a") == {"n": 1}
        writer.collection("notes", fields={"n": "counter"}, text=["body"])
        assert reader.collection("notes").schema.text == ("body",)
        with pytest.raises(ReadOnly):
            reader.collection("notes", strict=True)


def test_an_agents_stores_are_read(tmp_path: Path) -> None:
    with both(tmp_path) as (writer, reader):
        empty = reader.agent("a")
        assert empty.memory().search("tea") == []
        assert empty.documents().search("tea") == []
        assert (empty.thread().head(), reader.agents(), reader.snapshots.all()) == (None, [], [])
        agent = writer.agent("a")
        made = agent.thread().put({"step": 1, "large": "x" * 50_000})
        agent.documents().add("The pump is oiled on Mondays.", id="care")
        added = agent.memory().add("Ada likes tea", importance=0.9)
        writer.snapshots.take("before")
        assert reader.agent("a").thread().get()["step"] == 1
        assert [one.id for one in reader.agent("a").thread().history()] == [made.id]
        assert [one.name for one in reader.snapshots.all()] == ["before"]
        assert [one.document.id for one in reader.agent("a").documents().search("when is it oiled?")] == ["care"]
        for _ in range(300):  # more than are counted before they are written
            assert [one.id for one in reader.agent("a").memory().search("tea")] == [added.id]
        assert reader.log.count("_recalls") == 0
        assert reader.agent("a").export(tmp_path / "a.jsonl")["memory"] == 1
        with pytest.raises(ReadOnly):
            reader.agent("a").memory().touch(added.id)


def test_the_whole_store_is_looked_at_and_copied(tmp_path: Path) -> None:
    with both(tmp_path / "s") as (writer, reader):
        notes = writer.collection("notes")
        for number in range(200):
            notes.put(f"k{number % 70}", {"n": number})
        assert reader.digest() == writer.digest()
        assert reader.verify() == []
        said, told = reader.status(), writer.status()
        for word in ("collections", "device", "replica", "cursor", "fleet"):
            assert said[word] == told[word]
        assert said["log"]["head_seq"] == told["log"]["head_seq"]
        reader.snapshot(tmp_path / "copy")
        digest = writer.digest()
    with Edge.open(tmp_path / "copy") as copy:
        assert copy.digest() == digest


def test_the_same_awaited(tmp_path: Path) -> None:
    async def work() -> None:
        with Edge.open(tmp_path) as writer:
            writer.collection("notes").put("a", {"x": 1})
            async with await AsyncEdge.open(tmp_path, read_only=True) as reader:
                notes = await reader.collection("notes")
                assert await notes.get("a") == {"x": 1}
                with pytest.raises(ReadOnly):
                    await notes.put("a", {"x": 2})

    asyncio.run(work())


# -- what is refused, and that nothing is written ---------------------------------------------------------------------

WRITES: dict[str, Callable[[Edge], object]] = {
    "put": lambda edge: edge.collection("notes").put("b", {"x": 1}),
    "patch": lambda edge: edge.collection("notes").patch("a", {"x": 1}),
    "increment": lambda edge: edge.collection("notes").increment("a", "n"),
    "add": lambda edge: edge.collection("notes").add("a", "tags", "x"),
    "delete": lambda edge: edge.collection("notes").delete("a"),
    "declare": lambda edge: edge.collection("notes", strict=True),
    "thread": lambda edge: edge.agent("a").thread().put(1),
    "fork": lambda edge: edge.agent("a").thread("t").fork("u"),
    "prune": lambda edge: edge.agent("a").thread("t").prune(keep_latest=1),
    "memory": lambda edge: edge.agent("a").memory().add("x"),
    "document": lambda edge: edge.agent("a").documents().add("x y z"),
    "snapshot": lambda edge: edge.snapshots.take("x"),
    "join": lambda edge: edge._link(),
    "sync": lambda edge: edge.sync(),
    "start_sync": lambda edge: edge.start_sync(),
    "trim": lambda edge: edge.log.trim(1),
    "meta": lambda edge: edge.log.meta_set("x", 1),
    "incarnation": lambda edge: edge.log.new_incarnation(),
}


def _batch(edge: Edge) -> None:
    with edge.batch():
        edge.collection("notes").put("b", {"x": 1})


@pytest.mark.parametrize("what", [*WRITES, "batch"])
def test_what_would_write_is_refused(tmp_path: Path, what: str) -> None:
    with both(tmp_path) as (writer, reader):
        notes = writer.collection("notes", fields={"n": "counter", "tags": "set"})
        notes.put("a", {"x": 1})
        for number in range(3):
            writer.agent("a").thread("t").put(number)
        digest = writer.digest()
        with pytest.raises(ReadOnly) as caught:
            WRITES.get(what, _batch)(reader)
        assert "read_only" in caught.value.hint
        assert reader.digest() == digest == writer.digest()


def contents(store: Path) -> dict[str, str]:
    """Of every file but what SQLite's readers share."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_a_reader_changes_no_file(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", text=["body"], vector=("v", 2))
        for number in range(30):
            notes.put(f"k{number}", {"body": f"pump {number}", "v": [number, 1]})
        assert notes.search("pump", [1, 1])
        notes.put("late", {"body": "pump late", "v": [9, 1]})
        edge.log.fold()
    before = contents(tmp_path)
    assert any(name.startswith("lance/") for name in before)
    for _ in range(2):
        with Edge.open(tmp_path, read_only=True) as reader:
            found = reader.collection("notes")
            assert len(found.search("pump", [1, 1], k=40)) == 31
            assert found.to_arrow().num_rows == 31
            assert reader.verify() == []
            assert len(list(found.scan())) == 31
            own = reader.projections._own.path  # type: ignore[attr-defined]
            assert own.exists()
        assert not own.exists()
    assert contents(tmp_path) == before


def test_no_store_is_made(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFound, match="no store") as caught:
            Edge.open(path, read_only=True)
        assert "agentdb-edge init" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "log.db").touch()
    with pytest.raises(NotFound, match="still being made"):
        Edge.open(tmp_path, read_only=True)
    assert (tmp_path / "log.db").stat().st_size == 0
    (tmp_path / "log.db").write_bytes(b"not a database, and longer than a header" * 100)
    with pytest.raises(CorruptStore):
        Edge.open(tmp_path, read_only=True)


def test_a_closed_reader_and_a_forked_one_say_so(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as writer:
        writer.collection("notes").put("a", {"x": 1})
    reader = Edge.open(tmp_path, read_only=True)
    notes = reader.collection("notes")
    assert notes.get("a") == {"x": 1}
    inside, outside = os.pipe()
    forked = os.fork()
    if forked == 0:
        try:
            notes.get("a")
        except StorageError as error:
            os.write(outside, str(error).encode())
        os._exit(0)
    os.waitpid(forked, 0)
    assert f"opened by process {os.getpid()}, of which this is a fork" in os.read(inside, 1000).decode()
    os.close(inside)
    os.close(outside)
    reader.close()
    reader.close()
    for ask in (lambda: notes.get("a"), reader.collections, reader.digest, lambda: list(notes.scan())):
        with pytest.raises(StorageError, match="closed"):
            ask()


def test_opening_to_write_leaves_the_locks_of_a_reader_in_the_same_process(tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when it closes any handle of it; then another's last close would
    take the write-ahead log away from under the reader.
    """
    Edge.open(tmp_path).close()
    with Edge.open(tmp_path, read_only=True) as reader:
        Edge.open(tmp_path).close()
        child(
            "import sys; from edge import Edge\n"
            "with Edge.open(sys.argv[1]) as edge: edge.collection('notes').put('a', {'x': 1})",
            tmp_path,
        )
        assert (tmp_path / "log.db-wal").stat().st_size > 0, "the reader holds it"
        assert reader.collection("notes").get("a") == {"x": 1}


# -- a disk that cannot be written ------------------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
from edge import Edge
from edge.storage import log_care, log_follower, page_checksums, reading_projections  # the other may not import them
page_checksums.checksum_vfs()
import sync.digest
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert not os.access(sys.argv[1], os.W_OK)
with Edge.open(sys.argv[1], read_only=True) as edge:
    notes = edge.collection("notes")
    print(notes.count(), notes.get("k7"), len(edge.digest()), edge.log.verify(), flush=True)
    for line in sys.stdin:
        print(notes.count(), flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, who may not write: needs root")
@pytest.mark.parametrize("left", [("-wal", "-shm"), ("-wal",), ()], ids=["killed", "copied", "closed"])
def test_a_directory_that_cannot_be_written(tmp_path: Path, left: tuple[str, ...]) -> None:
    """As a writer left it that was killed; the same without the shared memory; as one left it that closed."""
    end = "edge.close()" if not left else "os._exit(0)"
    child(
        "import sys, os; from edge import Edge\nedge = Edge.open(sys.argv[1]); notes = edge.collection('notes')\n"
        f"for number in range(50): notes.put(f'k{{number}}', {{'n': number}})\n{end}",
        tmp_path / "s",
    )
    store = Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp", f"agentdb-test-{os.getpid()}")  # all may go there
    store.mkdir(mode=0o755)
    try:
        for name in ("", *left):
            shutil.copy(tmp_path / "s" / f"log.db{name}", store)
            (store / f"log.db{name}").chmod(0o644)
        names = sorted(path.name for path in store.iterdir())
        with subprocess.Popen(
            [sys.executable, "-c", AS_NOBODY, str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            said = process.stdout.readline()
            assert said.split(" ", 1)[0] == "50", process.stderr.read()
            assert said.endswith("{'n': 7} 64 []\n")
            assert sorted(path.name for path in store.iterdir()) == names, "nothing was made"
            child(
                "import sys; from edge import Edge\n"
                "with Edge.open(sys.argv[1]) as edge: edge.collection('notes').put('more', {'n': 1})",
                tmp_path / "s",
            )
            for name in ("-wal", "-shm"):
                (store / f"log.db{name}").unlink(missing_ok=True)
            (store / "new").write_bytes((tmp_path / "s" / "log.db").read_bytes())
            (store / "new").chmod(0o644)
            (store / "new").replace(store / "log.db")
            process.stdin.write("\n")
            process.stdin.flush()
            if not left or left == ("-wal",):
                assert process.stdout.readline() == "51\n", process.stderr.read()
            process.stdin.close()
    finally:
        shutil.rmtree(store)


# -- searching, while the writer compacts -----------------------------------------------------------------------------

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
    child(script + "os.kill(os.getpid(), 9) if False else os._exit(0)", tmp_path / "s", env=environment)
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


def test_a_log_whose_end_the_disk_has_changed_is_refused(tmp_path: Path) -> None:
    child(
        "import sys, os; from edge import Edge\nedge = Edge.open(sys.argv[1]); notes = edge.collection('notes')\n"
        "for number in range(20): notes.put(str(number), {'n': number})\nos._exit(0)",
        tmp_path,
    )
    wal = tmp_path / "log.db-wal"
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 1
    wal.write_bytes(data)
    (tmp_path / "log.db-shm").unlink()
    with pytest.raises(CorruptStore, match="newest writes cannot be read"):
        Edge.open(tmp_path, read_only=True)


def test_errors_are_typed(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        connect_reading(str(tmp_path / "log.db"))
    (tmp_path / "log.db").mkdir()
    with pytest.raises(AgentDBError):
        connect_reading(str(tmp_path / "log.db"))
