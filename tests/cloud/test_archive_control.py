"""What devices are to run, in the archive and back."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from cloud.control_rows import AssignmentRow, ChannelRow, TargetRow, TrustRow
from tests.cloud.archive_world import ArchiveWorld, put

POLICY = b'{"name":"kiosk"}'
CHANNEL = ChannelRow("policy", "policies/kiosk/1.json")


@pytest.fixture
def world(tmp_path: Path) -> ArchiveWorld:
    world = ArchiveWorld(tmp_path)
    world.push([put("a")])
    with world.store.writing() as tx:
        tx.put_trust(world.fleet, [TrustRow("root", n, b"root %d" % n) for n in (1, 2)])
        tx.put_trust(world.fleet, [TrustRow("timestamp", 4, b"t"), TrustRow("policies", 1, b"p")])
        tx.add_targets(world.fleet, [TargetRow(0, sha256(POLICY).digest(), CHANNEL.path, POLICY)])
        tx.put_channel(world.fleet, CHANNEL)
        tx.put_assignment(world.fleet, AssignmentRow(world.replicas[0][:12], 7, b"c", 4, 99, b"{}", b"s" * 64, 5))
        tx.touch_control(world.fleet)
    return world


def test_what_was_signed_comes_back_from_the_newest_manifest_whatever_the_target(world: ArchiveWorld) -> None:
    world.archive.run_once()
    before = world.push([put("b")])
    with world.store.writing() as tx:
        tx.put_trust(world.fleet, [TrustRow("timestamp", 5, b"t5")])
    world.archive.run_once()
    store, restored = world.restore(position=before - 1)
    assert restored.position == before - 1
    with world.store.reading() as old, store.reading() as new:
        fleet = world.fleet
        assert (
            new.trust_versions(fleet)
            == old.trust_versions(fleet)
            == [
                ("policies", 1),
                ("root", 1),
                ("root", 2),
                ("timestamp", 5),
            ]
        )
        assert [new.trust(fleet, *at) for at in new.trust_versions(fleet)] == [
            old.trust(fleet, *at) for at in old.trust_versions(fleet)
        ]
        assert new.targets(fleet) == old.targets(fleet)
        assert new.channels(fleet) == [CHANNEL]
        assert new.assignments(fleet) == [AssignmentRow(world.replicas[0][:12], 7)], "only the number"
        assert new.control(fleet) > 0


def test_a_number_alone_is_not_worth_a_manifest(world: ArchiveWorld) -> None:
    world.archive.run_once()
    with world.store.writing() as tx:
        tx.put_assignment(world.fleet, AssignmentRow(world.replicas[0][:12], 8))
    assert world.archive.run_once().manifests == 0
    with world.store.writing() as tx:
        tx.put_channel(world.fleet, CHANNEL._replace(path="policies/kiosk/2.json"))
    assert world.archive.run_once().manifests == 1
    store, _ = world.restore()
    with store.reading() as view:
        assert view.assignments(world.fleet)[0].number == 8


def test_a_fleet_without_trust_is_restored_without(tmp_path: Path) -> None:
    world = ArchiveWorld(tmp_path)
    world.push([put("a")])
    world.archive.run_once()
    store, _ = world.restore()
    with store.reading() as view:
        assert (view.control(world.fleet), view.trust_versions(world.fleet)) == (0, [])
