"""Twins in the cloud: labels, desired with versions, reports, and who is in a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloud.fleet import twins
from cloud.twin_rows import TwinRow
from sync import groups
from sync.errors import InvalidValue, Malformed, StaleWrite, TooLarge
from tests.cloud.stream_world import Fleet

DEVICE = b"d" * 12


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet(None)
    yield made
    made.store.close()


def report(fleet: Fleet, version: int, patch: bytes, acks: int = 0) -> twins.Taken:
    with fleet.store.writing() as tx:
        return twins.take_report(tx, fleet.id, DEVICE, version, patch, acks, 77)


def row(fleet: Fleet) -> TwinRow:
    with fleet.store.reading() as view:
        return twins.twin_of(view, fleet.id, DEVICE)


def test_reports_merge_and_count_up(fleet: Fleet) -> None:
    assert report(fleet, 1, b'{"a":{"b":1,"c":2}}').version == 1
    assert report(fleet, 2, b'{"a":{"b":null},"d":[1]}').version == 2
    assert row(fleet).reported == b'{"a":{"c":2},"d":[1]}'
    assert row(fleet).at_ms == 77


def test_a_report_that_does_not_follow_is_answered_with_what_is_held(fleet: Fleet) -> None:
    report(fleet, 1, b'{"a":1}')
    report(fleet, 2, b'{"a":2}')
    for version in (0, 1, 4, 99):
        taken = report(fleet, version, b'{"a":9}', acks=5)
        assert (taken.version, taken.twin) == (2, None)
    assert row(fleet).reported == b'{"a":2}'
    assert report(fleet, 2, b'{"a":3}').version == 2  # the answer was lost: it comes again, with what followed
    assert row(fleet).reported == b'{"a":3}'
    assert report(fleet, 3, b'{"":null,"b":1}').version == 3
    assert row(fleet).reported == b'{"b":1}'


def test_the_answer_says_what_is_desired_and_not_reported(fleet: Fleet) -> None:
    with fleet.store.writing() as tx:
        told = twins.told(twins.set_desired(tx, fleet.id, DEVICE, {"level": "debug", "port": 1}), [])
        tx.put_twins(fleet.id, [told])
    assert report(fleet, 1, b'{"port":1,"other":true}', acks=1).delta == b'{"level":"debug"}'
    assert row(fleet).acked == 1


@pytest.mark.parametrize("patch", [b"", b"[]", b'{"a":', b'{"":1}'])
def test_what_is_no_patch_changes_nothing(fleet: Fleet, patch: bytes) -> None:
    with pytest.raises(Malformed):
        report(fleet, 1, patch)
    assert row(fleet) == TwinRow(DEVICE)


def test_a_state_over_the_bound_is_refused(fleet: Fleet) -> None:
    report(fleet, 1, b'{"a":"%s"}' % (b"x" * 40_000))
    with pytest.raises(TooLarge):
        report(fleet, 2, b'{"b":"%s"}' % (b"x" * 40_000))


def test_versions_of_desired_that_a_restored_cloud_forgot_are_not_given_again(fleet: Fleet) -> None:
    report(fleet, 1, b"{}", acks=40)
    assert (row(fleet).acked, row(fleet).desired_version) == (0, 41)
    with fleet.store.writing() as tx:
        told = twins.told(twins.set_desired(tx, fleet.id, DEVICE, {"a": 1}), [])
    assert told.desired_version == 42


def test_a_device_does_not_push_its_versions_up_without_end(fleet: Fleet) -> None:
    report(fleet, 1, b"{}", acks=(1 << 63) - 1)
    assert (row(fleet).acked, row(fleet).desired_version) == (0, 1)


def test_desired_is_set_for_who_has_seen_the_newest(fleet: Fleet) -> None:
    with fleet.store.writing() as tx:
        one = twins.told(
            twins.set_desired(tx, fleet.id, DEVICE, {"a": {"b": 1}}, expected=0), [{"c": 1, "a": {"b": 7}}]
        )
        tx.put_twins(fleet.id, [one])
        assert (one.desired, one.desired_version) == (b'{"a":{"b":1},"c":1}', 1)
        with pytest.raises(StaleWrite, match="version 1"):
            twins.set_desired(tx, fleet.id, DEVICE, {"a": 2}, expected=0)
        same = twins.told(twins.set_desired(tx, fleet.id, DEVICE, {"c": 1}), [])
        assert same.desired_version == 1
        agent = twins.set_desired(tx, fleet.id, DEVICE, {"tone": "calm"}, agent="guide")
        assert b'"agents":{"guide":{"tone":"calm"}}' in agent.own
        for name in ("agents", "agentdb"):
            with pytest.raises(InvalidValue, match="device's own"):
                twins.set_desired(tx, fleet.id, DEVICE, {name: {}})


def test_labels(fleet: Fleet) -> None:
    with fleet.store.writing() as tx:
        twins.set_labels(tx, fleet.id, DEVICE, {"site": "north", "rack-2": 7, "old": True})
        assert twins.set_labels(tx, fleet.id, DEVICE, {"old": None}).labels == b'{"rack-2":7,"site":"north"}'
        for name in ("", "a.b", "a b", "2x", "x" * 65, "ä"):
            with pytest.raises(InvalidValue):
                twins.set_labels(tx, fleet.id, DEVICE, {name: 1})
        with pytest.raises(TooLarge, match="bytes"):
            twins.set_labels(tx, fleet.id, DEVICE, {"a": "x" * 257})
        with pytest.raises(TooLarge, match="64 labels"):
            twins.set_labels(tx, fleet.id, DEVICE, {f"l{number}": 1 for number in range(64)})


def test_members_are_those_in_good_standing_that_the_query_names(fleet: Fleet) -> None:
    keys = {name: fleet.device(name).key.device_id for name in ("a", "b", "c", "d")}
    with fleet.store.writing() as tx:
        twins.set_labels(tx, fleet.id, b"\0" * 12, {"site": "north"})  # of nobody
        for name, site in (("a", "north"), ("b", "south"), ("c", "north")):
            twins.set_labels(tx, fleet.id, keys[name], {"site": site})
    fleet.plane.enrollment.revoke(fleet.id, keys["c"], reason="")

    def named(query: str) -> set[str]:
        with fleet.store.reading() as view:
            found: list[Any] = list(twins.members(view, fleet.id, groups.parse(query)))
        assert [member.device.device for member in found] == sorted(member.device.device for member in found)
        return {member.device.name for member in found}

    assert named('labels.site = "north"') == {"a"}
    assert named('not labels.site = "north"') == {"b", "d"}
    assert named("") == {"a", "b", "d"}
