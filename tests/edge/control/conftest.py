"""A control plane that has published what ``tests.control_world`` signs, and a device of its fleet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control_world import POLICY, ControlWorld
from tests.edge.control.trust_device import Device


@pytest.fixture
def unpublished(tmp_path: Path) -> Iterator[ControlWorld]:
    (tmp_path / "cloud").mkdir()
    world = ControlWorld(tmp_path / "cloud")
    yield world
    world.store.close()


@pytest.fixture
def world(unpublished: ControlWorld) -> ControlWorld:
    unpublished.publish()
    return unpublished


@pytest.fixture
def assigned(world: ControlWorld) -> None:
    """The policy is to run."""
    world.plane.assign(world.fleet, "policy", POLICY)


@pytest.fixture
def options() -> dict[str, Any]:
    """How the device's store is opened."""
    return {}


@pytest.fixture
def device(world: ControlWorld, tmp_path: Path, options: dict[str, Any]) -> Iterator[Device]:
    device = Device(tmp_path / "device", world, **options)
    yield device
    device.edge.close()
