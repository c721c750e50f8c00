"""The operator's resolvers: where they cannot decide it is said, and only what judges conflicts needs their code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge import Edge
from tests.cloud.test_cli import join, ok, run, served

GOOD = "def pick(collection, key, field, held, came, context):\n    return max(held.value, came.value, key=len)\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory)
    return directory


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the operator's module lies, importable here and in servers that are started."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")
    monkeypatch.delitem(sys.modules, "our_rules", raising=False)
    return folder


def _configure(fleet: Path, path: str) -> None:
    (fleet / "cloud.toml").write_text(f'[conflicts.resolvers]\nlongest = "{path}"\n')


def _contradict(fleet: Path, tmp_path: Path, *keys: str) -> None:
    """Two devices write the same records without knowing of each other."""
    tokens = [ok("token", fleet)["token"] for _ in range(2)]
    with Edge.open(tmp_path / "van") as van, Edge.open(tmp_path / "kiosk") as kiosk:
        for edge, token, text in ((van, tokens[0], "longer text"), (kiosk, tokens[1], "short")):
            edge.join(token, name=text.split()[0])
            notes = edge.collection("notes", conflict="resolver:longest")
            for key in keys:
                notes.put(key, {"text": text})
        van.sync()
        kiosk.sync()


def _shown(fleet: Path, tmp_path: Path, key: str) -> object:
    with served(fleet) as (_, url), Edge.open(tmp_path / "van") as van:
        van.sync(url=url, timeout_s=20)
        return van.collection("notes").get(key)


def test_other_commands_do_not_need_the_resolvers(fleet: Path) -> None:
    key = join(fleet, "robot", 1)
    _configure(fleet, "not_importable_here:pick")
    for command in ("status", "devices", "conflicts"):
        assert run(command, fleet).exit_code == 0
    assert run("token", fleet, "--url", "https://cloud.example").exit_code == 0
    [row] = ok("devices", fleet, "--revoke", key.device_id.hex())
    assert row["state"] == "revoked"


@pytest.mark.parametrize(
    ("text", "path", "said", "hint"),
    [
        (GOOD, "no_such_module:pick", "No module named", "PYTHONPATH"),
        ("import not_installed_at_all\n", "our_rules:pick", "No module named", "it imports 'not_installed_at_all'"),
        (GOOD, "our_rules:pikc", "has no 'pikc'", "our_rules.py"),
        ("pick = 5\n", "our_rules:pick", "is no function", "(collection, key, field, held, came, context)"),
        ("def pick(conflict): ...\n", "our_rules:pick", "too many positional", "it must take (collection, key"),
        ("raise ValueError('oops')\n", "our_rules:pick", "ValueError: oops", "python -c"),
    ],
)
def test_a_resolver_that_cannot_be_used_is_said_when_serving(
    fleet: Path, code: Path, text: str, path: str, said: str, hint: str
) -> None:
    (code / "our_rules.py").write_text(text)
    _configure(fleet, path)
    for command in (["serve", fleet], ["conflicts", fleet, "--retry"]):
        result = run(*command)
        assert result.exit_code == 2, result.output
        first, second = result.stderr.splitlines()
        assert "[conflicts] resolvers.longest" in first
        assert said in first
        assert hint in second


def test_conflicts_without_their_resolver_are_said_and_decided_later(fleet: Path, code: Path, tmp_path: Path) -> None:
    with served(fleet) as (process, _):
        _contradict(fleet, tmp_path, "a", "b", "c")
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "3 conflicts left open, the newest is 3: no resolver 'longest'" in line
    with served(fleet) as (process, url):
        assert process.stderr is not None
        assert "no resolver 'longest' in cloud.toml: conflicts in notes stay open" in process.stderr.readline()
        with Edge.open(tmp_path / "van") as van:  # somebody writes one of them anew
            van.sync(url=url, timeout_s=20)
            van.collection("notes").put("c", {"text": "third"})
            van.sync(url=url, timeout_s=20)
    assert ok("status", fleet)["undecided"] == {"conflicts": 3, "newest": 3, "reason": "no resolver 'longest'"}
    shown = run("status", fleet).stdout
    assert "3 conflicts left open by a resolver, the newest is 3: no resolver 'longest'" in shown
    assert f"agentdb-cloud conflicts {fleet} --retry" in shown
    assert "no resolver 'longest'" in run("conflicts", fleet).stdout
    assert len(ok("conflicts", fleet, "--retry")["left"]) == 3

    (code / "our_rules.py").write_text(GOOD)
    _configure(fleet, "our_rules:pick")
    done = ok("conflicts", fleet, "--retry")
    assert len(done["decided"]) == 2
    assert [left["reason"] for left in done["left"]] == ["the record was written since"]
    assert "left open: 1" in run("conflicts", fleet, "--retry").stdout
    assert _shown(fleet, tmp_path, "a") == {"text": "longer text"}
    assert _shown(fleet, tmp_path, "c") == {"text": "third"}


def test_several_conflicts_of_one_field_are_decided_from_the_last_on(fleet: Path, code: Path, tmp_path: Path) -> None:
    with served(fleet):
        token = ok("token", fleet, "--uses", "3")["token"]
        for number, text in enumerate(("middle", "the longest", "end")):
            with Edge.open(tmp_path / f"device-{number}") as edge:
                edge.join(token, name=f"device-{number}")
                edge.collection("notes", conflict="resolver:longest").put("a", {"text": text})
        for number in range(3):
            with Edge.open(tmp_path / f"device-{number}") as edge:
                edge.sync(timeout_s=20)
    assert len(ok("conflicts", fleet, "--open")) == 2
    (code / "our_rules.py").write_text(GOOD)
    _configure(fleet, "our_rules:pick")
    assert ok("conflicts", fleet, "--retry") == {"decided": [1, 2], "left": []}
    (tmp_path / "device-0").rename(tmp_path / "van")
    assert _shown(fleet, tmp_path, "a") == {"text": "the longest"}


def test_a_resolver_that_fails_is_in_the_log(fleet: Path, code: Path, tmp_path: Path) -> None:
    (code / "our_rules.py").write_text(GOOD.replace("max(", "min(1, "))
    _configure(fleet, "our_rules:pick")
    with served(fleet) as (process, _):
        _contradict(fleet, tmp_path, "a")
        assert process.stderr is not None
        assert "1 conflict left open, the newest is 1: resolver 'longest': TypeError" in process.stderr.readline()
