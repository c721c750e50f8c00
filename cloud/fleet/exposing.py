"""What rollouts give to a device, and the note that they did.

``Decision`` changes nothing; ``expose`` notes, in the transaction that signs the device's assignment, what it
is given for the first time. What always holds: each such note is made under the lock of its rollout's row, and only
while that says that it is running (or done): a rollout that was halted in a commit before exposes nobody in any after.
Who was exposed stays so, whatever the group's query says of the device by now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cloud.fleet import rollouts
from cloud.fleet.rollouts import (
    CLASS_MIN,
    COMMITTED,
    DESIRED,
    DONE,
    FAILED,
    OPEN,
    REVERTED,
    RUNNING,
    SETTLED,
    draws,
    spec_of,
)
from cloud.fleet.twins import documents_of, told, twin_of
from cloud.rows import DeviceRow
from cloud.twin_rows import ExposureRow, ReadingTwins, RolloutRow, TwinRow, WritingTwins
from sync.groups import Documents
from sync.twins import SYSTEM, Document


class Given(NamedTuple):
    """``path`` is a target's, "" for configuration; ``stage`` the one in which the device got it."""

    place: str
    path: str
    rollout: str
    stage: int


class _Hit(NamedTuple):
    """A rollout that says what a device runs; ``exposure`` is None if it would say it for the first time."""

    row: RolloutRow
    exposure: ExposureRow | None
    kind: str


class Decision:
    """By one look; valid within the block of its view. ``given``: place → what rollouts give to this device, exposed or
    to be exposed when it asks; the last rollout of a place counts.
    """

    def __init__(self, view: ReadingTwins, device: DeviceRow) -> None:
        self._view = view
        self._device = device
        self._hits = list(_hits(view, device))
        self.given = _given(self._hits)

    def twin(self) -> TwinRow:
        """As ``desired``, and raises as it."""
        return _told(twin_of(self._view, self._device.fleet, self._device.device), self._hits)


def desired(view: ReadingTwins, device: DeviceRow) -> TwinRow:
    """Its twin with what it is to be told now: ``desired`` and ``desired_version``. Raises TooLarge if that is more
    than a twin may have: what is desired of it alone, and what rollouts add.
    """
    return Decision(view, device).twin()


def expose(tx: WritingTwins, device: DeviceRow, now_ms: int) -> None:
    """Note all that the device is about to be given for the first time. Call it where its assignment is signed, before
    a ``Decision`` is made there. Raises TooLarge.
    """
    fleet = device.fleet
    new = [hit.row.id for hit in _hits(tx, device) if hit.exposure is None]
    for rollout in new:
        tx.lock_rollout(fleet, rollout)
    # Asked again under the locks: what was running may have been halted meanwhile.
    hits = list(_hits(tx, device))
    before = twin_of(tx, fleet, device.device)
    after = _told(before, hits)
    if after is not before:
        tx.put_twins(fleet, [after])
    for hit in hits:
        if hit.exposure is None and hit.row.id in new:
            goal = str(after.desired_version) if hit.row.place == DESIRED else hit.row.goal
            exposure = ExposureRow(hit.row.id, device.device, hit.row.stage, hit.kind, goal, now_ms)
            tx.put_exposures(fleet, [exposure])


def heard(tx: WritingTwins, fleet: bytes, twin: TwinRow, now_ms: int) -> list[str]:
    """What a device's report says of what it was given: noted. The ids of the rollouts that it tells something new."""
    reported = documents_of(twin)["reported"].get(SYSTEM, {})
    outcomes = reported.get("outcomes", {}) if isinstance(reported, dict) else {}
    changed = []
    for exposure in tx.exposed_to(fleet, twin.device, (*OPEN, REVERTED)):
        row = tx.rollout(fleet, exposure.rollout)
        assert row is not None  # it is in one of these states
        outcome, reason = _outcome(row, exposure, twin, outcomes if isinstance(outcomes, dict) else {})
        if outcome and (outcome, reason) != (exposure.outcome, exposure.reason):
            tx.lock_rollout(fleet, row.id)
            tx.put_exposures(fleet, [exposure._replace(outcome=outcome, reason=reason, outcome_ms=now_ms)])
            changed.append(row.id)
    return changed


def _outcome(row: RolloutRow, exposure: ExposureRow, twin: TwinRow, outcomes: Document) -> tuple[str, str]:
    if row.place == DESIRED:
        return (COMMITTED, "") if twin.acked >= int(exposure.goal) else ("", "")
    said = outcomes.get(row.place)
    if not isinstance(said, dict) or said.get("sha256") != exposure.goal:
        return "", ""
    outcome, reason = said.get("outcome"), said.get("reason", "")
    if outcome != COMMITTED and outcome not in FAILED:
        return "", ""
    return str(outcome), str(reason)[:200] if outcome in FAILED else ""


def _hits(view: ReadingTwins, device: DeviceRow) -> Iterator[_Hit]:
    """The rollouts that say something to this device, in order of number."""
    rows = view.rollouts(device.fleet, OPEN)
    if not rows:
        return
    exposures = {row.rollout: row for row in view.exposed_to(device.fleet, device.device, OPEN)}
    documents: Documents | None = None
    for row in rows:
        exposure = exposures.get(row.id)
        if exposure is not None:
            yield _Hit(row, exposure, exposure.kind)
            continue
        if row.state not in (RUNNING, DONE, SETTLED):
            continue
        if documents is None:
            documents = documents_of(twin_of(view, device.fleet, device.device))
        kind = rollouts.kind_of(spec_of(row.spec), documents)
        if _is_in(view, device, row, documents, kind):
            yield _Hit(row, None, kind)


def _is_in(view: ReadingTwins, device: DeviceRow, row: RolloutRow, documents: Documents, kind: str) -> bool:
    spec = spec_of(row.spec)
    if not rollouts.group_of(spec.group).matches(documents):
        return False
    if draws(row, device.device, documents):
        return True
    if not spec.spread or row.state != RUNNING:
        return False
    return view.exposed_of_kind(device.fleet, row.id, kind, CLASS_MIN) < CLASS_MIN


def _given(hits: list[_Hit]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for hit in hits:
        if hit.row.place != DESIRED:
            stage = hit.row.stage if hit.exposure is None else hit.exposure.stage
            found[hit.row.place] = Given(hit.row.place, spec_of(hit.row.spec).path, hit.row.id, stage)
    return found


def _told(twin: TwinRow, hits: list[_Hit]) -> TwinRow:
    return told(twin, [spec_of(hit.row.spec).patch for hit in hits if hit.row.place == DESIRED])
