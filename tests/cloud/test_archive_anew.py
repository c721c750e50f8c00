"""An archive that is begun anew at an empty place, or copied to another; and the errors that send people there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.storage.archive import writer
from cloud.storage.archive.anchor import Anchored, AnchorFile, MemoryAnchor
from cloud.storage.archive.errors import ForeignArchive, MissingObject
from cloud.storage.archive.state import begin_anew
from cloud.storage.archive.transfer import copy_archive
from cloud.storage.bodies import Bodies
from cloud.storage.objects import open_objects
from sync.bodies import body_name, seal_part
from sync.errors import InvalidValue, NotFound
from sync.keys import KeyRing
from tests.cloud.archive_world import ArchiveWorld, digest_of, put, rows_in


@pytest.fixture
def world(tmp_path: Path) -> ArchiveWorld:
    return ArchiveWorld(tmp_path)


def _elsewhere(world: ArchiveWorld) -> None:
    """The archive is lost; the configuration names an empty place."""
    world.objects, world.anchor = open_objects("memory://"), MemoryAnchor()
    with world.store.writing() as tx:
        begin_anew(tx, world.fleet)
    world.archive = world.archive_of(world.store)


def test_a_whole_feed_is_archived_whole(world: ArchiveWorld) -> None:
    world.push_random(1, rows=8)
    world.archive.run_once()
    _elsewhere(world)
    world.archive.run_once()
    assert world.verify().problems == []
    for position in range(len(world.history) + 1):
        store, _ = world.restore(position=position)
        assert rows_in(store, world.fleet) == world.expected(position)
        store.close()


def test_a_feed_without_its_beginning_begins_with_a_snapshot(
    world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.push_random(1, rows=8)
    world.archive.snapshot()
    world.push_random(2, rows=8)
    world.archive.run_once()
    world.store, _ = world.restore("second.db")
    with world.store.reading() as view:
        assert view.head(world.fleet).trimmed > 0
    monkeypatch.setattr(writer, "BATCH_ROWS_MAX", 2)  # the backlog would take several manifests
    _elsewhere(world)
    begin, before_ms = len(world.history), world.clock.now_ms
    world.push_random(3, rows=3)  # between the decision and the first run
    first = world.archive.run_once()
    assert first.number == 1
    begin_at, begun_ms = len(world.history), world.clock.now_ms
    assert begin_at > begin
    world.push_random(4, rows=5)
    world.archive.run_once()
    assert world.archive_of(world.store).run_once().manifests == 0
    assert world.verify().problems == []
    for position in range(begin_at, len(world.history) + 1):
        store, restored = world.restore(position=position)
        assert restored.digest == digest_of(world.expected(position))
        with world.store.reading() as old, store.reading() as new:
            assert {row.replica for row in new.replicas(world.fleet)} <= {r.replica for r in old.replicas(world.fleet)}
        store.close()
    for position in (begin_at - 1, 0):
        with pytest.raises(NotFound, match="begins with a snapshot"):
            world.restore(position=position)
    with pytest.raises(NotFound):
        world.restore(at_ms=before_ms - 1000)
    assert world.restore(at_ms=begun_ms)[1].position == begin_at


def test_what_was_restored_from_it_can_be_restored_again(world: ArchiveWorld) -> None:
    world.push([put("a"), put("b")])
    world.archive.snapshot()
    world.store, _ = world.restore("second.db")
    _elsewhere(world)
    world.archive.run_once()
    world.push([put("c")])
    world.archive.run_once()
    world.store, _ = world.restore("third.db", position=2)
    world.history = world.history[:2]
    world.archive = world.archive_of(world.store)
    world.push([put("d")])
    world.archive.run_once()
    assert world.verify().problems == []
    final, _ = world.restore("fourth.db")
    assert rows_in(final, world.fleet) == world.expected()


def test_an_empty_place_is_told_from_a_damaged_archive(world: ArchiveWorld) -> None:
    world.push([put("a")])
    world.archive.run_once()
    empty = world.archive_of(world.store, open_objects("memory://"))
    with pytest.raises(MissingObject, match="nothing of this fleet") as raised:
        empty.run_once()
    assert "archive move" in raised.value.hint


def test_a_copy_can_be_continued_where_the_original_was_taken_over(world: ArchiveWorld) -> None:
    world.push_random(1, rows=4)
    world.archive.snapshot()
    mine, history = world.store, list(world.history)
    world.store, _ = world.restore("other.db")
    other = world.archive_of(world.store)
    world.push([put("theirs")])
    other.run_once()
    world.store, world.history, world.anchor = mine, history, MemoryAnchor()
    world.archive = world.archive_of(mine)
    world.push([put("mine")])
    with pytest.raises(ForeignArchive):
        world.archive.run_once()
    target = open_objects("memory://")
    seen: list[tuple[int, int]] = []
    up_to = world.archive.state.number
    copied = copy_archive(world.objects, target, world.fleet, up_to, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (copied.objects, copied.objects)
    assert copy_archive(world.objects, target, world.fleet, up_to) == copied  # again, changing nothing
    world.objects = target
    world.archive = world.archive_of(mine)
    assert world.archive.run_once().manifests == 1
    assert world.verify().problems == []
    store, _ = world.restore()
    assert rows_in(store, world.fleet) == world.expected()


def test_a_copy_does_not_mix_with_another_archive(world: ArchiveWorld) -> None:
    world.push([put("a")])
    world.archive.run_once()
    target = open_objects("memory://")
    copy_archive(world.objects, target, world.fleet, 1)
    world.push([put("b")])
    world.archive.run_once()
    with pytest.raises(InvalidValue, match="another archive"):
        copy_archive(target, world.objects, world.fleet, 1)  # the other way: it would be behind
    name = world.reader.names.manifest(1)
    other = open_objects("memory://")
    other.put(name, b"another one")
    with pytest.raises(InvalidValue, match="another one"):
        copy_archive(world.objects, other, world.fleet, 2)
    world.objects.delete(name)
    with pytest.raises(MissingObject, match="manifest/") as raised:
        copy_archive(world.objects, open_objects("memory://"), world.fleet, 2)
    assert "--fresh" in raised.value.hint


def test_an_anchor_can_be_forgotten(tmp_path: Path) -> None:
    one, other = b"1" * 16, b"2" * 16
    for anchor in (MemoryAnchor(), AnchorFile(tmp_path / "anchor")):
        for fleet in (one, other):
            anchor.note(fleet, Anchored(7, bytes(32)))
        anchor.forget(one)
        anchor.forget(one)
        assert anchor.last(one) is None
        assert anchor.last(other) == Anchored(7, bytes(32))


def test_bodies_of_attachments_move_along_and_are_no_leftovers(world: ArchiveWorld) -> None:
    bodies = Bodies(lambda: world.objects, world.random)
    ring = KeyRing({1: b"k" * 32})
    name = body_name(ring, 1, world.fleet, b"d" * 32)
    sealed = seal_part(b"data", ring=ring, epoch=1, fleet=world.fleet, name=name, number=0, parts=1)
    place = bodies.place(world.fleet)
    bodies.put(world.fleet, name, 0, sealed)
    world.push([put("a")])
    world.archive.run_once()
    report = world.verify()
    assert (report.problems, report.unreferenced) == ([], 0)
    target = open_objects("memory://")
    copy_archive(world.objects, target, world.fleet, world.archive.state.number)
    moved = Bodies(lambda: target, world.random)
    assert moved.get(world.fleet, name, 0) == sealed
    assert moved.held(world.fleet, name) == [0]
    assert moved.place(world.fleet) == place, "devices need not look for them again"
    elsewhere = open_objects("memory://")
    assert Bodies(lambda: elsewhere, world.random).place(world.fleet) != place
