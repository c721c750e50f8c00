"""The delta log: what a write leaves, what a reopened log knows, and what the link and the projections read of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge.storage import log_care, log_writer
from edge.storage.delta_log import DeltaLog
from edge.storage.transaction import Write
from sync.errors import CorruptStore, InvalidValue, NotFound, SchemaMismatch, StorageError, UnknownCollection
from sync.images import image_values
from sync.messages import Refusal
from sync.operations import Kind, Operation, Shape
from sync.schema import COLLECTIONS, declare
from sync.stamps import incarnation_of, replica_id, timestamp_of
from tests.edge.stores import DEVICE, SeededRandom, TickingClock

FAR = replica_id(b"another-one!", 1)
NOTES = declare("notes", fields={"n": "counter", "tags": "set"})
PLAIN = declare("plain")


def reopen(folder: Path, *, clock: TickingClock | None = None, durability: str = "relaxed") -> DeltaLog:
    return DeltaLog.open(
        str(folder / "log.db"),
        clock=clock or TickingClock(),
        random=SeededRandom(),
        device=DEVICE,
        durability=durability,
    )


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    log = reopen(tmp_path)
    log.declare(NOTES)
    log.declare(PLAIN)
    yield log
    log.close()


def put(log: DeltaLog, key: str, collection: str = "plain", **fields: Any) -> int:
    return log.submit([Write(Kind.PUT, collection, key, fields)])


def values(log: DeltaLog, key: str, collection: str = "plain") -> dict[str, Any] | None:
    image = log.image(collection, key)
    return None if image is None else image_values(image)


def remote(seq: int, key: str, ts: int, collection: str = "plain", **fields: Any) -> Operation:
    names = tuple(sorted(fields))
    shape = Shape(Kind.PUT, collection, names, "l" * len(names))
    return Operation(FAR, seq, ts, 0, shape, key, tuple(fields[name] for name in names))


def state(log: DeltaLog) -> tuple[Any, ...]:
    return log.head_seq, log.position, log.digest(), log.changes(0, 1000), log.pending(0, 1000, 1 << 20)


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
    log.set_offset_ms(-5000)
    log.close()
    again = reopen(tmp_path)
    assert again.clock.offset_ms == -5000
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

        def __init__(self, db: apsw.Connection, after: str) -> None:
            self.db, self.after = db, after

        def execute(self, sql: str, *bindings: Any) -> Any:
            done = self.db.execute(sql, *bindings)
            if sql.startswith(self.after):
                raise KeyboardInterrupt
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(self.db, name)

    put(log, "a", x=1)
    db = log.writer.db
    for number, (after, writes) in enumerate(
        [
            ("INSERT INTO operations", [Write(Kind.PUT, "plain", "short", {"x": 1})]),
            ("COMMIT", [Write(Kind.PATCH, "plain", "a", {"x": 2})]),
            ("COMMIT", [Write(Kind.PUT, "plain", f"m{n}", {"x": 1}) for n in range(600)]),
        ]
    ):
        log.writer.db = Interrupting(db, after)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            log.submit(writes)
        log.writer.db = db
        put(log, f"next{number}", x=1)
        assert log.verify() == []
    assert values(log, "a") == {"x": 2}
    assert log.count("plain") == 1 + 1 + 600 + 3
    assert log.head_seq == log.position == 2 + 1 + 1 + 1 + 600 + 3


# -- the link ---------------------------------------------------------------------------------------------------------


def test_remote_operations_merge_and_mark(log: DeltaLog) -> None:
    put(log, "a", x=1)
    mine = log.clock.last
    changed = log.apply(
        [
            remote(1, "a", mine - 1, x=0, y=1),  # older: only its y is news
            remote(2, "b", 10, x=5),
            remote(3, "b", 11, x=6),
            remote(4, "far", 12, "unheard", x=1),  # of a collection whose schema comes later
        ],
        cursor=4,
    )
    assert changed == 3
    assert values(log, "a") == {"x": 1, "y": 1}
    assert values(log, "b") == {"x": 6}
    assert values(log, "far", "unheard") == {"x": 1}
    assert log.changes(3, 10) == [(4, "plain", "a"), (5, "plain", "b"), (6, "unheard", "far")]
    assert log.apply([remote(1, "a", mine - 1, x=0, y=1)]) == 0, "again, and nothing changes"
    assert (log.position, log.head_seq, log.cursor) == (6, 3, 4)
    assert log.verify() == []


def test_a_remote_schema_is_learned(log: DeltaLog) -> None:
    schema = declare("far", fields={"n": "counter"})
    log.apply([remote(1, "far", 5, COLLECTIONS, spec=schema.to_document())])
    assert log.schemas["far"] == schema
    log.apply([remote(2, "odd", 6, COLLECTIONS, spec={"fields": 7})])
    assert "odd" not in log.schemas
    assert "odd" in log.schema_problems
    assert any("odd" in problem for problem in log.verify())


def test_declaring_twice_writes_once_and_contradicting_is_refused(log: DeltaLog) -> None:
    head = log.head_seq
    log.declare(NOTES)
    assert log.head_seq == head
    before = state(log)
    with pytest.raises(SchemaMismatch):
        log.declare(declare("notes", fields={"n": "max"}))
    assert state(log) == before


def test_refusals_become_dead_letters(tmp_path: Path, log: DeltaLog) -> None:
    put(log, "a", x=1)
    put(log, "b", x=2)
    log.acknowledge(4, b"i" * 32, [Refusal(3, "future-stamp", "far ahead"), Refusal(99, "odd", "no such operation")])
    log.acknowledge(4, b"i" * 32, [Refusal(3, "future-stamp", "far ahead")])
    (letter,) = log.dead_letters()
    assert (letter.seq, letter.collection, letter.key, letter.code) == (3, "plain", "a", "future-stamp")
    assert letter.operation == log.pending(2, 1, 1 << 20)[0]
    assert letter.at_ms > 0
    log.trim(log.position)
    log.close()
    again = reopen(tmp_path)
    assert [letter.seq for letter in again.dead_letters()] == [3], "it outlives the log's row"
    again.close()


def test_trim_drops_only_what_nobody_needs(log: DeltaLog) -> None:
    for number in range(6):
        put(log, f"k{number}", x=number)
        log.apply([remote(number + 1, f"r{number}", 1000 + number, x=1)])
    digest = log.digest()
    log.acknowledge(6, b"i" * 32)
    assert log.trim(10) == 6 + 4, "operations 1 to 6 and the marks up to 10"
    assert [operation.seq for operation in log.pending(0, 100, 1 << 20)] == [7, 8], "not acknowledged"
    assert [at for at, _, _ in log.changes(10, 100)] == [11, 12, 13, 14], "after the position"
    assert log.digest() == digest
    assert log.verify() == []
    put(log, "more", x=1)
    assert (log.head_seq, log.position) == (9, 15)


def test_trim_in_pages(log: DeltaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_care, "TRIM_ROWS_MAX", 2)
    for number in range(9):
        put(log, f"k{number}", x=number)
    log.acknowledge(log.head_seq, b"i" * 32)
    assert log.trim(log.position) == 11
    assert log.pending(0, 10, 1 << 20) == []
    assert log.changes(0, 10) == []


def test_a_new_incarnation_keeps_the_records_and_begins_its_log_anew(tmp_path: Path, log: DeltaLog) -> None:
    put(log, "a", x=1)
    log.acknowledge(2, b"i" * 32)
    digest, position, old, ts = log.digest(), log.position, log.replica, log.clock.last
    new = log.new_incarnation()
    assert new == log.replica != old
    assert new[:12] == old[:12]
    assert incarnation_of(new) > incarnation_of(old)
    assert (log.head_seq, log.acked_seq, log.acked_segment) == (0, 0, b"")
    assert (log.digest(), log.position) == (digest, position)
    assert [at for at, _, _ in log.changes(0, 10)] == [1, 2, 3], "the projections still learn of every change"
    log.close()
    again = reopen(tmp_path)
    assert again.replica == new
    assert put(again, "b", x=1) == 1
    assert again.pending(0, 1, 1 << 20)[0].ts > ts
    assert again.verify() == []
    again.close()


def test_state_operations_rebuild_the_store_elsewhere(tmp_path: Path, log: DeltaLog) -> None:
    for number in range(7):
        put(log, f"k{number}", x=number)
    put(log, "c", "notes", t=1)
    log.submit([Write(Kind.INCREMENT, "notes", "c", {"n": 2}), Write(Kind.DELETE, "plain", "k3")])
    pages: list[Operation] = []
    while page := log.state_operations((pages[-1].shape.collection, pages[-1].key) if pages else None, 3):
        pages += page
    assert all(operation.seq == 0 for operation in pages)
    assert len(pages) == 7 + 1 + 2
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = reopen(elsewhere)
    other.apply(pages)
    assert other.digest() == log.digest()
    assert other.image("plain", "k3") == log.image("plain", "k3"), "tombstones too"
    assert other.schemas == log.schemas
    other.close()


# -- copies and checks ------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_replica_of_its_own(tmp_path: Path, log: DeltaLog) -> None:
    for number in range(30):
        put(log, f"k{number}", x=number)
    log.set_checkpoint("lance", {"position": 3})
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    log.snapshot(str(tmp_path / "one" / "log.db"))
    put(log, "later", x=1)
    log.snapshot(str(tmp_path / "two" / "log.db"))
    first, second = reopen(tmp_path / "one"), reopen(tmp_path / "two")
    assert len({log.replica, first.replica, second.replica}) >= 2
    assert first.replica != log.replica
    assert second.digest() == log.digest() != first.digest()
    assert first.checkpoint("lance") is None, "the projections are not in the copy"
    assert first.verify() == second.verify() == []
    first.close()
    replica = second.replica
    second.close()
    second = reopen(tmp_path / "two")
    assert second.replica == replica, "once"
    second.close()


def test_a_snapshot_overwrites_nothing(tmp_path: Path, log: DeltaLog) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(InvalidValue):
        log.snapshot(str(tmp_path / "there"))
    with pytest.raises(StorageError):
        log.snapshot(str(tmp_path / "no" / "such" / "directory"))
    assert (tmp_path / "there").read_text() == "precious"


def test_verify_finds_damage(tmp_path: Path, log: DeltaLog) -> None:
    for number in range(5):
        put(log, f"k{number}", x=number)
    log.fold()
    log.close()
    db = apsw.Connection(str(tmp_path / "log.db"))
    db.execute("UPDATE records SET image = X'93' WHERE key = 'notes'")
    db.execute("UPDATE records SET living = 0 WHERE key = 'k1'")
    db.execute("UPDATE records SET image = X'9301c4008200a16101' WHERE key = 'k2'")
    db.execute("DELETE FROM operations WHERE seq = 4")
    db.execute("UPDATE operations SET fields = X'c1' WHERE seq = 1")
    db.close()
    damaged = reopen(tmp_path)
    said = "\n".join(damaged.verify())
    for what in ("schema of 'notes'", "record 'k1'", "record 'k2'", "operation 4 is missing", "operation 1:"):
        assert what in said
    with pytest.raises(CorruptStore):
        damaged.changes(3, 10)
    with pytest.raises(CorruptStore):
        damaged.pending(0, 10, 1 << 20)
    damaged.close()


def test_a_strange_file_is_not_a_store(tmp_path: Path) -> None:
    for name, content in (("text", b"this is not a database, " * 50), ("empty-db", None)):
        folder = tmp_path / name
        folder.mkdir()
        if content is None:
            apsw.Connection(str(folder / "log.db")).execute("CREATE TABLE other (x)").fetchall()
        else:
            (folder / "log.db").write_bytes(content)
        with pytest.raises(CorruptStore):
            reopen(folder)


def test_another_devices_log_is_refused(tmp_path: Path, log: DeltaLog) -> None:
    log.close()
    with pytest.raises(CorruptStore, match="belongs to device"):
        DeltaLog.open(str(tmp_path / "log.db"), clock=TickingClock(), random=SeededRandom(), device=b"someone-else")


def test_a_closed_log_says_so(log: DeltaLog) -> None:
    put(log, "a", x=1)
    log.fold()
    log.close()
    log.close()
    with pytest.raises(StorageError, match="closed"):
        put(log, "a", x=1)
    with pytest.raises(StorageError, match="closed"):
        log.image("plain", "a")


def test_listeners_hear_of_every_commit(log: DeltaLog) -> None:
    heard: list[int] = []
    log.listeners.append(lambda: heard.append(log.position))
    put(log, "a", x=1)
    log.apply([remote(1, "b", 5, x=1)])
    log.submit([Write(Kind.DELETE, "plain", "a")])
    assert heard == [3, 4, 5]
