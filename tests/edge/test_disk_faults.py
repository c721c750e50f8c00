"""A disk that is full, or fails, in the middle of a write: a typed error, nothing changed, and then it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import Collection, Edge
from edge.storage import log_writer
from sync.errors import DiskFull, StorageError
from sync.operations import Operation, Shape
from tests.edge.faulty_vfs import Faults, FaultyStore, faulty_vfs
from tests.edge.logs import FAR

# What the faulty disk raises where SQLite ignores errors (a checkpoint) has nowhere to go.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class World(FaultyStore):
    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder, faults)
        self.notes = self.edge.collection("notes")

    def state(self) -> tuple[Any, ...]:
        log = self.edge.log
        return log.head_seq, log.position, self.records(), log.changes(0, 10_000), log.acked_seq, log.cursor

    def error_of(self, write: Any) -> StorageError | None:
        try:
            write(self.notes)
        except StorageError as error:
            return error
        return None

    def records(self) -> dict[str, Any]:
        return dict(self.notes.scan())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World.at(tmp_path / "store") as world:
        yield world


def _put(notes: Collection) -> None:
    notes.put("new", {"text": "x" * 2000})


def _overwrite(notes: Collection) -> None:
    notes.put("k1", {"text": "y" * 3000})


def _patch(notes: Collection) -> None:
    notes.patch("k2", {"more": "z" * 3000})


def _delete(notes: Collection) -> None:
    notes.delete("k3")


def _put_many(world: World) -> None:
    with world.edge.batch():
        for number in range(700):
            world.notes.put(f"b{number}", {"text": "x" * 300})


WRITES = [_put, _overwrite, _patch, _delete]


@pytest.mark.parametrize("kind", ["full", "short", "io", "sync"])
@pytest.mark.parametrize("write", WRITES)
def test_a_failed_write_changes_nothing(world: World, write: Any, kind: str) -> None:
    for number in range(20):
        world.notes.put(f"k{number}", {"text": "x" * 200})
    before = world.state()
    world.faults.kind = kind
    for allowed in range(12):  # fail at the first, the second, … write of the transaction
        world.faults.writes_left = allowed
        failed = world.faults.failed
        error = world.error_of(write)
        world.faults.writes_left = None
        if error is not None:
            assert isinstance(error, DiskFull) == (kind in ("full", "short"))
            assert error.hint or kind in ("io", "sync")
            assert world.state() == before
        else:
            if write is _delete:
                world.notes.put("k3", {"text": "x" * 200})
            before = world.state()
            if world.faults.failed == failed:
                break
    else:
        pytest.fail("it never went through")
    assert world.faults.failed > 0
    world.notes.put("after", {"text": "the disk has space again"})
    assert world.edge.verify() == []
    again = world.records()
    world.edge.close()
    world.edge = world.open()
    world.notes = world.edge.collection("notes")
    assert world.records() == again
    assert world.edge.verify() == []


@pytest.mark.parametrize("kind", ["full", "io"])
def test_a_failed_batch_and_a_failed_page_change_nothing(world: World, kind: str) -> None:
    for number in range(20):
        world.notes.put(f"k{number}", {"text": "x" * 200})
    names = ("text",)
    page = [
        Operation(FAR, n + 1, 1000 + n, 0, Shape(1, "notes", names, "l"), f"r{n}", ("far" * 90,)) for n in range(700)
    ]
    before = world.state()
    world.faults.kind = kind
    for allowed in (0, 1, 2, 5, 17, 40):
        world.faults.writes_left = allowed
        with pytest.raises(StorageError):
            _put_many(world)
        world.faults.writes_left = allowed
        with pytest.raises(StorageError):
            world.edge.log.apply(page, cursor=700)
        world.faults.writes_left = 0
        with pytest.raises(StorageError):
            world.edge.log.acknowledge(5, b"i" * 32)
        world.faults.writes_left = None
        assert world.state() == before
    _put_many(world)
    assert world.edge.log.apply(page, cursor=700) == 700
    assert world.notes.count() == 1420
    assert world.edge.verify() == []


def test_a_failed_fold_keeps_what_is_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FOLD_RECORDS_MAX", 10)
    for number in range(10):
        world.notes.put(f"k{number}", {"n": number})
    before = world.state()
    world.faults.writes_left = 1
    with pytest.raises(DiskFull):
        world.notes.put("k10", {"n": 10})
    world.faults.writes_left = None
    assert world.state() == before
    for number in range(10, 25):
        world.notes.put(f"k{number}", {"n": number})
    assert {key: fields["n"] for key, fields in world.records().items()} == {f"k{n}": n for n in range(25)}
    assert world.edge.verify() == []


def test_closing_on_a_full_disk_loses_nothing(world: World) -> None:
    for number in range(100):
        world.notes.put(f"k{number}", {"n": number})
    world.faults.writes_left = 0
    world.edge.close()
    world.faults.writes_left = None
    world.edge = world.open()
    world.notes = world.edge.collection("notes")
    assert world.notes.count() == 100
    assert world.edge.verify() == []


def test_a_store_that_could_not_be_made_is_made_the_next_time(tmp_path: Path) -> None:
    with faulty_vfs() as faults:
        for allowed in range(60):
            faults.writes_left = allowed
            try:
                Edge.open(tmp_path / "s").close()
            except StorageError:
                continue
            finally:
                faults.writes_left = None
            break
        assert faults.failed > 3
        with Edge.open(tmp_path / "s") as edge:
            edge.collection("notes").put("a", {"x": 1})
            assert edge.verify() == []


def test_a_disk_that_fails_to_write_and_then_to_read_is_a_storage_error(world: World) -> None:
    """After a commit of which nobody knows whether it was, the log reads where it stands; that may fail as well."""
    for number in range(5):
        world.notes.put(f"k{number}", {"n": number})
    db = world.edge.log.writer.db
    db.execute("PRAGMA cache_size=0")
    world.faults.kind, world.faults.writes_left = "sync", 0
    assert world.error_of(_put) is not None
    world.faults.writes_left = None
    db.execute("PRAGMA shrink_memory")
    world.faults.reads_fail = True
    for write in (_put, _patch):
        assert type(world.error_of(write)) is StorageError
    world.faults.reads_fail = False
    world.notes.put("after", {"n": 1})
    assert world.edge.verify() == []
    assert {"after", *(f"k{number}" for number in range(5))} <= world.records().keys()


def test_a_log_that_can_only_be_read_for_a_moment_is_no_open_store(world: World) -> None:
    """SQLite then reads it: every write would fail for as long as the process has the store open."""
    world.notes.put("before", {"n": 1})
    world.edge.close()
    world.faults.opens_fail = 1
    with pytest.raises(StorageError, match=r"log\.db cannot be opened to be written") as caught:
        world.open()
    assert "open it again" in caught.value.hint
    assert world.faults.opens_fail == 0
    world.edge = world.open()
    world.notes = world.edge.collection("notes")
    world.notes.put("after", {"n": 2})
    assert world.records().keys() == {"before", "after"}
