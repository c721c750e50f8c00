"""A fleet of two whose policies keep some of what is written on its device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.storage import kept_back, policy_row
from edge.storage.log_sweep import sweep
from sync.images import image_values
from tests.contracts.fleet_world import Device
from tests.contracts.scope_world import KEYS, ScopeWorld

PLACE = ("notes", KEYS[0])
BIG = "x" * 1_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScopeWorld]:
    world = ScopeWorld(tmp_path, ("office", "kiosk"))
    world.heal()
    yield world
    world.close()


def values(world: ScopeWorld, name: str, place: tuple[str, str] = PLACE) -> dict[str, Any] | None:
    return world.devices[name].edge.log.values(*place)


def in_the_cloud(world: ScopeWorld, place: tuple[str, str] = PLACE) -> dict[str, Any] | None:
    image = world.images().get(place)
    return None if image is None else image_values(image)


def rows(device: Device) -> set[tuple[str, str]]:
    return {(one.collection, one.key) for one in kept_back.waiting(device.edge.log, None)}


def why(device: Device, place: tuple[str, str] = PLACE) -> str | None:
    found = kept_back.of_place(device.edge.log, *place, device.edge.log.kept.keeper)
    return None if found is None else found.why


def forget_deletes(device: Device) -> None:
    """Those that all have read."""
    device.clock.now_ms += 1_000
    for _ in range(3):
        sweep(device.edge.log, 1 << 40, 0)


def damage_policy(device: Device) -> None:
    """On its disk; it begins again, and cannot read it."""
    row = policy_row.load(device.edge.log)
    assert row is not None
    policy_row.store(device.edge.log, row._replace(data=row.data + b" "))
    device.crash()
