"""What a power cut or a failing disk does to a Lance table: found at open or by verify(), healed, never believed.

LanceDB alone opens a manifest of zeros as an empty table and a missing one as the version before, without an error.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edge.storage import tables_table
from edge.storage.delta_log import DeltaLog
from edge.storage.durable import list_files
from edge.storage.filters import parse
from edge.storage.tables import LanceTables
from edge.storage.tables_table import HINT
from sync.errors import AgentDBError, StorageError
from sync.images import image_values
from sync.schema import declare, pack_vector
from tests.edge.stores import delete, open_log, put

SCHEMA = declare("notes", fields={"n": "int"}, vector=("v", 8), text=["body"])
QUERY = pack_vector([1.0, -1, 0.5, 0.25, 0, 1, 1, -1], 8)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    held = open_log(tmp_path, SCHEMA)
    yield held
    held.close()


@pytest.fixture
def table(tmp_path: Path, log: DeltaLog) -> Path:
    """The folder of a table with three data files, deletions and a text index, closed."""
    random = Random(1)

    def note(n: int) -> dict[str, Any]:
        return {"n": n, "body": f"word{n % 5} word{n % 7}", "v": [random.gauss(0, 1) for _ in range(8)]}

    tables = LanceTables(tmp_path, log)
    put(log, "notes", {f"k{n:03}": note(n) for n in range(60)})
    tables.maintain(force=True)
    tables.flush()
    put(log, "notes", {f"k{n:03}": note(n) for n in range(40, 80)})
    tables.flush()
    tables.maintain(force=True)
    delete(log, "notes", "k003", "k045")
    put(log, "notes", {f"k{n:03}": note(n) for n in range(70, 100)})
    tables.flush()
    tables.close()
    return tmp_path / "lance" / "notes.lance"


def _answers(tables: LanceTables, log: DeltaLog) -> list[Any]:
    where = parse({"n": {"$gte": 50}}, SCHEMA)
    return [
        tables.search_vector("notes", QUERY, 20),
        tables.search_vector("notes", QUERY, 20, where),
        [hit.key for hit in tables.search_text("notes", "word3 word4", 100)],
        dict(tables.scan("notes", where)),
        tables.to_arrow("notes").num_rows,
    ]


def _truth(tmp_path: Path, log: DeltaLog) -> list[Any]:
    """The answers of tables that were built anew elsewhere."""
    other = tmp_path / "truth"
    other.mkdir()
    shutil.copy(tmp_path / "log.db", other)
    if (tmp_path / "log.db-wal").exists():
        shutil.copy(tmp_path / "log.db-wal", other)
    copy = open_log(other)
    tables = LanceTables(other, copy)
    answers = _answers(tables, copy)
    tables.close()
    copy.close()
    shutil.rmtree(other)
    return answers


def _newest_manifest(table: Path) -> Path:
    return min((table / "_versions").glob("*.manifest"))  # names count down


def _heals(tmp_path: Path, log: DeltaLog, *, rebuilds: int = 1) -> None:
    """Open, verify; then every answer is right, and nothing is left to complain about."""
    truth = _truth(tmp_path, log)
    tables = LanceTables(tmp_path, log)
    tables.flush()
    problems = tables.verify()
    assert len(tables.rebuilds.get("notes", [])) == rebuilds
    assert len(problems) <= rebuilds
    assert _answers(tables, log)[3:] == truth[3:]
    assert _answers(tables, log)[:2] == truth[:2]
    assert set(_answers(tables, log)[2]) == set(truth[2])
    assert tables.verify() == []
    assert dict(tables.scan("notes")) == {key: image_values(image) for key, image in log.scan("notes")}
    tables.close()


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


HARMS: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "truncated": _truncate,
    "emptied": _empty,
    "zeroed": _zero,
    "flipped": _flip,
}


def test_no_damage_no_rebuild(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    assert len(list((table / "data").iterdir())) >= 2
    assert any((table / "_deletions").iterdir())
    assert any((table / "_indices").iterdir())
    _heals(tmp_path, log, rebuilds=0)


@pytest.mark.parametrize("harm", HARMS)
def test_the_newest_manifest(tmp_path: Path, log: DeltaLog, table: Path, harm: str) -> None:
    HARMS[harm](_newest_manifest(table))
    _heals(tmp_path, log)


@pytest.mark.parametrize("folder", ["data", "_deletions", "_indices", "_transactions"])
@pytest.mark.parametrize("harm", HARMS)
def test_one_file_of_each_kind(tmp_path: Path, log: DeltaLog, table: Path, folder: str, harm: str) -> None:
    path = max((path for path in (table / folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    HARMS[harm](path)
    _heals(tmp_path, log)


@pytest.mark.parametrize("harm", HARMS)
def test_the_version_hint_does_not_matter(tmp_path: Path, log: DeltaLog, table: Path, harm: str) -> None:
    if (table / HINT).exists():
        HARMS[harm](table / HINT)
    _heals(tmp_path, log, rebuilds=0)


@pytest.mark.parametrize("content", ['{"version": 1}', '{"version": 9999}', "nonsense", ""])
def test_a_wrong_version_hint_is_not_believed(tmp_path: Path, log: DeltaLog, table: Path, content: str) -> None:
    (table / HINT).write_text(content)
    _heals(tmp_path, log, rebuilds=0)


def test_the_whole_table_is_gone(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    shutil.rmtree(table)
    _heals(tmp_path, log)


def test_a_crash_before_the_checkpoint_returns_to_it(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    """Lance has written a version that was never noted: it is removed, and the changes are taken in once more."""
    note = log.checkpoint("lance:notes")
    position = log.checkpoint("lance")
    assert note is not None
    assert position is not None
    tables = LanceTables(tmp_path, log)
    put(log, "notes", {"new": {"n": 500, "body": "word3"}, "k050": {"n": -50}})
    tables.flush()
    newest = _newest_manifest(table)
    log.set_checkpoint("lance:notes", note)
    log.set_checkpoint("lance", position)
    again = LanceTables(tmp_path, log)
    assert dict(again.scan("notes", parse({"n": {"$gte": 500}}))) == {"new": {"body": "word3", "n": 500}}
    assert again.rebuilds == {}
    assert newest.exists()  # the same version number, written again
    _heals(tmp_path, log, rebuilds=0)


def test_a_torn_version_that_was_never_noted_is_removed(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    following = int(_newest_manifest(table).stem) - 1
    (table / "_versions" / f"{following:020}.manifest").write_bytes(bytes(600))
    (table / "data" / "half-written.lance").write_bytes(b"LANC")
    tables = LanceTables(tmp_path, log)
    tables.flush()
    put(log, "notes", {"new": {"n": 1}})
    tables.flush()
    assert "data/half-written.lance" not in list_files(table)
    tables.close()
    _heals(tmp_path, log, rebuilds=0)


def test_a_crash_while_old_versions_are_removed(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    note = log.checkpoint("lance:notes")
    assert note is not None
    old = sorted((table / "_versions").glob("*.manifest"))[1:]
    assert old
    old[0].unlink()
    log.set_checkpoint("lance:notes", {**note, "settling": True})
    _heals(tmp_path, log, rebuilds=0)
    after = log.checkpoint("lance:notes")
    assert after is not None
    assert after["settling"] is False


def test_damage_while_old_versions_are_removed(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    note = log.checkpoint("lance:notes")
    assert note is not None
    max((table / "data").iterdir(), key=lambda path: path.stat().st_size).unlink()
    log.set_checkpoint("lance:notes", {**note, "settling": True})
    _heals(tmp_path, log)


def test_a_crash_during_a_rebuild_means_another(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    log.set_checkpoint("lance:notes", {"position": 0})
    _heals(tmp_path, log)


def test_a_crash_between_two_tables_of_one_flush(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    position = log.checkpoint("lance")
    assert position is not None
    tables = LanceTables(tmp_path, log)
    put(log, "notes", {"new": {"n": 500}})
    delete(log, "notes", "k010")
    tables.flush()
    log.set_checkpoint("lance", position)  # the table is ahead of what is noted for all
    _heals(tmp_path, log, rebuilds=0)


@pytest.mark.parametrize("folder", ["data", "_versions"])
@pytest.mark.parametrize("harm", HARMS)
def test_damage_under_an_open_table(tmp_path: Path, log: DeltaLog, table: Path, folder: str, harm: str) -> None:
    truth = _truth(tmp_path, log)
    tables = LanceTables(tmp_path, log)
    tables.flush()
    path = min((table / folder).iterdir()) if folder == "_versions" else max((table / folder).iterdir())
    HARMS[harm](path)
    problems = tables.verify()
    assert len(problems) == 1
    assert path.name in problems[0]
    assert _answers(tables, log)[:2] == truth[:2]
    assert _answers(tables, log)[3:] == truth[3:]
    assert tables.verify() == []


def test_a_search_that_fails_on_a_damaged_file_heals_the_table(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    truth = _truth(tmp_path, log)
    tables = LanceTables(tmp_path, log)
    for path in (table / "data").iterdir():
        path.unlink()
    assert tables.search_vector("notes", QUERY, 20) == truth[0]


@pytest.mark.parametrize("folder", ["data", "_versions", "_indices"])
def test_a_file_that_is_lost_is_not_forgotten_by_the_next_write(
    tmp_path: Path, log: DeltaLog, table: Path, folder: str
) -> None:
    """Its checkpoint went on without it: the table seemed whole, and could not be read any more."""
    tables = LanceTables(tmp_path, log)
    assert tables.search_text("notes", "word1", 5)
    min(path for path in (table / folder).rglob("*") if path.is_file()).unlink()
    put(log, "notes", {"new": {"n": 1, "body": "new"}})
    with pytest.raises(StorageError, match=r"missing|Not found"):
        tables.flush()
    tables.maintain(force=True)
    assert len(tables.rebuilds["notes"]) == 1
    assert [hit.key for hit in tables.search_text("notes", "new", 5)] == ["new"]
    assert tables.verify() == []
    tables.close()


def test_every_flipped_bit_is_found(
    tmp_path: Path, log: DeltaLog, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the table is too large to be hashed on opening: manifests always are, the rest by verify()."""
    random = Random(2)
    truth = _truth(tmp_path, log)
    found_early = 0
    for attempt in range(60):
        monkeypatch.setattr(tables_table, "OPEN_CHECK_BYTES_MAX", (64 << 20) * (attempt % 2))
        files = [name for name, size in list_files(table).items() if size and name != HINT]
        path = table / random.choice(files)
        content = bytearray(path.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        tables = LanceTables(tmp_path, log)
        try:
            tables.flush()
            tables.search_vector("notes", QUERY, 5)  # may be wrong before verify, but must not break anything
        except AgentDBError as error:
            pytest.fail(f"{path}: {error}")
        early = bool(tables.rebuilds)  # on opening; or Lance itself could not read the page
        assert early or not (attempt % 2 == 1 or path.parent.name == "_versions"), path
        found_early += early
        problems = tables.verify()
        assert len(tables.rebuilds["notes"]) == 1, path
        assert bool(problems) is not early, path
        assert tables.search_vector("notes", QUERY, 20) == truth[0]
        assert tables.to_arrow("notes").num_rows == truth[4]
        tables.close()
    assert 30 <= found_early < 60


def test_rows_that_are_not_their_records_are_found_by_verify(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    """The files are as they were written, but not what they should be: as after a bug, or a stranger's writes."""
    truth = _truth(tmp_path, log)
    tables = LanceTables(tmp_path, log)
    tables.flush()
    handle = tables._table("notes")
    handle.handle.update(where="n = 60", values={"n": 61})
    handle.handle.delete("n = 62")
    handle._commit(handle.position)
    (problem,) = tables.verify()
    assert "2 in all" in problem
    assert _answers(tables, log)[3:] == truth[3:]
    assert tables.verify() == []


def test_the_log_went_back_in_time(tmp_path: Path, log: DeltaLog, table: Path) -> None:
    """A table that is newer than its log (a log restored from a copy, say) is not believed."""
    note = log.checkpoint("lance:notes")
    assert note is not None
    log.set_checkpoint("lance:notes", {**note, "position": log.position + 5})
    log.set_checkpoint("lance", {"position": log.position + 5})
    _heals(tmp_path, log)
