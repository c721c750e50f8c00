"""An agent's export: everything of it, nothing of another's, in JSON that anything can read."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import BodyNotHere, CorruptStore, Edge, InvalidValue, StorageError


@pytest.fixture
def edge(tmp_path: Path) -> Any:
    with Edge.open(tmp_path / "store") as edge:
        for agent in ("guide", "guide/x", "cook"):
            one = edge.agent(agent)
            for namespace in ("a", "b/c"):
                one.memory(namespace).add(f"memory of {agent} in {namespace}")
                one.documents(namespace).add(f"document of {agent} in {namespace}", id="d")
            one.vectors("faces", dimension=2).upsert("k", [1, 0.5], {"who": agent})
            one.thread("t").put(f"state of {agent}")
        yield edge


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_everything_of_one_agent_and_nothing_of_another(edge: Edge, tmp_path: Path) -> None:
    target = tmp_path / "guide.jsonl"
    assert edge.agent("guide").export(target) == {
        "memory": 2,
        "document": 2,
        "attachment": 0,
        "vector": 1,
        "state": 1,
    }
    found = read(target)
    assert [(one["store"], one.get("namespace")) for one in found] == [
        ("memory", "a"),
        ("memory", "b/c"),
        ("document", "a"),
        ("document", "b/c"),
        ("vector", None),
        ("state", None),
    ]
    assert [one["text"] for one in found[:4]] == [
        f"{what} of guide in {namespace}" for what in ("memory", "document") for namespace in ("a", "b/c")
    ]
    told = {"store": "vector", "space": "faces", "key": "k", "vector": [1.0, 0.5], "metadata": {"who": "guide"}}
    assert found[4] == told
    assert found[5]["value"] == "state of guide"
    assert "cook" not in target.read_text()
    assert "guide/x" not in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert edge.agent("guide").export(tmp_path / "ns.jsonl", namespace="b/c") == {
        "memory": 1,
        "document": 1,
        "attachment": 0,
        "vector": 0,
        "state": 0,
    }
    assert edge.agent("nobody").export(tmp_path / "none.jsonl") == {
        "memory": 0,
        "document": 0,
        "attachment": 0,
        "vector": 0,
        "state": 0,
    }


def test_what_json_has_not(edge: Edge, tmp_path: Path) -> None:
    value = {
        "b": b"\x00",
        "t": (1, 2),
        "a": np.array([[1.5, 2.5]], "f4"),
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "n": float("nan"),
        "k": {1: "one"},
        "$base64": "mine",
    }
    edge.agent("v").thread().put(value)
    edge.agent("v").export(tmp_path / "v.jsonl")
    (one,) = read(tmp_path / "v.jsonl")
    assert dict(one["value"]["$dict"]) == {
        "b": {"$base64": "AA=="},
        "t": {"$tuple": [1, 2]},
        "a": {"$array": ["<f4", [1, 2], [1.5, 2.5]]},
        "when": {"$time": "2026-01-02T00:00:00+00:00"},
        "n": {"$float": "nan"},
        "k": {"$dict": [[1, "one"]]},
        "$base64": "mine",
    }


def test_the_file_is_there_whole_or_not_at_all(edge: Edge, tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    target.write_text("mine")
    with pytest.raises(InvalidValue, match="there already"):
        edge.agent("guide").export(target)
    assert target.read_text() == "mine"
    with pytest.raises(StorageError):
        edge.agent("guide").export(tmp_path / "no" / "folder.jsonl")
    from edge.storage.transaction import Write
    from sync.operations import Kind

    (key,) = (key for key, _ in edge.agent("x")._shelf.records("_checkpoints") if "/cook/" in key)
    edge.log.submit([Write(Kind.PATCH, "_checkpoints", key, {"value": b"\x01"})])
    with pytest.raises(CorruptStore):
        edge.agent("cook").export(tmp_path / "y.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "x.jsonl"]


def test_a_file_system_without_links(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT answers link(2) with EPERM."""
    (tmp_path / "x.jsonl.part").write_text("mine")

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr("os.link", refused)
    edge.agent("guide").export(tmp_path / "x.jsonl")
    with pytest.raises(InvalidValue, match="there already"):
        edge.agent("guide").export(tmp_path / "x.jsonl")
    assert len(read(tmp_path / "x.jsonl")) == 6
    assert (tmp_path / "x.jsonl.part").read_text() == "mine"
    assert stat.S_IMODE((tmp_path / "x.jsonl").stat().st_mode) == 0o600


