"""From the publisher's folder to the agent's hands: real commands, a real server, real packs, a real runner."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from cloud.cli import main as cloud
from edge.cli import main as device_cli
from edge.node import Edge
from edge.storage import twin_rows
from sync.activation import COMMITTED, RETURNED, SOAKING
from sync.twins import read_document
from tests.contracts.operated_fleet import PATIENCE_S, Fleet, eventually, fleet, run
from tests.edge.control.model_world import contents, model

__all__ = ["fleet"]

DETAILS = """
[needs]
runner = "toy"
[[probes]]
kind = "golden"
input = [2.0, 1.0]
output = [4.0, 3.0]
tolerance = 0.1
[soak]
uses = {uses}
"""
TOML = '[models.runners]\ntoy = "tests.edge.control.runner:run"\n'
GOOD = model([[1.5, 1.0], [1.0, 1.0]], note="x" * 300_000)
BAD = model([[9.0, 1.0], [1.0, 1.0]], note="x" * 300_000)
BETTER = model([[1.51, 1.0], [1.0, 1.0]], note="x" * 300_000)


def publish(fleet: Fleet, version: str, files: Mapping[str, bytes], uses: int = 0) -> None:
    """And assign it."""
    details = fleet.folder / f"{version}.toml"
    details.write_text(DETAILS.format(uses=uses))
    fleet.assign("models/embed", fleet.model(version, files, "--details", details))


def reported(edge: Edge) -> Any:
    """What the fleet is told of the model."""
    state = read_document(twin_rows.load(edge.log).state)
    return state["agentdb"]["outcomes"]["models/embed"]


def state(edge: Edge) -> tuple[str, int]:
    (status,) = edge.models.status()
    return status.state, status.number


def test_from_the_publishers_folder_to_the_agent_and_back_when_it_is_bad(fleet: Fleet) -> None:
    publish(fleet, "1.0", GOOD)
    with fleet.device("device", TOML) as edge:
        edge.sync(timeout_s=PATIENCE_S)
        assert state(edge) == (COMMITTED, 1), edge.models.status()
        told = run(cloud, "twins", "show", fleet.directory, "device")["reported"]["agentdb"]["outcomes"]
        assert told["models/embed"]["outcome"] == "committed", "with the very sync that brought it"
        assert contents(edge.models.path("embed")) == GOOD

        edge.start_sync()
        publish(fleet, "2.0", BAD)
        assert eventually(lambda: state(edge)[0] == RETURNED), edge.models.status()
        assert edge.models.status()[0].why.startswith("golden: output[0] is 19 instead of 4")
        assert contents(edge.models.path("embed")) == GOOD
        assert eventually(lambda: reported(edge)["outcome"] == "returned")
        assert reported(edge)["path"] == "models/embed/2.json"
        assert reported(edge)["reason"].startswith("golden: ")

        publish(fleet, "3.0", BETTER, uses=2)
        for path in edge.models.watch("embed", timeout_s=PATIENCE_S):
            assert path is not None
            if contents(path) == BETTER:
                break
        assert state(edge) == (SOAKING, 3)
        edge.stop_sync()
        for _ in range(2):
            edge.models.report_use("embed")
        assert state(edge) == (COMMITTED, 3)
        assert (reported(edge)["outcome"], reported(edge)["path"]) == ("committed", "models/embed/3.json")
    listed = run(device_cli, "models", "list", fleet.folder / "device")
    assert [(one["name"], one["number"], one["refused"][0]["number"]) for one in listed] == [("embed", 3, 2)]


def test_a_sync_that_ends_in_the_middle_goes_on_with_the_next(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.link import model_source

    def ended(self: model_source.ModelSource, _bytes: int) -> None:
        model_source.ModelSource.end(self)
        admit(self, _bytes)

    publish(fleet, "1.0", GOOD)
    with fleet.device("device", TOML) as edge:
        admit = model_source.ModelSource.admit
        with monkeypatch.context() as patched:
            patched.setattr(model_source.ModelSource, "admit", ended)
            edge.sync(timeout_s=PATIENCE_S)
        (status,) = edge.models.status()
        assert status.state == "fetching"
        assert "the sync has ended" in status.problem
    with Edge.open(fleet.folder / "device") as edge:
        began = time.monotonic()
        edge.sync(timeout_s=PATIENCE_S)
        assert time.monotonic() - began < PATIENCE_S
        assert contents(edge.models.path("embed")) == GOOD
