"""``agentdb-cloud policy``: the samples hold, mistakes are one line and a hint, machines get JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.fleet import exposing
from cloud.ports import Caller
from cloud.rows import RecordRow
from cloud.server.home import Home
from sync.manifests import TrustedSet
from sync.messages import FetchControl, Hello, Pull, PullPage, Welcome
from sync.operations import Kind, Operation, Shape
from sync.policy import Policy
from sync.records import fresh_image
from sync.schema import COLLECTIONS, declare
from tests.cloud.test_cli import join, ok, run
from tests.cloud.test_rollouts_cli import report

SAMPLES = Path(__file__).parent.parent.parent / "configs" / "policies"
KIOSK, CASES = SAMPLES / "kiosk.toml", SAMPLES / "kiosk.cases.toml"
POLICIES = sorted(path for path in SAMPLES.glob("*.toml") if ".cases." not in path.name)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_sample_is_a_policy_without_findings(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "policy.json"
    said = ok("policy", "lint", path, "--write", target)
    assert said["findings"] == []
    assert said["name"] == path.stem
    data = target.read_bytes()
    assert (said["bytes"], said["sha256"]) == (len(data), sha256(data).hexdigest())
    assert Policy.parse(data).name == path.stem
    assert ok("policy", "lint", target) == said, "the JSON is a policy, too"
    assert ok("policy", "diff", path, target) == []


def test_there_is_more_than_one_sample() -> None:
    assert len(POLICIES) > 1


def test_the_cases_of_the_sample_hold() -> None:
    said = ok("policy", "test", KIOSK, CASES)
    assert (said["cases"], said["failed"]) == (len(said["outcomes"]), 0)
    assert said["cases"] > 5
    assert "All as expected" in run("policy", "test", KIOSK, CASES).stdout


def test_a_case_that_does_not_hold_fails_and_is_shown(tmp_path: Path) -> None:
    changed = tmp_path / "kiosk.toml"
    changed.write_text(KIOSK.read_text().replace('direction = "absent"', 'direction = "both"'))
    shown = run("policy", "test", changed, CASES)
    assert shown.exit_code == 1
    assert "the south is not here" in shown.stdout
    assert '"absent"' in shown.stdout
    assert "1 not as expected" in shown.stdout
    said = run("policy", "test", changed, CASES, "--json")
    assert said.exit_code == 1
    wrong = [one["wrong"] for one in json.loads(said.stdout)["outcomes"] if not one["ok"]]
    assert wrong == [{"direction": {"expected": "absent", "found": "both"}}]


def test_what_a_rule_may_say_is_carried_out(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for key in ("interval_s = 5", "record_bytes_max = 5", "age_days_max = 5", 'direction = "local"'):
        path.write_text(f'schema = 1\nname = "a"\n[[sync]]\ncollections = ["a"]\n{key}\n')
        assert ok("policy", "lint", path)["findings"] == []


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ("", "nothing else"),
        ("[[cases]]\nkey='a'", "nothing else"),
        ("[[case]]\ncollection='a'\nkey='b'", "has no 'expect'"),
        ("[[case]]\ncollection='a'\nkey='b'\nexpect={}", "expect is {}"),
        ("[[case]]\ncollection='a'\nkey='b'\nexpect={directoin='up'}", "expect is"),
        ("[[case]]\ncollection='a'\nkey='b'\nexpect={direction='upp'}", "direction is 'upp'"),
        ("[[case]]\ncollection='a'\nkey='b'\nexpect={in_scope=1}", "in_scope is 1"),
        ("[[case]]\nagent='a'\ncollection='b'\nkey='c'\nexpect={allowed=true}", "no key 'key'"),
        ("[[case]]\nagent='a'\ncollection='b'\naction='erase'\nexpect={allowed=true}", "action is 'erase'"),
        ("[[case]]\ncollection='a b'\nkey='b'\nexpect={direction='up'}", "not a collection name"),
    ],
)
def test_cases_that_are_none(tmp_path: Path, cases: str, said: str) -> None:
    path = tmp_path / "cases.toml"
    path.write_text(cases)
    result = run("policy", "test", KIOSK, path)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "hint: " in result.stderr


def test_what_is_no_policy_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('schema = 1\nname = "a"\n[[sync]]\ncollections = ["a"]\ndirection = "bth"\n')
    result = run("policy", "lint", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"error: {path}: [[sync]] 1: direction is 'bth'",
        "hint: choose one of both, up, down, local, absent",
    ]
    assert "cannot be read" in run("policy", "lint", tmp_path / "none").stderr
    path.write_text('schema = 1\nname = "a"\n')
    assert "hint: --write another" in run("policy", "lint", path, "--write", tmp_path / "no" / "a.json").stderr


def test_a_diff_is_a_table_for_people_and_json_for_machines(tmp_path: Path) -> None:
    new = tmp_path / "new.toml"
    new.write_text(KIOSK.read_text().replace('priority = "urgent"', 'direction = "absent"'))
    said = ok("policy", "diff", KIOSK, new)
    assert [(one["what"], one["key"]) for one in said] == [
        ("changed", "priority"),
        ("changed", "direction"),
        ("lost", "collection alarms"),
    ]
    shown = run("policy", "diff", KIOSK, new).stdout
    assert "collection alarms" in shown
    assert run("policy", "diff", KIOSK, KIOSK).stdout == "They mean the same.\n"


def test_lint_asks_what_the_fleet_has_declared(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    ok("init", directory)
    with Home.open(directory) as home:
        _declare(home)
    path = tmp_path / "a.toml"
    path.write_text('schema = 1\nname = "a"\n[[sync]]\ncollections = ["nots"]\nvectors = "int8"\n')
    result = run("policy", "lint", path, "--fleet", directory)
    assert result.exit_code == 0, "a warning is no failure"
    assert "no collection of the fleet is 'nots'" in result.stdout
    path.write_text(path.read_text().replace("nots", "notes"))
    result = run("policy", "lint", path, "--fleet", directory)
    assert result.exit_code == 1
    assert "of one length in 'notes'" in result.stdout


def test_lint_says_where_the_cloud_goes_by_another(tmp_path: Path) -> None:
    directory, trust, path = tmp_path / "cloud", tmp_path / "trust", tmp_path / "a.toml"
    fleet = ok("init", directory)["fleet"]
    path.write_text('schema = 1\nname = "a"\n[[merge]]\ncollection = "notes"\nconflict = "manual"\n')
    ok("trust", "init", trust, "--fleet", fleet)
    run("policy", "lint", path, "--write", tmp_path / "a.json")
    ok("trust", "add-target", trust, tmp_path / "a.json", "--as", "policies/a/1.json")
    ok("publish", directory, trust, "--online-key", trust / "keys" / "online.pem")
    asked = ("policy", "lint", path, "--fleet", directory)
    assert "by which the cloud goes" not in run(*asked).stdout
    ok("assign", directory, "policy", "policies/a/1.json")
    assert "by which the cloud goes" not in run(*asked).stdout
    path.write_text(path.read_text().replace("manual", "latest"))
    (finding,) = [one for one in ok(*asked)["findings"] if "policies/a/1.json" in one["message"]]
    assert (finding["level"], finding["where"]) == ("warning", "[[merge]]")


def test_a_policy_goes_from_a_file_to_devices_and_says_what_became_of_it(tmp_path: Path) -> None:
    directory, trust, path = tmp_path / "cloud", tmp_path / "trust", tmp_path / "a.toml"
    ok("trust", "init", trust, "--fleet", ok("init", directory)["fleet"])
    path.write_text('schema = 1\nname = "a"\n[[sync]]\ncollections = ["notes"]\n')
    assert ok("policy", "show", directory) == {"fleet": "", "groups": []}
    names = ("north", "south", "west")
    devices = [join(directory, name, seed).device_id for seed, name in enumerate(names, 1)]

    said = ok("policy", "publish", directory, path)
    first = directory / "to-sign" / "policies" / "a" / "1.json"
    assert (said["path"], said["written"]) == (str(first), True)
    assert Policy.parse(first.read_bytes()).name == "a"
    assert ok("policy", "publish", directory, path)["written"] is False
    ok("trust", "add-target", trust, first, "--as", "policies/a/1.json")
    ok("publish", directory, trust, "--online-key", trust / "keys" / "online.pem")
    first.unlink()
    path.write_text(path.read_text() + 'direction = "up"\n')
    shown = run("policy", "publish", directory, path).stdout
    second = directory / "to-sign" / "policies" / "a" / "2.json"
    assert f"agentdb-cloud trust add-target TRUST {second} --as policies/a/2.json" in shown
    ok("trust", "add-target", trust, second, "--as", "policies/a/2.json")
    ok("publish", directory, trust)
    ok("assign", directory, "policy", "policies/a/2.json")

    def outcome(number: int, said: str, reason: str = "") -> dict[str, Any]:
        told = {"path": f"policies/a/{number}.json", "sha256": "00", "outcome": said, "reason": reason}
        return {"agentdb": {"outcomes": {"policy": told}}}

    report(directory, devices[0], 1, outcome(2, "committed"))
    report(directory, devices[1], 1, outcome(2, "refused", "no Cedar here"))
    report(directory, devices[2], 1, outcome(1, "committed"))
    found = ok("policy", "show", directory)
    assert found["fleet"] == "policies/a/2.json"
    (row,) = found["groups"]
    assert (row["path"], row["by"], row["devices"], row["active"], row["refused"]) == (
        "policies/a/2.json", "assign", 3, 1, 1,
    )  # fmt: skip
    assert sorted((one["device"], one["reason"]) for one in row["others"]) == [("south", "no Cedar here"), ("west", "")]
    assert "south: no Cedar here" in run("policy", "show", directory).stdout


def test_what_would_not_do_what_it_says_is_not_written(tmp_path: Path) -> None:
    directory, path = tmp_path / "cloud", tmp_path / "a.toml"
    ok("init", directory)
    with Home.open(directory) as home:
        _declare(home)
    path.write_text('schema = 1\nname = "a"\n[[sync]]\ncollections = ["notes"]\nvectors = "float16"\n')
    result = run("policy", "publish", directory, path)
    assert result.exit_code == 1
    assert "of one length" in result.stdout
    assert not (directory / "to-sign").exists()


def test_what_cedar_does_not_take_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, path = tmp_path / "cloud", tmp_path / "a.toml"
    ok("init", directory)
    path.write_text('schema = 1\nname = "a"\n[cedar]\ntext = "permit(everything)"\n')
    for command in (("lint", path), ("publish", directory, path)):
        result = run("policy", *command)
        assert result.exit_code == 1
        assert "text is not Cedar" in " ".join(result.stdout.split())
    assert not (directory / "to-sign").exists()
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    (finding,) = [one for one in ok("policy", "publish", directory, path)["findings"] if "checked" in one["message"]]
    assert (finding["level"], finding["where"]) == ("warning", "[cedar]")
    monkeypatch.undo()
    path.write_text(path.read_text().replace("(everything)", "(principal, action, resource);"))
    assert not [one for one in ok("policy", "lint", path)["findings"] if one["level"] == "error"]


def _declare(home: Home) -> None:
    """As a device does: a collection with vectors of four numbers."""
    shape = Shape(Kind.PUT, COLLECTIONS, ("spec",), "l")
    document = declare("notes", vector=("v", 4)).to_document()
    operation = Operation(b"r" * 16, 1, 1, 0, shape, "notes", (document,))
    with home.store.writing() as tx:
        tx.put_records(home.fleet.fleet, [RecordRow(COLLECTIONS, "notes", fresh_image(operation), 1)])


def test_a_page_of_a_real_directory_decides_once_and_verifies_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scope and the number that it names are of one decision; what was signed is verified once, for all of it."""
    directory, trust, path = tmp_path / "cloud", tmp_path / "trust", tmp_path / "a.json"
    ok("trust", "init", trust, "--fleet", ok("init", directory)["fleet"])
    path.write_bytes(
        b'{"name":"a","schema":1,"sync":[{"collections":["notes"]},{"collections":["*"],"direction":"up"}]}'
    )
    ok("trust", "add-target", trust, path, "--as", "policies/a/1.json")
    ok("publish", directory, trust, "--online-key", trust / "keys" / "online.pem")
    ok("assign", directory, "policy", "policies/a/1.json")
    key = join(directory, "north", 1)
    counted: Counter[str] = Counter()

    def counting(name: str, real: Any) -> Any:
        def call(*args: Any) -> Any:
            counted[name] += 1
            return real(*args)

        return call

    monkeypatch.setattr(exposing, "Decision", counting("decisions", exposing.Decision))
    monkeypatch.setattr(TrustedSet, "load", staticmethod(counting("verified", TrustedSet.load)))
    with Home.open(directory) as home:
        caller = Caller(home.fleet.fleet, key.device_id, key.public)
        replica = key.device_id + b"\0\0\0\1"
        home.plane.handle(FetchControl(0, 0, []), caller)
        counted.pop("decisions")
        welcome = home.plane.handle(Hello([3], home.fleet.fleet, replica, 0, 0, b"", 0, b""), caller)
        assert isinstance(welcome, Welcome)
        assert counted.pop("decisions") == 1
        page = home.plane.handle(Pull(replica, 0, 1, 1, 0, welcome.incarnation), caller)
        assert isinstance(page, PullPage)
        assert (page.assignment, page.narrowed) == (1, True)
        assert counted == {"decisions": 1, "verified": 1}
        ok("assign", directory, "policy", "--nothing")
        page = home.plane.handle(Pull(replica, 0, 1, 1, 0, welcome.incarnation), caller)
        assert isinstance(page, PullPage)
        assert (page.assignment, page.narrowed) == (2, False), "the next page is of another look"
