"""Space that is given back: of dropped rows, of the write-ahead log, also in a store of the first builds."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import apsw
import pytest

from edge import Edge, EdgeConfig
from edge.storage import log_void, page_checksums
from edge.storage.delta_log import DeltaLog
from edge.storage.log_vacuum import STEP_PAGES, STEPS_MAX
from edge.storage.projections import Projections
from edge.storage.transaction import Write
from sync.operations import Kind
from sync.schema import declare
from tests.edge.stores import open_log, put

NOTES = declare("notes")
SIZE = 2_000


def fill(log: DeltaLog, records: int, rounds: int) -> None:
    for number in range(rounds):
        put(log, "notes", {f"{key:04}": {"body": os.urandom(SIZE), "round": number} for key in range(records)})


def drop(log: DeltaLog) -> None:
    log.acknowledge(log.head_seq, b"s" * 32)
    log.trim(log.position)


def database(log: DeltaLog) -> int:
    """Its size, with everything brought in from the write-ahead log."""
    log.writer.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return Path(log.path).stat().st_size


def test_free_pages_are_given_back_and_nothing_else(tmp_path: Path) -> None:
    log = open_log(tmp_path, NOTES)
    fill(log, 200, 20)
    drop(log)
    full, digest = database(log), log.digest()
    assert full > 20 * 200 * SIZE
    assert log.reclaim() > 0
    assert database(log) < 2.5 * 200 * SIZE
    assert log.reclaim() == 0, "what is left is kept for what comes"
    assert log.digest() == digest
    assert log.verify() == []
    put(log, "notes", {"new": {"body": b"x"}})
    log.close()
    again = open_log(tmp_path)
    assert again.values("notes", "new") == {"body": b"x"}
    again.close()


def test_little_is_not_worth_it(tmp_path: Path) -> None:
    log = open_log(tmp_path, NOTES)
    fill(log, 50, 4)
    drop(log)
    full = database(log)
    assert log.reclaim() == 0
    assert database(log) == full
    log.close()


def test_a_call_is_bounded_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.storage.log_vacuum.STEPS_MAX", 2)
    monkeypatch.setattr("edge.storage.log_vacuum.STEP_PAGES", 100)
    assert STEP_PAGES * STEPS_MAX >= 16_384
    log = open_log(tmp_path, NOTES)
    fill(log, 200, 20)
    drop(log)
    assert log.reclaim() == 200
    given = 200
    while more := log.reclaim():
        given += more
    assert given > 1_000
    assert log.verify() == []
    log.close()


def test_a_store_of_the_first_builds_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = page_checksums.reserve

    def as_it_was(db: apsw.Connection) -> None:
        reserve(db)
        db.execute("CREATE TABLE first (page)")  # from here on the mode cannot change without a VACUUM
        db.execute("DROP TABLE first")

    monkeypatch.setattr(page_checksums, "reserve", as_it_was)
    log = open_log(tmp_path, NOTES)
    assert log.writer.db.execute("PRAGMA auto_vacuum").get == 0
    fill(log, 200, 20)
    drop(log)
    digest = log.digest()
    assert log.reclaim() > 0
    assert database(log) < 2.5 * 200 * SIZE
    assert log.writer.db.execute("PRAGMA auto_vacuum").get == 2
    assert page_checksums.has_checksums(log.writer.db)
    assert log.digest() == digest
    assert log.verify() == []
    log.close()


def test_the_write_ahead_log_is_cut_when_idle_and_nobody_reads(tmp_path: Path) -> None:
    log = open_log(tmp_path, NOTES)
    fill(log, 500, 2)
    wal = Path(log.path + "-wal")
    assert wal.stat().st_size > 1 << 20
    log.reclaim(idle=False)
    assert wal.stat().st_size > 1 << 20
    other = apsw.Connection(log.path, vfs=page_checksums.checksum_vfs())
    other.execute("BEGIN; SELECT count(*) FROM records").fetchall()
    put(log, "notes", {"after": {"body": b"x"}})
    log.reclaim(idle=True)
    assert wal.stat().st_size > 1 << 20, "it waits for nobody"
    other.close(True)
    log.reclaim(idle=True)
    assert wal.stat().st_size == 0
    assert log.writer.db.execute("PRAGMA busy_timeout").get == 2_000
    assert log.verify() == []
    log.close()


def test_a_matrix_that_nobody_searches_does_not_hold_the_log(tmp_path: Path) -> None:
    """Found by simulations.growth: what a vector search had made once pinned every later operation."""
    log = open_log(tmp_path, declare("memories", vector=("v", 4)))
    put(log, "memories", {"first": {"v": [1.0, 0.0, 0.0, 0.0]}})
    projections = Projections(log, str(tmp_path), exact_bytes_max=1 << 30, flush_interval_ms=3_600_000)
    schema = log.schemas["memories"]
    projections.search(schema, None, [1.0, 0.0, 0.0, 0.0], 1, None, "vector")
    before = projections.position()
    for number in range(3_000):
        put(log, "memories", {f"{number % 10}": {"v": [1.0, number, 0.0, 0.0]}})
    log.acknowledge(log.head_seq, b"s" * 32)
    projections.tidy()
    projections.tidy()  # nothing was written in between: idle
    assert projections.position() > before + 2_900
    assert log.pending(log.head_seq - 2_000, 1, 1 << 20)[:1] == []
    projections.close()
    log.close()


def test_who_goes_on_writing_does_not_keep_care_from_its_end(tmp_path: Path) -> None:
    """Found by simulations.growth: a flush that ran after the newest write never came to trim the log."""
    with Edge.open(tmp_path / "store", config=EdgeConfig(flush_interval_ms=3_600_000, durability="relaxed")) as edge:
        notes = edge.collection("notes", text=["body"])
        notes.put("k", {"body": "x"})
        tables = edge.projections.tables()
        tables.flush()
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                notes.put(f"{number % 500}", {"body": f"again {number}"})
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        done = threading.Thread(target=tables.flush)
        try:
            done.start()
            done.join(20)
            assert not done.is_alive()
        finally:
            stop.set()
            writer.join()
        done.join()


def test_a_log_without_a_link_keeps_what_counts_of_what_was_overwritten(tmp_path: Path) -> None:
    log = open_log(tmp_path, NOTES)
    fill(log, 100, 60)
    log.submit([Write(Kind.DELETE, "notes", "0007")])
    kept = log.pending(5_900, 10_000, 1 << 30)
    digest, head = log.digest(), log.head_seq
    assert log.void() == 5_900 + 1, "all rounds but the last, and of the deleted record that, too"
    assert log.void() == 0
    assert log.verify() == []
    assert (log.digest(), log.head_seq) == (digest, head)
    every = log.pending(0, 10_000, 1 << 30)
    assert [one.seq for one in every] == list(range(1, head + 1)), "dense"
    assert [one for one in every if one.shape.names and one.shape.collection == "notes"] == [
        one for one in kept if one.shape.names and one.key != "0007" and one.seq > head - 101
    ]
    assert every[0].fields["spec"], "declarations stay"
    while log.reclaim(idle=True):
        pass
    assert database(log) < 10 * 100 * SIZE < 60 * 100 * SIZE / 5
    log.close()
    again = open_log(tmp_path)
    assert again.digest() == digest
    again.close()


def test_what_is_on_its_way_and_what_merges_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_void, "LEAST", 1)
    log = open_log(tmp_path, declare("notes", fields={"n": "counter"}))
    schema = log.schemas["notes"]
    put(log, "notes", {"k": {"a": 1}})
    put(log, "notes", {"k": {"a": 2}})
    sent = log.head_seq
    log.meta_set("sent", [(sent, b"s" * 32)])
    put(log, "notes", {"k": {"a": 3, "b": 1}})
    log.submit([Write(Kind.PATCH, "notes", "k", {"a": 4}, False, schema)])
    log.submit([Write(Kind.INCREMENT, "notes", "k", {"n": 2}, True)])
    log.submit([Write(Kind.INCREMENT, "notes", "k", {"n": 2}, True)])
    assert log.void() == 0, "b is nobody else's, and counters add up"
    put(log, "notes", {"k": {"a": 5, "b": 2}})
    before = log.digest()
    log.meta_set(log_void.NOTE, (0, 0))  # it waits until as much was written as it left
    assert log.void() == 2
    assert [len(one.shape.names) for one in log.pending(sent - 2, 10, 1 << 20)] == [1, 1, 0, 0, 1, 1, 2]
    assert log.digest() == before
    log.close()
