"""What a device is to run: one function decides, and everybody asks it.

A *place* is what a device has one of: "policy", or "models/<name>". What runs in it is a target, by its path. The whole
fleet runs what the place's *channel* says, but who a rollout has it for (``cloud.fleet.exposing``).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

import msgspec

from cloud.control_rows import ChannelRow
from cloud.fleet import exposing, rollouts
from cloud.fleet.rollout_desk import followed
from cloud.ports import Reading, Transaction
from cloud.rows import DeviceRow
from sync.errors import InvalidValue
from sync.limits import ASSIGNED_MODELS_MAX
from sync.targets import Kind, parse_path

POLICY = "policy"


class Choice(NamedTuple):
    """A target's path; ``rollout`` is the id of the rollout that chose it and ``stage`` its stage, or "" and 0."""

    path: str
    rollout: str = ""
    stage: int = 0


def desired_places(view: Reading, device: DeviceRow) -> dict[str, Choice]:
    """Place → what this device is to run there. It decides by what the transaction sees, and changes nothing."""
    return places_of(view, device, exposing.Decision(view, device))


def places_of(view: Reading, device: DeviceRow, rolled: exposing.Decision) -> dict[str, Choice]:
    """The same, of a decision that there is."""
    places = {row.place: Choice(row.path) for row in view.channels(device.fleet)}
    return places | {place: Choice(given.path, given.rollout, given.stage) for place, given in rolled.given.items()}


def named_paths(view: Reading, fleet: bytes) -> set[str]:
    """All paths that some device may be given: they have to stay listed."""
    rolled = {rollouts.spec_of(row.spec).path for row in view.rollouts(fleet, rollouts.OPEN)}
    return {row.path for row in view.channels(fleet)} | rolled - {""}


def digest_of(places: Mapping[str, Choice], desired_version: int = 0) -> bytes:
    """Tells one choice from another, and one version of the twin's desired state."""
    return sha256(msgspec.msgpack.encode((sorted(places.items()), desired_version))).digest()


def set_channel(tx: Transaction, fleet: bytes, place: str, path: str, now_ms: int) -> None:
    """What the whole fleet runs in this place from now on; "" for nothing. Whether it is listed is the caller's."""
    check_place(place, path)
    if path:
        tx.put_channel(fleet, ChannelRow(place, path))
    else:
        tx.drop_channel(fleet, place)
    followed(tx, fleet, place, now_ms)
    tx.touch_control(fleet)


def check_room(view: Reading, fleet: bytes, path: str) -> None:
    """Whether there is room for this target in an assignment: with more models nothing at all could be signed. Raises
    InvalidValue, Malformed.
    """
    target = parse_path(path)
    if target.kind is not Kind.MODEL:
        return
    places = [row.place for row in view.channels(fleet)] + [row.place for row in view.rollouts(fleet, rollouts.OPEN)]
    models = {f"{Kind.MODEL.value}/{target.name}", *(place for place in places if place.startswith("models/"))}
    if len(models) > ASSIGNED_MODELS_MAX:
        raise InvalidValue(
            f"a device runs at most {ASSIGNED_MODELS_MAX} models", hint="agentdb-cloud assign DIR models/NAME --nothing"
        )


def check_place(place: str, path: str) -> None:
    """Raises InvalidValue, Malformed."""
    kind, _, name = place.partition("/")
    if place != POLICY and (kind != Kind.MODEL.value or not name):
        raise InvalidValue(f"{place!r} is no place", hint='"policy", or "models/NAME"')
    if not path:
        return
    if place != parse_path(path).place:
        raise InvalidValue(
            f"{path} does not go into the place {place!r}", hint="a policy goes into policy, a model into models/NAME"
        )
