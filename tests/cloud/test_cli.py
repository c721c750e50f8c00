"""``agentdb-cloud``: what each command does, and that mistakes are one line and a hint."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

from cloud.cli import main
from cloud.cli.output import parse_duration_s, parse_options, parse_time_ms
from cloud.identity.enrollment import Enrollment
from cloud.server.home import Home
from sync.errors import InvalidValue, StoreLocked
from sync.keys import DeviceKey
from sync.tokens import parse_token
from tests.cloud.identity_world import SeededRandom, enroll_request


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def ok(*args: object) -> Any:
    """The JSON document that the command prints."""
    result = run(*args, "--json")
    assert result.exit_code == 0, (result.output, result.stderr)
    return json.loads(result.stdout)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory, "--name", "Lab")
    return directory


def join(directory: Path, name: str, seed: int) -> DeviceKey:
    token = parse_token(ok("token", directory)["token"])
    key = DeviceKey.generate(SeededRandom(seed))
    with Home.open(directory) as home:
        enrollment: Enrollment = home.plane.enrollment
        enrollment.enroll(enroll_request(token, key, name))
    return key


def test_init_makes_a_fleet_and_says_what_is_next(tmp_path: Path) -> None:
    result = run("init", tmp_path / "c", "--name", "Lab")
    assert result.exit_code == 0
    assert "agentdb-cloud serve" in result.stdout
    assert "agentdb-cloud token" in result.stdout
    assert (tmp_path / "c" / "keys" / "service.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert ok("status", tmp_path / "c")["name"] == "Lab"


def test_init_does_not_touch_what_exists(fleet: Path) -> None:
    before = (fleet / "keys" / "service.key").read_bytes()
    result = run("init", fleet)
    assert result.exit_code == 2
    assert "hint: " in result.stderr
    assert (fleet / "keys" / "service.key").read_bytes() == before


def test_an_archive_elsewhere(tmp_path: Path) -> None:
    made = ok("init", tmp_path / "c", "--archive", tmp_path / 'a "quoted" bücket')
    assert made["archive"] == str(tmp_path / 'a "quoted" bücket')
    ok("archive", "run", tmp_path / "c")
    assert (tmp_path / 'a "quoted" bücket' / "v1").is_dir()


def test_a_token_can_be_used(fleet: Path) -> None:
    result = run("token", fleet, "--ttl", "30m", "--uses", "3", "--url", "https://cloud.example", "--name", "batch 4")
    assert result.exit_code == 0
    token = parse_token(result.stdout)
    assert token.url == "https://cloud.example"
    assert "3 devices" in result.stderr
    key = DeviceKey.generate(SeededRandom(5))
    with Home.open(fleet) as home:
        answer = home.plane.enrollment.enroll(enroll_request(token, key))
    assert answer.fleet == token.fleet


def test_devices_are_listed_ranked_and_revoked(fleet: Path) -> None:
    assert "No device" in run("devices", fleet).stdout
    first, second = join(fleet, "[red]kiosk", 1), join(fleet, "robot", 2)
    [row] = [row for row in ok("devices", fleet, "--set-priority", "robot", "5") if row["name"] == "robot"]
    assert (row["device"], row["priority"], row["state"]) == (second.device_id.hex(), 5, "active")
    ok("devices", fleet, "--revoke", first.device_id.hex()[:6], "--reason", "lost")
    assert {row["name"]: row["state"] for row in ok("devices", fleet)} == {"[red]kiosk": "revoked", "robot": "active"}
    shown = run("devices", fleet).stdout
    assert "[red]kiosk" in shown  # text, not markup
    assert "revoked" in shown
    assert run("devices", fleet, "--revoke", "nobody").exit_code == 2


def test_the_audit_trail_is_shown_and_checked(fleet: Path) -> None:
    join(fleet, "robot", 2)
    trail = ok("audit", fleet)
    assert [row["action"] for row in trail["rows"]] == ["fleet.created", "token.created", "device.enrolled"]
    assert trail["broken_at"] is None
    assert "device.enrolled" in run("audit", fleet).stdout


def test_archive_and_restore(fleet: Path, tmp_path: Path) -> None:
    join(fleet, "robot", 2)
    assert ok("archive", "run", fleet)["manifests"] == 1
    assert ok("archive", "snapshot", fleet)["number"] >= 1
    report = ok("archive", "verify", fleet)
    assert report["problems"] == []

    target = tmp_path / "again"
    restored = ok("restore", "--archive", fleet / "archive", "--keys", fleet / "keys", target)
    assert restored["fleet"] == ok("status", fleet)["fleet"]
    status = ok("status", target)
    assert status["generation"] == 2
    assert [row["name"] for row in ok("devices", target)] == ["robot"]
    assert status["archive"]["url"] == str(fleet / "archive")
    ok("archive", "run", target)  # goes on in the same archive

    again = run("restore", "--archive", fleet / "archive", "--keys", fleet / "keys", target)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_restore_into_the_directory_that_lost_its_store(fleet: Path) -> None:
    ok("archive", "run", fleet)
    digest_before = ok("status", fleet)["head"]
    for path in fleet.glob("cloud.db*"):
        path.unlink()
    ok("restore", "--archive", fleet / "archive", "--keys", fleet / "keys", fleet)
    assert ok("status", fleet)["head"] == digest_before


def test_a_damaged_archive_is_found(fleet: Path) -> None:
    ok("archive", "run", fleet)
    [manifest] = (fleet / "archive").rglob("manifest/*")
    data = bytearray(manifest.read_bytes())
    data[100] ^= 1
    manifest.write_bytes(data)
    result = run("archive", "verify", fleet)
    assert result.exit_code == 1
    assert "manifest/" in result.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["status", "{missing}"],
        ["serve", "{missing}"],
        ["token", "{fleet}", "--ttl", "soon"],
        ["token", "{fleet}", "--uses", "0"],
        ["devices", "{fleet}", "--set-priority", "nobody", "1"],
        ["conflicts", "{fleet}", "--show", "1"],
        ["conflicts", "{fleet}", "--resolve", "1"],
        ["conflicts", "{fleet}", "--resolve", "1", "--take", "value"],
        ["conflicts", "{fleet}", "--resolve", "1", "--take", "value", "--value", "not json"],
        ["conflicts", "{fleet}", "--resolve", "1", "--take", "winner", "--value", "1"],
        ["conflicts", "{fleet}", "--take", "winner"],
        ["conflicts", "{fleet}", "--value", "1"],
        ["token", "{fleet}", "--url", "foo"],
        ["token", "{fleet}", "--url", "ftp://x"],
        ["token", "{fleet}", "--url", "http://"],
        ["token", "{fleet}", "--url", "http://x:y"],
        ["token", "{fleet}", "--url", "http://x/ y"],
        ["archive", "move", "{fleet}", "ftp://x"],
        ["archive", "move", "{fleet}", "s3://["],
        ["conflicts", "{fleet}", "--resolve", "1", "--take", "loser"],
        ["init", "{missing}", "--archive", "ftp://x"],
        ["init", "{missing}", "--archive-option", "x"],
        ["restore", "{missing}", "--archive", "{fleet}/archive", "--keys", "{missing}"],
        ["restore", "{missing}", "--archive", "{missing}", "--keys", "{fleet}/keys"],
        [
            "restore",
            "{missing}",
            "--archive",
            "{fleet}/archive",
            "--keys",
            "{fleet}/keys",
            "--cursor",
            "1",
            "--time",
            "x",
        ],
        ["restore", "{missing}", "--archive", "{fleet}/archive", "--keys", "{fleet}/keys", "--time", "yesterday"],
    ],
)
def test_a_mistake_is_one_line_and_a_hint(fleet: Path, tmp_path: Path, args: list[str]) -> None:
    given = [arg.format(fleet=fleet, missing=tmp_path / "missing") for arg in args]
    result = run(*given)
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.output
    assert len(lines) <= 2


@pytest.mark.parametrize("command", ["audit", "conflicts"])
def test_numbers_have_bounds(fleet: Path, command: str) -> None:
    for args in (
        ["--limit", "0"],
        ["--limit", "-3"],
        ["--after", "-1"],
        ["--after", str(1 << 63)],
        ["--limit", str(1 << 70)],
    ):
        result = run(command, fleet, *args)
        assert result.exit_code == 2
        assert "Usage:" in result.stderr


def test_a_device_is_named_by_the_beginning_of_its_id(fleet: Path) -> None:
    keys = [join(fleet, f"robot-{number}", number) for number in range(1, 24)]  # more than there are first digits
    ids = [key.device_id.hex() for key in keys]
    for length in (4, 24):
        [row] = [
            row for row in ok("devices", fleet, "--set-priority", ids[0][:length], length) if row["priority"] == length
        ]
        assert row["device"] == ids[0]
    first = next(digit for digit in "0123456789abcdef" if sum(name.startswith(digit) for name in ids) > 1)
    several = [name for name in ids if name.startswith(first)]
    result = run("devices", fleet, "--set-priority", first, 3)
    assert result.exit_code == 2
    assert f"the beginning of {len(several)} ids" in result.stderr
    assert several[0] in result.stderr
    assert "robot-" in result.stderr
    lone = next(name[:3] for name in ids if sum(other.startswith(name[:3]) for other in ids) == 1)
    assert "too short" in run("devices", fleet, "--revoke", lone).stderr
    assert "no device" in run("devices", fleet, "--revoke", "").stderr


def test_what_take_value_lacks_is_said(fleet: Path) -> None:
    assert "needs a --value" in run("conflicts", fleet, "--resolve", "1", "--take", "value").stderr


def test_exit_codes_are_documented() -> None:
    assert "Exit codes: 0 done; 1 " in run("--help").stdout


def test_an_error_is_json_for_who_asked_for_json(tmp_path: Path) -> None:
    result = run("status", tmp_path / "missing", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"] == "invalid-config"


def test_a_config_that_is_wrong_names_file_and_key(fleet: Path) -> None:
    (fleet / "cloud.toml").write_text("[server]\nprot = 1\n")
    result = run("status", fleet)
    assert result.exit_code == 2
    assert "cloud.toml" in result.stderr
    assert "prot" in result.stderr


def test_durations_times_and_options() -> None:
    assert [parse_duration_s(text) for text in ("90", "90s", "30m", "24h", "7d")] == [90, 90, 1800, 86400, 604800]
    assert parse_time_ms("1970-01-01T00:00:01Z") == parse_time_ms("1970-01-01T00:00:01") == 1000
    assert parse_time_ms("1970-01-01T01:00:00+01:00") == 0
    assert parse_options(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for bad in ("", "-1", "1w", "1.5h"):
        with pytest.raises(InvalidValue):
            parse_duration_s(bad)


# -- with a running server --------------------------------------------------------------------------------------------


@contextmanager
def served(directory: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [
        sys.executable,
        "-c",
        "from cloud.cli import main; main()",
        "serve",
        str(directory),
        "--port",
        "0",
        *args,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, (line, process.stderr.read() if process.stderr and process.poll() is not None else "")
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_serve_until_sigterm(fleet: Path) -> None:
    with served(fleet) as (process, url):
        assert (fleet / "port").read_text().strip() == url.rpartition(":")[2]
        with urlopen(f"{url}/v1/health") as response:
            assert json.load(response)["status"] == "ok"
        status = ok("status", fleet)
        assert status["server"] == {"running": True, "url": url, "failing": []}
        token = parse_token(ok("token", fleet)["token"])
        assert token.url == url

        with Home.open(fleet) as home, pytest.raises(StoreLocked), home.serving():
            pass
        second = run("serve", fleet)
        assert second.exit_code == 1
        assert "another server" in second.stderr

        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert not (fleet / "port").exists()
    status = ok("status", fleet)
    assert status["server"]["running"] is False
    assert status["archive"]["manifest"] == 1  # archived when it stopped


def test_the_command_line_works_beside_the_server(fleet: Path) -> None:
    with served(fleet):
        join(fleet, "robot", 3)
        ok("devices", fleet, "--set-priority", "robot", "3")
        ok("archive", "run", fleet)
        ok("archive", "snapshot", fleet)
        assert ok("archive", "verify", fleet)["problems"] == []
        assert ok("conflicts", fleet) == []


def test_a_failing_archive_is_shown_and_the_server_goes_on(fleet: Path) -> None:
    (fleet / "cloud.toml").write_text('[archive]\nurl = "archive"\ninterval_s = 0.05\n')
    (fleet / "archive").rmdir()
    (fleet / "archive").write_text("in the way")
    with served(fleet) as (process, url):
        deadline = time.monotonic() + 10
        while not json.loads((failing := run("status", fleet, "--json")).stdout)["server"]["failing"]:
            assert time.monotonic() < deadline
        assert failing.exit_code == 1
        with urlopen(f"{url}/v1/health") as response:
            assert json.load(response)["status"] == "degraded"
        assert "archive has been failing" in run("status", fleet).stdout
        (fleet / "archive").unlink()
        while run("status", fleet).exit_code:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_an_address_that_is_taken(fleet: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    ok("init", other)
    with served(fleet) as (_, url):
        result = run("serve", other, "--port", url.rpartition(":")[2])
    assert result.exit_code == 2
    assert "cannot listen" in result.stderr


def test_plain_http_beyond_this_machine_must_be_said_in_words(fleet: Path) -> None:
    result = run("serve", fleet, "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "allow_plain_http" in result.stderr
