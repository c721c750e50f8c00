"""``agentdb-cloud twins | labels | groups | rollouts``: what they show, and that mistakes are one line and a hint."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.cli.rollouts import read_spec
from cloud.fleet import exposing
from cloud.fleet.rollout_desk import RolloutDesk
from cloud.fleet.rollouts import Spec, Stage
from cloud.identity import audit
from cloud.ports import Caller
from cloud.server.home import Home
from sync.messages import Report
from tests.cloud.test_cli import join, ok, run

SAMPLES = sorted((Path(__file__).parents[2] / "configs" / "rollouts").glob("*.toml"))
MODEL = "models/embed/13.json"
GOAL = sha256(b"manifest").hexdigest()


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory)
    return directory


def refused(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert "hint:" in result.stderr
    return result.stderr


def report(directory: Path, device: bytes, version: int, patch: dict[str, Any], acks: int = 0) -> None:
    with Home.open(directory) as home:
        with home.store.reading() as view:
            row = view.device(device)
        assert row is not None
        caller = Caller(home.fleet.fleet, device, row.identity)
        home.plane.handle(Report(version, json.dumps(patch).encode(), acks), caller)


def ask(directory: Path, device: bytes) -> None:
    with Home.open(directory) as home, home.store.writing() as tx:
        row = tx.device(device)
        assert row is not None
        exposing.expose(tx, row, home.clock.wall_ms())


def outcome(said: str) -> dict[str, Any]:
    return {
        "agentdb": {
            "outcomes": {"models/embed": {"path": MODEL, "sha256": GOAL, "outcome": said, "reason": "slow\x1b[2J"}}
        }
    }


def test_labels_and_groups(fleet: Path) -> None:
    van = join(fleet, "van", 1).device_id
    join(fleet, "kiosk", 2)
    assert ok("labels", fleet, "van", "site=north", "rack=7", 'code="7"', "lab=true") == {
        "site": "north", "rack": 7, "code": "7", "lab": True,
    }  # fmt: skip
    assert "site" not in ok("labels", fleet, "van", "site=")
    assert "rack" in run("labels", fleet, "van").output
    assert ok("groups", fleet, "labels.rack <= 7 and labels.lab = true") == [{"device": van.hex(), "name": "van"}]
    assert len(ok("groups", fleet)) == 2
    assert "van" in run("groups", fleet, "labels.rack = 7").output
    assert "the query at 15" in refused("groups", fleet, "labels.site = north")
    assert "NAME=VALUE" in refused("labels", fleet, "van", "site")
    assert "no device 'bus'" in refused("labels", fleet, "bus")


def test_twins(fleet: Path) -> None:
    van = join(fleet, "van", 1).device_id
    assert ok("twins", "set", fleet, "van", '{"level": "debug", "net": {"port": 1}}')["desired_version"] == 1
    ok("twins", "set", fleet, "van", '{"tone": "calm"}', "--agent", "guide", "--version", 1)
    assert "version 2 is desired by now, not 1" in refused("twins", "set", fleet, "van", "{}", "--version", 1)
    report(fleet, van, 1, {"level": "debug", "hardware": "rev2"}, acks=2)
    shown = ok("twins", "show", fleet, "van")
    assert shown["delta"] == {"net": {"port": 1}, "agents": {"guide": {"tone": "calm"}}}
    assert (shown["acked_version"], shown["reported"]["hardware"]) == (2, "rev2")
    text = run("twins", "show", fleet, "van").output
    assert "version 2, the device has 2" in text
    assert "desired and not reported" in text
    (line,) = ok("twins", "list", fleet, "--group", 'reported.hardware = "rev2"')
    assert line["name"] == "van"
    assert "van" in run("twins", "list", fleet).output
    assert "JSON object" in refused("twins", "set", fleet, "van", "[]")
    assert "device's own" in refused("twins", "set", fleet, "van", '{"agentdb": {}}')
    actions = [row["action"] for row in ok("audit", fleet)["rows"]]
    assert actions.count("twin.desired") == 2


def test_a_list_says_what_show_says_and_a_device_that_cannot_be_told_is_in_it(fleet: Path) -> None:
    join(fleet, "van", 1)
    join(fleet, "kiosk", 2)
    ok("twins", "set", fleet, "van", json.dumps({"own": "x" * 40_000}))
    with Home.open(fleet) as home:
        home.plane.rollouts.create(home.fleet.fleet, Spec({"desired": {"all": 1}}, [Stage(100)]))
    listed = {one["name"]: one for one in ok("twins", "list", fleet)}
    assert (listed["van"]["desired_version"], listed["kiosk"]["desired_version"]) == (2, 1), "not asked for yet"
    assert listed == {name: ok("twins", "show", fleet, name) for name in ("van", "kiosk")}
    with Home.open(fleet) as home:
        home.plane.rollouts.abort(home.fleet.fleet, "r1", "revert")
        home.plane.rollouts.create(home.fleet.fleet, Spec({"desired": {"all": "y" * 40_000}}, [Stage(100)]))
    listed = {one["name"]: one for one in ok("twins", "list", fleet)}
    assert (listed["kiosk"]["desired_version"], listed["kiosk"]["too_large"]) == (1, "")
    assert listed["van"]["desired_version"] == 1, "what it was told last"
    assert "bytes" in listed["van"]["too_large"]
    assert listed["van"] == ok("twins", "show", fleet, "van")
    assert "(next: too large)" in run("twins", "list", fleet).output
    assert "the next version cannot be told" in run("twins", "show", fleet, "van").output
    assert ok("labels", fleet, "van") == {}, "they do not wait for it"


def test_an_empty_fleet_has_no_group(fleet: Path) -> None:
    assert "No device has joined yet." in run("groups", fleet).output
    assert "No device is named by that." in run("groups", fleet, "labels.rack = 7").output


def test_a_rollout_that_fails_says_who(fleet: Path, tmp_path: Path) -> None:
    keys = [join(fleet, f"d{number}", number).device_id for number in range(1, 7)]
    file = tmp_path / "r.toml"
    file.write_text(f'what = "{MODEL}"\nstages = [{{percent = 100}}]\ngate = {{failed_max = 4, reporting_min = 5}}\n')
    with Home.open(fleet) as home:  # a fleet without operators' keys: nothing is listed in it
        desk = RolloutDesk(home.store, home.clock, audit.record, lambda _: None, lambda *_: GOAL)
        assert desk.create(home.fleet.fleet, read_spec(file)).id == "r1"
    for number, device in enumerate(keys):
        report(fleet, device, 1, {"hardware": "rev2\x1b" if number < 4 else "rev1"})
        ask(fleet, device)
        report(fleet, device, 2, outcome("returned" if number < 4 else "committed"))
    shown = ok("rollouts", "show", fleet, "r1")
    assert shown["state"] == "reverted"
    assert shown["blame"] == "all 4 failures: rev2"
    assert shown["why"].endswith("; all 4 failures: rev2")
    assert (shown["exposed"], shown["committed"], shown["failed"]) == (4, 0, 4)
    text = run("rollouts", "show", fleet, "r1").output
    assert "all 4 failures: rev2" in text
    assert text.count("slow") == 4
    assert "\x1b" not in text
    assert (shown["members"], shown["drawn"], len(shown["failures"])) == (6, 6, 4)
    (listed,) = ok("rollouts", "list", fleet)
    assert listed == {name: value for name, value in shown.items() if name not in ("members", "drawn", "failures")}
    assert "reverted" in run("rollouts", "list", fleet).output
    rows = [(row["actor"], row["action"]) for row in ok("audit", fleet)["rows"] if "rollout" in row["action"]]
    assert rows == [("operator", "rollout.created"), ("cloud", "rollout.halted")]


def test_a_stage_that_holds_too_few_devices_says_so(fleet: Path, tmp_path: Path) -> None:
    join(fleet, "van", 1)
    file = tmp_path / "r.toml"
    stages = 'stages = [{percent = 0, ring = "canary"}, {percent = 100}]'
    file.write_text(f'what = {{desired = {{log = "debug"}}}}\n{stages}\n')
    begun = run("rollouts", "create", fleet, file)
    assert "Its group has 1 device now, 0 of them in this stage." in begun.stdout
    assert "warning: this stage holds 0 devices, and 1 must report" in begun.stderr
    assert "warning   this stage holds 0 devices" in run("rollouts", "show", fleet, "r1").stdout
    run("labels", fleet, "van", "ring=canary")
    assert "1 of them in this stage" in (shown := run("rollouts", "show", fleet, "r1").stdout)
    assert "warning" not in shown
    assert ok("rollouts", "show", fleet, "r1")["drawn"] == 1


def test_pause_resume_abort(fleet: Path) -> None:
    join(fleet, "van", 1)
    config = next(path for path in SAMPLES if path.stem == "settings")
    assert ok("rollouts", "create", fleet, config)["spec"]["what"]["desired"]["log_level"] == "debug"
    assert ok("rollouts", "pause", fleet, "r1", "--reason", "lunch") == {
        "id": "r1", "state": "paused", "stage": 0, "why": "lunch",
    }  # fmt: skip
    assert "r1 is paused" in refused("rollouts", "pause", fleet, "r1")
    assert "r1 is running." in run("rollouts", "resume", fleet, "r1").output
    assert "r1 is running for desired" in refused("rollouts", "create", fleet, config)
    assert "--keep and --revert" in refused("rollouts", "abort", fleet, "r1")
    assert "--keep and --revert" in refused("rollouts", "abort", fleet, "r1", "--keep", "--revert")
    assert ok("rollouts", "abort", fleet, "r1", "--revert")["state"] == "reverted"
    assert "no rollout 'r7'" in refused("rollouts", "show", fleet, "r7")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what = 1", "not a rollout"),
        ("what", "not TOML"),
        ("what = {desired = {level = nan}}\nstages = [{percent = 1}]", "not JSON"),
        ('what = "models/a/1.json"\nstages = [{percent = 1}]\ngroup = "x"', "labels.NAME"),
        ('what = "models/a/1.json"\nstages = [{percent = 1}]', "has no root"),
    ],
)
def test_files_that_are_no_rollout(fleet: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    assert said in refused("rollouts", "create", fleet, tmp_path / "r.toml")


def test_a_file_that_is_not_there(fleet: Path, tmp_path: Path) -> None:
    assert "No such file" in refused("rollouts", "create", fleet, tmp_path / "none.toml")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_rollouts(path: Path) -> None:
    spec = read_spec(path)
    assert spec.stages[-1].percent == 100


def test_there_is_a_sample_of_each_kind() -> None:
    assert [path.stem for path in SAMPLES] == ["model", "policy", "settings"]
