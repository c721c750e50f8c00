"""The guide, run: its Python from top to bottom with a real control plane, and the README's shell block as pasted."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.cli import main
from simulations.control_plane import ControlPlane
from simulations.processes import Children, environment
from tests.cloud.conflict_world import pair, settle
from tests.cloud.stream_world import Fleet

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "GUIDE.md").read_text()
COMMANDS = Path(sys.executable).parent


@pytest.mark.slow
def test_the_python_of_the_guide_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) > 8
    with Children(tmp_path) as children:
        cloud = ControlPlane(children, tmp_path / "fleet")
        cloud.init(str(tmp_path / "archive"))
        url = f"http://127.0.0.1:{cloud.serve()}"
        token = cloud.command("token", str(cloud.directory), "--url", url)["token"]
        monkeypatch.chdir(tmp_path)
        session = {"token": token}
        for block in blocks:
            line = GUIDE[: GUIDE.index(block)].count("\n")
            exec(compile("\n" * line + block, "GUIDE.md", "exec"), session)


@pytest.mark.parametrize("first", ["van", "kiosk"])
def test_the_resolver_of_the_guide_decides(tmp_path: Path, first: str) -> None:
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "def keep_longer" in block]
    session: dict[str, Any] = {}
    exec(block, session)
    fleet = Fleet(tmp_path, resolvers={"longer": session["keep_longer"]})
    van, kiosk = pair(fleet, "resolver:longer")
    van.patch("notes", "k", text="a long text")
    kiosk.patch("notes", "k", text="short")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    assert settle(fleet) == {"text": "a long text", "n": 1}
    van.delete("notes", "k")
    kiosk.patch("notes", "k", text="edited")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    shown = settle(fleet)
    assert [conflict.state for conflict in fleet.conflicts()] == ["resolved", "resolved"]
    assert shown == {"text": "edited"}, "what only the deleted record had is not in what a resolver is given"
    fleet.close()


def test_the_guide_names_every_exception_and_every_command() -> None:
    errors = [
        name
        for name in edge.__all__
        if isinstance(getattr(edge, name), type) and issubclass(getattr(edge, name), Exception)
    ]
    assert len(errors) > 20
    assert [name for name in errors if f"`{name}`" not in GUIDE and name != "AgentDBError"] == []
    shell = GUIDE[GUIDE.index("## The command line") :]
    assert [name for name in main.commands if not re.search(rf"(agentdb-edge|\|)( \w+ \|)* {name}\b", shell)] == []


@pytest.mark.slow
@pytest.mark.skipif(not (COMMANDS / "agentdb-cloud").exists(), reason="the package is not installed")
def test_the_shell_of_the_readme_works_as_it_is_pasted(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"\n\n((?:    .*\n)*?    agentdb-cloud init .*\n(?:    .*\n)*)", (ROOT / "README.md").read_text()
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = "set -e\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + textwrap.dedent(block).replace("8750", str(port))
    path = os.pathsep.join([str(COMMANDS), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stderr, done.stderr
    assert "In sync: " in done.stdout
    assert re.search(r"pump-3 +0\.\d+", done.stdout), done.stdout
