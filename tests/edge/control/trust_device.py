"""A device of ``tests.control_world``: a real store that asks a real control plane, with no network between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.link import membership
from edge.node import Edge
from sync.assignments import Agreed
from sync.messages import Control, FetchControl, decode, encode
from sync.stamps import device_of
from tests.cloud.identity_world import SeededRandom
from tests.control_world import ControlWorld


class Device:
    """``edge`` is open. What is asked and answered goes through the messages' bytes."""

    def __init__(self, path: Path, world: ControlWorld, **options: Any) -> None:
        self.path = path
        self.world = world
        self.options = options
        self.fetched: list[str] = []
        self.open()
        self.join()

    def open(self) -> None:
        self.edge = Edge.open(self.path, clock=self.world.clock, random=SeededRandom(7), **self.options)
        self.trust = self.edge.trust

    def again(self) -> None:
        """What a new process finds."""
        self.edge.close()
        self.open()

    def join(self) -> None:
        token = self.world.plane.create_token(self.world.fleet, url="http://127.0.0.1:9")
        request = membership.enroll_request(self.edge.log, str(self.path), token, "kiosk")
        answer = self.world.plane.enrollment.enroll(request)
        membership.accept(self.edge.log, str(self.path), token, answer, token.url, "kiosk")
        self.key = self.edge.device_key()
        assert self.key.device_id == device_of(self.edge.log.replica)

    def ask(self) -> Control:
        """The control plane's answer to what this device would ask now."""
        message = decode(encode(self.trust.asking()))
        assert isinstance(message, FetchControl)
        answer = decode(encode(self.world.plane.handle(message, self.world.caller(self.key))))
        assert isinstance(answer, Control)
        return answer

    def fetch(self, target: Agreed) -> bytes:
        self.fetched.append(target.path)
        with self.world.store.reading() as view:
            row = view.target(self.world.fleet, target.sha256)
        assert row is not None
        return row.data

    def update(self) -> tuple[str, ...]:
        """The places where something else is to run."""
        return self.trust.accept(self.ask(), self.fetch).places

    def runs(self) -> dict[str, bytes]:
        return {one.place: one.data for one in self.trust.documents("")}

    @property
    def refused(self) -> str:
        """The code of what was refused last, "" if nothing was."""
        status = self.trust.status()
        return status.refused["code"] if status is not None and status.refused else ""


def everything(device: Device) -> Any:
    """All that is kept of what it may run."""
    tables = device.trust.tables
    return tables.note(), tables.kept(), tables.documents()
