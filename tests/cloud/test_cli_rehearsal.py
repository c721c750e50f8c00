"""A rehearsal keeps to itself: no device gets in, pushes or pulls, and it does not sit on its control plane's port."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge import Edge
from sync.errors import Unreachable
from tests.cloud.test_cli import ok, run, served


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    directory = tmp_path / "cloud"
    ok("init", directory)
    return directory


def _rehearse(fleet: Path, target: Path) -> Path:
    ok("restore", target, "--archive", fleet / "archive", "--keys", fleet / "keys", "--rehearse")
    return target


def test_a_device_gets_nothing_into_a_rehearsal_and_goes_on_with_its_control_plane(fleet: Path, tmp_path: Path) -> None:
    with served(fleet) as (process, url):
        port = url.rpartition(":")[2]
        token = ok("token", fleet)["token"]
        spare = ok("token", fleet)["token"]
        with Edge.open(tmp_path / "robot") as edge:
            edge.join(token, name="robot")
            edge.collection("notes").put("a", {"n": 1})
            edge.sync()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    reh = _rehearse(fleet, tmp_path / "reh")
    head = ok("status", reh)["head"]
    with served(reh, "--port", port), Edge.open(tmp_path / "robot") as edge:  # where the device looks for the real one
        edge.collection("notes").put("b", {"n": 2})
        with pytest.raises(Unreachable, match="rehearsal"):
            edge.sync(timeout_s=2)  # it tries again for so long
        with Edge.open(tmp_path / "new") as other, pytest.raises(Unreachable, match="rehearsal"):
            other.join(spare, name="new")
        assert "takes nothing from devices" in run("status", reh).stdout
    assert ok("status", reh)["head"] == head
    assert len(ok("devices", reh)) == 1
    ok("archive", "move", reh, tmp_path / "own")  # from now on it is a fleet of its own
    with served(reh, "--port", port), Edge.open(tmp_path / "robot") as edge:
        edge.sync()
    assert ok("status", reh)["head"] > head


def test_a_rehearsal_gives_no_tokens(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    reh = _rehearse(fleet, tmp_path / "reh")
    result = run("token", reh, "--url", "https://cloud.example")
    assert result.exit_code == 2
    assert "lets no device in" in result.stderr
    assert f"agentdb-cloud archive move {reh} URL" in result.stderr


def test_a_rehearsal_leaves_the_configured_port_alone(fleet: Path, tmp_path: Path) -> None:
    ok("archive", "run", fleet)
    reh = _rehearse(fleet, tmp_path / "reh")
    with served(fleet) as (_, url):
        taken = url.rpartition(":")[2]
        config = reh / "cloud.toml"
        config.write_text(config.read_text().replace("[server]\n", f"[server]\nport = {taken}\n"))
        command = [sys.executable, "-c", "from cloud.cli import main; main()", "serve", str(reh)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", process.stdout.readline())
            finally:
                process.kill()
