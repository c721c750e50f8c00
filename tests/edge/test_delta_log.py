"""The delta log: what a write leaves, what readers find, and what a reopened log knows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge.storage import log_writer
from edge.storage.delta_log import DeltaLog
from edge.storage.transaction import Write
from sync.errors import NotFound, StaleWrite, UnknownCollection
from sync.operations import Kind
from sync.schema import COLLECTIONS
from sync.stamps import replica_id, timestamp_of
from tests.edge.logs import NOTES, PLAIN, put, remote, reopen, state, values
from tests.edge.stores import DEVICE, TickingClock, delete


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    log = reopen(tmp_path)
    log.declare(NOTES)
    log.declare(PLAIN)
    yield log
    log.close()


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_write_is_an_operation_an_image_and_a_change(log: DeltaLog) -> None:
    assert put(log, "a", b=1, a="x") == 3
    (operation,) = log.pending(2, 10, 1 << 20)
    assert (operation.seq, operation.replica, operation.seen) == (3, replica_id(DEVICE, 1), 0)
    assert (operation.shape.names, operation.shape.rules, operation.values) == (("a", "b"), "ll", ("x", 1))
    assert values(log, "a") == {"a": "x", "b": 1}
    assert log.changes(0, 10) == [(1, COLLECTIONS, "notes"), (2, COLLECTIONS, "plain"), (3, "plain", "a")]
    assert log.verify() == []


def test_a_put_replaces_and_a_patch_does_not(log: DeltaLog) -> None:
    put(log, "a", x=1, y=2)
    log.submit([Write(Kind.PATCH, "plain", "a", {"y": 3})])
    assert values(log, "a") == {"x": 1, "y": 3}
    put(log, "a", z=1)
    assert values(log, "a") == {"z": 1}
    assert log.pending(4, 1, 1 << 20)[0].fields == {"x": None, "y": None, "z": 1}, "what went is said"
    log.submit([Write(Kind.DELETE, "plain", "a")])
    assert values(log, "a") is None
    assert log.image("plain", "a") is not None, "a tombstone stays"
    put(log, "a", x=5)
    assert values(log, "a") == {"x": 5}
    assert log.verify() == []


def test_a_put_says_which_fields_it_clears(log: DeltaLog) -> None:
    """Others merge the operation; they know nothing of the image it was composed over, in memory or in its table."""
    for fields in ({"x": 1, "y": 2}, {"y": 3}, {"z": 4}):
        log.submit([log.put_of("plain", "a", fields, log.schemas["plain"])])
        if "y" in fields and "x" not in fields:
            log.fold()
    cleared = [operation.fields for operation in log.pending(2, 10, 1 << 20)]
    assert cleared == [{"x": 1, "y": 2}, {"x": None, "y": 3}, {"y": None, "z": 4}]


def test_trimming_keeps_images_that_were_only_in_memory(tmp_path: Path, log: DeltaLog) -> None:
    put(log, "a", x=1)
    log.acknowledge(log.head_seq, bytes(32))
    assert log.trim(log.position) == 3
    log.close()  # too few to be folded
    with_it = reopen(tmp_path)
    assert values(with_it, "a") == {"x": 1}
    with_it.close()


def test_counters_and_sets(log: DeltaLog) -> None:
    put(log, "a", "notes", t="x")
    log.submit(
        [
            Write(Kind.INCREMENT, "notes", "a", {"n": 2}),
            Write(Kind.INCREMENT, "notes", "a", {"n": 3}),
            Write(Kind.ADD, "notes", "a", {"tags": ["x", "y"]}),
            Write(Kind.REMOVE, "notes", "a", {"tags": ["x"]}),
        ]
    )
    assert values(log, "a", "notes") == {"n": 5, "t": "x", "tags": ["y"]}


@pytest.mark.parametrize("kind", [Kind.PATCH, Kind.DELETE])
def test_what_is_not_there_is_not_found(log: DeltaLog, kind: Kind) -> None:
    before = state(log)
    with pytest.raises(NotFound):
        log.submit([Write(kind, "plain", "a", {"x": 1} if kind == Kind.PATCH else None)])
    assert state(log) == before
    log.submit([Write(kind, "plain", "a", {"x": 1} if kind == Kind.PATCH else None, upsert=True)])
    assert values(log, "a") == ({"x": 1} if kind == Kind.PATCH else None)


def test_writes_are_all_or_nothing(log: DeltaLog) -> None:
    put(log, "a", x=1)
    before = state(log)
    with pytest.raises(NotFound):
        log.submit([Write(Kind.PUT, "plain", "a", {"x": 2}), Write(Kind.DELETE, "plain", "missing")])
    assert state(log) == before
    put(log, "b", x=1)
    assert [operation.seq for operation in log.pending(0, 10, 1 << 20)] == [1, 2, 3, 4]


def test_later_writes_of_a_submit_see_the_earlier(log: DeltaLog) -> None:
    log.submit(
        [
            Write(Kind.PUT, "plain", "a", {"x": 1}),
            Write(Kind.PATCH, "plain", "a", {"y": 2}),
            Write(Kind.PUT, "plain", "b", {"x": 1}),
            Write(Kind.DELETE, "plain", "b"),
        ]
    )
    assert values(log, "a") == {"x": 1, "y": 2}
    assert [key for key, _ in log.scan("plain")] == ["a"]
    assert log.count("plain") == 1


def test_an_undeclared_collection_is_refused(log: DeltaLog) -> None:
    before = state(log)
    with pytest.raises(UnknownCollection):
        put(log, "a", "nowhere", x=1)
    assert state(log) == before


def test_the_same_record_many_times_within_and_across_folds(log: DeltaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FOLD_RECORDS_MAX", 3)
    monkeypatch.setattr(log_writer, "FOLD_OPERATIONS_MAX", 7)
    for number in range(50):
        key = f"k{number % 5}"
        put(log, key, x=number)
        if number % 3 == 0:
            log.submit([Write(Kind.PATCH, "plain", key, {"y": number})])
        if number % 7 == 0:
            log.submit([Write(Kind.DELETE, "plain", key)])
        assert log.count("plain") == len(log.scan("plain"))
    assert log.verify() == []


def test_the_guess_that_a_record_is_new_is_checked(log: DeltaLog) -> None:
    for number in range(10):
        put(log, f"k{number}", x=number)
    log.fold()
    for number in range(10):  # every second one is known, so the guess is wrong every time it is made
        put(log, f"k{number}", y=number)
        put(log, f"new{number}", y=number)
    log.fold()
    log.submit([Write(Kind.PUT, "plain", f"{prefix}{number}", {"z": 1}) for prefix in "mk" for number in range(10)])
    assert values(log, "k3") == values(log, "m3") == {"z": 1}
    assert values(log, "new3") == {"y": 3}
    assert log.count("plain") == 30
    assert log.verify() == []


# -- reading ----------------------------------------------------------------------------------------------------------


def test_scan_is_in_order_of_key_bytes_and_finds_what_is_only_in_memory(log: DeltaLog) -> None:
    keys = ["a", "b", "ba", "bb", "b\uffff", "b\U0001f600", "c", "é", "z"]
    for key in keys[::2]:
        put(log, key, x=1)
    log.fold()
    for key in keys[1::2]:
        put(log, key, x=1)
    log.submit([Write(Kind.DELETE, "plain", "c")])
    living = sorted((key for key in keys if key != "c"), key=str.encode)
    assert [key for key, _ in log.scan("plain")] == living
    assert [key for key, _ in log.scan("plain", prefix="b")] == [key for key in living if key.startswith("b")]
    assert [key for key, _ in log.scan("plain", prefix="b\uffff")] == ["b\uffff"]
    paged: list[str] = []
    while page := log.scan("plain", after=paged[-1] if paged else "", limit=2):
        paged += [key for key, _ in page]
    assert paged == living


def test_a_scan_page_is_full_although_memory_knows_of_deletes(log: DeltaLog) -> None:
    for number in range(40):
        put(log, f"{number:02}", x=1)
    log.fold()
    log.submit([Write(Kind.DELETE, "plain", f"{number:02}") for number in range(30)])
    assert [key for key, _ in log.scan("plain", limit=5)] == ["30", "31", "32", "33", "34"]
    assert log.count("plain") == 10


def test_pending_keeps_within_its_bounds(log: DeltaLog) -> None:
    for number in range(10):
        put(log, f"k{number}", x="x" * 100)
    assert len(log.pending(2, 3, 1 << 20)) == 3
    assert len(log.pending(2, 100, 350)) == 3
    assert len(log.pending(2, 100, 1)) == 1, "at least one, or it would never be sent"
    assert log.pending(12, 100, 1 << 20) == []


def test_changes_are_found_from_every_position(log: DeltaLog) -> None:
    for number in range(6):
        put(log, f"k{number}", x=1)
        log.apply([remote(number + 1, f"r{number}", 1000 + number, x=1), remote(99, f"r{number}", 5000, y=1)])
    everything = log.changes(0, 1000)
    assert [position for position, _, _ in everything] == list(range(1, log.position + 1))
    for position in range(log.position + 1):
        assert log.changes(position, 1000) == everything[position:]
        assert log.changes(position, 2) == everything[position : position + 2]


# -- time -------------------------------------------------------------------------------------------------------------


def test_stamps_never_run_back(tmp_path: Path, log: DeltaLog) -> None:
    put(log, "a", x=1)
    log.apply([remote(1, "b", timestamp_of(1_800_000_000_000), x=1)])
    seen = log.clock.last
    log.close()
    again = reopen(tmp_path, clock=TickingClock(1_000_000_000_000))
    put(again, "c", x=1)
    assert again.pending(again.head_seq - 1, 1, 1 << 20)[0].ts > seen
    again.trim(again.position)
    again.acknowledge(again.head_seq, b"s" * 32)
    last = again.clock.last
    assert again.trim(again.position) > 0
    again.close()
    third = reopen(tmp_path, clock=TickingClock(1_000_000_000_000))
    assert third.clock.last >= last
    put(third, "d", x=1)
    assert third.pending(third.head_seq - 1, 1, 1 << 20)[0].ts > last
    third.close()


def test_the_learned_offset_of_the_clock_is_kept(tmp_path: Path, log: DeltaLog) -> None:
    log.learn_time(1_000_000)
    log.close()
    again = reopen(tmp_path)
    assert abs(again.clock.offset_ms - (1_000_000 - TickingClock().wall_ms())) < 1_000
    again.close()


# -- what the next process knows --------------------------------------------------------------------------------------


def test_reopening_restores_everything(tmp_path: Path, log: DeltaLog) -> None:
    for number in range(5):
        put(log, f"k{number}", x=number)
    log.apply([remote(1, "r", 5, x=1)], cursor=17, baseline=b"token")
    log.acknowledge(4, b"i" * 32)
    log.set_checkpoint("lance", {"position": 3, "version": 7})
    log.meta_set("name", ["any", {"value": 1}])
    before = state(log), log.schemas, log.count("plain")
    log.close()
    again = reopen(tmp_path)
    assert (state(again), again.schemas, again.count("plain")) == before
    assert (again.cursor, again.baseline) == (17, b"token")
    assert (again.acked_seq, again.acked_segment) == (4, b"i" * 32)
    assert again.checkpoint("lance") == {"position": 3, "version": 7}
    assert again.checkpoint("exact") is None
    assert again.meta_get("name") == ["any", {"value": 1}]
    assert put(again, "k9", x=9) == before[0][0] + 1
    again.close()


def test_a_copy_of_the_files_of_an_open_log_is_whole(tmp_path: Path, log: DeltaLog) -> None:
    for number in range(20):
        put(log, f"k{number}", x=number)
    log.submit([Write(Kind.PATCH, "plain", "k3", {"y": 1})])
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("log.db", "log.db-wal"):
        shutil.copy(tmp_path / name, copy / name)
    other = reopen(copy)
    assert state(other) == state(log)
    assert values(other, "k3") == {"x": 3, "y": 1}
    other.close()


def test_an_interrupt_right_after_the_commit_is_settled(log: DeltaLog) -> None:
    class Interrupting:
        """Raises after the commit is on disk, before anybody can take note of it."""

        def __init__(self, db: apsw.Connection | apsw.Cursor, after: str) -> None:
            self.db, self.after = db, after

        def execute(self, sql: str, *bindings: Any) -> Any:
            done = self.db.execute(sql, *bindings)
            if sql.startswith(self.after):
                raise KeyboardInterrupt
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(self.db, name)

    put(log, "a", x=1)
    db, cursor = log.writer.db, log.writer.cursor
    for number, (after, writes) in enumerate(
        [
            ("INSERT INTO operations", [Write(Kind.PUT, "plain", "short", {"x": 1})]),
            ("COMMIT", [Write(Kind.PATCH, "plain", "a", {"x": 2})]),
            ("COMMIT", [Write(Kind.PUT, "plain", f"m{n}", {"x": 1}) for n in range(600)]),
        ]
    ):
        log.writer.db = Interrupting(db, after)  # type: ignore[assignment]
        log.writer.cursor = Interrupting(cursor, after)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            log.submit(writes)
        log.writer.db, log.writer.cursor = db, cursor
        put(log, f"next{number}", x=1)
        assert log.verify() == []
    assert values(log, "a") == {"x": 2}
    assert log.count("plain") == 1 + 1 + 600 + 3
    assert log.head_seq == log.position == 2 + 1 + 1 + 1 + 600 + 3


def test_a_put_of_what_must_be_new_is_refused_where_something_lives(log: DeltaLog) -> None:
    """Whatever is known of the record: nothing, only in memory, in the table, deleted; alone, and among others."""

    def new(key: str, **fields: Any) -> Write:
        return log.put_of("plain", key, fields, log.schemas["plain"], new=True)

    log.submit([new("a", x=1)])
    for _ in range(2):
        with pytest.raises(StaleWrite, match="'a'"):
            log.submit([new("a", x=2)])
        with pytest.raises(StaleWrite):
            log.submit([new("b", x=1), new("a", x=2)])
        with pytest.raises(StaleWrite):
            log.submit([new("b", x=1), new("b", x=2)])
        assert log.values("plain", "a") == {"x": 1}
        assert log.values("plain", "b") is None
        log.fold()
    assert log.head_seq == log.position == 3  # two declarations, and one record
    delete(log, "plain", "a")
    log.submit([new("a", y=3)])
    log.submit([new("c", x=1), new("d", x=1)])
    assert log.values("plain", "a") == {"y": 3}
    assert log.count("plain") == 3
