"""The command line and a network that is not there: what it says, when, and what others can see meanwhile."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edge.cli import main
from edge.cli.running import STATUS_FILE
from edge.cli.watch import Watch, clock_time
from edge.link.replicator import Progress
from edge.node import Edge
from tests.edge.link.joined import NOWHERE, join_nowhere

COMMAND = [sys.executable, "-m", "edge.cli"]
JOINED_S_MAX = 30


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "store")
    join_nowhere(path)
    return path


@pytest.fixture
def silence() -> Iterator[str]:
    """The URL of somebody who takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def start(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Where a shell has started these tests in the background, SIGINT is ignored: not by this process."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_sync_says_the_first_failure_at_once_and_ctrl_c_says_what_is_kept(store: str) -> None:
    with Edge.open(store) as edge:
        edge.collection("notes").put("a", {"x": 1})
    with start("sync", store, "--timeout", "600") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(f"no answer from {NOWHERE}")
        assert "trying again until" in line
        assert "nothing is lost" in line
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=JOINED_S_MAX)
    assert process.returncode == 130
    assert said == ""
    assert "0 operations pushed" in errors
    assert "2 operations wait here" in errors
    assert "Traceback" not in errors
    with Edge.open(store) as edge:
        assert edge.collection("notes").get("a") == {"x": 1}


def test_sync_for_machines_says_one_thing_at_the_end(store: str) -> None:
    with start("sync", store, "--timeout", "1.5", "--json") as process:
        said, errors = process.communicate(timeout=JOINED_S_MAX)
    assert (process.returncode, said) == (1, "")
    assert json.loads(errors)["error"] == "unreachable"
    with start("sync", store, "--json") as process:
        sleep(2)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=JOINED_S_MAX)
    assert (process.returncode, said) == (130, "")
    assert json.loads(errors)["error"] == "interrupted"


def test_a_network_that_swallows_everything_is_told_too(store: str, silence: str) -> None:
    with start("sync", store, "--url", silence, "--timeout", "5") as process:
        _, errors = process.communicate(timeout=JOINED_S_MAX)
    assert process.returncode == 1
    assert errors.startswith(f"no answer yet from {silence}; trying until ")


@pytest.mark.parametrize("timeout", ["nan", "inf", "-inf", "0", "-1", "x"])
def test_a_timeout_that_is_none(store: str, timeout: str) -> None:
    result = CliRunner().invoke(main, ["sync", store, "--timeout", timeout])
    assert result.exit_code == 2
    assert "--timeout" in result.stderr


def test_the_time_limit_is_told_as_people_read_it() -> None:
    now_ms = 1_700_000_000_000
    assert len(clock_time(now_ms + 1000, now_ms)) == len("07:30:02")
    assert clock_time(now_ms + 3 * 86_400_000, now_ms).startswith("2023-11-1")
    assert clock_time(10**18, now_ms) == "it is stopped"


def test_status_shows_a_store_that_run_has_open(store: str) -> None:
    with Edge.open(store) as edge:
        edge.collection("notes").put("a", {"x": 1})
    with start("run", store) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("no answer from")
        file = Path(store, STATUS_FILE)
        deadline = monotonic() + JOINED_S_MAX
        said: dict[str, Any] = {}
        while "age_ms" not in said:
            shown = CliRunner().invoke(main, ["status", store, "--json"])
            assert monotonic() < deadline, shown.output
            said = json.loads(shown.stdout)
        held = said["held_by"]
        assert (held["pid"], held["command"]) == (process.pid, "agentdb-edge run")
        assert 0 < held["since_ms"] <= time() * 1000
        assert said["age_ms"] < 60_000
        assert said["collections"] == {"notes": {"records": 1}}
        assert said["fleet"]["url"] == NOWHERE
        assert file.stat().st_mode & 0o777 == 0o600
        table = CliRunner().invoke(main, ["status", store]).stdout
        assert table.startswith(f"Open in process {process.pid} (agentdb-edge run) since 20")
        assert " UTC; of its link it said " in table
        assert "no answer from" in table
        assert CliRunner().invoke(main, ["get", store, "notes", "a"]).exit_code == 0
        assert CliRunner().invoke(main, ["verify", store]).exit_code == 0
        refused = CliRunner().invoke(main, ["put", store, "notes", "a", "{}", "--wait", "0.1"])
        assert (refused.exit_code, f"process {process.pid} (agentdb-edge run)" in refused.stderr) == (1, True)
        assert "--wait SECONDS" in refused.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=JOINED_S_MAX) == 0
    assert not file.exists()
    after = json.loads(CliRunner().invoke(main, ["status", store, "--json"]).stdout)
    assert "held_by" not in after
    assert not after["sync"]["connected"]


