"""Forgetting deletes in the delta log: what is marked, what goes, and what has changed in between and stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.storage import log_sweep
from edge.storage.delta_log import DeltaLog
from edge.storage.transaction import Write
from sync.operations import Kind, Operation, Shape
from tests.edge.logs import FAR, NOTES, put, remote, reopen, values


@pytest.fixture
def log(tmp_path: Path) -> DeltaLog:
    log = reopen(tmp_path)
    log.declare(NOTES)
    log.meta_set("incarnation", b"1" * 16)
    return log


def delete(log: DeltaLog, key: str) -> None:
    log.submit([Write(Kind.DELETE, "notes", key)])


def deleted(log: DeltaLog, *keys: str) -> None:
    for key in keys:
        put(log, key, "notes", x=1)
        delete(log, key)


def test_marked_deletes_go_when_they_are_stable_and_not_before(log: DeltaLog, tmp_path: Path) -> None:
    deleted(log, "a", "b")
    put(log, "c", "notes", x=1)
    assert log.sweep(0, 9) == 0
    assert log.sweep(8, 12) == 0
    assert log.image("notes", "a") is not None
    digest = log.digest()
    assert log.sweep(9, 12) == 2
    assert (log.image("notes", "a"), log.count("notes"), log.digest()) == (None, 1, digest)
    assert log.meta_get("swept")[1] == 9
    assert log.verify() == []
    log.close()
    again = reopen(tmp_path)
    assert (again.count("notes"), again.image("notes", "b"), again.verify()) == (1, None, [])
    again.close()


@pytest.mark.parametrize("folded", [False, True])
def test_what_has_changed_since_it_was_marked_stays(log: DeltaLog, *, folded: bool) -> None:
    deleted(log, "anew", "again", "by another", "gone")
    log.sweep(0, 9)
    put(log, "anew", "notes", x=2)
    put(log, "again", "notes", x=2)
    delete(log, "again")
    log.apply([remote(1, "by another", log.clock.last + 5, "notes", x=3)], cursor=10)
    if folded:
        log.fold()
    assert log.count("notes") == 2
    assert log.sweep(9, 12) == 1
    assert (values(log, "anew", "notes"), values(log, "by another", "notes")) == ({"x": 2}, {"x": 3})
    assert log.image("notes", "again") is not None, "its delete is at another position now"
    assert log.verify() == []
    log.close()


def test_marks_of_another_life_of_the_cloud_or_another_name_do_not_count(log: DeltaLog) -> None:
    deleted(log, "a")
    log.sweep(0, 9)
    log.meta_set("incarnation", b"2" * 16)
    assert log.sweep(100, 50) == 0
    log.new_incarnation()
    assert log.sweep(100, 60) == 0
    assert log.sweep(100, 70) == 1
    log.close()


def test_a_delete_by_a_clock_that_was_ahead_is_not_forgotten(log: DeltaLog) -> None:
    far = log.clock.reading(86_400_000)
    log.apply([Operation(FAR, 1, far, 0, Shape(Kind.DELETE, "notes"), "a", ())], cursor=3)
    log.sweep(0, 9)
    assert log.sweep(9, 12) == 0
    assert log.image("notes", "a") is not None
    log.close()


def test_it_is_done_in_small_steps(log: DeltaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sweep, "SWEEP_ROWS_MAX", 2)
    deleted(log, *"abcde")
    assert [log.sweep(n, n) for n in range(5)] == [0, 2, 2, 1, 0]
    log.close()


def test_an_index_of_the_first_builds_is_brought_up_to_date(log: DeltaLog, tmp_path: Path) -> None:
    deleted(log, "a")
    with log.writer.lock, log.transact() as db:
        db.execute("DROP INDEX dead; CREATE INDEX tombstones ON records (collection) WHERE living = 0")
    log.close()
    again = reopen(tmp_path)
    names = {name for (name,) in again.reader.all("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert "dead" in names
    assert "tombstones" not in names
    again.close()
