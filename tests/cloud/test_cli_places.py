"""``agentdb-cloud``: directories that are made or in the way; archives that two would write, or that move."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud.server.home import DRAFT
from cloud.storage.files import alone
from tests.cloud.test_cli import join, ok, run, served


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory, "--name", "Lab")
    return directory


def _refused(*args: object, code: int = 2) -> str:
    """What it said."""
    result = run(*args)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return result.stderr


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "Not a directory" in _refused("init", tmp_path / "file")
    assert "Not a directory" in _refused("init", tmp_path / "file" / "below")
    assert "cannot make" in _refused("init", "/proc/nowhere")
    assert (tmp_path / "file").read_text() == "mine"


def test_init_beside_what_somebody_else_keeps(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("mine")
    assert "not empty: it has a.txt" in _refused("init", texts)
    for name in ("log.db", "keys/device.key"):
        device = tmp_path / name.replace("/", "-")
        (device / name).parent.mkdir(parents=True)
        (device / name).touch()
        assert "is a device's store" in _refused("init", device)
        assert "is a device's store" in _refused("restore", device, "--archive", texts, "--keys", texts)
    assert [path.name for path in texts.iterdir()] == ["a.txt"]


def test_init_in_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "mounted" / "lost+found").mkdir(parents=True)
    ok("init", tmp_path / "mounted")
    assert sorted(path.name for path in (tmp_path / "mounted").iterdir()) == [
        "archive",
        "cloud.db",
        "cloud.toml",
        "keys",
        "lost+found",
    ]


@pytest.mark.parametrize("archive", ["ftp://x", "/proc/nowhere", "{tmp}/file"])
def test_an_init_that_fails_leaves_nothing(tmp_path: Path, archive: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "there").mkdir()
    for target in (tmp_path / "new" / "deep", tmp_path / "there"):
        assert run("init", target, "--archive", archive.format(tmp=tmp_path)).exit_code == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]


def test_while_an_init_is_at_work_nobody_sees_half_of_it(tmp_path: Path) -> None:
    """As a second shell sees it; nothing tells anybody to remove keys that are being made."""
    directory = tmp_path / "cloud"
    code = "from cloud.cli import main; main()"
    init = subprocess.Popen([sys.executable, "-c", code, "init", str(directory)], stdout=subprocess.DEVNULL)
    try:
        said = set()
        deadline = time.monotonic() + 30
        while (result := run("token", directory)).exit_code:
            said.add(result.stderr)
            assert time.monotonic() < deadline
    finally:
        assert init.wait(30) == 0
    assert all("is not a control plane's directory" in text for text in said)
    assert not any("remove" in text for text in said)


def test_a_killed_init_is_not_taken_for_a_control_plane(tmp_path: Path) -> None:
    directory = tmp_path / "cloud"
    (directory / f"{DRAFT}x" / "keys").mkdir(parents=True)
    assert "wait for it" in _refused("token", directory)
    assert "another init is at work" in _refused("init", directory)


# -- cloud.toml --------------------------------------------------------------------------------------------------------


def test_without_its_configuration_nothing_is_served(fleet: Path) -> None:
    (fleet / "cloud.toml").rename(fleet / "cloud.tmol")
    for command in ("serve", "status", "token"):
        assert "cloud.toml is missing" in _refused(command, fleet)


def test_the_generated_configuration_is_its_own_reference(fleet: Path) -> None:
    text = (fleet / "cloud.toml").read_text()
    assert "# body_timeout_s = 30.0" in text
    assert "configs/" not in text


# -- restore -----------------------------------------------------------------------------------------------------------


def _position(directory: Path) -> int:
    found: int = json.loads(run("status", directory, "--json").stdout)["archive"]["manifest"]
    return found


def test_a_restore_says_that_it_takes_over(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    result = run("restore", tmp_path / "new", "--archive", fleet / "archive", "--keys", fleet / "keys")
    assert "stop the control plane that wrote it before" in result.stdout
    ok("archive", "run", tmp_path / "new")
    join(fleet, "robot", 1)
    said = _refused("archive", "run", fleet, code=1)
    assert "another control plane has continued this archive" in said
    assert "agentdb-cloud archive move DIR URL" in said


def test_a_rehearsal_leaves_the_archive_to_the_control_plane_that_writes_it(fleet: Path, tmp_path: Path) -> None:
    join(fleet, "robot", 1)
    ok("archive", "run", fleet)
    reh = tmp_path / "reh"
    made = run("restore", reh, "--archive", fleet / "archive", "--keys", fleet / "keys", "--rehearse")
    assert made.exit_code == 0, made.output
    assert "does not write to" in made.stdout
    (reh / "cloud.toml").write_text(
        (reh / "cloud.toml").read_text().replace("[archive]\n", "[archive]\ninterval_s = 0.05\n")
    )
    before = sorted((fleet / "archive").rglob("*"))
    with served(reh) as (process, _):
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert "is not written, and nothing is taken from devices" in process.stdout.read()
    assert sorted((fleet / "archive").rglob("*")) == before
    assert "is a rehearsal" in _refused("archive", "run", reh)
    assert "is a rehearsal" in _refused("archive", "snapshot", reh)
    shown = run("status", reh)
    assert shown.exit_code == 0
    assert "not written: a rehearsal" in shown.stdout
    assert [row["name"] for row in ok("devices", reh)] == ["robot"]
    assert ok("archive", "verify", reh)["problems"] == []
    join(fleet, "kiosk", 2)
    assert ok("archive", "run", fleet)["manifests"] == 1  # the real one goes on


@pytest.mark.parametrize(
    "target", [["--time", "2020-01-01"], ["--cursor", "999"], ["--manifest", "999"], ["--archive", "{tmp}/none"]]
)
def test_a_restore_that_fails_leaves_nothing(fleet: Path, tmp_path: Path, target: list[str]) -> None:
    ok("archive", "run", fleet)
    arguments = [
        "--archive",
        fleet / "archive",
        "--keys",
        fleet / "keys",
        *(part.format(tmp=tmp_path) for part in target),
    ]
    assert run("restore", tmp_path / "new" / "deep", *arguments).exit_code in (1, 2)
    assert not (tmp_path / "new").exists()
    kept = tmp_path / "kept"
    shutil.copytree(fleet / "keys", kept / "keys")
    assert run("restore", kept, *arguments).exit_code in (1, 2)
    assert [path.name for path in kept.iterdir()] == ["keys"]
    assert (kept / "keys" / "service.key").exists()


def test_two_restores_into_one_directory(fleet: Path, tmp_path: Path) -> None:
    """One after the other: they would build one file, and take away each other's."""
    ok("archive", "run", fleet)
    kept = tmp_path / "kept"
    shutil.copytree(fleet / "keys", kept / "keys")
    command = [sys.executable, "-c", "from cloud.cli import main; main()", "restore", str(kept)]
    command += ["--archive", str(fleet / "archive"), "--keys", str(kept / "keys")]
    with alone(kept):
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        time.sleep(2)
        assert [path.name for path in kept.iterdir()] == ["keys"]
    said = [restore.communicate(timeout=30)[1] for restore in both]
    assert sorted(restore.returncode for restore in both) == [0, 2], said
    assert any("exists already" in text for text in said)
    assert ok("status", kept)["name"] == "Lab"


