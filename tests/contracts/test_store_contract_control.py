"""The store's contract about what devices are to run: see ``test_store_contract``."""

from __future__ import annotations

from hashlib import sha256

from cloud.control_rows import AssignmentRow, ChannelRow, TargetRow, TrustRow
from cloud.ports import Store
from tests.contracts.test_store_contract import DEVICE, FLEET, OTHER, store

__all__ = ["store"]


def target(data: bytes, path: str = "policies/a/1.json") -> TargetRow:
    return TargetRow(0, sha256(data).digest(), path, data)


def test_a_fleet_without_trust_has_nothing(store: Store) -> None:
    with store.reading() as view:
        assert view.control(FLEET) == 0
        assert view.trust_versions(FLEET) == []
        assert view.trust(FLEET, "root") is None
        assert view.target(FLEET, bytes(32)) is None
        assert (view.targets(FLEET), view.assignments(FLEET), view.channels(FLEET)) == ([], [], [])
        assert view.assignment(FLEET, DEVICE) is None


def test_changes_are_counted_for_each_fleet(store: Store) -> None:
    with store.writing() as tx:
        assert [tx.touch_control(FLEET), tx.touch_control(FLEET), tx.touch_control(OTHER)] == [1, 2, 1]
    with store.reading() as view:
        assert (view.control(FLEET), view.control(OTHER)) == (2, 1)


def test_all_roots_are_kept_and_of_the_rest_the_newest(store: Store) -> None:
    with store.writing() as tx:
        tx.put_trust(FLEET, [TrustRow("root", 1, b"r1"), TrustRow("timestamp", 7, b"t7")])
        tx.put_trust(FLEET, [TrustRow("policies", 9, b"p")])
        tx.put_trust(FLEET, [TrustRow("root", 2, b"r2"), TrustRow("timestamp", 3, b"t3")])
    with store.reading() as view:
        assert view.trust_versions(FLEET) == [("policies", 9), ("root", 1), ("root", 2), ("timestamp", 3)]
        assert view.trust(FLEET, "root") == TrustRow("root", 2, b"r2")
        assert view.trust(FLEET, "root", 1) == TrustRow("root", 1, b"r1")
        assert view.trust(FLEET, "root", 3) is None
        assert view.trust(FLEET, "timestamp") == TrustRow("timestamp", 3, b"t3")
        assert view.trust_versions(OTHER) == []


def test_targets_are_numbered_once_by_their_bytes(store: Store) -> None:
    one, two = target(b"one"), target(b"two", "models/m/1.json")
    with store.writing() as tx:
        tx.add_targets(FLEET, [one, two, one._replace(path="policies/b/1.json")])
        tx.add_targets(FLEET, [two])
        tx.add_targets(OTHER, [two])
    with store.reading() as view:
        assert view.targets(FLEET) == [one._replace(number=1), two._replace(number=2)]
        assert view.targets(FLEET, 1) == [two._replace(number=2)]
        assert view.targets(FLEET, 0, 1) == [one._replace(number=1)]
        assert view.target(FLEET, two.sha256) == two._replace(number=2)
        assert view.target(OTHER, one.sha256) is None
        assert view.targets(OTHER) == [two._replace(number=1)]


def test_the_newest_assignment_of_each_device(store: Store) -> None:
    first = AssignmentRow(DEVICE, 1, b"c" * 32, 4, 99, b"{}", b"s" * 64, 5)
    second = AssignmentRow(DEVICE, 2)
    with store.writing() as tx:
        tx.put_assignment(FLEET, first)
        assert tx.assignment(FLEET, DEVICE) == first
        tx.put_assignment(FLEET, second)
        tx.put_assignment(FLEET, first._replace(device=b"a" * 12))
    with store.reading() as view:
        assert view.assignment(FLEET, DEVICE) == second
        assert [row.device for row in view.assignments(FLEET)] == [b"a" * 12, DEVICE]
        assert view.assignments(OTHER) == []


def test_channels(store: Store) -> None:
    with store.writing() as tx:
        tx.put_channel(FLEET, ChannelRow("policy", "policies/a/1.json"))
        tx.put_channel(FLEET, ChannelRow("models/m", "models/m/1.json"))
        tx.put_channel(FLEET, ChannelRow("policy", "policies/a/2.json"))
        tx.put_channel(OTHER, ChannelRow("policy", "policies/o/1.json"))
        tx.drop_channel(FLEET, "models/none")
    with store.reading() as view:
        assert view.channels(FLEET) == [
            ChannelRow("models/m", "models/m/1.json"),
            ChannelRow("policy", "policies/a/2.json"),
        ]
    with store.writing() as tx:
        tx.drop_channel(FLEET, "policy")
        assert [row.place for row in tx.channels(FLEET)] == ["models/m"]
        assert [row.place for row in tx.channels(OTHER)] == ["policy"]
