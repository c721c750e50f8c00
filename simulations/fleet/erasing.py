"""An agent with memories that are erased now and then: what the oracle is not told of, because an erasure takes back
what was acknowledged. What must hold of it is checked here, at the end.

Each of its texts names its namespace, so that whoever finds one in a file knows where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from edge.storage.erasures import DONE, ERASURES, pending, scope_in, scope_of, scopes_of
from simulations.fleet.agent import CANARY
from simulations.fleet.oracle import Place
from simulations.fleet.violation import Violation
from sync.errors import AgentDBError, Erased, InvalidValue, NotFound
from sync.images import image_values, is_alive
from sync.operations import Operation

if TYPE_CHECKING:
    from simulations.fleet.device_node import DeviceNode
    from simulations.fleet.fleet import Fleet

_NAMESPACES = ("tea", "tours", "doors")
_UNTOLD = ("agent.", ERASURES, "_recalls")


def told(operations: Iterable[Operation]) -> list[Operation]:
    """Those that the oracle is told of."""
    return [one for one in operations if not one.shape.collection.startswith(_UNTOLD)]


def told_places(images: Mapping[Place, bytes]) -> dict[Place, bytes]:
    return {place: image for place, image in images.items() if not place[0].startswith(_UNTOLD)}


def remember(device: DeviceNode, dice: Random) -> None:
    """A few writes; or an erasure, or its end."""
    edge = device.edge
    if edge is None:
        return
    agent, namespace = edge.agent(device.name[0]), dice.choice(_NAMESPACES)
    try:
        roll = dice.random()
        if roll < 0.2:
            agent.erase(namespace)
            device.world.note(device.name, f"erases {namespace}", count="erasures")
        elif roll < 0.25:
            agent.lift_erasure(namespace)
            device.world.note(device.name, f"opens {namespace} again", count="erasures lifted")
        else:
            memory = agent.memory(namespace)
            made = memory.add(_text(namespace, dice.randrange(6)), key=dice.choice([None, "fact"]))
            if dice.random() < 0.3:
                memory.update(made.id, importance=round(dice.random(), 3))
    except (Erased, NotFound):
        return
    except InvalidValue as error:
        raise Violation("typed errors", f"{device.name}: remembering failed with {error!r}") from error
    except AgentDBError as error:
        device.trouble(error, "remembering")
        return
    if not device.check_death():
        device.link.pump()


def attend(device: DeviceNode) -> None:
    """What a round of care does with erasures that this device has heard of."""
    if device.edge is None:
        return
    try:
        device.edge.carry_out_erasures()
    except AgentDBError as error:
        device.trouble(error, "erasing")
        return
    if not device.check_death():
        device.link.pump()


def unattended(fleet: Fleet) -> str:
    """Who has an erasure to carry out, or ""."""
    for device in fleet.devices:
        if device.edge is not None and not device.revoked and pending(device.edge.log):
            return f"{device.name} has erasures to carry out"
    return ""


def check(fleet: Fleet) -> None:
    """Nothing lives, anywhere, in what is shut; and no device's files have a text of it."""
    for owner in fleet.cloud.fleets:
        images = fleet.cloud.images(owner)
        shut = {scope_in(key) for (name, key), image in images.items() if name == ERASURES and _is_shut(image)}
        for (name, key), image in images.items():
            if is_alive(image) and shut & set(scopes_of(name, key)):
                raise Violation("erased", f"{name}/{key} lives in the cloud, and was erased")
        for device in fleet.devices:
            if device.fleet == owner and not device.revoked:
                _check_device(device, shut)


def _check_device(device: DeviceNode, shut: set[str]) -> None:
    log = device.opened.log
    if shut - {scope_in(key) for key in log.meta_get(DONE) or ()}:
        raise Violation("erased", f"{device.name} has not carried out {shut}")
    letter = device.name[0]
    for namespace in _NAMESPACES:
        if scope_of(letter, namespace) not in shut:
            continue
        wanted = _text(namespace, 0)[:-2].encode()
        for path in sorted(Path(device.store).rglob("*")):
            if path.is_file() and wanted in path.read_bytes():
                raise Violation("erased", f"{device.name} has {namespace} in {path.name}")


def _is_shut(image: bytes) -> bool:
    fields = image_values(image)
    return fields is not None and fields.get("until") is None


def _text(namespace: str, number: int) -> str:
    return f"{CANARY} of {namespace} {number}"
