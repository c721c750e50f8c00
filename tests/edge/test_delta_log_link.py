"""What the link and the projections need of the delta log; copies of it, and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge.storage import log_care, scoping
from edge.storage.delta_log import DeltaLog
from edge.storage.log_schema import connect
from edge.storage.transaction import Write
from sync.effects import Apply
from sync.errors import CorruptStore, InvalidValue, SchemaMismatch, StorageError
from sync.messages import Refusal
from sync.operations import Kind, Operation
from sync.schema import COLLECTIONS, declare
from sync.stamps import incarnation_of
from tests.edge.logs import NOTES, PLAIN, put, remote, reopen, state, values
from tests.edge.stores import SeededRandom, TickingClock


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    log = reopen(tmp_path)
    log.declare(NOTES)
    log.declare(PLAIN)
    yield log
    log.close()


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
    assert other.digest() != log.digest(), "what was counted and is not acknowledged comes with its operation"
    other.apply(log.pending(0, 100, 1 << 20))
    assert other.digest() == log.digest()
    assert other.image("plain", "k3") == log.image("plain", "k3"), "tombstones too"
    assert other.schemas == log.schemas
    other.close()


def test_no_change_is_told_before_its_image_can_be_read(log: DeltaLog) -> None:
    """A projection that reads between a commit and what follows it in memory would keep the image from before."""

    class Watching:
        def __init__(self, db: apsw.Connection | apsw.Cursor) -> None:
            self.db = db

        def execute(self, sql: str, *bindings: Any) -> Any:
            done = self.db.execute(sql, *bindings)
            if sql == "COMMIT" or sql.startswith("INSERT INTO operations SELECT"):
                known.append((len(log.changes(0, 1000)), values(log, "a")))
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(self.db, name)

    known: list[tuple[int, Any]] = []
    put(log, "a", x=0)
    told = log.position
    log.writer.db = Watching(log.writer.db)  # type: ignore[assignment]
    log.writer.cursor = Watching(log.writer.cursor)  # type: ignore[assignment]
    put(log, "new", x=1)
    log.submit([Write(Kind.PATCH, "plain", "a", {"x": 1})])
    log.declare(declare("later"))
    put(log, "first", "later", x=1)
    log.apply([remote(1, "a", log.clock.last + 5, x=2), remote(2, "b", 7, "unheard", x=2)])
    assert sorted({changes for changes, _ in known}) == [told, told + 1, told + 2, told + 3, told + 4]
    assert len(log.changes(0, 1000)) == told + 6


# -- copies and checks ------------------------------------------------------------------------------------------------


def test_who_asks_for_changes_while_the_log_is_trimmed_is_told_of_no_damage(log: DeltaLog) -> None:
    """The background work trims in its thread while a search follows the log in another."""
    for number in range(100):
        put(log, f"k{number}", x=number)
    log.acknowledge(log.head_seq, b"segment")
    one, asked = log.reader.one, list[str]()
    meanwhile: dict[int, Callable[[], object]] = {
        1: partial(log.trim, 60),
        4: partial(log.trim, 90),
        8: log.new_incarnation,
    }

    def trimmed_after(sql: str, *bindings: Any) -> Any:
        found = one(sql, *bindings)
        asked.append(sql)
        if len(asked) in meanwhile:
            meanwhile[len(asked)]()
        return found

    log.reader.one = trimmed_after  # type: ignore[method-assign]
    assert [at for at, _, _ in log.changes(90, 1000)] == [*range(91, log.position + 1)]
    assert len(asked) > 9


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
    db = connect(str(tmp_path / "log.db"))  # with the checksums that belong to it
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


def test_a_closed_log_does_not_answer_from_memory(log: DeltaLog) -> None:
    put(log, "a", x=1)  # its image is in no table yet
    log.close()
    for read in (lambda: log.image("plain", "a"), lambda: log.scan("plain"), lambda: log.images("plain", ["a"])):
        with pytest.raises(StorageError, match="closed"):
            read()


def test_every_write_says_what_its_writer_had_read(log: DeltaLog) -> None:
    head = log.head_seq
    log.apply([], cursor=7)
    for number in range(3):
        log.submit([log.put_of("plain", f"new {number}", {"x": number}, log.schemas["plain"])])
    put(log, "new 0", x=1)
    assert {operation.seen for operation in log.pending(head, 10, 1 << 20)} == {7}


def test_a_page_without_tombstones_is_not_for_a_device_that_has_written(log: DeltaLog) -> None:
    put(log, "k", x=1)
    [operation] = log.state_operations(None, 10)[-1:]
    before = (log.digest(), log.position, log.cursor)
    page = Apply([operation._replace(key="other")], None, b"token", pristine=True)
    assert log.apply(page.operations, baseline=page.baseline, within=partial(scoping.page_notes, log, page)) is None
    assert (log.digest(), log.position, log.cursor, log.baseline) == (*before, None)
