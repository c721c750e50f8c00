"""Declaring a collection from the shell, and everything that a declaration makes possible there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge.cli import main
from sync.tokens import JoinToken
from tests.edge.link.joined import NOWHERE, join_nowhere


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    assert call("init", path).exit_code == 0
    return path


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def told(*words: str) -> Any:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_declared_in_the_shell_it_is_searched_and_merged(store: str) -> None:
    (made,) = told(
        *("collection", store, "notes", "--field", "visits=int/counter", "--field", "tags=set", "--field", "n=int"),
        *("--vector", "e:2:dot:minilm", "--text", "body", "--conflict", "manual"),
    )
    assert made["fields"]["visits"] == ["int", "counter"]
    assert made["vector"] == ["e", 2, "dot", "minilm"]
    told("put", store, "notes", "a", '{"body": "a loud pump", "e": [1, 0], "visits": 1}')
    told("put", store, "notes", "b", '{"body": "a quiet night", "e": [0, 1]}')
    assert [hit["key"] for hit in told("search", store, "notes", "loud")] == ["a"]
    assert [hit["key"] for hit in told("search", store, "notes", "--vector", "[0, 1]", "-k", "1")] == ["b"]
    told("increment", store, "notes", "a", "visits", "-3")
    told("increment", store, "notes", "c", "visits", "--upsert")
    told("add", store, "notes", "a", "tags", "x", "y")
    told("remove", store, "notes", "a", "tags", "x", "never")
    told("patch", store, "notes", "d", '{"n": 4}', "--upsert")
    assert told("get", store, "notes", "a") == {"body": "a loud pump", "e": [1.0, 0.0], "tags": ["y"], "visits": -2}
    assert [row["key"] for row in told("scan", store, "notes", "--filter", '{"visits": {"$gt": 0}}')] == ["c"]


def test_a_declaration_adds_to_what_is_declared(store: str) -> None:
    told("collection", store, "notes", "--vector", "e:2", "--text", "body", "--field", "n=int", "--strict")
    (made,) = told("collection", store, "notes", "--text", "title", "--text", "body", "--no-strict")
    assert (made["text"], made["vector"][:2], made["strict"]) == (["body", "title"], ["e", 2], False)
    assert made["fields"]["n"] == ["int", "lww"]
    told("collection", store, "plain", "--new")
    shown = call("collection", store).stdout
    assert "n=int; vector e:2:cosine; text body, title" in shown
    assert "plain" in shown
    assert [found["name"] for found in told("collection", store)] == ["notes", "plain"]
    assert [found["text"] for found in told("collection", store, "notes")] == [["body", "title"]]


def test_looking_and_typing_mistakes_declare_nothing(store: str) -> None:
    told("collection", store, "notes", "--new")
    for words in (["collection", store, "nots"], ["put", store, "nots", "k", "{}"], ["put", store, "nots", "k", "{}"]):
        result = call(*words)
        assert result.exit_code == 2
        assert "there is no collection 'nots'" in result.stderr
        assert "known are: notes; " in result.stderr
        assert "--new" in result.stderr
    assert [found["name"] for found in told("collection", store)] == ["notes"]
    told("put", "--new", store, "more", "k", "{}")
    told("collection", store, "notes", "--new")
    assert [found["name"] for found in told("collection", store)] == ["more", "notes"]


def test_long_vectors_are_short_in_tables(store: str) -> None:
    told("collection", store, "notes", "--vector", "e:9")
    told("put", store, "notes", "a", json.dumps({"e": [0.1] * 9}))
    for words in (("get", store, "notes", "a"), ("scan", store, "notes")):
        assert "[0.1, 0.1, 0.1, 0.1, … 9 numbers]" in call(*words).stdout
    assert len(told("get", store, "notes", "a")["e"]) == 9


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["delete", "STORE", "notes", "none"], "no record 'none'", "agentdb-edge scan STORE notes"),
        (["get", "STORE", "notes", "none"], "no record 'none'", "agentdb-edge scan STORE notes"),
        (["patch", "STORE", "notes", "none", '{"a": 1}'], "no record 'none'", "--upsert"),
        (["increment", "STORE", "notes", "k", "body"], "not a counter", "--field body=counter"),
        (["increment", "STORE", "notes", "k", "n", "much"], "BY is a number", "-2"),
        (["add", "STORE", "notes", "k", "body", "x"], "not a set", "--field body=set"),
        (["search", "STORE", "notes"], "TEXT, --vector, or both", "loud pump"),
        (["search", "STORE", "notes", "x"], "no text fields", "--text FIELD"),
        (["search", "STORE", "plain", "--vector", "[1]"], "no vector field", "--vector FIELD:DIMENSIONS"),
        (["search", "STORE", "notes", "--vector", "x"], "not JSON", "'[0.1, 0.9]'"),
        (["search", "STORE", "notes", "--vector", '["x"]'], "list of numbers", "'[0.1, 0.9]'"),
        (["put", "STORE", "notes", "k", '{"a": NaN}'], "no NaN in JSON", "the pump is loud"),
        (["put", "STORE", "notes", "k", '{"e": "x"}'], "a vector is a list of numbers, not a string", "[0.1"),
        (["put", "STORE", "notes", "k", '{"e": {"x": 1}}'], "not a vector of floats: a dict", ""),
        (["collection", "STORE", "--text", "body"], "needs the collection's NAME", "NAME"),
        (["collection", "STORE", "x", "--field", "age"], "NAME=WHAT", "visits=counter"),
        (["collection", "STORE", "x", "--field", "age=number"], "unknown type", "counter"),
        (["collection", "STORE", "x", "--vector", "e"], "FIELD:DIMENSIONS", "embedding:384"),
        (["collection", "STORE", "notes", "--vector", "e:3"], "2 dimensions", ""),
        (["collection", "STORE", "x", "--conflict", "luck"], "unknown conflict rule", "priority"),
        (["snapshot", "STORE", "STORE"], "exists already", "new path"),
        (["snapshot", "STORE", "STORE/copy"], "inside the store", "outside of it"),
    ],
)
def test_hints_are_what_can_be_typed(store: str, words: list[str], message: str, hint: str) -> None:
    told("collection", store, "notes", "--vector", "e:2")
    told("collection", store, "plain", "--new")
    told("put", store, "notes", "k", '{"body": "here"}')
    result = call(*(word.replace("STORE", store) for word in words))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert hint.replace("STORE", store) in result.stderr
    assert "Traceback" not in result.output


def test_an_empty_token_is_a_mistake_and_a_damaged_one_leaves_nothing(tmp_path: Path) -> None:
    target = str(tmp_path / "new")
    for token in ("", " ", "agentdb1.broken"):
        result = call("init", target, "--join", token)
        assert result.exit_code == 2, result.output
        assert not Path(target).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "anna"], "no --join"),
        (["--url", "http://127.0.0.1:9"], "no --join"),
        (["--name", ""], "name is empty"),
    ],
)
def test_what_init_is_given_is_not_dropped(tmp_path: Path, words: list[str], message: str) -> None:
    result = call("init", str(tmp_path / "new"), *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert not (tmp_path / "new").exists()


def test_a_failed_join_says_that_the_store_is_there_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.link.runner.JOIN_TRIES_MAX", 1)
    target = str(tmp_path / "new")
    token = JoinToken(b"t" * 16, b"s" * 32, b"f" * 16, b"p" * 32, NOWHERE).encode()
    result = call("init", target, "--join", token)
    assert result.exit_code == 1
    assert f"agentdb-edge init {target} --join TOKEN" in result.stderr
    assert call("status", target).exit_code == 0


def test_a_control_planes_directory_is_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "cloud.toml").touch()
    result = call("init", str(tmp_path))
    assert (result.exit_code, "control plane" in result.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["cloud.toml"]


def test_a_damaged_log_and_the_way_back_by_a_snapshot(store: str, tmp_path: Path) -> None:
    told("put", "--new", store, "notes", "a", '{"x": 1}')
    copy = tmp_path / "copy"
    assert call("snapshot", store, str(copy)).exit_code == 0
    Path(store, "log.db").write_bytes(b"not a database, certainly" * 400)
    result = call("status", store)
    assert result.exit_code == 1
    assert "agentdb-edge snapshot" in result.stderr
    Path(store).rename(tmp_path / "broken")
    copy.rename(store)
    assert told("get", store, "notes", "a") == {"x": 1}


@pytest.mark.parametrize(
    ("said", "message"), [(b"\xff{}", "not UTF-8"), (b" " * (1 << 20) + b"{}", "over 1048576 bytes")]
)
def test_standard_input_that_is_no_record(store: str, said: bytes, message: str) -> None:
    result = CliRunner().invoke(main, ["put", store, "notes", "k", "-"], input=said)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_lost_keys_are_told_what_can_be_done_from_a_shell(store: str) -> None:
    join_nowhere(store)
    for damage in (lambda key: key.write_bytes(b"short"), Path.unlink):
        damage(Path(store, "keys", "device.key"))
        result = call("sync", store)
        assert result.exit_code == 1
        assert "agentdb-edge init STORE --join TOKEN" in result.stderr


@pytest.mark.parametrize("lost", ["directory", "file", "damaged", "another's"])
def test_no_command_calls_a_store_healthy_whose_keys_are_lost(store: str, tmp_path: Path, lost: str) -> None:
    told("collection", store, "notes", "--text", "body")
    keys, copy = Path(store, "keys"), tmp_path / "copy"
    if lost == "directory":
        shutil.rmtree(keys)
    elif lost == "file":
        (keys / "device.key").unlink()
    elif lost == "damaged":
        (keys / "device.key").write_bytes(b"short")
    else:
        assert call("init", str(tmp_path / "other")).exit_code == 0
        shutil.copy(tmp_path / "other" / "keys" / "device.key", keys / "device.key")
    result = call("init", store)
    assert (result.exit_code, "backup" in result.stderr) == (1, True), result.output
    result = call("verify", store, "--json")
    (problem,) = json.loads(result.stdout)["problems"]
    assert (result.exit_code, "device.key" in problem, "cannot sync" in problem) == (1, True, True)
    if lost == "another's":  # `status` does not load the cryptography that it takes to see this
        return
    result = call("status", store)
    assert (result.exit_code, "cannot sync" in result.stdout) == (1, True)
    assert json.loads(call("status", store, "--json").stdout)["key_problems"]
    result = call("snapshot", store, str(copy), "--json")
    assert (result.exit_code, json.loads(result.stderr)["error"], copy.exists()) == (1, "corrupt-store", False)
