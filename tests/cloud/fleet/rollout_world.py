"""A fleet of rows for rollouts: its devices ask and tell without a network, through the code that answers real ones."""

from __future__ import annotations

from typing import Any

import msgspec

from cloud.fleet import exposing, rollouts, twins
from cloud.fleet.rollout_desk import RolloutDesk
from cloud.fleet.rollouts import Spec
from cloud.ports import Transaction
from cloud.rows import DeviceRow
from cloud.twin_rows import RolloutRow
from sync.errors import NotFound
from tests.cloud.stream_world import Fleet

GATE: dict[str, Any] = {"reporting_min": 2, "failed_share_max": 0.2, "failed_max": 3}
STAGES: list[dict[str, Any]] = [{"percent": 10}, {"percent": 100}]
HERE = {"models/embed/12.json": "12" * 32, "models/embed/13.json": "13" * 32, "policies/kiosk/7.json": "07" * 32}


def spec(**changes: Any) -> Spec:
    return rollouts.parse_spec(
        msgspec.json.encode({"what": "models/embed/13.json", "stages": STAGES, "gate": GATE, **changes})
    )


class World:
    """A fleet of rows: every fifth device is rev2."""

    def __init__(self, size: int = 60) -> None:
        self.fleet = Fleet(None)
        self.id, self.store, self.clock = self.fleet.id, self.fleet.store, self.fleet.clock
        self.trail: list[str] = []
        self.moved = 0
        self.desk = RolloutDesk(self.store, self.clock, self._note, self._count, self._goal)
        self.rows = [
            DeviceRow(self.id, number.to_bytes(12), bytes(32), bytes(32), f"d{number}", 0, 1, b"t" * 16, 0)
            for number in range(1, size + 1)
        ]
        with self.store.writing() as tx:
            tx.put_devices(self.rows)
            for number, device in enumerate(self.rows):
                hardware = b"rev2" if number % 5 == 0 else b"rev1"
                twins.take_report(tx, self.id, device.device, 1, b'{"hardware":"%s"}' % hardware, 0, 1)

    def _goal(self, _: Transaction, __: bytes, path: str) -> str:
        if path not in HERE:
            raise NotFound(path)
        return HERE[path]

    def _note(self, tx: Any, fleet: bytes, at_ms: int, actor: str, action: str, subject: str, **details: Any) -> None:
        self.trail.append(f"{actor}: {action}")

    def _count(self, _: bytes) -> None:
        self.moved += 1

    def ask(self, device: DeviceRow) -> str:
        """The device asks for its assignment: the path of its model, "" without one."""
        with self.store.writing(durable=False) as tx:
            before = exposing.Decision(tx, device).given
            exposing.expose(tx, device, self.clock.wall_ms())
            after = exposing.Decision(tx, device).given
            assert before == after  # what is promised when it asks is what it is given
        return after["models/embed"].path if "models/embed" in after else ""

    def tell(self, device: DeviceRow, outcome: str, path: str = "models/embed/13.json", acks: int = 0) -> None:
        said = {"": None, "path": path, "sha256": HERE[path], "outcome": outcome, "reason": "slow"}
        patch = msgspec.json.encode({"agentdb": {"outcomes": {"models/embed": said}}})
        self.report(device, patch, acks)

    def report(self, device: DeviceRow, patch: bytes, acks: int = 0) -> None:
        with self.store.writing(durable=False) as tx:
            version = twins.twin_of(tx, self.id, device.device).reported_version + 1
            taken = twins.take_report(tx, self.id, device.device, version, patch, acks, self.clock.wall_ms())
            assert taken.twin is not None
            exposing.heard(tx, self.id, taken.twin, self.clock.wall_ms())

    def all_ask(self) -> list[DeviceRow]:
        return [device for device in self.rows if self.ask(device)]

    def row(self, rollout: str = "r1") -> RolloutRow:
        return self.desk.show(self.id, rollout).row
