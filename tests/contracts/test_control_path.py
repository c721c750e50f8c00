"""From the operators' keys to what a device runs: real commands, a real server, real stores, a real network."""

from __future__ import annotations

import json
import time
from functools import partial
from statistics import median
from typing import Any

from click.testing import CliRunner

from cloud.cli import main as cloud
from cloud.control_rows import ChannelRow
from cloud.server.home import Home
from edge.cli import main as device_cli
from edge.control.trust import POLICY
from edge.node import Edge
from sync.assignments import Agreed
from sync.effects import SessionLimits
from tests.conftest import CI
from tests.contracts.operated_fleet import PATIENCE_S, Fleet, eventually, fleet, policy, run
from tests.control_world import DOCUMENTS, MODEL

__all__ = ["fleet"]

POLL_MS = SessionLimits().long_poll_ms


def runs(edge: Edge) -> dict[str, bytes]:
    return {one.place: one.data for one in edge.trust.documents("")}


def policy_text(number: int) -> str:
    """Canonical, and another for each number."""
    return f'{{"name":"kiosk","schema":1,"store":{{"quota_mib":{1000 + number}}}}}'


def test_from_the_operators_keys_to_the_device(fleet: Fleet) -> None:
    early = fleet.device("early")
    early.sync(timeout_s=PATIENCE_S)
    assert early.status()["trust"] is None
    fleet.document(policy(1), policy_text(1))
    fleet.document(MODEL, DOCUMENTS[MODEL].decode())
    done = fleet.publish()
    assert (done["root"], done["targets"]) == (1, 2)
    fleet.assign("policy", policy(1))
    fleet.assign("models/embed", MODEL)

    with fleet.device("late") as late:
        late.sync(timeout_s=PATIENCE_S)
        assert runs(late) == {"policy": policy_text(1).encode(), "models/embed": DOCUMENTS[MODEL]}
        assert late.status()["trust"]["refused"] is None
    early.sync(timeout_s=PATIENCE_S)
    assert early.status()["trust"]["refused"]["code"] == "not-found", "it joined before there was a root"
    early.close()
    run(device_cli, "trust", "status", fleet.folder / "early", code=1)
    run(device_cli, "trust", "pin", fleet.folder / "early", done["pin"])
    run(device_cli, "sync", fleet.folder / "early")
    shown = run(device_cli, "trust", "status", fleet.folder / "early")
    assert shown["places"] == {"policy": policy(1), "models/embed": MODEL}
    assert run(device_cli, "trust", "verify", fleet.folder / "early") == {"problems": []}

    found = run(cloud, "assignments", fleet.directory)
    assert found["pin"] == done["pin"] == shown["pin"]
    assert [row["number"] for row in found["devices"]] == [1, 1]
    assert all(row["served_ms"] for row in found["devices"])
    assert run(cloud, "status", fleet.directory)["jobs"]["timestamp"]["error"] == ""


class Runner:
    def __init__(self) -> None:
        self.active: list[str] = []

    def check(self, target: Agreed, data: bytes) -> None:
        assert target.length == len(data)

    def activated(self, documents: list[Any]) -> None:
        self.active = [one.path for one in documents]

    def wanted(self) -> set[bytes]:
        return set()

    def runs(self, path: str) -> bool:
        return self.active == [path]


def test_a_connected_device_has_a_change_in_a_moment(fleet: Fleet) -> None:
    """The command line is another process than the server. How long a moment is, `policy_change_ms` says."""
    changes = 20 if CI else 8
    for number in range(1, changes + 2):
        fleet.document(policy(number), policy_text(number))
    fleet.publish()
    with fleet.device("live") as edge:
        runner = Runner()
        edge.trust.on_activated(POLICY, runner)
        edge.start_sync()
        fleet.assign("policy", policy(1))
        assert eventually(partial(runner.runs, policy(1)))
        took = []
        for number in range(2, changes + 2):
            fleet.assign("policy", policy(number))
            begun = time.monotonic()
            assert eventually(partial(runner.runs, policy(number)))
            took.append((time.monotonic() - begun) * 1000)
            time.sleep(0.03 * (number % 4))
        assert median(took) < POLL_MS / 4, f"no poll is waited for: {sorted(map(round, took))} ms"
        assert edge.status()["sync"]["connected"]


