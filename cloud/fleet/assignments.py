"""Assignments: for each device what it is to run, signed online with each change (ADR 23).

Nothing is signed before a device asks: a device that is away is not given what it never hears of. What always holds: a
device's numbers rise by one, from what it holds if that is more (after a restore); what is signed is listed, and not
below its floor; the row is written in the transaction that decided, and so is what rollouts expose by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud.control_rows import AssignmentRow
from cloud.fleet import choices, exposing
from cloud.fleet.choosing import Decided
from cloud.fleet.publishing import KEY_HINT
from cloud.ports import Reading, Transaction
from cloud.rows import DeviceRow
from sync import twins
from sync.errors import Refused, TooLarge
from sync.limits import AHEAD_MAX

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey
    from sync.assignments import Assigned
    from sync.manifests import TrustedSet

LIFE_MS = 86_400_000


def newest(view: Reading, decided: Decided, held: int = 0) -> int:
    """The number of the newest that there is for a device, or that will be signed when it asks. ``held``: the number of
    the one that it has.
    """
    device = decided.device
    row = view.assignment(device.fleet, device.device)
    if row is None:
        return _after(0, held)
    if held > row.number:
        return _after(row.number, held)
    try:
        chosen = choices.digest_of(decided.places, decided.twin.desired_version)
    except TooLarge:  # when it asks it is refused, and operators hear of it; until then all else goes on
        return row.number + 1
    return row.number + (row.chosen != chosen)


def assign(
    tx: Transaction, device: DeviceRow, trusted: TrustedSet, key: SigningKey, now_ms: int, held: int = 0
) -> AssignmentRow:
    """The newest for this device; signed now if what it is to run has changed, the snapshot, or its key, if half of its
    time is over, or if the device holds a later one. Raises Refused for what is below its floor, and for a key that
    is not the root's; NotFound for what is not listed; TooLarge as ``Decided.twin``.
    """
    exposing.expose(tx, device, now_ms)
    decided = Decided(tx, device)
    places, twin = decided.places, decided.twin
    chosen = choices.digest_of(places, twin.desired_version)
    row = tx.assignment(device.fleet, device.device)
    if row is not None and row.chosen == chosen and held <= row.number and _is_good(row, trusted, now_ms):
        return row
    from sync.assignments import Assignment, Desired, is_signed, seal

    number = _after(row.number if row is not None else 0, held)
    assigned = {place: _assigned(choice, trusted) for place, choice in places.items()}
    policy = assigned.pop(choices.POLICY, None)
    assignment = Assignment(
        fleet=device.fleet.hex(),
        device=device.device.hex(),
        number=number,
        time_ms=now_ms,
        expires_ms=now_ms + LIFE_MS,
        snapshot=trusted.snapshot_version,
        policy=policy,
        models={place.partition("/")[2]: model for place, model in assigned.items()},
        desired=Desired(twin.desired_version, twins.read_document(twin.desired)) if twin.desired_version else None,
    )
    signed = seal(assignment, key)
    if not is_signed(signed, trusted):
        raise Refused("the root gives assignments to another key than the control plane's", hint=KEY_HINT)
    row = AssignmentRow(
        device.device, number, chosen, trusted.snapshot_version, assignment.expires_ms, signed.data, signed.signature
    )
    tx.put_assignment(device.fleet, row)
    return row


def _after(number: int, held: int) -> int:
    return (held if number < held <= number + AHEAD_MAX else number) + 1


def _is_good(row: AssignmentRow, trusted: TrustedSet, now_ms: int) -> bool:
    from sync.assignments import Signed, is_signed

    if not row.data or row.snapshot != trusted.snapshot_version or row.expires_ms - now_ms < LIFE_MS // 2:
        return False
    return is_signed(Signed(row.data, row.signature), trusted)


def _assigned(choice: choices.Choice, trusted: TrustedSet) -> Assigned:
    from sync.assignments import Assigned

    info = trusted.target(choice.path)
    if info.number < info.floor:
        raise Refused(f"{choice.path} is below its floor, {info.floor}", hint="assign a newer number")
    return Assigned(choice.path, info.length, info.sha256.hex(), choice.rollout, choice.stage)
