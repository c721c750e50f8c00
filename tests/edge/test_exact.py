"""ExactIndex: files, folding, damage and what it costs. That it finds the right records is the contract suite's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from edge.storage.delta_log import DeltaLog
from edge.storage.exact import ExactIndex
from edge.storage.exact_file import BLOCK_ROWS
from edge.storage.overlay import LogTrimmed, changes_after
from edge.storage.search import Scored
from edge.storage.vectors import Query, row_of
from sync.errors import DiskFull, SchemaMismatch, StorageError
from sync.images import image_values
from sync.schema import declare, pack_vector
from tests.edge.stores import delete, open_log, put

SCHEMA = declare("mem", fields={"n": "int"}, vector=("v", 8))
QUERY = pack_vector([1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3], 8)


def _vector(random: Random) -> list[float]:
    return [random.gauss(0, 1) for _ in range(8)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeltaLog]:
    held = open_log(tmp_path, SCHEMA, declare("plain"))
    random = Random(1)
    put(held, "mem", {f"k{n:05}": {"n": n, "v": _vector(random)} for n in range(1500)})
    yield held
    held.close()


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "exact" / "mem").iterdir())


def _matrix(folder: Path) -> Path:
    (found,) = (folder / "exact" / "mem").glob("rows-*.f32")
    return found


def _answers(log: DeltaLog, folder: Path) -> list[Scored]:
    """What a fresh index, built from the images, answers."""
    folder.mkdir(exist_ok=True)
    notes = {name: log.checkpoint(name) for name in ("exact:mem",)}
    log.meta_set("checkpoint.exact:mem", None)
    answer = ExactIndex(folder, log, SCHEMA).search(QUERY, 50)
    for name, note in notes.items():
        log.meta_set("checkpoint." + name, note)
    return answer


def _answers_without_files(log: DeltaLog) -> list[Scored]:
    """The same by brute force."""
    spec = SCHEMA.vector
    assert spec is not None
    query = Query(spec, QUERY)
    scored = []
    for key, image in log.scan("mem", limit=100_000):
        row = row_of(spec, (image_values(image) or {}).get("v"))
        if row is not None:
            scored.append(Scored(key, float(query.exact(row.reshape(1, -1))[0])))
    return sorted(scored, key=lambda hit: (-hit.score, hit.key))[:50]


def test_a_collection_without_vectors_has_no_index(tmp_path: Path, log: DeltaLog) -> None:
    with pytest.raises(SchemaMismatch):
        ExactIndex(tmp_path, log, log.schemas["plain"])


def test_it_is_built_once_and_then_read(tmp_path: Path, log: DeltaLog) -> None:
    first = ExactIndex(tmp_path, log, SCHEMA)
    answer = first.search(QUERY, 50)
    assert len(first) == 1500
    assert len(_files(tmp_path)) == 2
    before = {path: path.stat().st_mtime_ns for path in _files(tmp_path)}
    first.close()
    again = ExactIndex(tmp_path, log, SCHEMA)
    assert again.search(QUERY, 50) == answer
    assert {path: path.stat().st_mtime_ns for path in _files(tmp_path)} == before
    assert again.rebuilds == []
    assert again.verify() == []


def test_a_search_costs_only_what_is_new(tmp_path: Path, log: DeltaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    read: list[int] = []
    images = log.images

    def counted(name: str, keys: list[str]) -> dict[str, bytes]:
        read.append(len(keys))
        return images(name, keys)

    monkeypatch.setattr(log, "images", counted)
    random = Random(2)
    for n in range(5):
        put(log, "mem", {f"new{n}": {"v": _vector(random)}, "k00001": {"v": _vector(random)}})
        put(log, "plain", {f"p{n}": {"x": 1}})
        index.search(QUERY, 5)
    assert read == [2] * 5


def test_much_that_is_new_is_folded_into_the_file(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    name, size = _matrix(tmp_path).name, _matrix(tmp_path).stat().st_size
    random = Random(3)
    put(log, "mem", {f"new{n:05}": {"v": _vector(random)} for n in range(1100)})
    delete(log, "mem", "k00007")
    assert index.position < log.position
    index.refresh()
    assert index.position == log.position
    assert _matrix(tmp_path).name == name
    assert _matrix(tmp_path).stat().st_size == size + 1100 * 32
    assert len(index) == 2599
    assert index.search(QUERY, 50) == _answers(log, tmp_path / "other")
    assert index.verify() == []


def test_rows_that_are_no_longer_found_are_dropped_in_the_end(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    random = Random(4)
    for _ in range(4):
        put(log, "mem", {f"k{n:05}": {"v": _vector(random)} for n in range(1500)})
        index.refresh()
    index.fold()
    assert _matrix(tmp_path).stat().st_size <= 1.5 * 1500 * 32
    assert index.rebuilds == []
    assert index.search(QUERY, 50) == _answers(log, tmp_path / "other")


def test_an_append_that_was_never_noted_is_cut_off(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    answer = index.search(QUERY, 50)
    index.close()
    with _matrix(tmp_path).open("ab") as file:
        file.write(b"\x7f" * 1000)
    (tmp_path / "exact" / "mem" / "keys-00000000ffffffff.idx").write_bytes(b"left behind")
    again = ExactIndex(tmp_path, log, SCHEMA)
    assert again.search(QUERY, 50) == answer
    assert again.rebuilds == []
    assert _matrix(tmp_path).stat().st_size == 1500 * 32
    assert len(_files(tmp_path)) == 2


def test_a_crash_between_the_files_and_the_note_returns_to_the_former_state(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    kept = {path.name: path.read_bytes() for path in _files(tmp_path)}
    note = log.checkpoint("exact:mem")
    assert note is not None
    put(log, "mem", {"new": {"v": [1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3]}})
    index.fold()
    for name, content in kept.items():  # the old index file had not been removed yet
        if name.endswith(".idx"):
            (tmp_path / "exact" / "mem" / name).write_bytes(content)
    log.set_checkpoint("exact:mem", note)
    again = ExactIndex(tmp_path, log, SCHEMA)
    assert again.search(QUERY, 1)[0].key == "new"
    assert again.rebuilds == []
    assert again.verify() == []


@pytest.mark.parametrize("which", ["rows", "keys"])
@pytest.mark.parametrize("harm", ["deleted", "truncated", "zeroed", "flipped"])
def test_damage_is_found_at_open_and_healed(tmp_path: Path, log: DeltaLog, which: str, harm: str) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    answer = index.search(QUERY, 50)
    index.close()
    (path,) = (tmp_path / "exact" / "mem").glob(f"{which}-*")
    content = bytearray(path.read_bytes())
    if harm == "deleted":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "zeroed":
        path.write_bytes(bytes(len(content)))
    else:
        content[len(content) // 3] ^= 4
        path.write_bytes(content)
    again = ExactIndex(tmp_path, log, SCHEMA)
    assert again.search(QUERY, 50) == answer
    assert len(again.rebuilds) == 1
    assert again.verify() == []


def test_damage_under_an_open_index_is_found_by_verify(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    answer = index.search(QUERY, 50)
    with _matrix(tmp_path).open("r+b") as file:
        file.seek(BLOCK_ROWS * 32 + 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x40]))
    problems = index.verify()
    assert len(problems) == 1
    assert f"row {BLOCK_ROWS}" in problems[0]
    assert index.search(QUERY, 50) == answer
    assert index.verify() == []


def test_every_flipped_bit_is_found(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    index.close()
    random = Random(5)
    path = _matrix(tmp_path)
    content = path.read_bytes()
    for _ in range(40):
        at = random.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :])
        again = ExactIndex(tmp_path, log, SCHEMA)
        again.refresh()
        assert len(again.rebuilds) == 1
        again.close()
        path = _matrix(tmp_path)
        assert path.read_bytes() == content


def test_an_index_that_does_not_match_its_records_is_found_by_verify(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    note = log.checkpoint("exact:mem")
    assert note is not None
    put(log, "mem", {"k00000": {"v": [1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3]}})
    log.set_checkpoint("exact:mem", {**note, "position": log.position})  # as if the change had been taken in
    again = ExactIndex(tmp_path, log, SCHEMA)
    assert again.search(QUERY, 1)[0].key != "k00000"
    assert again.verify() == ["the row of 'k00000' is not its record's vector"]
    assert again.search(QUERY, 1)[0].key == "k00000"
    assert again.verify() == []


def test_a_log_that_was_trimmed_too_far_means_a_rebuild(tmp_path: Path, log: DeltaLog) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    random = Random(6)
    put(log, "mem", {f"new{n}": {"v": _vector(random)} for n in range(10)})
    log.acknowledge(log.head_seq, b"", [])
    assert log.trim(log.position) > 0
    with pytest.raises(LogTrimmed):
        changes_after(log, index.position, 100)
    assert index.search(QUERY, 50) == _answers(log, tmp_path / "other")
    assert len(index.rebuilds) == 1
    assert changes_after(log, log.position, 100) == []


@pytest.mark.parametrize("where", ["files", "note"])
def test_a_full_disk_while_folding_loses_nothing(
    tmp_path: Path, log: DeltaLog, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    before = index.position
    put(log, "mem", {"new": {"v": [1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3]}, "k00001": {"n": 1}})
    index.refresh()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device") if where == "files" else DiskFull("full")

    with monkeypatch.context() as patch:
        if where == "files":
            patch.setattr("edge.storage.exact_file.replace_file", full)
        else:
            patch.setattr(log, "set_checkpoint", full)
        with pytest.raises(DiskFull):
            index.fold()
        assert index.search(QUERY, 50) == _answers_without_files(log)
    assert index.position == before
    index.fold()
    assert index.position == log.position
    assert index.search(QUERY, 50) == _answers(log, tmp_path / "other")
    assert index.rebuilds == []
    assert index.verify() == []


def test_a_change_whose_image_cannot_be_read_yet_is_left_for_later(
    tmp_path: Path, log: DeltaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit shows in the log's table a moment before its image shows in memory and ``position`` counts it."""
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.refresh()
    before = log.position
    put(log, "mem", {"new": {"v": [1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3]}})
    put(log, "mem", {"newer": {"v": [1.0, -0.5, 0.25, 0, 0.1, 0.9, -1, 0.3]}})
    with monkeypatch.context() as patch:
        patch.setattr(log, "position", before + 1)
        assert [change[2] for change in changes_after(log, before, 100)] == ["new"]
        assert [hit.key for hit in index.search(QUERY, 1)] == ["new"]
        patch.setattr(log, "position", before)
        assert changes_after(log, before, 100) == []
    assert [hit.key for hit in index.search(QUERY, 2)] == ["new", "newer"]


