"""A device gets what is in the scope that it names and in the one it is assigned: by the feed, by a baseline, whole
pushes as they were packed, and nothing of another fleet's policies.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.control_plane import ControlPlane
from cloud.control_rows import TargetRow
from cloud.fleet.policies import PolicyScopes
from cloud.ports import Caller, Reading
from cloud.storage.sqlite_checksums import checksum_vfs
from cloud.storage.sqlite_store import SqliteStore
from cloud.stream import feed as feed_module
from cloud.stream.feed import JOIN_BELOW
from sync.errors import Refused
from sync.policy import Policy
from sync.policy_tables import SyncRule
from sync.scope import ScopeTable
from sync.segment import parse_header
from tests.cloud.stream_world import Device, Fleet
from tests.sync.test_scope import rules

NORTH = {"collections": ["sensors"], "prefixes": ["north/"]}
UP = {"collections": ["*"], "direction": "up"}


class World:
    """A fleet whose devices are assigned what ``assigned`` says, by their names."""

    def __init__(self, directory: Path | None) -> None:
        self.assigned: dict[bytes, bytes] = {}
        self.fleet = Fleet(directory, scopes=PolicyScopes(self._chosen))
        self._number = 0

    def _chosen(self, _: Reading, caller: Caller) -> bytes:
        return self.assigned.get(caller.device, b"")

    def publish(self, *sync: dict[str, Any]) -> bytes:
        """The digest of a policy of these rules."""
        return self.publish_data(Policy.from_document({"schema": 1, "name": "a", "sync": list(sync)}).to_json())

    def publish_data(self, data: bytes) -> bytes:
        self._number += 1
        digest = sha256(data).digest()
        with self.fleet.store.writing() as tx:
            tx.add_targets(self.fleet.id, [TargetRow(0, digest, f"policies/a/{self._number}.json", data)])
        return digest

    def device(self, name: str, digest: bytes) -> Device:
        device = self.fleet.device(name)
        self.assigned[device.key.device_id] = digest
        return device


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.fleet.close()


def wrote(world: World, *parts: tuple[str, str, int], most: int = 10_000) -> Device:
    """A device without a policy that pushed so many records of each (collection, prefix)."""
    van = world.device("van", b"")
    for collection in dict.fromkeys(collection for collection, _, _ in parts):
        van.declare(collection)
    van.push()
    for collection, prefix, count in parts:
        for at in range(count):
            van.put(collection, f"{prefix}{at}", text=f"{prefix} {at}")
        van.push(most=most)
    return van


def test_what_is_out_of_scope_is_held_back_and_the_cursor_goes_on(world: World) -> None:
    van = wrote(world, ("sensors", "north/", 40), ("sensors", "south/", 40), ("notes", "n", 40))
    kiosk = world.device("kiosk", world.publish(NORTH, UP))
    wanted = [one for one in van.log if one.key.startswith("north/") or one.shape.collection == "_collections"]
    assert kiosk.pull(max_operations=7) == wanted
    assert kiosk.cursor == world.fleet.head()
    late = world.device("late", world.assigned[kiosk.key.device_id])
    late.baseline()
    assert late.images == kiosk.images


def test_a_push_wholly_in_scope_passes_through_as_it_was_packed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wrote(world, ("sensors", "north/", JOIN_BELOW), ("notes", "n", JOIN_BELOW), ("logs", "n", JOIN_BELOW))
    kiosk = world.device("kiosk", world.publish({"collections": ["sensors", "logs"]}, UP))
    unpacked: list[int] = []
    before = feed_module.RowCache.operations

    def counted(cache: Any, incarnation: bytes, row: Any) -> Any:
        unpacked.append(row.first)
        return before(cache, incarnation, row)

    monkeypatch.setattr(feed_module.RowCache, "operations", counted)
    page, operations = kiosk.page(max_operations=1_000)
    assert [(head.first_seq, head.count) for head in map(parse_header, page.segments)] == [
        (1, 3),
        (4, JOIN_BELOW),
        (4 + 2 * JOIN_BELOW, JOIN_BELOW),
    ]
    assert unpacked == [1], "of the rest nothing is unpacked, neither what is in scope nor what is out of it"
    assert {one.shape.collection for one in operations} == {"_collections", "sensors", "logs"}
    assert page.cursor == world.fleet.head()


def test_rows_from_before_the_column_are_looked_into(world: World) -> None:
    van = wrote(world, ("sensors", "north/", JOIN_BELOW), ("notes", "n", 5))
    db = apsw.Connection(world.fleet.store.path, vfs=checksum_vfs())
    assert db.execute("SELECT collections FROM feed ORDER BY last").fetchall() == [
        ("_collections",),
        ("sensors",),
        ("notes",),
    ]
    db.execute("UPDATE feed SET collections = ''")
    db.close()
    kiosk = world.device("kiosk", world.publish({"collections": ["sensors"]}, UP))
    assert kiosk.pull() == van.log[: 2 + JOIN_BELOW]


def test_a_database_of_the_first_builds_gets_the_column(tmp_path: Path) -> None:
    world = World(tmp_path)
    van = wrote(world, ("notes", "n", 3))
    db = apsw.Connection(world.fleet.store.path, vfs=checksum_vfs())
    db.execute("ALTER TABLE feed DROP COLUMN collections")
    db.close()
    world.fleet.store.close()
    fleet = world.fleet
    fleet.store = SqliteStore.open(tmp_path / "cloud.db")
    fleet.plane = ControlPlane(fleet.store, fleet.keys, fleet.clock, fleet.random)
    van.put("notes", "later", text="x")
    van.push()
    with fleet.store.reading() as view:
        assert [row.collections for row in view.feed(fleet.id, 0)] == [(), (), ("notes",)]
    assert fleet.device("kiosk").pull() == van.log
    fleet.close()


def test_a_row_of_very_many_collections_does_not_name_them(world: World) -> None:
    van = world.device("van", b"")
    for at in range(70):
        van.declare(f"c{at:02}")
    van.push()
    for count in (64, 65):
        for at in range(count):
            van.put(f"c{at:02}", f"k{count}", text="x")
        van.push()
    with world.fleet.store.reading() as view:
        assert [len(row.collections) for row in view.feed(world.fleet.id, 0)] == [1, 64, 0]
    kiosk = world.device("kiosk", world.publish({"collections": ["c0*"]}, UP))
    assert {one.shape.collection for one in kiosk.pull()} == {"_collections", *(f"c{at:02}" for at in range(10))}


def test_what_is_passed_over_is_bounded_and_makes_progress(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_PASSED_BYTES_MAX", 2_000)
    van = wrote(world, ("notes", "n", 400), most=10)
    kiosk = world.device("kiosk", world.publish(UP))
    page, operations = kiosk.page()
    assert operations == van.log[:1]
    assert 1 < page.cursor < world.fleet.head()
    assert kiosk.pull() == van.log[:1]


# -- named and assigned -----------------------------------------------------------------------------------------------


def keys_of(device: Device) -> set[str]:
    return {one.key for one in device.pull() if one.shape.collection == "sensors"}


@pytest.mark.parametrize("named_before_assigned", [False, True])
def test_a_device_gets_what_both_scopes_have(world: World, named_before_assigned: bool) -> None:
    wrote(world, ("sensors", "north/", 2), ("sensors", "south/", 2), ("sensors", "east/", 2))
    one = world.publish({"collections": ["sensors"], "prefixes": ["north/", "south/"]}, UP)
    other = world.publish({"collections": ["sensors"], "prefixes": ["south/", "east/"]}, UP)
    kiosk = world.device("kiosk", other if named_before_assigned else one)
    kiosk.scope = one if named_before_assigned else other
    assert keys_of(kiosk) == {"south/0", "south/1"}
    late = world.device("late", world.assigned[kiosk.key.device_id])
    late.scope = kiosk.scope
    late.baseline()
    assert {key for collection, key in late.images if collection == "sensors"} == {"south/0", "south/1"}


def test_a_page_says_when_it_leaves_out_some_of_what_was_named(world: World) -> None:
    wrote(world, ("sensors", "north/", 2))
    wide, narrow = world.publish({"collections": ["sensors"]}, UP), world.publish(NORTH, UP)
    kiosk = world.device("kiosk", narrow)
    for assigned, named, said in (
        (narrow, narrow, False),
        (narrow, wide, True),
        (wide, narrow, False),
        (narrow, b"", True),
        (b"", narrow, False),
        (b"", b"", False),
    ):
        world.assigned[kiosk.key.device_id], kiosk.scope = assigned, named
        page, _ = kiosk.page()
        assert page.narrowed is said


def test_a_narrowing_holds_at_once(world: World) -> None:
    van = wrote(world, ("sensors", "north/", 1), ("sensors", "south/", 1))
    wide = world.publish({"collections": ["*"]})
    kiosk = world.device("kiosk", wide)
    kiosk.scope = wide
    assert keys_of(kiosk) == {"north/0", "south/0"}
    world.assigned[kiosk.key.device_id] = world.publish(NORTH, UP)
    for key in ("north/1", "south/1"):
        van.put("sensors", key, text="later")
    van.push()
    assert keys_of(kiosk) == {"north/1"}


@pytest.mark.parametrize("digest", [b"x" * 32, b"x"])
def test_a_scope_that_no_policy_of_the_fleet_has_is_refused(world: World, digest: bytes) -> None:
    kiosk = world.device("kiosk", b"")
    kiosk.scope = digest
    with pytest.raises(Refused, match="no policy of this fleet"):
        kiosk.page()
    with pytest.raises(Refused, match="no policy of this fleet"):
        kiosk.baseline()


def test_a_device_whose_policy_is_not_understood_gets_nothing_instead_of_everything(world: World) -> None:
    wrote(world, ("notes", "n", 1))
    kiosk = world.device("kiosk", world.publish_data(b'{"name":"a","schema":2}'))
    with pytest.raises(Refused):
        kiosk.page()


scopes = st.one_of(st.none(), rules)


@settings(max_examples=30)
@given(scopes, scopes, st.integers(1, 40), st.integers(1, 30))
def test_pages_and_baselines_are_what_filtering_everything_gives(
    named: tuple[SyncRule, ...] | None, assigned: tuple[SyncRule, ...] | None, most: int, size: int
) -> None:
    world = World(None)
    van = wrote(world, *((name, prefix, 5) for name in ("a", "ab", "c") for prefix in ("a", "ab/", "b")), most=size)
    digests = [
        world.publish_data(Policy("a", told).to_json()) if told is not None else b"" for told in (named, assigned)
    ]
    kiosk = world.device("kiosk", digests[1])
    kiosk.scope = digests[0]
    tables = [ScopeTable(told or ()) for told in (named, assigned)]
    places = [(one.shape.collection, one.key) for one in van.log]
    wanted = [place for place in places if all(table.has(*place) for table in tables)]
    assert [(one.shape.collection, one.key) for one in kiosk.pull(max_operations=most)] == wanted
    late = world.device("late", digests[1])
    late.scope = digests[0]
    late.baseline()
    assert set(late.images) == set(wanted)
    world.fleet.close()