def test_a_server_that_was_killed_and_a_device_that_was_off(fleet: Fleet) -> None:
    fleet.document(policy(1), policy_text(1))
    fleet.publish()
    fleet.assign("policy", policy(1))
    edge = fleet.device("kiosk")
    edge.sync(timeout_s=PATIENCE_S)
    edge.close()
    fleet.plane.kill()
    with Edge.open(fleet.folder / "kiosk") as offline:
        assert runs(offline) == {"policy": policy_text(1).encode()}
    fleet.document(policy(2), policy_text(2))
    fleet.publish()
    fleet.assign("policy", policy(2))
    port = fleet.plane.serve()
    with Edge.open(fleet.folder / "kiosk") as again:
        again.sync(timeout_s=PATIENCE_S, url=f"http://127.0.0.1:{port}")
        assert runs(again) == {"policy": policy_text(2).encode()}


def reported(fleet: Fleet, name: str) -> dict[str, Any]:
    with Home.open(fleet.directory) as home:
        (device,) = [row for row in home.plane.devices(home.fleet.fleet) if row.name == name]
        twin = home.plane.twins.look_at(device).twin
    found: dict[str, Any] = json.loads(twin.reported)
    return found


def test_what_a_device_is_like_is_told_also_in_a_fleet_that_signs_nothing(fleet: Fleet) -> None:
    with fleet.device("kiosk") as edge:
        edge.twin.report({"hardware": "rev2"})
        edge.sync(timeout_s=PATIENCE_S)
        assert reported(fleet, "kiosk") == {"hardware": "rev2"}
        edge.start_sync()
        edge.sync(timeout_s=PATIENCE_S)
        edge.twin.report({"site": "north"})
        assert eventually(lambda: reported(fleet, "kiosk").get("site") == "north")
        assert eventually(lambda: not edge.twin.status()["unsent"])
        assert edge.trust.status() is None


def test_what_the_control_plane_cannot_say_is_shown_on_both_sides_and_stops_no_records(fleet: Fleet) -> None:
    fleet.document(policy(1), policy_text(1))
    fleet.publish()
    fleet.assign("policy", policy(1))
    with fleet.device("kiosk") as edge:
        edge.sync(timeout_s=PATIENCE_S)
        with Home.open(fleet.directory) as home, home.store.writing() as tx:
            tx.put_channel(home.fleet.fleet, ChannelRow("models/embed", "models/embed/9.json"))
            tx.touch_control(home.fleet.fleet)
        edge.collection("notes").put("k", {"a": 1})
        edge.sync(timeout_s=PATIENCE_S)
        assert edge.status()["log"]["pending"] == 0
        status = edge.status()["trust"]["refused"]
        assert (status["code"], "models/embed/9.json" in status["reason"]) == ("not-found", True)
        [row] = run(cloud, "assignments", fleet.directory)["devices"]
        assert "models/embed/9.json" in row["refused"]
        fleet.assign("models/embed", "")
        edge.sync(timeout_s=PATIENCE_S)
        assert edge.status()["trust"]["refused"] is None


def test_what_it_holds_and_what_it_refused_are_told(fleet: Fleet) -> None:
    fleet.document(policy(1), policy_text(1))
    fleet.document(policy(2), '{"cedar":{"text":"not Cedar"},"name":"kiosk","schema":1}')
    fleet.publish()
    fleet.assign("policy", policy(1))
    with fleet.device("kiosk") as edge:
        edge.sync(timeout_s=PATIENCE_S)
        assert reported(fleet, "kiosk")["agentdb"]["trust"] == {"assignment": 1, "stale_hours": 0}
        fleet.assign("policy", policy(2))
        edge.sync(timeout_s=PATIENCE_S)
        told = reported(fleet, "kiosk")["agentdb"]["trust"]
        assert (told["assignment"], told["refused"]["code"]) == (1, "invalid-policy")
        [row] = run(cloud, "assignments", fleet.directory)["devices"]
        assert (row["number"], row["has"], row["refused"]) == (2, 1, told["refused"]["reason"])
        assert "text is not Cedar" in CliRunner().invoke(cloud, ["assignments", str(fleet.directory)]).stdout
        shown = CliRunner().invoke(device_cli, ["status", str(fleet.folder / "kiosk")]).stdout
        assert "text is not Cedar" in shown
        assert "agentdb-edge trust status" in shown
        assert runs(edge) == {"policy": policy_text(1).encode()}
        fleet.assign("policy", policy(1))
        edge.sync(timeout_s=PATIENCE_S)
        assert reported(fleet, "kiosk")["agentdb"]["trust"] == {"assignment": 3, "stale_hours": 0}
