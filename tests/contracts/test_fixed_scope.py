"""Real devices with a fixed scope: through losses, crashes and a restored cloud each ends with exactly what is in its
scope and what it wrote itself, and everything that anybody wrote is in the cloud.
"""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloud.control_rows import TargetRow
from cloud.fleet.policies import PolicyScopes
from cloud.ports import Caller, Reading
from sync.images import is_alive
from sync.policy import Policy
from sync.scope import ScopeTable
from tests.contracts.fleet_world import NOTES, Cloud, Device

RULES: dict[str, list[dict[str, Any]]] = {
    "office": [],
    "north": [{"collections": ["notes"], "prefixes": ["north/"]}, {"collections": ["*"], "direction": "up"}],
    "gate": [{"collections": ["notes", "logs"], "direction": "up"}],
    "screen": [{"collections": ["logs"], "direction": "absent"}, {"agents": ["*"], "direction": "local"}],
}
KEYS = [f"{place}/{at}" for place in ("north", "south") for at in range(6)]


class World:
    def __init__(self, path: Path, seed: int) -> None:
        self.assigned: dict[bytes, bytes] = {}
        self.cloud = Cloud(path, seed, PolicyScopes(self._chosen))
        self.tables = {name: ScopeTable(self.policy(name).sync) for name in RULES}
        with self.cloud.store.writing() as tx:
            for number, name in enumerate(RULES, 1):
                data = self.policy(name).to_json()
                row = TargetRow(0, sha256(data).digest(), f"policies/{name}/{number}.json", data)
                tx.add_targets(self.cloud.fleet, [row])
        self.devices: dict[str, Device] = {}
        for number, name in enumerate(RULES):
            device = self.devices[name] = Device(path / name, self.cloud, name, seed + number)
            device.edge.collection("logs", **NOTES)
            self.assigned[device.key.device_id] = self.digest(name)
        self.mine: dict[str, set[tuple[str, str]]] = {name: set() for name in RULES}

    def _chosen(self, _: Reading, caller: Caller) -> bytes:
        return self.assigned.get(caller.device, b"")

    def policy(self, name: str) -> Policy:
        return Policy.from_document({"schema": 1, "name": name, "sync": RULES[name]})

    def digest(self, name: str) -> bytes:
        return sha256(self.policy(name).to_json()).digest()

    def write(self, name: str, rng: random.Random) -> None:
        collection, key = rng.choice(("notes", "logs")), rng.choice(KEYS)
        self.mine[name].add((collection, key))
        held = self.devices[name].edge.collection(collection)
        if key not in held:
            held.put(key, {"text": f"{name} {rng.random()}", "visits": 1})
        elif rng.random() < 0.2:
            held.delete(key)
        else:
            held.increment(key, "visits", 1)

    def check(self) -> None:
        with self.cloud.store.reading() as view:
            images = {(row.collection, row.key): row.image for row in view.records(self.cloud.fleet, limit=10_000)}
        for name, device in self.devices.items():
            for collection in ("notes", "logs"):
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
    world, rng = World(tmp_path, seed), random.Random(seed)
    for _ in range(6):
        for name, device in world.devices.items():
            for _ in range(rng.randrange(6)):
                world.write(name, rng)
            if rng.random() < 0.2:
                device.crash()
            device.sync(loss=loss, steps=60)
    for _ in range(3):
        for device in world.devices.values():
            assert device.sync()
    world.check()


def test_a_restored_cloud_gives_nobody_more(tmp_path: Path) -> None:
    world, rng = World(tmp_path, 7), random.Random(7)
    for name in world.devices:
        world.write(name, rng)
    assert all(device.sync() for device in world.devices.values())
    backup = world.cloud.backup()
    for _ in range(10):
        for name in world.devices:
            world.write(name, rng)
        assert all(device.sync() for device in world.devices.values())
    world.cloud.restore(backup)
    for _ in range(3):
        assert all(device.sync() for device in world.devices.values())
    world.check()


def test_a_device_that_names_its_scope_gets_the_same_and_no_other_by_naming_one(tmp_path: Path) -> None:
    world, rng = World(tmp_path, 3), random.Random(3)
    north, screen = world.devices["north"], world.devices["screen"]
    north.edge.log.meta_set("scope", world.digest("north"))
    screen.edge.log.meta_set("scope", world.digest("office"))  # which has everything
    for _ in range(20):
        world.write("office", rng)
    for _ in range(2):
        assert all(device.sync() for device in world.devices.values())
    world.check()
    screen.edge.log.meta_set("scope", b"?" * 32)
    cursor = screen.edge.log.cursor
    world.write("office", rng)
    assert world.devices["office"].sync()
    assert not screen.sync(steps=30), "a scope that no policy has is refused"
    assert screen.edge.log.cursor == cursor
