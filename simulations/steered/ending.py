"""What must hold of a steered device at the end: it runs what was signed for it, and holds exactly its scope.

What has left a device's scope may still be there, or have gone: only that nothing of it was lost is asked
(``Steering.check_evicted``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from edge.storage import scoping
from simulations.fleet.disasters import all_images, living
from simulations.fleet.oracle import Place

if TYPE_CHECKING:
    from simulations.fleet.device_node import DeviceNode
    from simulations.fleet.fleet import Fleet
    from simulations.steered.device import Steered
    from simulations.steered.steering import Steering


def difference(fleet: Fleet, steering: Steering, device: DeviceNode, spared: Collection[Place]) -> str:
    """What keeps a device from being as it should be, or "". ``spared``: where the cloud refused something."""
    steered = device.steered
    assert steered is not None
    wanted = steering.wanted(device.fleet, device.id)
    agreed = {place: held.sha256 for place, held in device.opened.trust.tables.named().items()}
    if agreed != wanted:
        status = device.opened.trust.status()
        return f"{device.name} is not to run what it should: {status and status.refused}"
    if steered.models is not None and (why := steered.models.difference(wanted)):
        return why
    policy = wanted.get("policy", b"")
    if steered.active != policy:
        return f"{device.name} has another policy than was agreed"
    if scoping.load(device.opened.log) != (policy, None, False):
        return f"{device.name} has not all of its scope: {scoping.load(device.opened.log)}"
    images, here = in_scope(steered, fleet.cloud.images(device.fleet)), in_scope(steered, all_images(device))
    for place in sorted(images.keys() | here.keys()):
        held, known = living(here.get(place)), living(images.get(place))
        if held != known and place not in spared:
            return f"{device.name} has another {place} than the cloud: {held is not None}, {known is not None}"
    if not policy and not spared and device.opened.digest() != fleet.cloud.digest(device.fleet):
        return f"{device.name} has no policy, and differs from the cloud"
    return ""


def in_scope(steered: Steered, images: Mapping[Place, bytes]) -> dict[Place, bytes]:
    """Those that a device is to have by the policy that holds."""
    book = steered.book
    return {place: image for place, image in images.items() if book.has(*place)}
