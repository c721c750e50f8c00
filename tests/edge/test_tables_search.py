"""Searches of filtered texts, and of texts and vectors at once: the same hits by whichever way they are found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edge.storage import projections as module
from edge.storage.delta_log import DeltaLog
from edge.storage.exact import ExactIndex
from edge.storage.filters import parse
from edge.storage.projections import Projections
from edge.storage.search import Candidates, Scored
from edge.storage.tables import LanceTables
from edge.storage.tables_filters import narrowing
from edge.storage.tables_search import TEXT_FETCH_MAX, TableSearch
from edge.storage.tables_table import LanceTable
from sync.errors import StorageError
from sync.schema import declare
from tests.edge.stores import open_log, put

SCHEMA = declare("notes", fields={"n": "int", "who": "str", "end": "int"}, vector=("v", 8), text=["body"])
COUNT = 3000
WORDS = [f"word{n}" for n in range(12)]


def _fill(log: DeltaLog) -> None:
    random = Random(4)
    notes: dict[str, dict[str, Any]] = {}
    for n in range(COUNT):
        notes[f"k{random.getrandbits(40):010x}"] = {
            "n": n,
            "who": "seldom" if n % 100 == 0 else "often",
            "body": " ".join(random.choices(WORDS, k=4)),
            "v": [random.gauss(0, 1) for _ in range(8)],
            **({"end": n} if n % 3 else {}),
        }
    put(log, "notes", notes)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaLog]:
    held = open_log(tmp_path_factory.mktemp("log"), SCHEMA)
    _fill(held)
    yield held
    held.close()


@pytest.fixture(scope="module")
def tables(log: DeltaLog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanceTables]:
    held = LanceTables(tmp_path_factory.mktemp("tables"), log)
    held.flush()
    yield held
    held.close()


FILTERS: list[tuple[dict[str, Any], int]] = [  # and how many expressions Lance is given for k = 20
    ({"who": "often"}, 0),
    ({"$or": [{"end": None}, {"end": {"$gt": 100}}]}, 0),
    ({"who": "seldom"}, 1),
    ({"who": "seldom", "end": None}, 1),
    ({"who": "often", "n": {"$lt": 2000}, "end": {"$exists": False}, "$not": {"n": {"$gt": 30}}}, 2),
    ({"who": "nobody"}, 1),
    ({"unheard": "of"}, 0),
]


@pytest.mark.parametrize(("given", "narrowed"), FILTERS)
def test_a_filter_chooses_from_the_ranking_and_does_not_change_it(
    tables: LanceTables, log: DeltaLog, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], narrowed: int
) -> None:
    where = parse(given, SCHEMA)
    assert where is not None
    every = tables.search_text("notes", "word3 word7", COUNT)
    expected = [hit for hit in every if where.matches(log.values("notes", hit.key) or {})]
    pushed: list[Any] = []

    def recorded(*asked: Any) -> Iterator[Any]:
        for one in narrowing(*asked):
            pushed.append(one)
            yield one

    monkeypatch.setattr("edge.storage.tables_search.narrowing", recorded)
    for k in (1, 20, 400):
        pushed.clear()
        assert tables.search_text("notes", "word3 word7", k, where) == expected[:k]
        if k == 20:
            assert len(pushed) == narrowed


def test_more_ties_than_are_fetched_are_narrowed_to_those_that_pass(
    tables: LanceTables, log: DeltaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.storage.tables_search.TEXT_FETCH_MAX", 100)
    assert TEXT_FETCH_MAX > COUNT
    where = parse({"n": {"$gte": 50}, "who": "seldom"}, SCHEMA)
    assert where is not None
    every = [
        hit for hit in tables.search_text("notes", "word5", COUNT) if where.matches(log.values("notes", hit.key) or {})
    ]
    assert tables.search_text("notes", "word5", 3, where) == every[:3]


@pytest.mark.parametrize("where", [None, {"who": "seldom"}, {"end": None, "n": {"$lt": 2500}}])
def test_hybrid_search_in_two_threads_finds_what_one_finds(
    log: DeltaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any] | None
) -> None:
    projections = Projections(log, str(tmp_path), exact_bytes_max=1 << 20, flush_interval_ms=1000)
    answers, names = [], set()
    real = ExactIndex.search

    def named(self: ExactIndex, *given: Any) -> Any:
        names.add(threading.current_thread().name)
        return real(self, *given)

    monkeypatch.setattr(ExactIndex, "search", named)
    for least in (1 << 30, 0):
        monkeypatch.setattr(module, "_ASIDE_BYTES_MIN", least)
        answers.append(projections.search(SCHEMA, "word3 word7", [1.0] * 8, 25, where, "hybrid"))
    projections.close()
    assert answers[0] == answers[1]
    assert len(answers[0].hits) == 25
    assert answers[0].fields.keys() == {hit.key for hit in answers[0].hits}
    assert names == {"MainThread", "agentdb-search"}


@pytest.mark.parametrize("broken", [ExactIndex, TableSearch])
def test_what_fails_in_one_of_two_threads_is_raised_and_no_thread_stays(
    log: DeltaLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: type
) -> None:
    def fails(*_: Any) -> Any:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(module, "_ASIDE_BYTES_MIN", 0)
    monkeypatch.setattr(broken, "search" if broken is ExactIndex else "text", fails)
    projections = Projections(log, str(tmp_path), exact_bytes_max=1 << 20, flush_interval_ms=1000)
    with pytest.raises(StorageError, match="the disk is gone"):
        projections.search(SCHEMA, "word3", [1.0] * 8, 5, None, "hybrid")
    projections.close()
    assert "agentdb-search" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("when", ["before its files are read", "while they are read"])
def test_a_search_while_another_thread_writes_the_table_anew(tmp_path: Path, when: str) -> None:
    """Its files go under the search, which then finds less, or nothing is open: nobody is to hear of either."""
    log = open_log(tmp_path, SCHEMA)
    put(log, "notes", {"k": {"body": "pump"}})
    tables = LanceTables(tmp_path, log)
    tables.flush()
    asked: list[int] = []

    def work(table: LanceTable) -> list[Scored]:
        asked.append(1)
        if len(asked) == 1 and when == "while they are read":
            other = threading.Thread(target=tables.rebuild, args=("notes",))
            other.start()
            other.join()
            return []
        if len(asked) == 1:
            table.reset()  # as a rebuild begins
        return TableSearch(Candidates(log, "notes", None), SCHEMA, table.columns, table.handle).text("pump", 5)

    assert [hit.key for hit in tables._serve("notes", work)] == ["k"]
    assert len(asked) == 2
    assert tables.rebuilds == {}
    tables.close()
    log.close()
