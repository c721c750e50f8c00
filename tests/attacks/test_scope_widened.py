"""A device that asks for more than it is assigned: by naming another policy of its fleet, one that was given to nobody,
one of another fleet, or none. It gets what it is assigned, or less, and nothing at all for a name that is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from cloud.control_rows import TargetRow
from sync.errors import Refused
from sync.policy import Policy
from tests.cloud.stream_world import Device
from tests.cloud.test_feed_scopes import NORTH, UP, World, keys_of, wrote

EVERYTHING = {"collections": ["*"]}
OTHER = {"collections": ["secrets"]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    wrote(world, ("sensors", "north/", 3), ("sensors", "south/", 3), ("secrets", "n", 3))
    yield world
    world.fleet.close()


def gets(device: Device) -> set[str]:
    """By the feed from its beginning, by a baseline with the deletes, and by name: the same."""
    by_feed = {one.key for one in device.pull() if not one.shape.collection.startswith("_")}
    device.images.clear()
    device.baseline(everything=True)
    assert {key for collection, key in device.images if not collection.startswith("_")} == by_feed
    asked = [("sensors", f"{side}/{at}") for side in ("north", "south") for at in range(3)]
    asked += [("secrets", f"n{at}") for at in range(3)]
    page, records = device.fetch(asked)
    assert {key for _, key in records} == by_feed
    assert {asked[at] for at in page.denied} == {place for place in asked if place[1] not in by_feed}
    return by_feed


@pytest.mark.parametrize("named", ["everything", "another", "none", "its own"])
def test_whatever_it_names_it_gets_no_more_than_it_is_assigned(world: World, named: str) -> None:
    assigned = world.publish(NORTH, UP)
    spy = world.device("spy", assigned)
    names = {"everything": world.publish(EVERYTHING), "another": world.publish(OTHER, UP), "none": b""}
    spy.scope = names.get(named, assigned)
    assert gets(spy) == (set() if named == "another" else {"north/0", "north/1", "north/2"})


def test_a_policy_that_was_taken_away_gives_nothing_any_more(world: World) -> None:
    wide = world.publish(EVERYTHING)
    spy = world.device("spy", wide)
    spy.scope = wide
    world.assigned[spy.key.device_id] = world.publish(NORTH, UP)
    assert gets(spy) == {"north/0", "north/1", "north/2"}


def test_a_policy_of_another_fleet_is_no_policy(world: World) -> None:
    foreign = Policy.from_document({"schema": 1, "name": "foreign", "sync": [EVERYTHING]}).to_json()
    other = world.fleet.plane.create_fleet("other").fleet
    with world.fleet.store.writing() as tx:
        tx.add_targets(other, [TargetRow(0, sha256(foreign).digest(), "policies/foreign/1.json", foreign)])
    spy = world.device("spy", world.publish(NORTH, UP))
    spy.scope = sha256(foreign).digest()
    for ask in (spy.page, spy.baseline):
        with pytest.raises(Refused, match="no policy of this fleet"):
            ask()
    assert not spy.images
    spy.scope = b""
    assert keys_of(spy) == {"north/0", "north/1", "north/2"}