def test_a_restore_does_not_mix_with_what_is_there(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    arguments = ["--archive", fleet / "archive", "--keys", fleet / "keys"]
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "a.txt").touch()
    assert "not empty" in _refused("restore", strange, *arguments)
    other = tmp_path / "other"
    other.mkdir()
    (other / "cloud.toml").write_text('[archive]\nurl = "elsewhere"\n')
    assert "names another archive" in _refused("restore", other, *arguments)
    assert "not empty" in _refused("restore", other, *arguments, "--rehearse")


# -- archive move ------------------------------------------------------------------------------------------------------


def test_an_archive_moves_with_its_history(fleet: Path, tmp_path: Path) -> None:
    join(fleet, "robot", 1)
    ok("archive", "run", fleet)
    join(fleet, "kiosk", 2)
    new = tmp_path / "new"
    moved = ok("archive", "move", fleet, new)
    assert (moved["url"], moved["manifest"]) == (str(new), 2)  # what was new was archived there
    assert _position(fleet) == 2
    assert ok("archive", "verify", fleet)["manifests"] == 2
    assert "is at" in _refused("archive", "move", fleet, new)
    shutil.rmtree(fleet / "archive")
    ok("restore", tmp_path / "again", "--archive", new, "--keys", fleet / "keys", "--rehearse")
    assert {row["name"] for row in ok("devices", tmp_path / "again")} == {"robot", "kiosk"}