def test_what_a_crashed_run_left_is_not_shown_as_the_next_holders(store: str) -> None:
    Path(store, STATUS_FILE).write_text(json.dumps({"at_ms": 1, "pid": os.getpid() + 1, "status": {}}))
    with Edge.open(store), start("status", store, "--json") as process:
        said, errors = process.communicate(timeout=JOINED_S_MAX)
    assert process.returncode == 0, errors
    assert json.loads(said)["held_by"]["pid"] == os.getpid()
    assert "age_ms" not in json.loads(said)
    with start("status", store, "--json") as process:
        said, _ = process.communicate(timeout=JOINED_S_MAX)
    assert "held_by" not in json.loads(said), "nobody has it open now, whatever was left"


def test_commands_wait_a_moment_for_each_other(store: str) -> None:
    edge = Edge.open(store)
    edge.collection("notes").put("a", {"x": 1})
    with start("patch", store, "notes", "a", '{"y": 2}', "--wait", "30") as process:
        sleep(1.2)
        edge.close()
        _, errors = process.communicate(timeout=JOINED_S_MAX)
    assert process.returncode == 0, errors
    with Edge.open(store, read_only=True) as edge:
        assert edge.collection("notes").get("a") == {"x": 1, "y": 2}


def commands_of(group: click.Group, *before: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, *before, name)
        else:
            yield " ".join((*before, name)), command


def test_every_command_that_opens_a_store_to_write_is_told_how_long_it_waits() -> None:
    writing = []
    for name, command in commands_of(main):
        assert command.callback is not None
        if re.search(r"\b(existing|_each)\(", inspect.getsource(inspect.unwrap(command.callback))):
            writing.append(name)
            assert "--wait" in [option for param in command.params for option in param.opts], name
    assert {"cache evict", "attachments pin", "put"} <= set(writing)


def test_a_store_that_is_open_elsewhere_is_searched(store: str) -> None:
    with Edge.open(store) as edge:
        edge.collection("notes", text=["body"]).put("a", {"body": "the pump is loud"})
        edge.agent("guide").memory().add("Ada likes tea")
        edge.agent("guide").thread().put({"step": 1})
        for command in (
            ("search", store, "notes", "pump"),
            ("scan", store, "notes"),
            ("memory", "search", store, "guide", "tea"),
            ("memory", "list", store, "guide"),
            ("state", "get", store, "guide", "main"),
            ("state", "list", store),
            ("collection", store),
            ("erasures", store),
        ):
            shown = CliRunner().invoke(main, [*command, "--json"])
            assert shown.exit_code == 0, (command, shown.output)
            assert json.loads(shown.stdout) or command[0] == "erasures"
    again = CliRunner().invoke(main, ["search", store, "notes", "pump", "--json"])
    assert [hit["key"] for hit in json.loads(again.stdout)] == ["a"]
    assert Path(store, "lance").is_dir(), "nobody had it open: what was brought up to date stays"


def test_on_a_terminal_the_lines_stand_above_the_bars(store: str) -> None:
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "sync", store, "--timeout", "1.5"], stdin=terminal, stdout=terminal, stderr=terminal
    ):
        os.close(terminal)
        shown = b""
        while data := _read(controller):
            shown += data
    os.close(controller)
    text = shown.decode()
    assert "push" in text
    assert "trying again until" in text.replace("\r\n", "")
    assert text.index("no answer from") < text.index("error: no answer from")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so when the last one on the other side has gone
        return b""


def test_lines_for_those_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure once, that it is over, and then how far it is: not a line for every answer."""
    with Watch("http://cloud", "12:00:00", quiet=False) as watch:
        for error in ("no answer", "no answer", ""):
            watch.told(Progress(0, 0, 0, 1, 10, 0, error))
            sleep(0.6)
    assert capsys.readouterr().err.splitlines() == [
        "no answer; trying again until 12:00:00, Ctrl-C stops, nothing is lost",
        "connected again",
    ]
