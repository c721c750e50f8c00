"""Searches after a delete was forgotten that they had not heard of: what is deleted is not found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.storage.delta_log import DeltaLog
from edge.storage.exact import ExactIndex
from edge.storage.tables import LanceTables
from sync.schema import declare, pack_vector
from tests.edge.stores import delete, open_log, put

SCHEMA = declare("mem", fields={"n": "int"}, vector=("v", 8))
QUERY = pack_vector([1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3], 8)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    held = open_log(tmp_path, SCHEMA)
    put(held, "mem", {f"k{n}": {"n": n, "v": [float(n + i) for i in range(8)]} for n in range(9)})
    held.meta_set("incarnation", b"1" * 16)
    yield held
    held.close()


def forget(log: DeltaLog, key: str) -> None:
    delete(log, "mem", key)
    assert [log.sweep(0, 5), log.sweep(5, 6)] == [0, 1]
    assert log.image("mem", key) is None


def test_the_exact_index(log: DeltaLog, tmp_path: Path) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    assert "k3" in {hit.key for hit in index.search(QUERY, 9)}
    forget(log, "k3")
    assert {hit.key for hit in index.search(QUERY, 9)} == {f"k{n}" for n in range(9)} - {"k3"}


def test_the_tables(log: DeltaLog, tmp_path: Path) -> None:
    tables = LanceTables(str(tmp_path / "tables"), log)
    tables.flush()
    forget(log, "k3")
    assert tables.to_arrow("mem").num_rows == 8
    assert tables.verify() == []
    tables.close()