def test_another_metric_is_another_file(tmp_path: Path, log: DeltaLog) -> None:
    ExactIndex(tmp_path, log, SCHEMA).refresh()
    log.declare(declare("mem", fields={"n": "int"}, vector=("v", 8, "l2")))
    index = ExactIndex(tmp_path, log, log.schemas["mem"])
    assert index.search(QUERY, 1)[0].score < 0
    assert len(index.rebuilds) == 1


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_of_numbers_next_to_nothing_none_is_missed(tmp_path: Path, metric: str) -> None:
    """Their products lose their digits in float32, or vanish."""
    schema, random = declare("mem", vector=("v", 64, metric)), Random(4)
    held = open_log(tmp_path, schema)
    for scale in (3e-23, 1e-21):
        put(held, "mem", {f"k{n}": {"v": [random.uniform(-scale, scale) for _ in range(64)]} for n in range(50)})
        assert schema.vector is not None
        query = Query(schema.vector, pack_vector([scale * random.uniform(-1, 1) for _ in range(64)], 64))
        rows = [(key, row_of(schema.vector, (image_values(image) or {})["v"])) for key, image in held.scan("mem")]
        best = sorted((-float(query.exact(row[None])[0]), key) for key, row in rows if row is not None)
        found = ExactIndex(tmp_path, held, schema).search(query.row.tobytes(), 5)
        assert [hit.key for hit in found] == [key for _, key in best[:5]]
    held.close()


