"""What a model needs of a device: it comes where that is, and not before."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge import Edge
from edge.cli import main
from edge.storage.control_tables import ControlNote, ControlTables, Document
from edge.storage.model_tables import ModelTables
from sync.activation import FETCHING
from sync.models import Manifest, Needs, target_path
from tests.edge.control.care_world import FILES, World
from tests.edge.control.model_world import release
from tests.edge.link.joined import join_nowhere


@pytest.fixture
def world(cared: World) -> World:
    return cared


GPU = Needs(hardware="gpu = true and not memory.gib < 8")


def agreed(edge: Edge, *manifests: bytes) -> None:
    """As ``edge.control.trust`` keeps an assignment of these and no others."""
    documents = []
    for data in manifests:
        read = Manifest.parse(data)
        path = target_path(read.name, read.number)
        documents.append(Document(f"models/{read.name}", path, read.number, sha256(data).digest(), "", 0, data))
    ControlTables(edge.log).keep(ControlNote(), documents=documents)


def test_a_model_that_needs_hardware_waits_until_the_device_says_what_it_has(world: World) -> None:
    told: list[tuple[object, ...]] = []
    agreed(world.edge, world.shelf.publish(1, FILES[1], needs=GPU)[0])
    models, twin = world.edge.models, world.edge.twin
    models.tell_outcomes(lambda *outcome: told.append((outcome[3], outcome[4])))
    (status,) = models.status()
    assert (status.state, status.next) == ("absent", 0)
    assert "does not report gpu, memory.gib (edge.twin.report)" in status.refused[0]["reason"]
    assert told == [], "nobody knows yet whether it fits"

    twin.report({"gpu": True, "memory": {"gib": 4}})
    assert models.status()[0].refused[0]["reason"].endswith("which this device does not report of itself")
    assert [how for how, _ in told] == ["refused"]

    twin.report({"memory": {"gib": 16}})
    (status,) = models.status()
    assert (status.state, status.next, status.refused) == ("fetching", 1, [])
    twin.report({"gpu": False})  # what was begun goes on: it is the fleet's to take it back
    assert models.status()[0].next == 1


def test_a_model_that_waits_for_hardware_and_is_not_assigned_any_more_does_not_come(world: World) -> None:
    agreed(world.edge, world.shelf.publish(1, FILES[1], needs=GPU)[0])
    (status,) = world.edge.models.status()
    assert "does not report gpu" in status.refused[0]["reason"]
    agreed(world.edge)
    world.edge.twin.report({"gpu": True, "memory": {"gib": 16}})
    assert world.edge.models.notes() == {}


def test_a_model_that_fits_since_another_process_has_said_so_comes_with_the_next_link(tmp_path: Path) -> None:
    """No file of it is here yet, and nobody has asked for the store's models."""
    store = str(tmp_path / "store")
    join_nowhere(store)
    with Edge.open(store) as edge:
        agreed(edge, release(1, FILES[1], needs=GPU)[0])
    with Edge.open(store) as edge:
        edge.twin.report({"gpu": True, "memory": {"gib": 16}})
    with Edge.open(store) as edge:
        edge.start_sync()
        assert ModelTables(edge.log).note("embed").state == FETCHING


def test_status_says_why_the_only_model_is_refused(tmp_path: Path) -> None:
    """No file of it is here: nothing was fetched."""
    store = str(tmp_path / "store")
    join_nowhere(store)
    with Edge.open(store) as edge:
        agreed(edge, release(1, FILES[1], needs=GPU)[0])
        edge.twin.report({"gpu": False})
    with Edge.open(store) as edge:
        (model,) = edge.status()["models"]
        assert (model["name"], model["number"], [one["number"] for one in model["refused"]]) == ("embed", 0, [1])
    with Edge.open(store, read_only=True) as reader:
        assert "gpu = true" in reader.models.status("embed")[0].refused[0]["reason"]
    listed = CliRunner().invoke(main, ["models", "list", store]).stdout
    assert "1 refused: it needs gpu = true" in listed
    assert "1 is refused: it needs gpu = true" in CliRunner().invoke(main, ["status", store]).stdout


def test_needs_in_another_language_are_refused(world: World) -> None:
    world.give(1, needs=Needs(hardware="gpu ~ 3"))
    assert "not understood here" in world.models.status()[0].refused[0]["reason"]
