"""The control plane as a process of its own, steered by its command line, as an operator would.

``agentdb-cloud serve`` runs as a child; everything else (init, token, conflicts, status, restore, archive) is a command
with ``--json``. Only the server's state digest is read from its store directly, beside the server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud.server.home import Home
from cloud.storage.archive.snapshots import state_digest
from simulations.processes import Child, ChildFailed, Children, environment

# The console script's own lines: they work wherever this Python does, installed or not.
_COMMAND = ("-c", "import sys; sys.argv[0] = 'agentdb-cloud'; from cloud.cli import main; main()")
_LISTENING = "listening on http://"
COMMAND_S_MAX = 120.0


class ControlPlane:
    """``directory`` is the server's own; it is destroyed and made anew in the course of the demo."""

    def __init__(self, children: Children, directory: Path, extra: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._children = children
        self._extra = dict(extra or {})
        self.server: Child | None = None

    def command(self, *arguments: str) -> Any:
        """The command's JSON. Raises ChildFailed with what it said."""
        done = subprocess.run(
            [sys.executable, *_COMMAND, *arguments, "--json"],
            env={**environment(), **self._extra},
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        if done.returncode:
            raise ChildFailed(f"agentdb-cloud {arguments[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def init(self, archive: str, options: Sequence[str] = (), *, create_bucket: bool = False) -> Any:
        given = [part for option in options for part in ("--archive-option", option)]
        bucket = ["--create-bucket"] if create_bucket else []
        return self.command("init", str(self.directory), "--name", "demo", "--archive", archive, *given, *bucket)

    def token(self, uses: int) -> str:
        """A join token; devices are told the address by whoever starts them."""
        made = self.command("token", str(self.directory), "--uses", str(uses), "--url", "http://127.0.0.1:1")
        token: str = made["token"]
        return token

    def serve(self) -> int:
        """Start the server; its port, once devices can connect."""
        self.server = self._children.start(
            "control-plane", *_COMMAND, "serve", str(self.directory), "--port", "0", extra=self._extra
        )
        line = self.server.text_line()
        if not line.startswith(_LISTENING):
            raise ChildFailed(f"agentdb-cloud serve: {line}")
        return int(line.rpartition(":")[2])

    def stop(self) -> None:
        """As an operator does: the archive gets its last run."""
        if self.server is not None:
            self.server.stop()

    def kill(self) -> None:
        """As a power cut does."""
        if self.server is not None:
            self.server.kill()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.command("status", str(self.directory))
        return found

    def conflicts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.command("conflicts", str(self.directory), "--limit", "10000")
        return found

    def digest(self) -> str:
        with Home.open(self.directory) as home, home.store.reading() as view:
            return state_digest(view, home.fleet.fleet).hexdigest()


class Proxy:
    """The proxy process before one device: what it counted, and its orders to cut."""

    def __init__(self, children: Children, name: str, target_port: int) -> None:
        self._child = children.start(name, "-m", "simulations.proxy", str(target_port))
        self.port: int = self._child.line()["port"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, int]:
        """Bytes ``up`` (to the server) and ``down``, ``connections``, ``cuts``."""
        found: dict[str, int] = self._child.call("counts")
        return found

    def cut(self, seed: int, least: int, most: int, times: int) -> None:
        self._child.call("cut", seed=seed, least=least, most=most, times=times)

    def calm(self) -> None:
        self._child.call("calm")

    def aim(self, port: int) -> None:
        """At another server."""
        self._child.call("target", port=port)


def start_device(children: Children, name: str, store: Path) -> Child:
    """A device process, its store open."""
    device = children.start(name, "-m", "simulations.device", str(store))
    device.line()
    return device
