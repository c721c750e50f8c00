"""``agentdb-cloud``: what is given and has no effect is refused, and what people should know is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge import Edge
from tests.cloud.test_cli import join, ok, run, served


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory)
    return directory


def _refused(*args: object, code: int = 2) -> str:
    result = run(*args)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_an_archive_that_nothing_outlives_is_refused(fleet: Path, tmp_path: Path) -> None:
    assert "gone with the process" in _refused("init", tmp_path / "m", "--archive", "memory://")
    assert not (tmp_path / "m").exists()
    assert "gone with the process" in _refused("archive", "move", fleet, "memory://")
    assert "gone with the process" in _refused(
        "restore", tmp_path / "m", "--archive", "memory://", "--keys", fleet / "keys"
    )
    assert "memory" not in _refused("init", tmp_path / "m", "--archive", "ftp://x")


def test_a_reason_without_a_revocation(fleet: Path) -> None:
    assert "--revoke DEVICE --reason" in _refused("devices", fleet, "--reason", "lost")


def test_hints_name_the_directory(fleet: Path) -> None:
    assert f"agentdb-cloud devices {fleet} lists them" in _refused("devices", fleet, "--revoke", "nobody")
    assert f"agentdb-cloud conflicts {fleet} lists them" in _refused("conflicts", fleet, "--show", "7")


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://cloud.example", True),
        ("https://cloud.example", False),
        ("http://127.0.0.1:7700", False),
        ("http://[::1]:7700", False),
        ("http://localhost", False),
    ],
)
def test_a_token_that_devices_would_refuse_is_said(fleet: Path, url: str, warned: bool) -> None:
    result = run("token", fleet, "--url", url)
    assert result.exit_code == 0
    assert ("devices refuse plain HTTP to" in result.stderr) == warned


def test_of_two_devices_of_one_name_the_active_one_is_meant(fleet: Path) -> None:
    first, second = join(fleet, "bert", 1), join(fleet, "bert", 2)
    assert "the name of 2 devices" in _refused("devices", fleet, "--set-priority", "bert", "5")
    ok("devices", fleet, "--revoke", first.device_id.hex())
    rows = ok("devices", fleet, "--set-priority", "bert", "5")
    assert {row["device"]: row["priority"] for row in rows}[second.device_id.hex()] == 5
    again = run("devices", fleet, "--revoke", first.device_id.hex())
    assert again.exit_code == 0
    assert "was revoked already" in again.stderr
    ok("devices", fleet, "--revoke", "bert")
    assert all(row["state"] == "revoked" for row in ok("devices", fleet))


def test_two_copies_of_a_device_can_be_noticed(fleet: Path, tmp_path: Path) -> None:
    with served(fleet) as (_, url):
        token = ok("token", fleet)["token"]
        with Edge.open(tmp_path / "van") as van:
            van.join(token, name="van")
            van.collection("notes").put("a", {"n": 1})
            van.sync(url=url, timeout_s=20)
        [row] = ok("devices", fleet)
        assert [held["operations"] > 0 for held in row["replicas"]] == [True]
        shutil.copytree(tmp_path / "van", tmp_path / "copy")
        for name in ("van", "copy", "van", "copy"):
            with Edge.open(tmp_path / name) as edge:
                edge.collection("notes").put(name, {"n": 2})
                edge.sync(url=url, timeout_s=20)
    [row] = ok("devices", fleet)
    assert len(row["replicas"]) > 1
    assert row["last_push_ms"] == row["replicas"][0]["last_push_ms"] > row["replicas"][1]["last_push_ms"] > 0
    assert "PUSH BEFORE" in run("devices", fleet).stdout


def test_a_move_while_the_server_runs_says_what_to_do(fleet: Path, tmp_path: Path) -> None:
    with served(fleet):
        said = _refused("archive", "move", fleet, tmp_path / "new", code=1)
    assert "stop it first, and start it again" in said


def test_a_restore_from_nowhere(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    keys = ["--keys", fleet / "keys"]
    said = _refused("restore", tmp_path / "r", "--archive", tmp_path / "nothere", *keys)
    assert f"there is no directory {tmp_path / 'nothere'}" in said
    archive = ["--archive", fleet / "archive", *keys]
    assert "no manifest 99" in (said := _refused("restore", tmp_path / "r", *archive, "--manifest", "99"))
    assert "it has 1 to 1" in said
    assert "is in the future" in _refused("restore", tmp_path / "r", *archive, "--time", "2999-01-01")
    assert "--cursor" in _refused("restore", tmp_path / "r", *archive, "--cursor", "-1")
    assert not (tmp_path / "r").exists()


def test_one_is_one(fleet: Path) -> None:
    nothing = run("archive", "verify", fleet).stdout
    assert "0 manifests, " in nothing
    assert "Nothing is archived yet" in nothing
    assert ": 1 object, " in run("archive", "run", fleet).stdout
    verified = run("archive", "verify", fleet).stdout
    assert "1 manifest, " in verified
    assert "1 manifests" not in verified
    assert "Everything checks out." in verified


def test_status_says_who_is_active(fleet: Path) -> None:
    first = join(fleet, "anna", 1)
    join(fleet, "bert", 2)
    ok("devices", fleet, "--revoke", first.device_id.hex())
    assert "1 active, 1 revoked" in run("status", fleet).stdout


def test_a_restore_is_one_although_nothing_can_be_signed(
    fleet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = tmp_path / "trust"
    ok("trust", "init", trust, "--fleet", ok("status", fleet)["fleet"])
    ok("publish", fleet, trust, "--online-key", trust / "keys" / "online.pem")
    ok("archive", "run", fleet)
    (fleet / "keys" / "control.key").write_text("damaged")
    ok("restore", tmp_path / "r", "--archive", fleet / "archive", "--keys", fleet / "keys")
    assert "cannot be signed anew" in caplog.text
    assert ok("status", tmp_path / "r")["fleet"]


def test_assignments_names_rollouts_and_assign_says_that_nothing_can_be_signed(fleet: Path, tmp_path: Path) -> None:
    trust = tmp_path / "trust"
    ok("trust", "init", trust, "--fleet", ok("status", fleet)["fleet"])
    assert "TRUST/keys/online.pem" in run("publish", fleet, trust).stderr
    ok("trust", "init", tmp_path / "other", "--fleet", "00" * 16)
    assert "is the trust of fleet 0000" in run("publish", fleet, tmp_path / "other").stderr
    (tmp_path / "a.json").write_bytes(b'{"name":"a","schema":1}')
    ok("trust", "add-target", trust, tmp_path / "a.json", "--as", "policies/a/1.json")
    ok("publish", fleet, trust, "--online-key", trust / "keys" / "online.pem")
    (tmp_path / "r.json").write_text('{"what": "policies/a/1.json", "stages": [{"percent": 50}]}')
    ok("rollouts", "create", fleet, tmp_path / "r.json")
    assert ok("assignments", fleet)["channels"] == [{"rollouts": ["r1"], "place": "policy", "path": ""}]
    ok("assign", fleet, "policy", "policies/a/1.json")
    assert "r1" in run("assignments", fleet).stdout
    assert "is missing" not in run("assign", fleet, "policy", "policies/a/1.json").stderr
    ok("trust", "add-target", trust, tmp_path / "a.json", "--as", "policies/a/2.json", "--floor", "2")
    assert "--assign PATH" in run("publish", fleet, trust).stderr
    ok("rollouts", "abort", fleet, "r1", "--revert")
    assert ok("publish", fleet, trust, "--assign", "policies/a/2.json")["assigned"] == ["policies/a/2.json"]
    assert ok("assignments", fleet)["channels"][0]["path"] == "policies/a/2.json"
    (fleet / "keys" / "control.key").unlink()
    assert "control.key is missing" in run("assign", fleet, "policy", "policies/a/2.json").stderr
