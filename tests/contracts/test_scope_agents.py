"""What an agent has leaves a device with a policy, all kinds of it, and is as it was when it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.agent.thread import INLINE_BYTES_MAX
from edge.storage import leaving
from sync.errors import NotAllowed, NotHere
from sync.places import agent_of, is_of_agents
from sync.scope import Rule
from tests.contracts.fleet_world import Device
from tests.contracts.scope_world import ScopeWorld

LARGE = "x" * 3 * INLINE_BYTES_MAX


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScopeWorld]:
    """The kiosk has two agents."""
    world = ScopeWorld(tmp_path, ("office", "kiosk"))
    edge = world.devices["kiosk"].edge
    for name in ("guide", "cook"):
        agent = edge.agent(name)
        agent.thread().put({"step": 1})
        agent.thread().put({"log": LARGE + name, "step": 2})
        agent.memory().add("the blue door is shut", kind="semantic")
        agent.memory().search("door")
        agent.documents().add("How to open the blue door. Turn the key.", id="doors")
    edge.close()  # what was recalled is written
    world.devices["kiosk"].open()
    world.heal()
    yield world
    world.close()


def living(device: Device, agent: str) -> dict[str, int]:
    """Records by collection."""
    log, found = device.edge.log, {}
    for name in log.schemas:
        if is_of_agents(name):
            keys = [key for key, _ in log.scan(name) if (agent_of(name, key) or ("",))[0] == agent]
            if keys:
                found[name] = len(keys)
    return found


def known(device: Device) -> dict[str, Any]:
    agent = device.edge.agent("guide")
    memory, documents = agent.memory(), agent.documents()
    return {
        "state": agent.thread().get(),
        "history": [one.id for one in agent.thread().history()],
        "memories": [one.text for one in memory.all()],
        "document": [one.id for one in documents.all()],
        "found": [one.document.id for one in documents.search("key")],
    }


def test_all_that_an_agent_has_leaves_and_comes_back(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    before, here = known(kiosk), living(kiosk, "guide")
    assert {"_checkpoints", "_values", "_recalls", "agent.memories", "agent.documents", "agent.chunks"} <= here.keys()
    world.give("kiosk", "no guide")
    world.heal()
    assert living(kiosk, "guide") == {}
    assert living(kiosk, "cook") == here, "another agent's stays"
    kiosk.crash()
    assert known(kiosk) == {"state": None, "history": [], "memories": [], "document": [], "found": []}
    with pytest.raises(NotAllowed):
        kiosk.edge.agent("guide").thread().put({"step": 3})
    assert living(world.devices["office"], "guide") == here
    world.give("kiosk", "")
    world.heal()
    assert known(kiosk) == before
    assert living(kiosk, "guide") == here
    assert kiosk.edge.digest() == world.cloud.digest()
    kiosk.edge.agent("guide").thread().put({"step": 3})
    world.heal()
    assert world.devices["office"].edge.agent("guide").thread().get() == {"step": 3}


def test_what_is_written_again_before_it_is_back_waits(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "no guide")
    world.heal()
    world.give("kiosk", "")
    agent = kiosk.edge.agent("guide")
    with pytest.raises(NotHere):
        agent.memory().add("the blue door is shut", kind="semantic")
    with pytest.raises(NotHere):
        agent.documents().add("Another text.", id="doors")
    agent.memory().add("the red door is open", kind="semantic")
    world.heal()
    agent.documents().add("Another text.", id="doors")
    world.heal()
    for device in world.devices.values():
        assert sorted(one.text for one in device.edge.agent("guide").memory().all()) == [
            "the blue door is shut",
            "the red door is open",
        ]
        assert device.edge.agent("guide").documents().text("doors") == "Another text."


def test_nothing_is_collected_while_what_may_need_it_is_away(
    world: ScopeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has gone, the value has not yet, and the policy lets the agent write again."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "no guide")
    assert kiosk.sync()
    world.archive()
    evict = leaving._evict
    monkeypatch.setattr(leaving, "BATCH", 1)

    def until_then(*given: Any) -> int | None:
        return evict(*given) if "_checkpoints" in living(kiosk, "guide") else None

    monkeypatch.setattr(leaving, "_evict", until_then)
    assert kiosk.sync()
    assert "_values" in living(kiosk, "guide")
    assert "_checkpoints" not in living(kiosk, "guide")
    world.give("kiosk", "")
    thread = kiosk.edge.agent("guide").thread("another")
    for step in range(3):
        thread.put({"step": step})
    assert thread.prune(keep_latest=1) == 2
    monkeypatch.setattr(leaving, "_evict", evict)
    world.heal()
    for device in world.devices.values():
        assert device.edge.agent("guide").thread().get() == {"log": LARGE + "guide", "step": 2}


def test_an_attachment_stays_until_the_cloud_has_its_bytes(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    added = kiosk.edge.agent("guide").attachments().add(b"bytes of a film", media_type="video/mp4")
    world.give("kiosk", "no guide")
    world.heal()
    assert living(kiosk, "guide") == {"agent.attachments": 1}
    (key,) = [key for key, _ in kiosk.edge.log.scan("agent.attachments")]
    place = ("agent.attachments", key, Rule(direction="absent"))
    assert "bytes" in leaving.why_not(kiosk.edge.log, *place)
    notes, digest = kiosk.edge.cache.notes, bytes.fromhex(added.digest)
    notes.note_place(b"p" * 16)
    notes.confirm(digest, b"q" * 16)
    world.heal()
    assert living(kiosk, "guide") == {"agent.attachments": 1}, "where bodies were kept before"
    notes.confirm(digest, b"p" * 16)
    assert "archive" in leaving.why_not(kiosk.edge.log, *place)
    world.heal()
    assert living(kiosk, "guide") == {}
    assert digest in kiosk.edge.cache.bodies
    kiosk.edge.cache.settle()
    assert digest not in kiosk.edge.cache.bodies, "no record names it here"


def test_what_has_left_is_erased_everywhere(world: ScopeWorld) -> None:
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    for name in ("kiosk", "office"):
        world.give(name, "no guide")
    world.heal()
    assert living(kiosk, "guide") == living(office, "guide") == {}
    receipt = kiosk.edge.agent("guide").erase()
    assert receipt.deleted["_checkpoints"] == 2
    assert kiosk.edge.log.reader.one("SELECT count(*) FROM evicted") == 0
    world.heal()
    world.give("kiosk", "")
    world.give("office", "")
    world.heal()
    assert living(kiosk, "guide") == living(office, "guide") == {}
    assert kiosk.edge.digest() == world.cloud.digest()
