"""LanceTables: keeping up with the log, searching, changing schemas, compacting. Damage has a file of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edge.storage.delta_log import DeltaLog
from edge.storage.durable import list_files
from edge.storage.filters import parse
from edge.storage.overlay import LogTrimmed
from edge.storage.projections import Projections
from edge.storage.search import Scored, depth_for, fuse
from edge.storage.tables import OVERLAY_ROWS_MAX, LanceTables
from edge.storage.tables_search import TableSearch
from sync.errors import DiskFull, SchemaMismatch, StorageError, UnknownCollection
from sync.images import image_values
from sync.schema import declare, pack_vector
from tests.edge.stores import delete, open_log, put

SCHEMA = declare("notes", fields={"n": "int", "tags": "set"}, vector=("v", 8), text=["body", "title"])
WORDS = [f"word{n}" for n in range(50)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    held = open_log(tmp_path, SCHEMA, declare("plain"))
    yield held
    held.close()


@pytest.fixture
def tables(tmp_path: Path, log: DeltaLog) -> Iterator[LanceTables]:
    held = LanceTables(tmp_path, log)
    yield held
    held.close()


def _note(random: Random, n: int) -> dict[str, Any]:
    body = " ".join(random.choices(WORDS, k=8))
    return {"n": n, "tags": [f"t{n % 3}"], "body": body, "v": [random.gauss(0, 1) for _ in range(8)]}


def _fill(log: DeltaLog, count: int, seed: int = 1) -> None:
    random = Random(seed)
    put(log, "notes", {f"k{n:04}": _note(random, n) for n in range(count)})


def _agrees(tables: LanceTables, log: DeltaLog) -> None:
    """Every record is in the table, and nothing else."""
    expected = {key: image_values(image) for key, image in log.scan("notes", limit=100_000)}
    assert dict(tables.scan("notes")) == expected
    assert tables.to_arrow("notes")["_key"].to_pylist() == sorted(expected)
    assert tables.verify() == []


def test_it_follows_the_log(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 300)
    tables.flush()
    assert tables.position == log.position
    assert tables.flush() == 0
    random = Random(2)
    put(log, "notes", {f"k{n:04}": _note(random, n) for n in range(290, 310)})
    put(log, "notes", {"k0001": {"n": 1}})
    delete(log, "notes", "k0002", "k0003", "k0305")
    put(log, "notes", {"k0003": {"n": 33, "free": [1, b"x"]}})
    put(log, "plain", {"p": {"anything": {"at": ["all"]}}})
    assert tables.flush() == 26
    assert tables.position == log.position
    _agrees(tables, log)
    (row,) = tables.to_arrow("plain").to_pylist()
    assert row == {
        "_key": "p",
        "_position": log.position,
        "_extra": '{"anything":{"at":["all"]}}',
        "_misfit": None,
    }
    assert tables.rebuilds == {}


def test_a_new_store_and_a_later_start(tmp_path: Path, log: DeltaLog) -> None:
    _fill(log, 50)
    first = LanceTables(tmp_path, log)
    first.flush()
    before = list_files(tmp_path / "lance")
    first.close()
    put(log, "notes", {"k0001": {"n": -1}})
    second = LanceTables(tmp_path, log)
    assert second.flush() == 1
    assert second.rebuilds == {}
    assert before.keys() - list_files(tmp_path / "lance").keys() <= {"notes.lance/_versions/latest_version_hint.json"}
    _agrees(second, log)


def test_more_changes_than_one_round_takes(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 10)
    tables.flush()
    random = Random(3)
    for _ in range(3):
        put(log, "notes", {f"k{n:04}": _note(random, n) for n in range(900)})
    assert tables.flush() == 2700
    _agrees(tables, log)


def test_text_search_finds_what_was_just_written(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 200)
    tables.flush()
    put(log, "notes", {"new": {"body": "the zebra's word1", "n": 5}, "title": {"title": "zebra zebra"}})
    assert {hit.key for hit in tables.search_text("notes", "zebra", 10)} == {"new", "title"}
    put(log, "notes", {"new": {"body": "nothing of it"}})
    assert [hit.key for hit in tables.search_text("notes", "zebra", 10)] == ["title"]
    delete(log, "notes", "title")
    assert tables.search_text("notes", "zebra", 10) == []
    tables.maintain(force=True)
    put(log, "notes", {"newer": {"body": "zebra"}})
    assert [hit.key for hit in tables.search_text("notes", "ZEBRA!", 10)] == ["newer"]


def test_text_search_ranks_by_words_and_breaks_ties_by_key(tables: LanceTables, log: DeltaLog) -> None:
    put(log, "notes", {f"k{n:03}": {"body": "common filler words", "n": n} for n in range(150)})
    put(log, "notes", {"best": {"body": "common rare"}})
    tables.flush()
    hits = tables.search_text("notes", "common rare", 8)
    assert [hit.key for hit in hits] == ["best", *(f"k{n:03}" for n in range(7))]
    assert hits[0].score > hits[1].score == hits[7].score > 0
    where = parse({"n": {"$gte": 140}}, SCHEMA)
    hits = tables.search_text("notes", "common rare", 5, where)
    assert [hit.key for hit in hits] == [f"k{n}" for n in range(140, 145)]
    where = parse({"free": {"$exists": True}}, SCHEMA)
    assert tables.search_text("notes", "common", 5, where) == []


@pytest.mark.parametrize("text", ["' OR 1=1 --", '"', "a:b AND (", "*", "\0", "", "   ", "the", "\\", "日本"])
def test_words_are_words(tables: LanceTables, log: DeltaLog, text: str) -> None:
    put(log, "notes", {"a": {"body": "plain words"}})
    assert tables.search_text("notes", text, 5) == []


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_hybrid_search_fuses_both_rankings(tables: LanceTables, log: DeltaLog, tmp_path: Path, budget: int) -> None:
    """Whichever tier has the vectors."""
    _fill(log, 200)
    put(log, "notes", {"both": {"body": "zebra", "v": [9.0] * 8}, "text": {"body": "zebra crossing", "v": [-9.0] * 8}})
    query = pack_vector([1.0] * 8, 8)
    projections = Projections(log, str(tmp_path / "hybrid"), exact_bytes_max=budget, flush_interval_ms=1000)
    found = projections.search(log.schemas["notes"], "zebra", [1.0] * 8, 5, None, "hybrid")
    assert ("in the exact tier" in found.why) == bool(budget)
    assert found.hits[0].key == "both"
    assert found.hits[0].score == pytest.approx(2 / 61)
    depth = depth_for(5)
    rankings = [tables.search_vector("notes", query, depth), tables.search_text("notes", "zebra", depth)]
    assert found.hits == fuse(rankings, 5)
    few = projections.search(log.schemas["notes"], "word1", [1.0] * 8, 5, {"n": {"$lt": 3}}, "hybrid")
    assert {hit.key for hit in few.hits} == {"k0000", "k0001", "k0002"}
    projections.close()


def test_fusion_is_by_rank_then_key() -> None:
    one = [Scored("a", 9), Scored("b", 8), Scored("c", 7)]
    two = [Scored("b", 0.2), Scored("d", 0.1)]
    assert fuse([one, two], 3) == [
        Scored("b", 1 / 62 + 1 / 61),
        Scored("a", 1 / 61),
        Scored("d", 1 / 62),
    ]
    assert fuse([], 3) == []


def test_vector_search_with_much_that_is_dirty_flushes_first(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 20)
    tables.flush()
    random = Random(4)
    put(log, "notes", {f"n{n:05}": _note(random, n) for n in range(100)})
    tables.search_vector("notes", pack_vector([1.0] * 8, 8), 5)
    assert tables.position < log.position
    put(log, "notes", {f"n{n:05}": _note(random, n) for n in range(100, OVERLAY_ROWS_MAX + 1)})
    tables.search_vector("notes", pack_vector([1.0] * 8, 8), 5)
    assert tables.position == log.position


def test_what_cannot_be_asked(tables: LanceTables, log: DeltaLog) -> None:
    with pytest.raises(UnknownCollection):
        tables.search_text("nowhere", "x", 5)
    with pytest.raises(SchemaMismatch):
        tables.search_text("plain", "x", 5)
    with pytest.raises(SchemaMismatch):
        tables.search_vector("plain", b"", 5)
    with pytest.raises(UnknownCollection):
        tables.to_arrow("nowhere")


def test_fields_that_are_declared_later(tables: LanceTables, log: DeltaLog) -> None:
    put(log, "plain", {f"p{n}": {"count": n, "says": f"number {n}", "other": n} for n in range(20)})
    put(log, "plain", {"odd": {"count": "many"}})
    assert "count" not in tables.to_arrow("plain").column_names
    log.declare(declare("plain", fields={"count": "int"}, text=["says"]))
    table = tables.to_arrow("plain")
    rows = {row["_key"]: row for row in table.to_pylist()}
    assert rows["p7"]["count"] == 7
    assert rows["p7"]["_extra"] == '{"other":7}'
    assert rows["odd"]["count"] is None
    assert rows["odd"]["_misfit"] is True
    assert [hit.key for hit in tables.search_text("plain", "7", 5)] == ["p7"]
    where = parse({"count": {"$gte": 18}}, log.schemas["plain"])
    assert [key for key, _ in tables.scan("plain", where)] == ["p18", "p19"]
    assert tables.verify() == []
    assert tables.rebuilds == {}


def test_scan_is_in_order_of_key_and_limited(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 100)
    where = parse({"tags": {"$contains": "t1"}, "n": {"$gt": 50}}, SCHEMA)
    wanted = [f"k{n:04}" for n in range(51, 100) if n % 3 == 1]
    assert [key for key, _ in tables.scan("notes", where)] == wanted
    assert [key for key, _ in tables.scan("notes", where, 3)] == wanted[:3]
    assert list(tables.scan("notes", where, 0)) == []


def test_the_table_is_plain_lancedb_for_reading(tmp_path: Path, tables: LanceTables, log: DeltaLog) -> None:
    import lancedb

    _fill(log, 30)
    handle = tables.lance("notes")
    assert handle.count_rows() == 30
    with pytest.raises(Exception, match="cannot be modified"):
        handle.delete("true")
    put(log, "notes", {"new": {"n": 1}})
    assert handle.count_rows() == 30
    assert tables.lance("notes").count_rows() == 31
    stranger = lancedb.connect(tmp_path / "lance").open_table("notes")
    assert stranger.search().where("n >= 28").select(["_key"]).to_arrow()["_key"].to_pylist() == ["k0028", "k0029"]


def test_compacting_bounds_what_many_small_flushes_leave(tmp_path: Path, tables: LanceTables, log: DeltaLog) -> None:
    random = Random(5)
    sizes = []
    for step in range(120):
        put(log, "notes", {f"k{step % 40:04}": _note(random, step)})
        tables.flush()
        while tables.maintain():
            pass
        files = list_files(tmp_path / "lance" / "notes.lance")
        sizes.append((len(files), sum(files.values())))
    assert max(count for count, _ in sizes) < 200
    assert max(size for _, size in sizes[60:]) < 2 * max(size for _, size in sizes[:60])
    _agrees(tables, log)
    tables.maintain(force=True)
    files = list_files(tmp_path / "lance" / "notes.lance")
    assert sum(name.startswith("data/") for name in files) == 1
    assert sum(name.startswith("_versions/") and name.endswith(".manifest") for name in files) <= 2
    _agrees(tables, log)


def test_without_maintenance_a_flush_compacts_in_the_end(tmp_path: Path, tables: LanceTables, log: DeltaLog) -> None:
    tables.flush()
    for step in range(110):
        put(log, "notes", {f"k{step:04}": {"n": step}})
        tables.flush()
    assert len(list_files(tmp_path / "lance" / "notes.lance")) < 110
    _agrees(tables, log)


def test_a_log_that_was_trimmed_beyond_the_tables(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 20)
    tables.flush()
    _fill(log, 40, seed=2)
    log.acknowledge(log.head_seq, b"", [])
    assert log.trim(log.position) > 0
    hits = tables.search_vector("notes", pack_vector([1.0] * 8, 8), 50)
    assert len(hits) == 40
    assert "trimmed" in tables.rebuilds["notes"][0]
    put(log, "notes", {"k0001": {"n": 1}})
    _agrees(tables, log)


def test_trimming_up_to_the_position_costs_nothing(tables: LanceTables, log: DeltaLog) -> None:
    _fill(log, 20)
    tables.flush()
    log.acknowledge(log.head_seq, b"", [])
    log.trim(tables.position)
    put(log, "notes", {"k0001": {"n": 1}})
    assert tables.flush() == 1
    _agrees(tables, log)
    assert tables.rebuilds == {}
    assert not issubclass(LogTrimmed, SchemaMismatch)


@pytest.mark.parametrize("where", ["files", "note", "panic"])
def test_a_full_disk_is_said_and_survived(
    tmp_path: Path, tables: LanceTables, log: DeltaLog, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class RustPanicError(Exception):
        """As pyo3 raises them: not importable, and of no kind but Exception."""

    error: Exception = {
        "files": OSError(28, "No space left on device"),
        "note": DiskFull("full"),
        "panic": RustPanicError("rust future panicked"),
    }[where]

    def full(*_args: object, **_kwargs: object) -> None:
        raise error

    _fill(log, 20)
    tables.flush()
    put(log, "notes", {"new": {"n": 1, "body": "zebra"}})
    delete(log, "notes", "k0001")
    with monkeypatch.context() as patch:
        if where == "note":
            patch.setattr(log, "set_checkpoint", full)
        else:
            patch.setattr("edge.storage.tables_table.seal", full)
        for _ in range(2):
            with pytest.raises(StorageError if where == "panic" else DiskFull):
                tables.flush()
        assert tables.position < log.position
        with pytest.raises(StorageError):
            tables.search_text("notes", "zebra", 5)
    assert [hit.key for hit in tables.search_text("notes", "zebra", 5)] == ["new"]
    assert tables.position == log.position
    again = LanceTables(tmp_path, log)
    _agrees(again, log)
    assert tables.rebuilds == again.rebuilds == {}


def test_a_panic_in_a_search_is_a_damaged_table_or_an_error(
    tables: LanceTables, log: DeltaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(log, 20)
    tables.flush()
    real, calls = TableSearch.text, []

    def panics_once(self: TableSearch, *args: Any) -> list[Scored]:
        calls.append(1)
        if len(calls) == 1:
            (path,) = (tables._folder / "notes.lance" / "data").iterdir()
            path.write_bytes(bytes(path.stat().st_size))
            raise Exception("rust future panicked")  # noqa: TRY002 - it comes as no better class
        return real(self, *args)

    monkeypatch.setattr(TableSearch, "text", panics_once)
    assert len(tables.search_text("notes", "word1 word2 word3", 5)) == 5
    assert len(tables.rebuilds["notes"]) == 1

    def panics(self: TableSearch, *args: Any) -> list[Scored]:
        raise Exception("rust future panicked")  # noqa: TRY002

    monkeypatch.setattr(TableSearch, "text", panics)
    with pytest.raises(StorageError, match="panicked"):
        tables.search_text("notes", "word1", 5)


def test_searches_beside_writes_flushes_and_compaction(tables: LanceTables, log: DeltaLog) -> None:
    """Each search must see at least what was acknowledged before it began, whatever runs beside it."""
    _fill(log, 100)
    tables.flush()
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the main thread must hear of it
            failures.append(error)

    def keep_house() -> None:
        tables.flush()
        tables.maintain(force=True)
        stop.wait(0.05)

    def search() -> None:
        hits = tables.search_vector("notes", pack_vector([1.0] * 8, 8), 5)
        assert len(hits) == 5

    threads = [threading.Thread(target=run, args=(work,)) for work in (keep_house, search)]
    for thread in threads:
        thread.start()
    for step in range(40):
        best = [1.0 + step] * 8
        put(log, "notes", {f"best{step:03}": {"v": best, "n": step}})
        delete(log, "notes", f"k{step:04}")
        assert f"best{step:03}" in {hit.key for hit in tables.search_vector("notes", pack_vector(best, 8), 60)}
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert tables.rebuilds == {}
    _agrees(tables, log)
