"""A fleet whose operators have offline keys: real commands, a real server, real devices, a real network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cloud.cli import main as cloud
from edge.node import Edge
from simulations.control_plane import ControlPlane
from simulations.processes import Children

PATIENCE_S = 20.0


def run(command: Any, *args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(command, [*map(str, args), "--json"])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return json.loads(result.stdout)


class Fleet:
    """A control plane's directory and server, and its operators' directory."""

    def __init__(self, folder: Path, children: Children) -> None:
        self.folder = folder
        self.plane = ControlPlane(children, folder / "cloud")
        fleet = self.plane.init("")["fleet"]
        self.directory, self.trust = folder / "cloud", folder / "trust"
        run(cloud, "trust", "init", self.trust, "--fleet", fleet)
        self.port = self.plane.serve()
        self._online: tuple[object, ...] = ("--online-key", self.trust / "keys" / "online.pem")

    def document(self, path: str, content: str) -> None:
        file = self.folder / "document.json"
        file.write_text(content)
        run(cloud, "trust", "add-target", self.trust, file, "--as", path)

    def model(self, version: str, files: Mapping[str, bytes], *options: object) -> str:
        """The path of the target, signed and at the control plane."""
        source = self.folder / "sources" / version
        for path, data in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(data)
        words = ("models", "publish", self.directory, source, "--name", "embed", "--version", version)
        made = run(cloud, *words, *options)
        target = f"models/embed/{made['number']}.json"
        run(cloud, "trust", "add-target", self.trust, made["manifest"], "--as", target)
        self.publish()
        return target

    def publish(self) -> Any:
        online, self._online = self._online, ()
        return run(cloud, "publish", self.directory, self.trust, *online)

    def follow(self, *documents: str) -> None:
        """The first policy is what all run from now on; the others are published."""
        for number, document in enumerate(documents, 1):
            self.document(policy(number), document)
        self.publish()
        self.assign("policy", policy(1))

    def assign(self, place: str, path: str) -> None:
        run(cloud, "assign", self.directory, place, path)

    def device(self, name: str, settings: str = "") -> Edge:
        """One that has joined. ``settings``: of its edge.toml."""
        if settings:
            (self.folder / name).mkdir(mode=0o700)
            (self.folder / name / "edge.toml").write_text(settings)
        edge = Edge.open(self.folder / name)
        edge.join(self.plane.token(1), name=name, url=f"http://127.0.0.1:{self.port}")
        return edge


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Children(tmp_path) as children:
        yield Fleet(tmp_path, children)


def eventually(holds: Callable[[], bool], within_s: float = PATIENCE_S) -> bool:
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def policy(number: int) -> str:
    return f"policies/kiosk/{number}.json"