def test_importing_it_imports_neither_numpy_nor_lancedb() -> None:
    code = "import sys, edge.storage.exact; print([m for m in ('numpy', 'lancedb', 'pyarrow') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_searching_it_does_not_import_lancedb(tmp_path: Path, log: DeltaLog) -> None:
    code = f"""
import sys
from pathlib import Path
from edge.storage.exact import ExactIndex
from tests.edge.stores import open_log
log = open_log(Path({str(tmp_path)!r}))
assert ExactIndex({str(tmp_path)!r}, log, log.schemas["mem"]).search({QUERY!r}, 3)
print([m for m in ("numpy", "lancedb", "pyarrow") if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "['numpy']"


@pytest.mark.parametrize("share", [1, 10, 400, 2000])
def test_what_is_said_to_pass_at_most_changes_no_answer(log: DeltaLog, tmp_path: Path, share: int) -> None:
    random = Random(2)
    index = ExactIndex(tmp_path, log, SCHEMA)
    index.search(QUERY, 1)
    put(log, "mem", {f"k{n:05}": {"n": n, "v": _vector(random)} for n in range(0, 2500, 5)})  # in memory only
    delete(log, "mem", *(f"k{n:05}" for n in range(0, 300, 7)))
    may = {f"k{n:05}" for n in range(0, 3000, share)}
    asked: list[str] = []

    def passing(keys: Sequence[str]) -> set[str]:
        asked.extend(keys)
        return {key for key in keys if int(key[1:]) % (2 * share) == 0}

    for k in (1, 7, 50):
        plain = index.search(QUERY, k, passing)
        asked.clear()
        assert index.search(QUERY, k, passing, narrowed=lambda: may) == plain
        assert len(asked) <= 1000 + k + len(may)
        for unknown in (lambda: None, _broken):
            assert index.search(QUERY, k, passing, narrowed=unknown) == plain
        least = plain[-1].score if plain else 0.0
        assert index.search(QUERY, k, passing, least, lambda: may) == plain


def test_others_search_while_one_asks_what_may_pass(log: DeltaLog, tmp_path: Path) -> None:
    random = Random(2)
    index = ExactIndex(tmp_path, log, SCHEMA)
    put(log, "mem", {f"k{n:05}": {"n": n, "v": _vector(random)} for n in range(2_000)})
    others: list[list[Scored]] = []

    def may() -> set[str]:
        other = Thread(target=lambda: others.append(index.search(QUERY, 1)), daemon=True)
        other.start()
        other.join(20)
        delete(log, "mem", "k00000")
        put(log, "mem", {"k00001": {"n": 1, "v": _vector(random)}})
        return {"k00000", "k00001", "k00002"}

    def passing(keys: Sequence[str]) -> set[str]:
        return {key for key in keys if key < "k00003"}

    found = index.search(QUERY, 3, passing, narrowed=may)
    assert len(others) == 1
    assert found == index.search(QUERY, 3, passing), "as of now"
    assert {hit.key for hit in found} == {"k00001", "k00002"}


def _broken() -> None:
    raise StorageError("the table is damaged")
