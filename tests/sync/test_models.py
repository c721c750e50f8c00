"""A model's manifest: one closed schema, and nothing in it that could lead a device out of a slot's folder."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from sync.chunks import Chunk, ChunkList, file_digest
from sync.errors import DataError, InvalidValue, Malformed, TooLarge, UnsupportedVersion
from sync.models import (
    MANIFEST_BYTES_MAX,
    Errors,
    FileRef,
    Golden,
    Latency,
    ListRef,
    Loads,
    Manifest,
    Memory,
    Needs,
    PackRef,
    Soak,
    check_paths,
)
from sync.targets import NUMBER_MAX, parse_path

CHUNKS = ChunkList((Chunk(b"a" * 32, 5, 0, 0), Chunk(b"b" * 32, 7, 1, 0), Chunk(b"a" * 32, 5, 0, 0)))
LIST = CHUNKS.encode()


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "schema": 1,
        "name": "embed",
        "number": 13,
        "version": "1.3.0",
        "size": 17,
        "chunks": ListRef(sha256(LIST).hexdigest(), 3),
        "packs": [PackRef("0" * 64, 1), PackRef("1" * 64, 2)],
        "files": [
            FileRef("model.safetensors", 12, (0, 2), file_digest(CHUNKS.chunks[:2]).hex()),
            FileRef("empty", 0, (2, 2), file_digest(()).hex()),
            FileRef("vocabulary/words.txt", 5, (2, 3), file_digest(CHUNKS.chunks[2:]).hex()),
        ],
        "lineage": {"parent": "embed 12", "data": "s3://corpus"},
        "metrics": {"recall": 0.93, "steps": 12},
        "needs": Needs("embed", 100, 200, "gpu = true"),
        "probes": [Loads(1000), Golden({"text": ["ü", None]}, [0.25, 1]), Latency(40.5), Memory(1 << 30), Errors(0.02)],
        "soak": Soak(3600, 100),
    }
    return Manifest(**{**fields, **changes})


def document(**changes: Any) -> bytes:
    plain = msgspec.to_builtins(manifest())
    return rfc8785.dumps({**plain, **changes})


def test_a_manifest_comes_back() -> None:
    made = manifest()
    assert Manifest.parse(made.encode()) == made
    assert made.path == "models/embed/13.json"
    assert made.disk_bytes == 100
    assert manifest(needs=Needs()).disk_bytes == 17
    assert made.chunk_list(LIST) == CHUNKS


def test_large_numbers_come_back_or_are_refused_by_who_writes_them() -> None:
    made = manifest(metrics={"flops": 3.1e17, "steps": 2**53 - 1}, probes=[Golden(None, [1e20])])
    assert Manifest.parse(made.encode()) == made
    assert Manifest.parse(made.encode()).encode() == made.encode()
    for value in (2**53, float("nan")):
        with pytest.raises(InvalidValue, match="no canonical form"):
            manifest(metrics={"flops": value}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"needs": {"runner": "x", "more": 1}},
        {"name": "../x"},
        {"name": "Embed"},
        {"name": "embed\n"},
        {"name": ".embed"},
        {"number": 0},
        {"number": 1.5},
        {"version": ""},
        {"bytes": 18},
        {"bytes": -17},
        {"files": []},
        {"packs": [{"id": "0" * 63, "epoch": 1}]},
        {"packs": [{"id": "0" * 64, "epoch": 0}]},
        {"chunks": {"sha256": "0" * 64, "count": 4}},
        {"probes": [{"kind": "golden", "input": 1}]},
        {"probes": [{"kind": "runs", "code": "1"}]},
        {"probes": [{"within_ms": 5}]},
        {"probes": [{"kind": "loads"}] * 65},
        {"metrics": {"recall": "high"}},
        {"runs_code": 1},
    ],
)
def test_the_schema_is_closed(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        Manifest.parse(document(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"7",
        b"[]",
        b"\xff",
        b"[" * 500_000,
        b'{"a":' * 200_000,
        document()[:-1],
        document() + b"\n",
        document().replace(b'{"bytes"', b'{"bytes":17,"bytes"', 1),
        document().replace(b"0.93", b"NaN"),
        document().replace(b"0.93", b"1e999"),
        document().replace(b"0.93", b"9" * 5000),
    ],
    ids=range(12),
)
def test_what_is_not_canonical_json_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Manifest.parse(data)


def test_a_number_has_a_path_or_is_refused() -> None:
    """A target's path has nine digits."""
    largest = Manifest.parse(document(number=NUMBER_MAX))
    assert parse_path(largest.path).number == NUMBER_MAX
    with pytest.raises(Malformed, match="number"):
        Manifest.parse(document(number=NUMBER_MAX + 1))


