"""Twins over a store: what operators set, and what a device's report is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cloud.fleet import exposing, twins
from cloud.fleet.rollout_desk import Record, RolloutDesk
from cloud.fleet.twins import Label, Member
from cloud.ports import Caller, Reading, Store
from cloud.rows import DeviceRow
from cloud.twin_rows import TwinRow
from sync import groups
from sync.errors import TooLarge
from sync.messages import Report, Reported
from sync.ports import Clock


class Look(NamedTuple):
    """A device and its twin, with what it is to be told; or, if that is ``too_large`` (why), with what it was told."""

    device: DeviceRow
    twin: TwinRow
    too_large: str = ""


class TwinDesk:
    """``record`` is the audit trail's; ``moved`` is called after a commit that changes what some device is told."""

    def __init__(
        self, store: Store, clock: Clock, record: Record, rollouts: RolloutDesk, moved: Callable[[bytes], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._record = record
        self._rollouts = rollouts
        self._moved = moved

    def report(self, message: Report, caller: Caller) -> Reported:
        """Raises Malformed, TooLarge."""
        now_ms = self._clock.wall_ms()
        fleet = caller.fleet
        with self._store.writing() as tx:
            taken = twins.take_report(tx, fleet, caller.device, message.version, message.patch, message.acks, now_ms)
            heard = exposing.heard(tx, fleet, taken.twin, now_ms) if taken.twin is not None else []
        for rollout in heard:
            self._rollouts.run(fleet, rollout)
        return Reported(taken.version, taken.delta)

    def set_labels(self, fleet: bytes, device: bytes, changes: Mapping[str, Label | None]) -> TwinRow:
        """Raises InvalidValue, TooLarge."""
        with self._store.writing() as tx:
            row = twins.set_labels(tx, fleet, device, changes)
            tx.touch_control(fleet)
            given = {name: "" if value is None else value for name, value in changes.items()}
            self._record(tx, fleet, self._clock.wall_ms(), "operator", "twin.labelled", device.hex(), labels=given)
        self._moved(fleet)
        return row

    def set_desired(
        self,
        fleet: bytes,
        device: bytes,
        patch: Mapping[str, Any],
        *,
        agent: str | None = None,
        expected: int | None = None,
    ) -> TwinRow:
        """What the device is told with its next assignment. Raises InvalidValue, TooLarge; StaleWrite if ``expected``
        is not the version that ``look_at`` shows.
        """
        with self._store.writing() as tx:
            known = tx.device(device)
            if expected is not None and known is not None:
                tx.put_twins(fleet, [exposing.desired(tx, known)])
            twins.set_desired(tx, fleet, device, patch, agent=agent, expected=expected)
            row = exposing.desired(tx, known) if known is not None else twins.twin_of(tx, fleet, device)
            tx.put_twins(fleet, [row])
            tx.touch_control(fleet)
            details = {"version": row.desired_version, "agent": agent or ""}
            self._record(tx, fleet, self._clock.wall_ms(), "operator", "twin.desired", device.hex(), **details)
        self._moved(fleet)
        return row

    def members(self, fleet: bytes, query: str) -> list[Member]:
        """Raises InvalidFilter, TooLarge for the query."""
        group = groups.parse(query)
        with self._store.reading() as view:
            return list(twins.members(view, fleet, group))

    def look(self, fleet: bytes, query: str) -> list[Look]:
        """The same devices, each as ``look_at`` has it. Raises as ``members``."""
        group = groups.parse(query)
        with self._store.reading() as view:
            return [_look(view, member.device, member.twin) for member in twins.members(view, fleet, group)]

    def look_at(self, device: DeviceRow) -> Look:
        """One device: its twin as it is, with what it would be told when it asks."""
        with self._store.reading() as view:
            return _look(view, device, twins.twin_of(view, device.fleet, device.device))


def _look(view: Reading, device: DeviceRow, held: TwinRow) -> Look:
    try:
        return Look(device, exposing.desired(view, device))
    except TooLarge as error:
        return Look(device, held, error.message)
