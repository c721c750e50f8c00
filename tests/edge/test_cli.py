"""The command line as a new user meets it: every command, its JSON, and every kind of mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge.cli import main
from edge.node import Edge


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    assert call("init", path).exit_code == 0
    return path


def call(*words: str, said: str | None = None) -> Result:
    if words[0] == "put":
        words = ("put", "--new", *words[1:])
    return CliRunner().invoke(main, list(words), input=said)


def told(*words: str, said: str | None = None) -> Any:
    result = call(*words, "--json", said=said)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_record_from_put_to_delete(store: str) -> None:
    assert told("put", store, "notes", "n1", '{"body": "the pump is loud", "n": 1}') == {"seq": 2, "pending": 2}
    told("patch", store, "notes", "n1", '{"n": 2}')
    assert told("get", store, "notes", "n1") == {"body": "the pump is loud", "n": 2}
    told("put", store, "notes", "n2", "-", said='{"body": "quiet"}')
    assert [row["key"] for row in told("scan", store, "notes", "--where", '{"n": {"$gte": 2}}')] == ["n1"]
    told("delete", store, "notes", "n1")
    assert call("get", store, "notes", "n1").exit_code == 2
    assert told("status", store)["collections"] == {"notes": {"records": 1}}
    assert told("verify", store)["problems"] == []


def test_search_by_vector_and_text(store: str) -> None:
    with Edge.open(store) as edge:
        notes = edge.collection("notes", text=["body"], vector=("e", 2))
        notes.put("loud", {"body": "the pump is loud", "e": [1, 0]})
        notes.put("quiet", {"body": "a quiet night", "e": [0, 1]})
    (hit,) = told("search", store, "notes", "--vector", "[1, 0.1]", "-k", "1")
    assert (hit["key"], hit["fields"]["e"]) == ("loud", [1.0, 0.0])
    assert [hit["key"] for hit in told("search", store, "notes", "quiet")] == ["quiet"]
    shown = call("search", store, "notes", "--vector", "[1, 0]", "--explain")
    assert "loud" in shown.stdout
    assert "exact" in shown.stdout


def test_tables_show_what_was_stored_literally(store: str) -> None:
    call("put", store, "notes", "[bold]k", '{"body": "[red]not markup[/red]"}')
    shown = call("scan", store, "notes").stdout
    assert "[bold]k" in shown
    assert "[red]not markup" in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["get", "STORE", "nothing", "k"], 2, "no collection 'nothing'"),
        (["put", "STORE", "notes", "k", "{body: 1}"], 2, "not JSON"),
        (["put", "STORE", "notes", "k", "[1]"], 2, "JSON object"),
        (["put", "STORE", "no/name", "k", "{}"], 2, "collection name"),
        (["put", "STORE", "notes", "k" * 600, "{}"], 2, "over 512 bytes"),
        (["scan", "STORE", "notes", "--where", '{"n": {"$sql": 1}}'], 2, "$sql"),
        (["status", "STORE-that-is-not"], 2, "no store"),
        (["sync", "STORE"], 2, "not joined a fleet"),
        (["init", "STORE", "--join", "agentdb1.broken"], 2, "damaged"),
        (["put", "STORE", "notes", "k", '{"x": 1, "y": {"a": 1, "a": 2}}'], 2, "'a' is there twice"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(store: str, words: list[str], code: int, message: str) -> None:
    call("put", store, "notes", "k", '{"body": "here"}')
    words = [word.replace("STORE", store) for word in words]
    result = call(*words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    in_json = json.loads(call(*words, "--json").stderr)
    assert set(in_json) == {"error", "message", "hint"}
    assert message in in_json["message"]


def test_a_broken_configuration_names_file_and_key(store: str) -> None:
    Path(store, "edge.toml").write_text("[sync]\nurk = 1\n")
    result = call("status", store)
    assert result.exit_code == 2
    assert "edge.toml" in result.stderr
    assert "urk" in result.stderr


def test_a_store_in_use_says_by_whom(store: str) -> None:
    with Edge.open(store):
        code = "import sys; from edge.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "put", store, "notes", "a", "{}", "--wait", "0.1"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"is open in process {os.getpid()} (" in done.stderr


def test_run_says_what_is_wrong_and_ends_on_a_signal(store: str, tmp_path: Path) -> None:
    """Without a server: it goes on trying, says so, and stops when asked."""
    from tests.edge.link.joined import join_nowhere

    join_nowhere(store)
    code = "from edge.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, "run", store], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        while "no answer" not in line:
            assert line, "it ended before it said what is wrong"
            line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_an_empty_path_is_not_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["init", ""], ["status", ""], ["put", "", "notes", "k", "{}"]):
        result = call(*words)
        assert (result.exit_code, "path is empty" in result.stderr) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []


def test_who_has_not_joined_is_told_what_to_type(store: str) -> None:
    assert f"agentdb-edge init {store} --join TOKEN" in call("sync", store).stderr


def test_a_scan_says_that_there_is_more_and_how_to_go_on(store: str) -> None:
    for number in range(5):
        call("put", store, "notes", f"k {number}", '{"n": 1}')
    result = call("scan", store, "notes", "--limit", "2")
    assert result.exit_code == 0
    assert result.stderr == "There are more: --after 'k 1', or --limit\n"
    last = call("scan", store, "notes", "--limit", "3", "--after", "k 1")
    assert [line[:3] for line in last.stdout.splitlines()[1:]] == ["k 2", "k 3", "k 4"]
    assert last.stderr == ""
    assert [row["key"] for row in told("scan", store, "notes", "--after", "k 3")] == ["k 4"]


def test_every_command_has_help() -> None:
    for name, command in main.commands.items():
        result = call(name, "--help")
        assert result.exit_code == 0
        assert command.help, name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux's")
@pytest.mark.parametrize("words", [["get", "STORE", "notes", "k"], ["scan", "STORE", "notes", "--json"]])
def test_an_output_that_is_full_is_one_line(store: str, words: list[str]) -> None:
    call("put", store, "notes", "k", '{"n": 1}')
    command = [sys.executable, "-m", "edge.cli", *(word.replace("STORE", store) for word in words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "the output cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
