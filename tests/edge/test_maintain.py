"""Space comes back: when it is asked for, and by itself where a store is only written to."""

from __future__ import annotations

import json
from pathlib import Path
from time import sleep

import pytest
from click.testing import CliRunner

from edge import Edge, EdgeConfig, ReadOnly
from edge.cli import main
from edge.storage import in_time


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def overwrite(edge: Edge, rounds: int = 30) -> None:
    notes = edge.collection("notes", text=["body"])
    for number in range(rounds):
        with edge.batch():
            for key in range(300):
                notes.put(str(key), {"body": f"{number} " + "word " * 60})


def test_it_is_done_when_it_is_asked_for(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        overwrite(edge)
        assert edge.collection("notes").search(text="word", k=3)
        before, digest = size(tmp_path / "s"), edge.digest()
        edge.maintain()
        assert size(tmp_path / "s") < before / 3
        assert edge.digest() == digest
        assert edge.verify() == []
        edge.maintain()
        with Edge.open(tmp_path / "s", read_only=True) as reader, pytest.raises(ReadOnly):
            reader.maintain()


def test_from_the_command_line(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "s") as edge:
        overwrite(edge)
    result = CliRunner().invoke(main, ["maintain", str(tmp_path / "s"), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["bytes_after"] < said["bytes_before"] / 3
    assert "bytes after" not in result.stdout
    assert " after" in CliRunner().invoke(main, ["maintain", str(tmp_path / "s")]).stdout
    assert CliRunner().invoke(main, ["maintain", str(tmp_path / "none")]).exit_code == 2


def test_who_only_writes_is_cared_for_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "WRITES", 5_000)
    with Edge.open(tmp_path / "s", config=EdgeConfig(flush_interval_ms=100)) as edge:
        notes = edge.collection("notes")
        notes.put("a", {"n": 0})
        assert not edge.projections.status()["running"]
        overwrite(edge, 25)
        for _ in range(400):
            if size(tmp_path / "s") < 1_500_000:
                break
            sleep(0.05)
        assert edge.projections.status()["running"]
        assert size(tmp_path / "s") < 1_500_000, "25 times 300 records of 300 bytes"
        assert edge.collection("notes").count() == 301
