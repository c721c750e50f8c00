"""Who plays: the control plane, the devices, the proxies before them, perhaps an S3 server; and what is counted.

Everything is a process on loopback under one directory. ``DemoFailed`` is how a step says that it does not hold.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from simulations.control_plane import ControlPlane, Proxy, start_device
from simulations.corpus import Text
from simulations.demo.screen import Screen
from simulations.keywords import MODEL, RUNNER
from simulations.processes import Child, Children, together

BUCKET = "s3://agentdb-demo/fleet"
_S3_STARTS_S_MAX = 60.0
_S3_ACCOUNT = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_DEFAULT_REGION": "us-east-1"}
_NEVER_S = 86_400


class DemoFailed(Exception):
    """A step of the story does not hold; the message is the sentence to show."""


def expect(holds: object, sentence: str) -> None:
    if not holds:
        raise DemoFailed(sentence)


@dataclass
class Tally:
    """What the last table shows. ``carried``: operations pushed and pulled by all devices."""

    json_bytes: int = 0
    carried: int = 0
    conflicts: int = 0
    times: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


class Cast:
    """Build it inside ``Children``; what it starts, they end."""

    def __init__(self, screen: Screen, folder: Path, children: Children, *, s3: bool) -> None:
        self.screen = screen
        self.folder = folder
        self.trust = folder / "trust"  # the operators' own, which no server has
        self.children = children
        self.texts: list[Text] = []
        self.own_texts = False  # the reader's own, which the demo knows nothing of
        self.tally = Tally()
        self.devices: dict[str, Child] = {}
        self.proxies: dict[str, Proxy] = {}
        self.token = ""
        self.port = 0
        self.archive = BUCKET if s3 else str(folder / "archive")
        self.options: list[str] = []
        self._s3_address = self._start_s3() if s3 else None
        self.cloud = ControlPlane(children, folder / "cloud", _S3_ACCOUNT if s3 else {})

    # -- the control plane ------------------------------------------------------------------------------------------

    def create_fleet(self) -> None:
        """Keys, store, configuration, what its operators sign with, a join token for three; nothing runs yet."""
        if self._s3_address is not None:
            self._await_s3(self._s3_address)
            self.options = ["endpoint=http://{}:{}".format(*self._s3_address), "region=us-east-1"]
        made = self.cloud.init(self.archive, self.options, create_bucket=bool(self.options))
        settings = self.cloud.directory / "cloud.toml"
        # The demo says when to archive, so that it knows what the archive does not hold yet.
        text = settings.read_text(encoding="utf-8").replace("[archive]\n", f"[archive]\ninterval_s = {_NEVER_S}.0\n")
        settings.write_text(text, encoding="utf-8")
        home = str(self.cloud.directory)
        self.cloud.command("trust", "init", str(self.trust), "--fleet", made["fleet"])
        self.cloud.command("publish", home, str(self.trust), "--online-key", str(self.trust / "keys" / "online.pem"))
        self.token = self.cloud.token(uses=3)

    def keep_keys(self) -> Path:
        """A copy of the fleet's keys in a safe place, as an operator keeps one."""
        safe = self.folder / "safe"
        shutil.copytree(self.cloud.directory / "keys", safe)
        return safe

    # -- devices ----------------------------------------------------------------------------------------------------

    def start_devices(self, *names: str) -> None:
        for name in names:
            (self.folder / name).mkdir(mode=0o700)
            (self.folder / name / "edge.toml").write_text(f"[models.runners]\n{MODEL} = {RUNNER!r}\n", encoding="utf-8")
        started = together(*(partial(start_device, self.children, name, self.folder / name) for name in names))
        self.devices |= zip(names, started, strict=True)

    def connect(self, port: int) -> None:
        """A proxy before each device that has none; all aimed at the server's port."""
        self.port = port
        for name in self.devices:
            if name in self.proxies:
                self.proxies[name].aim(port)
            else:
                self.proxies[name] = Proxy(self.children, f"wire-of-{name}", port)

    def join(self, name: str) -> None:
        self.devices[name].call("join", token=self.token, name=name, url=self.proxies[name].url)

    def sync(self, *names: str, title: str = "") -> dict[str, dict[str, Any]]:
        """Sync these devices at the same time, with bars if it has a title; what each of them did."""
        if title:
            with self.screen.bars(*(f"{title} {name}" for name in names)) as bars:
                made = together(*(partial(self._sync, name, bars[f"{title} {name}"]) for name in names))
        else:
            made = together(*(partial(self._sync, name, None) for name in names))
        self.tally.carried += sum(done["pushed"] + done["pulled"] for done in made)
        return dict(zip(names, made, strict=True))

    def sync_until_equal(self, title: str = "") -> None:
        """Sync all devices until they and the server hold the same; what one pushes last, the others pull next."""
        for _ in range(5):
            self.sync(*self.devices, title=title)
            if len(set(self.digests().values())) == 1:
                return
        digests = ", ".join(f"{name} {digest[:16]}" for name, digest in self.digests().items())
        raise DemoFailed(f"after five rounds of sync the state digests still differ: {digests}")

    def digests(self) -> dict[str, str]:
        """Of every device, and of the control plane."""
        names = list(self.devices)
        found = together(*(partial(self.devices[name].call, "digest") for name in names))
        return {**dict(zip(names, found, strict=True)), "control plane": self.cloud.digest()}

    def write(self, name: str, changes: Sequence[Mapping[str, Any]]) -> None:
        self.tally.json_bytes += self.devices[name].call("write", changes=changes)

    def wire(self) -> dict[str, dict[str, int]]:
        return {name: proxy.counts() for name, proxy in self.proxies.items()}

    def _sync(self, name: str, on_progress: Any) -> dict[str, Any]:
        url = self.proxies[name].url
        made: dict[str, Any] = self.devices[name].call("sync", url=url, on_progress=on_progress)
        return made

    # -- S3 ---------------------------------------------------------------------------------------------------------

    def _start_s3(self) -> tuple[str, int]:
        """A real S3 API over HTTP: moto's server. It needs seconds to start, which the first chapters use."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self.children.start("s3", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        return "127.0.0.1", port

    def _await_s3(self, address: tuple[str, int]) -> None:
        deadline = monotonic() + _S3_STARTS_S_MAX
        while True:
            try:
                socket.create_connection(address, timeout=5).close()
                return
            except OSError as error:
                expect(monotonic() < deadline, f"the S3 server does not answer at {address}: {error}")
                sleep(0.1)
