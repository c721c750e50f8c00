"""What moves between the records and the stubs of what has left, on a disk that fails at each of its writes: all of it
has moved, or nothing; memory says what the disk says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import Edge
from edge.storage import evicted
from sync.errors import NotHere, StorageError
from sync.operations import Kind, Operation, Shape
from sync.places import Whole
from sync.records import Record
from tests.edge.faulty_vfs import Faults, FaultyStore
from tests.edge.logs import FAR

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

KEYS = [f"k{number}" for number in range(6)]


class World(FaultyStore):
    """A store all of whose notes have left it."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder, faults)
        notes = self.edge.collection("notes", fields={"n": "counter", "tags": "set"})
        for number, key in enumerate(KEYS):
            notes.put(key, {"n": number + 1, "text": "x" * 900, "tags": ["a"]})
        self.edge.log.fold()
        self.images = self.edge.log.images("notes", KEYS)
        self.let_go()

    def let_go(self) -> None:
        log = self.edge.log
        log.fold()
        with log.writer.lock:
            with log.transact() as db:
                db.execute(evicted.TABLE)
                number = log.collection_id("notes")
                for key, image in log.images("notes", KEYS).items():
                    evicted.keep(db, (number, key), image, log.replica)
                db.execute("DELETE FROM records WHERE collection = ?", (number,))
            log.settle_again(log.clock.last)

    def state(self) -> tuple[Any, ...]:
        log = self.edge.log
        rows = log.reader.all("SELECT key, newest, state, stub FROM evicted ORDER BY key")
        known = log.writer.evicted
        held = {key: log.image("notes", key) for key in KEYS}
        return log.head_seq, held, rows, known.collections, known.wanted, log.cursor


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World.at(tmp_path / "store") as world:
        yield world


def _increment(world: World) -> None:
    world.edge.collection("notes").increment("k0", "n", 5)


def _delete(world: World) -> None:
    world.edge.collection("notes").delete("k1")


def _batch(world: World) -> None:
    notes = world.edge.collection("notes")
    with world.edge.batch():
        notes.delete("k2")
        notes.increment("k3", "n")
        notes.put("other", {"text": "y" * 3000})


def _page(world: World) -> None:
    """Of the feed."""
    ts = world.edge.log.clock.last + 1000
    shape = Shape(Kind.PATCH, "notes", ("text",), "l")
    world.edge.log.apply([Operation(FAR, 1, ts, 0, shape, "k4", ("z" * 3000,))], cursor=7)


def _fetched(world: World) -> None:
    """Four records, one that the cloud has nothing of, and one that it does not give."""
    image = Shape(Kind.IMAGE, "notes")
    log = world.edge.log
    told = [(key, Record.decode(world.images[key]).stamp) for key in KEYS[:4]]
    operations = [Operation(stamp.replica, 0, stamp.ts, 0, image, key, (world.images[key],)) for key, stamp in told]
    log.apply(operations, whole=Whole((("notes", "k4"),), (("notes", "k5"),)))


def _evict(world: World) -> None:
    world.let_go()


@pytest.mark.parametrize("kind", ["full", "io", "sync"])
@pytest.mark.parametrize("act", [_increment, _delete, _batch, _page, _fetched, _evict])
def test_all_or_nothing_moves(world: World, act: Callable[[World], None], kind: str) -> None:
    if act is _evict:
        _fetched(world)
    before = world.state()
    world.faults.kind = kind
    for allowed in range(40):
        world.faults.writes_left = allowed
        failed = world.faults.failed
        try:
            act(world)
        except StorageError:
            world.faults.writes_left = None
            assert world.state() == before
            continue
        finally:
            world.faults.writes_left = None
        if world.faults.failed == failed:
            break
        before = world.state()
    else:
        pytest.fail("it never went through")
    after = world.state()
    assert world.faults.failed > 0
    assert world.edge.verify() == []
    world.edge.close()
    world.edge = world.open()
    assert world.state() == after
    assert world.edge.verify() == []


def test_stubs_are_found_again_by_whoever_opens_the_store(world: World) -> None:
    _increment(world)
    world.edge.log.close()
    world.edge.close()
    world.edge = world.open()
    _increment(world)
    with pytest.raises(NotHere):
        world.edge.collection("notes").put("k0", {})
    (row,) = world.edge.log.reader.all("SELECT stub FROM evicted WHERE key = 'k0'")
    record = Record.decode(row[0])
    assert record.slots["n", "c"][world.edge.log.replica][2] == 1 + 5 + 5
    _fetched(world)
    assert world.edge.collection("notes").get("k0") == {"n": 11, "tags": ["a"], "text": "x" * 900}
    assert [key for key, _ in world.edge.collection("notes").scan()] == KEYS[:4]


def test_readers_of_another_process_see_no_stub(world: World) -> None:
    _increment(world)
    _batch(world)
    with Edge.open(world.folder, read_only=True) as reader:
        notes = reader.collection("notes")
        assert [key for key, _ in notes.scan()] == ["other"]
        assert evicted.state_of(reader.log, "notes", "k0") == evicted.WANTED
        _fetched(world)
        assert notes.get("k0") == {"n": 6, "tags": ["a"], "text": "x" * 900}
