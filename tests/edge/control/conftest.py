"""A control plane that published what ``tests.control_world`` signs, a device of its fleet; a store with models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control_world import POLICY, ControlWorld
from tests.edge.control.care_world import World
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


@pytest.fixture
def cared(tmp_path: Path) -> Iterator[World]:
    """A store whose models are cared for by hand."""
    world = World(tmp_path)
    yield world
    world.models.close()
    world.edge.close()
