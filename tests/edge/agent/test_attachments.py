"""Attachments on one device: bodies by digest, records that never name what is not here, search over several media."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge import (
    Attachments,
    BodyNotHere,
    CallableEmbedder,
    CallableMediaEmbedder,
    CorruptStore,
    Edge,
    Erased,
    InvalidValue,
    NotFound,
    ReadOnly,
    SchemaMismatch,
    TooLarge,
)
from edge.storage import bodies as bodies_module

PNG = b"\x89PNG\r\n\x1a\n"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def photos(edge: Edge) -> Attachments:
    return edge.agent("guide").attachments("photos")


def files(edge: Edge) -> list[str]:
    root = Path(edge.path, "bodies")
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_what_is_attached_is_read(edge: Edge, photos: Attachments, tmp_path: Path) -> None:
    file = tmp_path / "pump.png"
    file.write_bytes(PNG + b"x" * 3_000_000)
    added = photos.add(file, text="the red pump", metadata={"floor": 2})
    assert (added.media_type, added.size, added.here) == ("image/png", 3_000_008, True)
    assert added.id == added.digest == sha256(file.read_bytes()).hexdigest()
    assert photos.read(added.id) == file.read_bytes()
    with photos.open(added.id) as body:
        assert body.read(8) == PNG
    assert list(photos.all()) == [photos.get(added.id)] == [added]
    assert edge.agent("guide").attachments("others").get(added.id) is None
    assert edge.agent("other").attachments("photos").get(added.id) is None
    assert (Path(edge.path) / "bodies").stat().st_mode & 0o077 == 0
    assert edge.cache.bodies.path(bytes.fromhex(added.digest)).stat().st_mode & 0o077 == 0


def test_the_same_bytes_are_one(edge: Edge, photos: Attachments) -> None:
    first = photos.add(b"sound", media_type="audio/wav")
    position = edge.log.position
    assert photos.add(b"sound", media_type="audio/wav") == first
    assert edge.log.position == position, "nothing was written"
    second = photos.add(b"sound", id="again", media_type="audio/wav")
    assert second.digest == first.digest
    assert files(edge) == [first.digest], "two attachments, one body"
    photos.delete(first.id)
    assert photos.read("again") == b"sound"
    photos.delete("again")
    assert files(edge) == []
    with pytest.raises(NotFound):
        photos.read("again")


def test_a_new_body_under_an_id_replaces_the_old(edge: Edge, photos: Attachments) -> None:
    old = photos.add(b"old", id="door")
    new = photos.add(b"new", id="door", text="open")
    assert photos.read("door") == b"new"
    assert [one.digest for one in photos.all()] == [new.digest]
    edge.cache.collect()
    assert files(edge) == [new.digest]
    assert old.digest != new.digest


def test_a_body_that_was_replaced_takes_no_space(edge: Edge, photos: Attachments) -> None:
    photos.add(b"kept", id="kept")
    photos.add(b"kept", id="latest")
    for number in range(5):
        photos.add(f"frame {number}".encode(), id="latest")
    assert edge.cache.status().bodies == (2, len(b"kept") + len(b"frame 4"))
    assert photos.read("kept") == b"kept"
    assert photos.read("latest") == b"frame 4"


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.jpg", b"anything", "image/jpeg"),
        ("a", PNG, "image/png"),
        ("a", b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        ("a", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        ("a", b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        ("a.unheard-of", b"\x00\x01", "application/octet-stream"),
        ("a", b"", "application/octet-stream"),
    ],
)
def test_the_media_type_is_seen(
    photos: Attachments, tmp_path: Path, name: str, content: bytes, media_type: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert photos.add(tmp_path / name).media_type == media_type


def test_what_cannot_be_attached_says_why(edge: Edge, photos: Attachments, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[tuple[type[Exception], Any, dict[str, Any]]] = [
        (InvalidValue, "a text", {}),
        (InvalidValue, Path(edge.path), {}),
        (NotFound, Path(edge.path, "nothing"), {}),
        (InvalidValue, b"x", {"media_type": "picture"}),
        (InvalidValue, b"x", {"media_type": "nonsense/png"}),
        (InvalidValue, b"x", {"metadata": [1]}),
        (InvalidValue, b"x", {"id": ""}),
        (TooLarge, b"x", {"id": "x" * 2000}),
        (InvalidValue, b"x", {"text": "  "}),
    ]
    for error, source, options in wrong:
        with pytest.raises(error):
            photos.add(source, **options)
    monkeypatch.setattr(bodies_module, "BODY_BYTES_MAX", 10)
    with pytest.raises(TooLarge):
        photos.add(b"x" * 11)
    with edge.batch(), pytest.raises(InvalidValue, match="batch"):
        photos.add(b"x")
    assert list(photos.all()) == []
    assert files(edge) == []


def test_a_damaged_body_is_never_returned(edge: Edge, photos: Attachments) -> None:
    added = photos.add(b"x" * 1000)
    path = edge.cache.bodies.path(bytes.fromhex(added.digest))
    for damaged in (b"y" + b"x" * 999, b"x" * 999, b"x" * 1001, b""):
        path.write_bytes(damaged)
        with pytest.raises(CorruptStore, match="other bytes"):
            photos.read(added.id)
        assert edge.verify() == [f"{path} has other bytes than were written: the disk, or something else, changed it"]
    photos.add(b"x" * 1000)
    assert photos.read(added.id) == b"x" * 1000, "attached again it is whole again"
    assert edge.verify() == []


def test_a_body_that_is_gone_says_so(edge: Edge, photos: Attachments) -> None:
    added = photos.add(b"x")
    edge.cache.bodies.path(bytes.fromhex(added.digest)).unlink()
    with pytest.raises(BodyNotHere, match="is not on this device: this device has not joined a fleet") as failure:
        photos.read(added.id)
    assert "--join" in failure.value.hint


def test_nothing_goes_that_only_this_device_has(edge: Edge, photos: Attachments) -> None:
    added = photos.add(b"x" * 1000)
    assert edge.cache.evict(0)[:2] == (0, 0)
    assert photos.read(added.id) == b"x" * 1000
    with pytest.raises(InvalidValue):
        edge.cache.evict(-1)
    for wrong in ("", "zz" * 32, added.digest[:10]):
        with pytest.raises(InvalidValue):
            edge.cache.pin(wrong)
    with pytest.raises(NotFound):
        edge.cache.pin("00" * 32)


KILLED = """
import os, signal, sys
from pathlib import Path
from edge import Edge
from edge.storage.bodies import Bodies
store, step = sys.argv[1:]
kill = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
with Edge.open(store) as edge:
    photos = edge.agent("guide").attachments("photos")
    photos.add(b"first", id="first")
    if step == "written":
        Bodies._name = kill
    elif step == "named":
        edge._shelf.submit = kill
    photos.add(b"second" * 1000, id="second")
    kill()