def test_a_manifest_is_bounded_and_of_a_known_schema() -> None:
    with pytest.raises(TooLarge):
        Manifest.parse(b" " * (MANIFEST_BYTES_MAX + 1))
    with pytest.raises(TooLarge):
        manifest(probes=[Golden("x" * MANIFEST_BYTES_MAX, 1)]).encode()
    with pytest.raises(UnsupportedVersion):
        Manifest.parse(document(schema=2))


BAD_PATHS = [
    *("../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "a/", "~/../x/..", "a\\b", "..\\x", "C:\\x"),
    *("a\0b", "a\nb", "a\u202eb", "a\u200bb", "\ud800", ".agentdb-lock", "x/.agentdb", "n" * 256, "d/" * 600 + "x"),
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=repr)
def test_no_path_leads_out_of_the_folder(path: str) -> None:
    with pytest.raises(Malformed):
        check_paths([path])


@pytest.mark.parametrize(
    "paths", [["a", "a"], ["a", "A"], ["a", "a/b"], ["a/b", "A"], ["ä", "a\u0308"], ["ﬁ/x", "FI/X"], ["a", "b", "a/c"]]
)
def test_no_two_files_are_in_each_other_s_way(paths: list[str]) -> None:
    with pytest.raises(Malformed):
        check_paths(paths)


def test_ordinary_paths_are_taken() -> None:
    check_paths(["a", "ab", "a.b/c", "a-b", "größe.bin", ".gitattributes", "a b", "onnx/model.onnx", "onnx.txt"])


@pytest.mark.parametrize(
    "ranges", [[(0, 2), (2, 2), (1, 3)], [(0, 1), (2, 2), (2, 3)], [(0, 2), (2, 3), (3, 3)], [(0, 2), (3, 2), (2, 3)]]
)
def test_files_follow_one_another(ranges: list[tuple[int, int]]) -> None:
    plain = msgspec.to_builtins(manifest())["files"]
    files = [{**file, "chunks": list(span)} for file, span in zip(plain, ranges, strict=True)]
    with pytest.raises(Malformed):
        Manifest.parse(document(files=files))


def test_a_chunk_list_is_the_one_that_was_named() -> None:
    made = manifest()
    other = ChunkList((CHUNKS.chunks[1], CHUNKS.chunks[0], CHUNKS.chunks[2])).encode()
    for bad in (other, LIST[:-42], LIST + LIST[:42], b""):
        with pytest.raises(DataError):
            made.chunk_list(bad)
    renamed = ListRef(sha256(other).hexdigest(), 3)
    with pytest.raises(Malformed, match=r"safetensors"):
        manifest(chunks=renamed).chunk_list(other)
    with pytest.raises(Malformed, match="pack"):
        manifest(packs=made.packs[:1]).chunk_list(LIST)


@given(st.binary(max_size=200) | st.integers(0, len(document()) - 1))
def test_nothing_but_our_errors_comes_out(change: bytes | int) -> None:
    data = document()
    bad = change if isinstance(change, bytes) else data[:change] + bytes([data[change] ^ 1]) + data[change + 1 :]
    try:
        found = Manifest.parse(bad)
    except (DataError, TooLarge):
        return
    assert found.encode() == bad
