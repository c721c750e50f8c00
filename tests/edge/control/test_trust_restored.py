"""A control plane that lost what it had signed last, and devices that hold it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cloud.cli import main
from cloud.server.home import Home
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import Untrusted
from tests.control_world import DOCUMENTS, MODEL, POLICY_2, ControlWorld
from tests.edge.control.trust_device import Device
from tests.trust_world import DAY_MS


def run(*args: object) -> Any:
    result = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert result.exit_code == 0, (result.output, result.stderr)
    return json.loads(result.stdout)


def lose(world: ControlWorld, device: Device, tmp_path: Path) -> None:
    """The device takes what is published next, and the control plane is as it was before that."""
    database, before = tmp_path / "cloud" / "cloud.db", tmp_path / "before.db"

    def copied(source: Path, target: Path) -> None:
        world.store.close()
        shutil.copy(source, target)
        world.store = SqliteStore.open(database)
        world.plane = world.new_plane()

    copied(database, before)
    world.clock.now_ms += 1000
    world.publish(2)
    device.update()
    copied(before, database)


@pytest.mark.usefixtures("assigned")
def test_what_is_published_again_after_a_restore_is_taken_by_who_holds_what_was_lost(
    world: ControlWorld, device: Device, tmp_path: Path
) -> None:
    """The same number of publications after it as were lost: the same versions, in other bytes."""
    device.update()
    lose(world, device, tmp_path)
    world.plane.control.was_restored(world.fleet)
    world.clock.now_ms += 1000
    world.publish(2)
    world.plane.assign(world.fleet, "policy", POLICY_2)
    device.update()
    world.clock.now_ms += 4 * DAY_MS
    assert world.plane.control.timestamp_again(world.fleet)
    world.plane.assign(world.fleet, "models/embed", MODEL)
    device.update()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_2], "models/embed": DOCUMENTS[MODEL]}


def test_and_also_where_the_control_plane_could_not_sign_past_what_was_lost(
    world: ControlWorld, device: Device, tmp_path: Path
) -> None:
    """Such as without its key: then a device that has a version with other bytes asks for all of it."""
    device.update()
    lose(world, device, tmp_path)
    world.clock.now_ms += 1000
    world.publish(2)
    world.clock.now_ms += 4 * DAY_MS
    assert world.plane.control.timestamp_again(world.fleet)
    world.plane.assign(world.fleet, "policy", POLICY_2)
    with pytest.raises(Untrusted, match="not the bytes that are named"):
        device.update()
    device.update()
    assert device.runs() == {"policy": DOCUMENTS[POLICY_2]}


def test_a_restore_does_not_go_on_with_the_versions_that_it_found(tmp_path: Path) -> None:
    fleet = run("init", tmp_path / "cloud", "--archive", tmp_path / "archive")["fleet"]
    run("trust", "init", tmp_path / "trust", "--fleet", fleet)
    run("publish", tmp_path / "cloud", tmp_path / "trust", "--online-key", tmp_path / "trust" / "keys" / "online.pem")
    run("archive", "run", tmp_path / "cloud")
    place = ("--archive", tmp_path / "archive", "--keys", tmp_path / "cloud" / "keys")
    run("restore", tmp_path / "rehearsed", *place, "--rehearse")
    run("restore", tmp_path / "restored", *place)
    versions = {}
    for name in ("cloud", "rehearsed", "restored"):
        with Home.open(tmp_path / name) as home, home.store.reading() as view:
            versions[name] = dict(view.trust_versions(home.fleet.fleet))
    assert versions["rehearsed"] == versions["cloud"]
    ahead = {name: versions["restored"][name] - version for name, version in versions["cloud"].items()}
    assert {name for name, by in ahead.items() if by > 1000} == {"timestamp", "snapshot"}
    assert {by for name, by in ahead.items() if name not in ("timestamp", "snapshot")} == {0}
    assert run("publish", tmp_path / "restored", tmp_path / "trust")["timestamp"] > versions["restored"]["timestamp"]
