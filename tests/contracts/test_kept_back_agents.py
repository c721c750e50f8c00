"""What an agent has under a policy that keeps it on the device: all of its stores work, nothing of it leaves, bodies
neither; and an erasure reaches it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge import Edge
from edge.storage import kept_back
from tests.contracts.fleet_world import Device
from tests.contracts.kept_world import rows, world
from tests.contracts.scope_world import ScopeWorld

__all__ = ["world"]

SECRET = "juniper and heather"


def live(edge: Edge, said: str = SECRET) -> None:
    guide = edge.agent("guide")
    guide.memory().add(f"they like {said}")
    guide.documents().add(f"On {said}. A long text.", id="d")
    guide.thread("t").put({"plan": said, "large": said * 20_000})
    guide.attachments().add(said.encode() * 100, id="a")


def found(edge: Edge) -> tuple[int, int, str, bytes]:
    guide = edge.agent("guide")
    with guide.attachments().open("a") as body:
        data = body.read()
    memories = len(guide.memory().search("juniper"))
    return memories, len(guide.documents().search("juniper")), guide.thread("t").get()["plan"], data


def in_the_store(device: Device, text: str = SECRET) -> bool:
    files = [path for path in device.path.rglob("*") if path.is_file()]
    return any(text.encode() in path.read_bytes() for path in files)


@pytest.fixture
def kiosk(world: ScopeWorld) -> Device:
    kiosk = world.devices["kiosk"]
    other = kiosk.edge.agent("other")
    other.memory().add("anybody may know")
    live(kiosk.edge, "what all know")  # declares everything
    world.heal()
    world.give("kiosk", "local guide")
    return kiosk


def test_every_store_of_an_agent_works_and_nothing_leaves(world: ScopeWorld, kiosk: Device, tmp_path: Path) -> None:
    head, known = kiosk.edge.log.head_seq, set(world.images())
    bodies = {one.digest for one in kiosk.edge.cache.pending()}
    live(kiosk.edge)
    assert kiosk.edge.log.head_seq == head
    expected = (1, 1, SECRET, SECRET.encode() * 100)
    for _ in range(2):
        assert found(kiosk.edge) == expected
        assert kiosk.edge.verify() == []
        world.heal()
        kiosk.edge.close()
        kiosk.open()
    assert set(world.images()) - known <= {("_collections", "_recalls")}, "what is declared, all know"
    assert not [image for image in world.images().values() if SECRET.encode() in image]
    assert {one.digest for one in kiosk.edge.cache.pending()} == bodies, "its body is not for the cloud"
    counts = kiosk.edge.agent("guide").export(tmp_path / "guide.jsonl")
    assert min(counts[store] for store in ("memory", "document", "attachment", "state")) >= 1
    lines = [json.loads(line) for line in (tmp_path / "guide.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["store"] == "memory" and SECRET in json.dumps(line)]
    kiosk.edge.snapshot(tmp_path / "copy")
    with Edge.open(tmp_path / "copy", clock=kiosk.clock) as copy:
        assert found(copy) == expected
        assert copy.verify() == []
        assert kept_back.counted(copy.log) == kept_back.counted(kiosk.edge.log)
    with Edge.open(kiosk.path, read_only=True, clock=kiosk.clock) as reader:
        assert found(reader) == expected


def test_bodies_go_after_their_records(world: ScopeWorld, kiosk: Device) -> None:
    live(kiosk.edge)
    world.heal()
    before = len(kiosk.edge.cache.pending())
    kiosk.edge.cache.added.clear()
    world.give("kiosk", "")
    assert len(kiosk.edge.cache.pending()) == before
    world.heal()
    assert rows(kiosk) == set()
    assert len(kiosk.edge.cache.pending()) == before, "one came, and the one that it replaced went"
    assert kiosk.edge.cache.added.is_set()
    other = world.devices["office"].edge
    assert other.agent("guide").thread("t").get()["plan"] == SECRET
    assert len(other.agent("guide").memory().search("juniper")) == 1
    assert kiosk.edge.digest() == other.digest() == world.cloud.digest()


def test_an_erasure_reaches_what_is_kept_back(world: ScopeWorld, kiosk: Device) -> None:
    live(kiosk.edge)
    kiosk.edge.log.fold()
    assert in_the_store(kiosk)
    kiosk.edge.agent("guide").erase()
    kiosk.edge.log.fold()
    assert not in_the_store(kiosk)
    assert not in_the_store(kiosk, "what all know"), "nor what it was before"
    assert rows(kiosk) == set()
    assert kiosk.edge.verify() == []
    world.heal()
    for name in ("office", "kiosk"):
        world.devices[name].edge.carry_out_erasures()
    world.give("kiosk", "")
    world.heal()
    assert not [image for image in world.images().values() if SECRET.encode() in image]
    assert kiosk.edge.digest() == world.devices["office"].edge.digest() == world.cloud.digest()


def test_an_erasure_from_elsewhere_does_too_and_what_comes_after_it_was_lifted_stays(
    world: ScopeWorld, kiosk: Device
) -> None:
    live(kiosk.edge)
    office = world.devices["office"].edge
    kiosk.clock.now_ms += 10
    world.devices["office"].clock.now_ms += 10
    office.agent("guide").erase()
    office.agent("guide").lift_erasure()
    world.heal()
    for device in world.devices.values():
        device.clock.now_ms += 100
    kiosk.edge.agent("guide").memory().add("a new beginning")
    kiosk.edge.carry_out_erasures()
    assert not in_the_store(kiosk)
    assert [hit.text for hit in kiosk.edge.agent("guide").memory().search("beginning")] == ["a new beginning"]
    world.give("kiosk", "")
    world.heal()
    assert [hit.text for hit in office.agent("guide").memory().search("beginning")] == ["a new beginning"]
    assert rows(kiosk) == set()
