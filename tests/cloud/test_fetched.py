"""Records by name: what a device that has let them go gets of them, and how it is told of what it does not get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.stream import fetched
from sync.errors import BrokenChain, Refused
from sync.images import image_values
from sync.operations import Kind
from sync.records import fold
from tests.cloud.test_feed_scopes import NORTH, UP, World, wrote

PLACES = [("sensors", f"{side}/{at}") for side in ("north", "south") for at in range(3)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.fleet.close()


def test_each_is_there_not_given_or_nowhere(world: World) -> None:
    writer = wrote(world, ("sensors", "north/", 3), ("sensors", "south/", 3))
    writer.delete("sensors", "north/1")
    writer.push()
    device = world.device("reader", world.publish(NORTH, UP))
    page, records = device.fetch([("sensors", "north/7"), *PLACES, PLACES[0], ("never", "declared")])
    assert (page.answered, page.denied) == (9, [4, 5, 6, 8])
    assert list(records) == PLACES[:3]
    assert image_values(fold(None, records[PLACES[0]])) is not None
    assert records[PLACES[1]].shape.kind in (Kind.DELETE, Kind.IMAGE), "tombstones, too"


def test_a_page_is_bounded_and_covers_at_least_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote(world, ("sensors", "north/", 3))
    device = world.device("reader", b"")
    monkeypatch.setattr(fetched, "IMAGE_BYTES_PER_PAGE", 1)
    asked = [("sensors", "none"), *PLACES[:3]]
    found: list[tuple[str, str]] = []
    while asked:
        page, records = device.fetch(asked)
        assert page.answered >= 1
        found += records
        asked = asked[page.answered :]
    assert found == PLACES[:3]
    assert device.fetch([])[0].answered == 0


def test_who_asks_is_looked_at(world: World) -> None:
    wrote(world, ("sensors", "north/", 1))
    one, other = world.device("one", b""), world.device("other", b"")
    one.replica, mine = other.replica, one.replica
    with pytest.raises(Refused):
        one.fetch(PLACES)
    one.replica, one.incarnation = mine, b"x" * 16
    with pytest.raises(BrokenChain):
        one.fetch(PLACES)