def test_one_whose_archive_was_taken_over_moves_what_is_its_own(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    ok("restore", tmp_path / "other", "--archive", fleet / "archive", "--keys", fleet / "keys")
    for number in (1, 2):
        join(tmp_path / "other", f"there-{number}", number)
        ok("archive", "run", tmp_path / "other")
    join(fleet, "here", 3)
    assert run("archive", "run", fleet).exit_code == 1
    moved = ok("archive", "move", fleet, tmp_path / "own")
    assert moved["manifest"] == 2
    assert ok("archive", "verify", fleet)["problems"] == []
    ok("archive", "run", tmp_path / "other")
    assert ok("archive", "verify", tmp_path / "other")["manifests"] == 3
    ok("restore", tmp_path / "again", "--archive", tmp_path / "own", "--keys", fleet / "keys", "--rehearse")
    assert [row["name"] for row in ok("devices", tmp_path / "again")] == ["here"]


def test_a_rehearsal_that_is_to_stay_gets_an_archive(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "snapshot", fleet)
    reh = tmp_path / "reh"
    ok("restore", reh, "--archive", fleet / "archive", "--keys", fleet / "keys", "--rehearse")
    ok("archive", "move", reh, tmp_path / "own")
    assert ok("status", reh)["archive"]["written"] is True
    join(reh, "robot", 1)
    assert ok("archive", "run", reh)["manifests"] == 1
    assert ok("archive", "verify", reh)["problems"] == []
    join(fleet, "kiosk", 2)
    assert ok("archive", "run", fleet)["manifests"] == 1


@pytest.mark.parametrize("restored", [False, True])
def test_an_archive_that_is_lost_is_begun_anew(fleet: Path, tmp_path: Path, restored: bool) -> None:
    """A store that was restored from a snapshot does not have the feed's beginning any more."""
    join(fleet, "robot", 1)
    ok("archive", "snapshot", fleet)
    if restored:
        ok("restore", tmp_path / "r", "--archive", fleet / "archive", "--keys", fleet / "keys")
        shutil.move(fleet / "archive", tmp_path / "r" / "archive-old")
        fleet = tmp_path / "r"
    else:
        shutil.rmtree(fleet / "archive")
    said = _refused("archive", "run", fleet, code=1)
    assert "--fresh" in said
    assert "--fresh" in _refused("archive", "move", fleet, tmp_path / "own", code=1)
    assert ok("archive", "move", fleet, tmp_path / "own", "--fresh")["manifest"] == 1
    assert ok("archive", "verify", fleet)["problems"] == []
    assert "another archive" in _refused("archive", "move", fleet, tmp_path / "own", "--fresh")
    ok("restore", tmp_path / "again", "--archive", tmp_path / "own", "--keys", fleet / "keys", "--rehearse")
    assert [row["name"] for row in ok("devices", tmp_path / "again")] == ["robot"]


def test_an_archive_whose_place_was_changed_by_hand(fleet: Path, tmp_path: Path) -> None:
    """What the hint says works."""
    ok("archive", "run", fleet)
    before = (fleet / "cloud.toml").read_text()
    (fleet / "cloud.toml").write_text(f'[archive]\nurl = "{tmp_path}/new"\n')
    said = _refused("archive", "run", fleet, code=1)
    assert "archive move" in said
    (fleet / "cloud.toml").write_text(before)
    ok("archive", "move", fleet, tmp_path / "new")


def test_no_move_under_a_running_server(fleet: Path, tmp_path: Path) -> None:
    with served(fleet):
        assert "stop it first" in _refused("archive", "move", fleet, tmp_path / "new", code=1)
    assert not (tmp_path / "new").exists()


# -- serve and status --------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_all_that_is_said(fleet: Path) -> None:
    (fleet / "archive").rmdir()
    (fleet / "archive").write_text("in the way: the archive would fail, too")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-c", "from cloud.cli import main; main()", "serve", str(fleet)]
        port = str(taken.getsockname()[1])
        done = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: cannot listen on .*\nhint: .*\n", done.stderr), done.stderr


def test_a_failing_archive_is_said_with_its_hint(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    (fleet / "cloud.toml").write_text(f'[archive]\nurl = "{tmp_path}/empty"\ninterval_s = 0.05\n')
    with served(fleet) as (process, _):
        deadline = time.monotonic() + 10
        while (shown := run("status", fleet)).exit_code == 0:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert process.stderr is not None
        log = process.stderr.read()
    assert "archive failed" in log
    assert shown.exit_code == 1
    assert run("archive", "run", fleet).exit_code == 1
    assert run("status", fleet).exit_code == 1
    ok("archive", "move", fleet, tmp_path / "empty", "--fresh")
    assert run("status", fleet).exit_code == 0
    for said in (log, shown.stdout):
        assert "agentdb-cloud archive move DIR URL" in said
    assert "Traceback" not in log


def test_a_directory_that_somebody_else_owns(fleet: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    fleet.parent.chmod(0o711)
    script = f"""
import os, sys
from click.testing import CliRunner
from cloud.cli import main
import cloud.server.home, cloud.server.creation, cloud.storage.objects
os.seteuid(65534)
for command in (["status"], ["token"], ["archive", "run"], ["init"]):
    result = CliRunner().invoke(main, [*command, {str(fleet)!r}])
    assert result.exit_code == 2, result
    assert "Permission denied" in result.stderr and "hint: " in result.stderr, result.stderr
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
