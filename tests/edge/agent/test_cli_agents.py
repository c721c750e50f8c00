"""``agentdb-edge state`` and ``memory``: every command, for people and for machines, and what is typed wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge import Edge
from edge.cli import main


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    assert call("init", path).exit_code == 0
    return path


def call(*words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=given)


def told(*words: str, given: str | None = None) -> Any:
    result = call(*words, "--json", given=given)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def said(*words: str) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_thread_from_the_shell(store: str) -> None:
    first = told("state", "put", store, "guide", "tour", '{"step": 1}', "--expected", "")
    second = told("state", "put", store, "guide", "tour", "-", given='{"step": 2}')
    assert second["parent"] == first["id"]
    assert json.loads(said("state", "get", store, "guide", "tour")) == {"step": 2}
    assert told("state", "get", store, "guide", "tour", "--checkpoint", first["id"])["value"] == {"step": 1}
    assert [one["id"] for one in told("state", "history", store, "guide", "tour")] == [second["id"], first["id"]]
    assert first["id"] not in said("state", "history", store, "guide", "tour", "--limit", "1").split("\n")[1][:30]
    (forked,) = told("state", "fork", store, "guide", "tour", "if", "--at", first["id"])
    assert forked["metadata"]["forked"] == ["tour", first["id"]]
    listed = said("state", "list", store)
    assert [word in listed for word in ("guide", "tour", "if", "context")] == [True] * 4
    assert told("state", "snapshot", store, "monday")["threads"] == 2
    told("state", "put", store, "guide", "tour", "3")
    assert told("state", "restore", store, "monday")["threads"] == [
        ["guide", "if", "context"],
        ["guide", "tour", "context"],
    ]
    assert json.loads(said("state", "get", store, "guide", "tour")) == {"step": 2}
    assert "monday" in said("state", "snapshots", store)
    assert "2 checkpoints deleted" in said("state", "prune", store, "guide", "tour", "--keep-latest", "1")


def test_memories_from_the_shell(store: str) -> None:
    added = told("memory", "add", store, "guide", "Ada takes the stairs", "--kind", "semantic", "--importance", "0.9")
    assert "was known" in said("memory", "add", store, "guide", "Ada takes the stairs", "--kind", "semantic")
    told("memory", "add", store, "guide", "-", "--metadata", '{"from": "chat"}', given="Bob is late")
    (found,) = told("memory", "search", store, "guide", "stairs")
    assert (found["id"], found["terms"]["importance"]) == (added["id"], 0.9)
    assert "relevance" in said("memory", "search", store, "guide", "stairs", "--explain")
    new = told("memory", "supersede", store, "guide", added["id"], "Ada takes the lift")
    assert [one["id"] for one in told("memory", "history", store, "guide", new["id"])] == [added["id"], new["id"]]
    told("memory", "retract", store, "guide", new["id"])
    assert [one["text"] for one in told("memory", "list", store, "guide")] == ["Bob is late"]
    assert "Ada takes the lift" in said("memory", "list", store, "guide", "--ended")
    assert "1 memory would be archived" in said("memory", "forget", store, "guide", "--keep", "0", "--dry-run")
    (gone,) = told("memory", "forget", store, "guide", "--keep", "0")["archived"]
    assert told("memory", "list", store, "guide") == []
    assert told("memory", "restore", store, "guide", gone) == {"restored": 1}
    assert [one["text"] for one in told("memory", "list", store, "guide")] == ["Bob is late"]


def test_memories_are_corrected_and_compared_from_the_shell(store: str) -> None:
    pump = told("memory", "add", store, "guide", "the pump is loud")["id"]
    told("memory", "add", store, "guide", "the pump is loud at night", "--metadata", '{"floor": 2}')
    told("memory", "add", store, "guide", "Bob is late")
    (near,) = told("memory", "similar", store, "guide", pump)
    assert near["text"] == "the pump is loud at night"
    assert near["id"] in said("memory", "similar", store, "guide", pump, "-k", "1")
    again = ("memory", "add", store, "guide", "the pump is loud again", "--similar", "1")
    assert "the pump is loud" in said(*again)
    known = told(*again)
    assert known["merged"] is True
    assert len(known["similar"]) == 1
    told("memory", "retract", store, "guide", known["id"])
    words = ("memory", "update", store, "guide", pump)
    assert told(*words, "-", "--importance", "1", "--metadata", '{"floor": 3}', given="the pump is silent") == {
        "updated": pump
    }
    assert said(*words, "--valid-at", "1600000000000") == ""
    (found,) = told("memory", "search", store, "guide", "silent", "--mode", "text", "--where", '{"floor": 3}')
    assert (found["id"], found["importance"], found["valid_at"]) == (pump, 1.0, 1_600_000_000_000)
    assert told("memory", "touch", store, "guide", pump, near["id"]) == {"touched": [pump, near["id"]]}
    with Edge.open(store) as edge:
        counted = edge.agent("guide").memory().shelf.recalls.of([pump])[pump][0]
    assert counted == 1 + 1, "the search, and the touch"


def test_a_document_from_the_shell(store: str) -> None:
    told(
        "documents",
        "add",
        store,
        "guide",
        "-",
        "--id",
        "note",
        "--metadata",
        '{"floor": 2}',
        given="The gate is green.",
    )
    shown = told("documents", "get", store, "guide", "note")
    assert (shown["id"], shown["chunks"], shown["metadata"]) == ("note", 1, {"floor": 2})
    table = said("documents", "get", store, "guide", "note")
    assert "floor: 2" in table
    assert "text/plain" in table
    assert said("documents", "text", store, "guide", "note") == "The gate is green.\n"
    assert told("documents", "text", store, "guide", "note") == {"id": "note", "text": "The gate is green."}
    assert len(told("documents", "search", store, "guide", "gate", "--mode", "text")) == 1


def test_documents_from_the_shell(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "manuals"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden" / "no.md").write_text("never")
    Edge.open(folder / "robot").close()  # a store is no document, and its keys are none
    (folder / "pump.md").write_text("# Pump\n\nIt is loud at night.")
    (folder / "lamp.txt").write_text("The lamp is bright.")
    done = told("documents", "add", store, "guide", str(folder), "--metadata", '{"floor": 2}')
    assert [(Path(one["id"]).name, one["written"]) for one in done] == [("lamp.txt", 1), ("pump.md", 1)]
    assert "2 documents: 0 chunks written, 2 kept" in said(
        "documents", "add", store, "guide", str(folder), "--metadata", '{"floor": 2}'
    )
    told("documents", "add", store, "guide", "-", "--id", "note", given="The gate is green.")
    (found,) = told("documents", "search", store, "guide", "loud", "--where", '{"floor": 2}')
    assert (Path(found["document"]["id"]).name, found["document"]["title"]) == ("pump.md", "pump.md")
    assert "lamp.txt" in said("documents", "search", store, "guide", "bright")
    assert "1 document deleted" in said("documents", "delete", store, "guide", "note")
    (folder / "empty.md").write_text("")
    (folder / "picture.bin").write_bytes(b"\xff\x00\xff")
    result = call("documents", "add", store, "guide", str(folder), "--metadata", '{"floor": 2}')
    assert result.exit_code == 2
    assert "2 kept" in result.stdout
    assert "2 files left out" in result.stderr
    assert "empty.md" in result.stderr
    assert "picture.bin" in result.stderr
    listed = said("documents", "list", store, "guide")
    assert "lamp.txt" in listed
    assert "note" not in listed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("state", "put", "STORE", "a", "t", "{no json"), "not JSON"),
        (("state", "put", "STORE", "a", "t", "1", "--expected", "x"), "--expected ID"),
        (("state", "put", "STORE", "a", "t", "1", "--type", "mood"), "not a type of state"),
        (("state", "get", "STORE", "a", "t"), "no checkpoint yet"),
        (("state", "get", "STORE", "a", "t", "--checkpoint", "zzz"), "state history"),
        (("state", "restore", "STORE", "never"), "state snapshots"),
        (("state", "prune", "STORE", "a", "t"), "--keep-latest"),
        (("vectors", "knn", "STORE", "a", "none", "[1]"), "vectors list"),
        (("attachments", "pin", "STORE", "a", "none"), "`list`"),
        (("erasures", "STORE", "--lift", "a"), "--namespace"),
        (("memory", "add", "STORE", "a", ""), "a memory is a string"),
        (("memory", "add", "STORE", "a", "x", "--importance", "2"), "from 0 to 1"),
        (("memory", "add", "STORE", "a", "x", "--kind", "mood"), "not a kind"),
        (("memory", "history", "STORE", "a", "none"), "has no memory"),
        (("memory", "similar", "STORE", "a", "none"), "has no memory"),
        (("memory", "touch", "STORE", "a", "none"), "memory list"),
        (("memory", "update", "STORE", "a", "none", "text"), "memory list"),
        (("memory", "update", "STORE", "a", "none"), "--importance"),
        (("memory", "retract", "STORE", "a", "none", "--namespace", "my own"), "--namespace 'my own'"),
        (("memory", "search", "STORE", "a", "x", "--mode", "fuzzy"), "vector, text or hybrid"),
        (("memory", "search", "STORE", "a", "x", "--mode", "vector"), "--embedder-url"),
        (("documents", "get", "STORE", "a", "x"), "documents list"),
        (("documents", "text", "STORE", "a", "x"), "has no document"),
        (("documents", "search", "STORE", "a", "x", "--mode", "fuzzy"), "vector, text or hybrid"),
        (("documents", "add", "STORE", "a", "/nowhere/at/all"), "no file"),
        (("documents", "add", "STORE", "a", "/bin", "--id", "x"), "names one document"),
        (("documents", "delete", "STORE", "a", "x"), "has no document"),
        (("documents", "add", "STORE", "a", "/etc/hostname", "--metadata", "[1]"), "metadata is a mapping"),
        (("memory", "add", "STORE", "a", "x", "--valid-at", "1700000000000000"), "up to 9999"),
        (("memory", "search", "STORE", "a", "x", "--where", '{"a": {"$near": 1}}'), "$near"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(store: str, words: tuple[str, ...], says: str) -> None:
    result = call(*(store if word == "STORE" else word for word in words))
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_a_damaged_pdf_is_one_error_and_nothing_else(store: str, tmp_path: Path) -> None:
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.4 torn")
    words = [sys.executable, "-c", "from edge.cli import main; main()", "documents", "add", store, "a"]
    for form in ((), ("--json",)):
        done = subprocess.run([*words, str(tmp_path / "torn.pdf"), *form], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert "the PDF cannot be read" in (json.loads(line)["message"] if form else line)


def test_values_that_json_has_not(store: str) -> None:
    import numpy as np

    with Edge.open(store) as edge:
        edge.agent("a").thread("t").put({"v": np.array([1.5, 2]), "b": b"\x00", "t": (1, 2)})
    assert json.loads(said("state", "get", store, "a", "t")) == {
        "v": {"$array": ["<f8", [2], [1.5, 2.0]]},
        "b": {"$base64": "AA=="},
        "t": {"$tuple": [1, 2]},
    }


def test_erase(store: str) -> None:
    told("memory", "add", store, "a", "a secret")
    declined = call("erase", store, "a", given="n\n")
    assert declined.exit_code == 1
    assert told("memory", "list", store, "a")[0]["text"] == "a secret"
    receipt = told("erase", store, "a", "--yes")
    assert receipt["deleted"] == {"agent.memories": 1}
    refused = call("memory", "add", store, "a", "again")
    assert refused.exit_code == 2
    assert "was erased" in refused.stderr
    assert "agentdb-edge erasures" in refused.stderr
    assert [(one["erasure"], one["shut"], one["here"]) for one in told("erasures", store)] == [
        (receipt["erasure"], True, True)
    ]
    assert "shut" in said("erasures", store)
    assert told("erasures", store, "--lift", "a")[0]["shut"] is False
    told("memory", "add", store, "a", "again")
    table = said("erase", store, "a", "--namespace", "default", "--yes")
    assert "agent.memories" in table
    assert "not reached" in table
    refused = call("memory", "add", store, "a", "again")
    assert "namespace 'default' of agent 'a' was erased" in refused.stderr
    assert "--namespace NAME" in refused.stderr
    assert call("erasures", store, "--namespace", "default").exit_code == 2
    assert call("erasures", store, "--lift", "nobody").exit_code == 2


def test_attachments_from_the_shell(store: str, tmp_path: Path) -> None:
    (tmp_path / "pump.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 2000)
    (tmp_path / "hum.wav").write_bytes(b"hum")
    file, sound = str(tmp_path / "pump.png"), str(tmp_path / "hum.wav")
    (added,) = told("attachments", "add", store, "guide", file, "--text", "the red pump", "--metadata", '{"floor": 2}')
    assert (added["media_type"], added["size"], added["here"]) == ("image/png", 2008, True)
    assert said("attachments", "add", store, "guide", sound, "--id", "hum").strip() == "hum"
    listed = said("attachments", "list", store, "guide")
    assert [word in listed for word in (added["id"], "2,008", "the red pump", "hum", "audio/")] == [True] * 5
    (found,) = told("attachments", "search", store, "guide", "red", "--where", '{"floor": 2}')
    assert (found["id"], found["by"]) == (added["id"], ["caption"])
    assert "the red pump" in said("attachments", "search", store, "guide", "pump")
    target = tmp_path / "out.png"
    assert "2,008 bytes" in said("attachments", "get", store, "guide", added["id"], str(target))
    assert target.read_bytes() == Path(file).read_bytes()
    assert call("attachments", "get", store, "guide", "hum", "-").stdout_bytes == b"hum"
    for wrong, hint in (
        (("get", store, "guide", "hum", str(target)), "choose a new file"),
        (("get", store, "guide", "nothing", str(tmp_path / "x")), "no attachment 'nothing'"),
        (("add", store, "guide", str(tmp_path / "nothing")), "there is no file"),
    ):
        refused = call("attachments", *wrong)
        assert refused.exit_code == 2
        assert hint in refused.stderr
    assert told("attachments", "pin", store, "guide", "hum") == {"pinned": ["hum"]}
    status = told("cache", "status", store)
    assert (status["pinned"], status["unconfirmed"]) == ({"count": 1, "bytes": 3}, {"count": 2, "bytes": 2011})
    shown = said("cache", "status", store)
    assert [word in shown for word in ("no quota", "bodies", "1 attachment, 3 bytes")] == [True] * 3
    assert told("cache", "evict", store, "--to-bytes", "0")["bodies"] == 0
    assert "0 attachments evicted" in said("cache", "evict", store)
    assert "1 attachment unpinned" in said("attachments", "unpin", store, "guide", "hum")
    assert told("attachments", "delete", store, "guide", "hum") == {"deleted": ["hum"]}
    assert [one["id"] for one in told("attachments", "list", store, "guide")] == [added["id"]]


def test_an_erase_that_is_interrupted_says_what_has_begun(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told("memory", "add", store, "a", "a secret")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Edge, "_purge", interrupted)
        aborted = call("erase", store, "a", "--yes")
    assert aborted.exit_code == 1
    assert "agent 'a' is shut; the next command that writes" in aborted.stderr
    assert [one["here"] for one in told("erasures", store)] == [False]
    told("state", "put", store, "b", "t", "1")
    assert [one["here"] for one in told("erasures", store)] == [True]
