"""What is stable in a fleet, and who is waited for: through the control plane's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.storage.archive.state import ArchiveState, save_state
from sync.messages import Hello, Welcome
from tests.contracts.fleet_world import LEASE_MS, Cloud, Device


class World:
    def __init__(self, directory: Path) -> None:
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", 1)
        self.devices = [Device(directory / f"d{n}", self.cloud, f"d{n}", n + 10) for n in range(2)]
        for device in self.devices:
            device.notes.put(device.name, {"text": "written"})
            assert device.sync()

    def welcome(self, device: Device, **fields: object) -> Welcome:
        """What a device is told that is in sync, after a while; nothing of it reaches the device."""
        from cloud.ports import Caller

        self.cloud.clock.now_ms += 61_000
        log = device.edge.log
        incarnation = log.meta_get("incarnation")
        hello = Hello([1, 2], self.cloud.fleet, log.replica, log.head_seq, log.acked_seq, b"", log.cursor, incarnation)
        for name, value in fields.items():
            hello = Hello(**{**{field: getattr(hello, field) for field in hello.__struct_fields__}, name: value})
        answer = self.cloud.plane.handle(hello, Caller(self.cloud.fleet, device.key.device_id, device.key.public))
        assert isinstance(answer, Welcome)
        return answer


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for device in world.devices:
        device.edge.close()
    world.cloud.store.close()


def test_stable_is_the_least_that_an_active_device_has_read(world: World) -> None:
    first, second = world.devices
    assert world.welcome(first).stable <= first.edge.log.cursor
    assert second.sync()
    assert first.sync()
    head = second.edge.log.cursor
    world.welcome(second)
    assert world.welcome(first).stable == head


def test_it_does_not_go_down_and_a_revoked_or_silent_device_is_not_waited_for(world: World, tmp_path: Path) -> None:
    first, second = world.devices
    for device in (first, second, first):
        device.sync()
        world.welcome(device)
    before = world.welcome(first).stable
    first.notes.put("more", {"text": "x"})
    assert first.sync()
    late = Device(tmp_path / "late", world.cloud, "late", 30)
    world.devices.append(late)
    assert world.welcome(first, cursor=0).stable == before
    assert world.welcome(late, cursor=0, incarnation=b"").stable == before
    assert world.welcome(first).stable == before, "two are behind"
    world.cloud.plane.enrollment.revoke(world.cloud.fleet, late.edge.device)
    assert world.welcome(first).stable == before, "one is behind"
    world.cloud.clock.now_ms += LEASE_MS
    assert world.welcome(first).stable == first.edge.log.cursor > before


@pytest.mark.parametrize("wrong", [{"log_head": 99}, {"incarnation": b"x" * 16}, {"cursor": 99}], ids=str)
def test_a_cursor_is_taken_at_its_word_only_if_nothing_older_waits(world: World, wrong: dict[str, object]) -> None:
    first, second = world.devices
    for device in (first, second):
        assert device.sync()
    world.welcome(second)
    with world.cloud.store.reading() as view:
        before = view.lease(world.cloud.fleet, first.edge.log.replica)
    world.welcome(first, **wrong)
    with world.cloud.store.reading() as view:
        after = view.lease(world.cloud.fleet, first.edge.log.replica)
    assert before is not None
    assert after is not None
    assert (after.settled, after.at_ms > before.at_ms) == (before.settled, True)


def test_nothing_is_stable_that_is_not_archived(world: World) -> None:
    first, second = world.devices
    with world.cloud.store.writing() as tx:
        save_state(tx, world.cloud.fleet, ArchiveState(position=1))
    for device in (first, second, first, second):
        device.sync()
        assert world.welcome(device).stable <= 1


def test_most_handshakes_write_nothing(world: World) -> None:
    first, _ = world.devices
    world.welcome(first)
    with world.cloud.store.reading() as view:
        before = view.lease(world.cloud.fleet, first.edge.log.replica)
    world.cloud.clock.now_ms -= 30_000
    world.cloud.clock.now_ms -= 1_000
    world.welcome(first)
    with world.cloud.store.reading() as view:
        assert view.lease(world.cloud.fleet, first.edge.log.replica) == before
