"""Two devices about to contradict each other, a resolver, and a look at what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloud.rows import Claim
from tests.cloud.stream_world import Device, Fleet


def longest(collection: str, key: str, field: str, left: Claim, right: Claim, context: Mapping[str, Any]) -> Any:
    if not field:
        return {**context["record"], "text": "kept"}
    if "raise" in (left.value, right.value):
        raise ValueError("cannot say")
    if "bad" in (left.value, right.value):
        return object()
    return max(left.value, right.value, key=len)


def pair(fleet: Fleet, rule: str = "latest", **fields: str) -> tuple[Device, Device]:
    """Two devices that both have the record notes/k, with text "old" and n 1; the van has the higher
    priority.
    """
    van, kiosk = fleet.device("van", priority=2), fleet.device("kiosk", priority=1)
    van.declare("notes", conflict=rule, fields=fields)
    kiosk.schemas = van.schemas
    van.put("notes", "k", text="old", n=1)
    van.push()
    kiosk.pull()
    return van, kiosk


def settle(fleet: Fleet) -> dict[str, Any] | None:
    """Everybody has everything, and all agree; what they show of notes/k."""
    fleet.exchange()
    assert {device.digest() for device in fleet.devices.values()} == {fleet.digest()}
    shown = {str(device.get("notes", "k")) for device in fleet.devices.values()}
    assert shown == {str(fleet.shown("notes", "k"))}
    return fleet.shown("notes", "k")
