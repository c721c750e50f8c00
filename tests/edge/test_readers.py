"""Reading a store that another process writes: what is seen, what is refused, and that nothing is written (ADR 18)."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import (
    AsyncEdge,
    CorruptStore,
    Edge,
    NotFound,
    ReadOnly,
    StorageError,
    UnknownCollection,
)
from edge.storage.log_follower import Follower
from sync.stamps import replica_id
from tests.edge.logs import FAR, NOTES, PLAIN, put, remote, reopen
from tests.edge.readers_world import ROOT, both, child, contents
from tests.edge.stores import SeededRandom, TickingClock

KILLS = 24


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
    with Edge.open(tmp_path / "copy", read_only=True) as looked_at:
        assert (looked_at.digest(), looked_at.log.replica) == (digest, writer.log.replica)
    with Edge.open(tmp_path / "copy") as copy:
        assert copy.digest() == digest
        assert copy.log.replica != writer.log.replica


def test_what_is_erased_beneath_a_reader_is_gone(tmp_path: Path) -> None:
    canary = "heliotrope-4711"
    with both(tmp_path) as (writer, reader):
        agent = writer.agent("a")
        agent.thread().put({"secret": canary, "large": canary * 5_000})
        agent.memory().add(f"the code is {canary}")
        writer.agent("b").memory().add("the code is not told")
        assert [one.text for one in reader.agent("a").memory().search("code")] == [f"the code is {canary}"]
        assert reader.agent("a").thread().get()["secret"] == canary
        agent.erase()
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
        assert reader.agent("a").memory().search("code") == []
        assert reader.agent("a").thread().head() is None
        assert [one.text for one in reader.agent("b").memory().search("code")] == ["the code is not told"]
        assert reader.erasures() == writer.erasures() != []
        assert reader.digest() == writer.digest()
        with pytest.raises(ReadOnly):
            reader.agent("b").erase()


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
    "attachment": lambda edge: edge.agent("a").attachments().add(b"x"),
    "evict": lambda edge: edge.cache.evict(0),
    "snapshot": lambda edge: edge.snapshots.take("x"),
    "join": lambda edge: edge._link,
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


def test_what_a_reader_imports(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("notes", vector=("v", 2)).put("a", {"v": [1, 0]})
    done = child(
        "import sys; from edge import Edge\n"
        "with Edge.open(sys.argv[1], read_only=True) as edge: print(len(edge.collection('notes').get('a')))\n"
        "print(sorted({'lancedb', 'numpy', 'pyarrow', 'aiohttp', 'asyncio', 'tempfile'} & sys.modules.keys()))",
        tmp_path,
    )
    assert done.stdout == "1\n[]\n"


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
