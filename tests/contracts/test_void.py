"""What a device empties of its own log before it is sent changes nothing for anybody, to the byte."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from edge import Collection
from edge.storage import log_void
from tests.contracts.fleet_world import Cloud, Device

KEYS, FIELDS = ("a", "b", "c"), ("x", "y", "z")


def write(rng: random.Random, notes: Collection, *, mixed: bool) -> None:
    key = rng.choice(KEYS)
    some = {name: rng.randrange(100) for name in rng.sample(FIELDS, rng.randint(1, 3))}
    kind = rng.choice(["put", "put", "patch", "patch", "delete", *(["visit", "tag"] if mixed else [])])
    if kind == "put":
        notes.put(key, some)
    elif kind == "patch":
        notes.patch(key, some, upsert=True)
    elif kind == "visit":
        notes.increment(key, "visits", 1, upsert=True)
    elif kind == "tag":
        notes.add(key, "tags", rng.choice("pq"), upsert=True)
    elif key in notes:
        notes.delete(key)


def told(directory: Path, seed: int, *, mixed: bool, voiding: bool) -> tuple[str, dict[str, Any], int]:
    """The digest that all agree on, what the records say, and how many operations were emptied."""
    (directory / "cloud").mkdir(parents=True)
    cloud = Cloud(directory / "cloud", 1)
    devices = [Device(directory / one, cloud, one, 10 + at) for at, one in enumerate("ab")]
    rng = random.Random(seed)
    emptied = 0
    name = "notes" if mixed else "plain"
    for device in devices:
        device.edge.collection(name)
    for _ in range(6):
        for device in rng.sample(devices, 2):
            for _ in range(rng.randrange(12)):
                device.clock.now_ms += rng.randrange(50)
                write(rng, device.edge.collection(name), mixed=mixed)
            if rng.random() < 0.7 and voiding:
                emptied += device.edge.log.void()
            assert device.edge.log.verify() == []
            if rng.random() < 0.4:
                cloud.clock.now_ms += 1_000
                device.clock.now_ms += 1_000
                device.sync(steps=rng.randrange(4, 200), loss=0.2)
            if rng.random() < 0.3:
                device.crash()
    for device in (*devices, devices[0]):
        assert device.sync(steps=300), device.edge.status()
    (digest,) = {*(device.edge.digest() for device in devices), cloud.digest()}
    shown = dict(devices[0].edge.collection(name).scan())
    assert shown == dict(devices[1].edge.collection(name).scan())
    assert [len(device.edge.log.dead_letters()) for device in devices] == [0, 0]
    for device in devices:
        device.edge.close()
    cloud.store.close()
    return digest, shown, emptied


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "with counters and sets"])
@pytest.mark.parametrize("seed", range(8))
def test_the_fleet_comes_to_hold_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, *, mixed: bool
) -> None:
    monkeypatch.setattr(log_void, "LEAST", 1)
    digest, shown, emptied = told(tmp_path / "emptied", seed, mixed=mixed, voiding=True)
    assert emptied > 5
    assert (digest, shown, 0) == told(tmp_path / "whole", seed, mixed=mixed, voiding=False)
