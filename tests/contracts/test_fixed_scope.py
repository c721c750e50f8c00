"""Real devices with a fixed scope: through losses, crashes and a restored cloud each ends with exactly what is in its
scope and what it wrote itself, and everything that anybody wrote is in the cloud.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sync.images import is_alive
from tests.contracts.fleet_world import NOTES
from tests.contracts.scope_world import COLLECTIONS, Rules, ScopeWorld

RULES: Rules = {
    "office": [],
    "north": [{"collections": ["notes"], "prefixes": ["north/"]}, {"collections": ["*"], "direction": "up"}],
    "gate": [{"collections": ["notes", "logs"], "direction": "up"}],
    "screen": [{"collections": ["logs"], "direction": "absent"}, {"agents": ["*"], "direction": "local"}],
}
KEYS = [f"{place}/{at}" for place in ("north", "south") for at in range(6)]


class FixedWorld(ScopeWorld):
    """Each device is named as its policy, which is assigned before it first asks, and which it is never told of.
    ``mine``: what each wrote itself.
    """

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(path, tuple(RULES), seed, RULES, **NOTES)
        self.assigned = {name: name for name in RULES}
        self.mine: dict[str, set[tuple[str, str]]] = {name: set() for name in RULES}

    def write_some(self, name: str, rng: random.Random) -> None:
        collection, key = rng.choice(COLLECTIONS), rng.choice(KEYS)
        self.mine[name].add((collection, key))
        held = self.devices[name].edge.collection(collection)
        if key not in held:
            held.put(key, {"text": f"{name} {rng.random()}", "visits": 1})
        elif rng.random() < 0.2:
            held.delete(key)
        else:
            held.increment(key, "visits", 1)

    def check(self) -> None:
        images = self.images()
        for name, device in self.devices.items():
            for collection in COLLECTIONS:
                for key in KEYS:
                    place = (collection, key)
                    held = device.edge.log.image(*place)
                    if self.tables[name].has(*place):
                        wanted = images.get(place)
                        assert (held is not None and is_alive(held)) == (wanted is not None and is_alive(wanted)), place
                        if held is not None and is_alive(held):
                            assert held == wanted, (name, place)
                    elif place not in self.mine[name]:
                        assert held is None, f"{name} has {place}, which is not in its scope"
            for place in self.mine[name]:
                assert place in images, "nothing that was written is missing in the cloud"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_each_ends_with_what_is_in_its_scope(tmp_path: Path, seed: int, loss: float) -> None:
    world, rng = FixedWorld(tmp_path, seed), random.Random(seed)
    for _ in range(6):
        for name, device in world.devices.items():
            for _ in range(rng.randrange(6)):
                world.write_some(name, rng)
            if rng.random() < 0.2:
                device.crash()
            device.sync(loss=loss, steps=60)
    for _ in range(3):
        for device in world.devices.values():
            assert device.sync()
    world.check()


def test_a_restored_cloud_gives_nobody_more(tmp_path: Path) -> None:
    world, rng = FixedWorld(tmp_path, 7), random.Random(7)
    for name in world.devices:
        world.write_some(name, rng)
    assert all(device.sync() for device in world.devices.values())
    backup = world.cloud.backup()
    for _ in range(10):
        for name in world.devices:
            world.write_some(name, rng)
        assert all(device.sync() for device in world.devices.values())
    world.cloud.restore(backup)
    for _ in range(3):
        assert all(device.sync() for device in world.devices.values())
    world.check()


def test_a_device_that_names_its_scope_gets_the_same_and_no_other_by_naming_one(tmp_path: Path) -> None:
    world, rng = FixedWorld(tmp_path, 3), random.Random(3)
    north, screen = world.devices["north"], world.devices["screen"]
    north.edge.log.meta_set("scope", world.digest("north"))
    screen.edge.log.meta_set("scope", world.digest("office"))  # which has everything
    for _ in range(20):
        world.write_some("office", rng)
    for _ in range(2):
        assert all(device.sync() for device in world.devices.values())
    world.check()
    screen.edge.log.meta_set("scope", b"?" * 32)
    cursor = screen.edge.log.cursor
    world.write_some("office", rng)
    assert world.devices["office"].sync()
    assert not screen.sync(steps=30), "a scope that no policy has is refused"
    assert screen.edge.log.cursor == cursor