def test_attachments_with_their_bytes(edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = edge.agent("guide")
    guide.attachments("a").add(b"hum", id="hum", media_type="audio/wav", text="a hum", metadata={"floor": 2})
    guide.attachments("b/c").add(b"hum", id="the same", media_type="audio/wav")
    guide.attachments("b/c").add(b"", id="empty")
    edge.agent("cook").attachments("a").add(b"not his")
    target = tmp_path / "guide.jsonl"
    assert guide.export(target)["attachment"] == 3
    found = {one["id"]: one for one in read(target) if one["store"] == "attachment"}
    assert sorted(found) == ["empty", "hum", "the same"]
    assert {name: (tmp_path / one["body"]).read_bytes() for name, one in found.items()} == {
        "hum": b"hum",
        "the same": b"hum",
        "empty": b"",
    }
    assert (found["hum"]["namespace"], found["hum"]["text"], found["hum"]["metadata"]) == ("a", "a hum", {"floor": 2})
    assert len(list((tmp_path / "guide.jsonl.bodies").iterdir())) == 2
    assert stat.S_IMODE((tmp_path / "guide.jsonl.bodies").stat().st_mode) == 0o700
    monkeypatch.chdir(tmp_path)
    assert guide.export("a.jsonl", namespace="a")["attachment"] == 1
    assert [path.read_bytes() for path in (tmp_path / "a.jsonl.bodies").iterdir()] == [b"hum"]


def test_an_attachment_that_cannot_be_had_leaves_no_export(edge: Edge, tmp_path: Path) -> None:
    held = edge.agent("guide").attachments("a")
    added = held.add(b"hum")
    edge.cache.bodies.path(bytes.fromhex(added.digest)).unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BodyNotHere, match=added.digest):
        edge.agent("guide").export(tmp_path / "x.jsonl")
    assert sorted(tmp_path.iterdir()) == before
    held.add(b"hum")
    (tmp_path / "x.jsonl.bodies").mkdir()
    with pytest.raises(InvalidValue, match=r"bodies is there already"):
        edge.agent("guide").export(tmp_path / "x.jsonl")


def test_a_namespace_is_exported_with_the_space_that_is_erased_with_it(edge: Edge, tmp_path: Path) -> None:
    guide = edge.agent("guide")
    for space in ("eyes", "voices"):
        guide.vectors(space, dimension=2).upsert("ada", [1.0, 2.0], {"of": space})
    assert guide.export(tmp_path / "eyes.jsonl", namespace="eyes")["vector"] == 1
    assert '"of": "eyes"' in (tmp_path / "eyes.jsonl").read_text()
    assert sum(guide.erase("eyes").deleted.values()) == 1
    left = [space.space for space in guide.spaces()]
    assert "voices" in left
    assert "eyes" not in left


def test_what_is_attached_while_the_bytes_are_written_is_not_in_it(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = edge.agent("guide").attachments("a")
    photos.add(b"before", id="before")
    copy = shutil.copyfileobj

    def during(*given: Any) -> None:
        copy(*given)
        photos.add(b"meanwhile", id="meanwhile")

    monkeypatch.setattr(shutil, "copyfileobj", during)
    target = tmp_path / "guide.jsonl"
    assert edge.agent("guide").export(target)["attachment"] == 1
    found = [one for one in read(target) if one["store"] == "attachment"]
    assert [(one["id"], (tmp_path / one["body"]).read_bytes()) for one in found] == [("before", b"before")]