"""


@pytest.mark.parametrize(("step", "there", "left"), [("written", False, 1), ("named", False, 1), ("done", True, 0)])
def test_a_killed_process_leaves_no_record_without_its_body(tmp_path: Path, step: str, there: bool, left: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "s"), step],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL
    with Edge.open(tmp_path / "s") as edge:
        photos = edge.agent("guide").attachments("photos")
        kept = {"first": b"first", "second": b"second" * 1000} if there else {"first": b"first"}
        assert {one.id: photos.read(one.id) for one in photos.all()} == kept
        assert len(files(edge)) == len(kept) + left
        edge.cache.collect()
        assert len(files(edge)) == len(kept), "what the killed process left is gone"
        assert {one.id: photos.read(one.id) for one in photos.all()} == kept


def red(bodies: Sequence[bytes]) -> list[list[float]]:
    return [[body.count(b"r") + 0.1, body.count(b"b") + 0.1] for body in bodies]


def red_words(texts: Sequence[str]) -> list[list[float]]:
    return [[float("red" in text) + 0.1, float("blue" in text) + 0.1] for text in texts]


def pitch(bodies: Sequence[bytes]) -> list[list[float]]:
    return [[float(len(body)), 1.0] for body in bodies]


EMBEDDERS: dict[str, Any] = {
    "image": CallableMediaEmbedder(red, model="colours", dimensions=2, texts=red_words),
    "audio": CallableMediaEmbedder(pitch, model="pitch", dimensions=2),
    "text": CallableEmbedder(red_words, model="words", dimensions=2),
}


def test_text_image_and_audio_are_found_by_one_search(edge: Edge) -> None:
    found = edge.agent("guide").attachments("photos", embedders=EMBEDDERS)
    found.add(PNG + b"rrrr", id="red image", metadata={"floor": 1})
    found.add(PNG + b"bbbb", id="blue image", metadata={"floor": 2})
    found.add(b"ID3" + b"_" * 50, id="long sound", media_type="audio/mpeg", text="a blue whistle")
    found.add(b"ID3", id="short sound", media_type="audio/mpeg", text="a red whistle")
    other = edge.agent("guide").attachments("elsewhere", embedders=EMBEDDERS)
    other.add(PNG + b"rrrrrrrr", id="red image")

    hits = found.search("red", k=10)
    by = {hit.attachment.id: hit.by for hit in hits}
    assert (by["red image"], by["short sound"]) == (("image",), ("caption", "text"))
    assert hits[0].attachment.id == "short sound"
    ranks = {"short sound": [1, 1], "red image": [1], "blue image": [2], "long sound": [2]}
    assert {hit.attachment.id: hit.score for hit in hits} == pytest.approx(
        {name: sum(1 / (60 + rank) for rank in held) for name, held in ranks.items()}
    )
    hits = found.search("red", vectors={"audio": [0.0, 1.0]})
    assert hits[0].attachment.id == "short sound"
    assert hits[0].by == ("caption", "audio", "text")
    assert [hit.attachment.id for hit in found.search(vectors={"image": [0.0, 1.0]}, k=1)] == ["blue image"]
    assert {hit.attachment.id for hit in found.search("red", filter={"floor": 2})} == {"blue image"}
    assert {hit.attachment.id for hit in found.search("red", filter={"media_type": "audio/mpeg"})} == {
        "short sound",
        "long sound",
    }


def test_vectors_follow_what_is_replaced_and_deleted(edge: Edge) -> None:
    found = edge.agent("guide").attachments("photos", embedders=EMBEDDERS)
    found.add(PNG + b"rrrr", id="it", text="red")
    assert [hit.attachment.id for hit in found.search(vectors={"image": [1.0, 0.0]})] == ["it"]
    found.add(b"plain", id="it", text="a blue file")
    assert found.search(vectors={"image": [1.0, 0.0]}) == []
    assert found.search("blue")[0].by == ("caption", "text")
    found.add(b"plain", id="it")
    assert found.search(vectors={"text": [1.0, 0.0]}) == []
    found.add(PNG + b"rrrr", id="it", text="red")
    found.delete("it")
    assert found.search("red", vectors={"image": [1.0, 0.0]}) == []


def test_what_cannot_be_asked_says_why(edge: Edge, photos: Attachments) -> None:
    for asked in ({}, {"vectors": {"image": [1.0, 2.0]}}, {"query": "x", "k": 0}, {"query": " "}):
        with pytest.raises(InvalidValue):
            photos.search(**asked)
    with pytest.raises(InvalidValue, match="medium"):
        edge.agent("guide").attachments("photos", embedders={"picture": EMBEDDERS["image"]})
    with pytest.raises(InvalidValue, match="embed"):
        edge.agent("guide").attachments("photos", embedders={"image": red})  # type: ignore[dict-item]
    edge.agent("guide").attachments("photos", embedders=EMBEDDERS)
    another = CallableMediaEmbedder(red, model="another", dimensions=2)
    with pytest.raises(SchemaMismatch):
        edge.agent("guide").attachments("photos", embedders={"image": another})


def test_an_erased_namespace_leaves_no_byte_of_its_attachments(edge: Edge) -> None:
    canary = b"the canary sings at noon " * 100
    kept = edge.agent("guide").attachments("kept")
    kept.add(b"stays", id="it")
    gone = edge.agent("guide").attachments("photos", embedders=EMBEDDERS)
    gone.add(canary, id="it", text="a bird nobody may know", media_type="image/png")
    receipt = edge.agent("guide").erase("photos")
    assert receipt.deleted == {"agent.attachments": 1, "agent.attachments.image": 1, "agent.attachments.text": 1}
    for path in Path(edge.path).rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert [word for word in (b"canary", b"bird") if word in data] == [], path
    assert list(gone.all()) == []
    assert kept.read("it") == b"stays"
    with pytest.raises(Erased):
        gone.add(canary, id="again")
    assert len(files(edge)) == 1, "nor is the body there of what was refused"


def test_a_body_that_is_in_use_goes_when_its_reader_has_ended(edge: Edge, photos: Attachments) -> None:
    added = photos.add(b"x" * 1000)
    digest = bytes.fromhex(added.digest)
    with edge.cache.bodies.using(digest):
        photos.delete(added.id)
        assert files(edge) == [added.digest]
    assert files(edge) == []
    with edge.cache.bodies.using(digest), edge.cache.bodies.frozen():
        again = photos.add(b"x" * 1000)
    assert photos.read(again.id) == b"x" * 1000


@pytest.mark.parametrize(
    "changed",
    [
        {"digest": "../../keys/device.key"},
        {"digest": "AB" * 32},
        {"digest": "ab" * 31},
        {"digest": None},
        {"size": -1},
        {"size": 1 << 62},
        {"added_by": None},
        {"metadata": None},
    ],
)
def test_records_that_are_no_attachments_are_none(edge: Edge, photos: Attachments, changed: dict[str, Any]) -> None:
    photos.add(b"good", id="good", text="a good one")
    photos.add(b"bad", id="bad", text="a bad one")
    collection = edge.collection("agent.attachments")
    ((key, fields),) = [(key, fields) for key, fields in collection.scan() if fields["id"] == "bad"]
    fields.update(changed)
    collection.put(key, {name: value for name, value in fields.items() if value is not None})
    assert [one.id for one in photos.all()] == ["good"]
    assert photos.get("bad") is None
    with pytest.raises(NotFound):
        photos.read("bad")
    assert [hit.attachment.id for hit in photos.search("one")] == ["good"]
    assert edge.cache.status().bodies.count == 2
    assert edge.agent("guide").export(Path(edge.path).parent / "x.jsonl")["attachment"] == 1
    assert photos.add(b"bad", id="bad").here
    assert photos.read("bad") == b"bad"


def test_a_process_that_only_reads_writes_nothing(edge: Edge, photos: Attachments) -> None:
    here, gone = photos.add(b"here", text="a pump"), photos.add(b"gone")
    edge.cache.bodies.path(bytes.fromhex(gone.digest)).unlink()
    before = {path: path.stat().st_mtime_ns for path in (Path(edge.path) / "bodies").rglob("*")}
    with Edge.open(edge.path, read_only=True) as reader:
        held = reader.agent("guide").attachments("photos")
        assert {one.id: one.here for one in held.all()} == {here.id: True, gone.id: False}
        assert held.read(here.id) == b"here"
        assert [hit.attachment for hit in held.search("pump")] == [here]
        with pytest.raises(BodyNotHere, match="only reads"):
            held.read(gone.id)
        for refused in (
            lambda: held.add(b"new"),
            lambda: held.delete(here.id),
            lambda: held.pin(here.id),
            lambda: reader.cache.evict(0),
        ):
            with pytest.raises(ReadOnly):
                refused()
        assert reader.cache.status().bodies.count == 1
    assert {path: path.stat().st_mtime_ns for path in (Path(edge.path) / "bodies").rglob("*")} == before


def test_what_a_killed_process_left_goes_with_the_first_add(edge: Edge, tmp_path: Path) -> None:
    photos = edge.agent("guide").attachments("photos")
    left = tmp_path / "store" / "bodies" / "incoming" / "4711-0"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of it")
    photos.add(b"whole", id="it")
    assert not left.exists()
    assert photos.read("it") == b"whole"
