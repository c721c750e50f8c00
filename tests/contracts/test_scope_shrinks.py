"""What leaves a device's scope: it goes once the archive has it as it was here, no earlier, and as if it had never been
here; nobody else hears of it, and it comes back as it is by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge.storage import leaving, link_state, policy_row
from sync.digest import StateDigest
from sync.errors import NotFound, NotHere, StorageError
from sync.scope import Rule
from tests.contracts.scope_world import KEYS, LOGS, NOTES, PLACES, ScopeWorld, held


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScopeWorld]:
    """Everything is everywhere, and archived; for the kiosk the logs are absent now."""
    world = ScopeWorld(tmp_path, ("office", "kiosk"))
    for place in PLACES:
        world.write("office", place)
    world.heal()
    world.give("kiosk", "notes")
    yield world
    world.close()


def synced(world: ScopeWorld) -> set[tuple[str, str]]:
    assert world.devices["kiosk"].sync()
    return held(world)


def test_it_goes_once_the_archive_has_it_and_as_if_it_had_never_been_here(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"].edge
    logs = kiosk.collection("logs")
    world.write("office", PLACES[0], "patch")
    assert world.devices["office"].sync()
    assert [hit.key for hit in logs.search(text="office", k=20)], "the projections know it"
    assert synced(world) == NOTES | LOGS, "marked"
    assert synced(world) == NOTES | LOGS, "the archive does not have all of what the cloud had then"
    world.archive()
    position = kiosk.log.position
    assert synced(world) == NOTES
    changes = kiosk.log.changes(position, 1_000)
    assert {tuple(place) for _, *place in changes} == LOGS, "whoever follows the log hears of it"
    for _ in range(2):
        assert (logs.count(), list(logs.scan()), logs.get(KEYS[0])) == (0, [], None)
        assert logs.search(text="office", k=20) == []
        assert kiosk.verify() == []
        digest = StateDigest()
        for place, image in world.images().items():
            if world.tables["notes"].has(*place):
                digest.add(*place, image)
        assert kiosk.digest() == digest.hexdigest(), "what is in the scope, and nothing else"
        world.devices["kiosk"].crash()
        kiosk = world.devices["kiosk"].edge
        logs = kiosk.collection("logs")
    world.heal()
    assert held(world, "office") == NOTES | LOGS
    assert set(world.images()) >= NOTES | LOGS


def test_it_comes_back_as_it_is_by_then(world: ScopeWorld) -> None:
    world.heal()
    assert held(world) == NOTES
    patched, deleted = ("logs", KEYS[0]), ("logs", KEYS[1])
    office = world.devices["office"].edge.collection("logs")
    office.patch(KEYS[0], {"mood": "good"})
    world.write("office", deleted, "delete")
    world.heal()
    assert held(world) == NOTES
    world.give("kiosk", "")
    world.heal()
    assert held(world) == (NOTES | LOGS) - {deleted}
    values = world.devices["kiosk"].edge.log.values(*patched)
    assert values is not None
    assert set(values) == {"text", "mood"}, "whole"
    world.check()
    assert world.devices["kiosk"].edge.digest() == world.cloud.digest()


def test_what_has_changed_since_it_was_marked_is_marked_again(world: ScopeWorld) -> None:
    assert synced(world) == NOTES | LOGS
    world.archive()
    world.give("kiosk", "")
    changed = ("logs", KEYS[2])
    world.write("office", changed, "patch")
    assert world.devices["office"].sync()
    assert synced(world) == NOTES | LOGS
    world.give("kiosk", "notes")
    assert synced(world) == NOTES | {changed}, "the archive does not have that one as it is here"
    world.archive()
    assert synced(world) == NOTES


def test_marks_of_another_life_of_the_cloud_are_void(world: ScopeWorld) -> None:
    """The archive's position is that of what was restored: it says nothing of what was marked before."""
    world.write("office", ("logs", KEYS[0]), "patch")
    world.heal_without_archive()
    before = world.archived
    assert before is not None
    assert synced(world) == NOTES | LOGS
    world.cloud.restore(before)
    for _ in range(20):
        world.write("office", ("notes", KEYS[0]), "patch")
    assert world.devices["office"].sync()
    world.archive()
    assert synced(world) == NOTES | LOGS
    world.heal()
    world.check()


def test_what_was_not_sent_is_sent_first(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "")
    assert synced(world) == NOTES | LOGS
    mine = ("logs", "south/mine")
    world.write("kiosk", mine)
    world.give("kiosk", "notes")
    kiosk.lose_next_answer_to = "Push"
    for _ in range(3):
        kiosk.sync(steps=12)
        assert kiosk.edge.log.values(*mine) is not None, "the archive does not have it"
    world.heal()
    assert kiosk.edge.log.values(*mine) is None
    assert mine in world.images()
    assert world.devices["office"].edge.log.values(*mine) is not None


def test_while_anything_is_not_acknowledged_nothing_is_marked_or_goes(world: ScopeWorld) -> None:
    """Whoever says when: a write may have come since."""
    log = world.devices["kiosk"].edge.log
    world.give("kiosk", "")
    assert synced(world) == NOTES | LOGS
    world.write("kiosk", ("logs", KEYS[0]), "patch")
    world.give("kiosk", "notes")
    for _ in range(2):
        assert leaving.leave(log, log.cursor, 1 << 40) == 0
    assert held(world) == NOTES | LOGS


def test_what_is_written_while_it_is_marked_is_not(world: ScopeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers go on while it looks; what it saw of one that is not in the archive must not go."""
    kiosk, due = world.devices["kiosk"].edge, leaving._due
    changed = ("logs", KEYS[1])

    def meanwhile(*given: Any) -> Any:
        kiosk.log.admits = None
        world.write("kiosk", changed, "patch")
        kiosk.log.fold()
        return due(*given)

    monkeypatch.setattr(leaving, "_due", meanwhile)
    world.devices["kiosk"].sync()
    monkeypatch.undo()
    assert (kiosk.log.reader.one("SELECT count(*) FROM leaving"), kiosk.log.head_seq) == (len(LOGS) - 1, 3)
    assert synced(world) == NOTES | {changed}
    assert synced(world) == NOTES | {changed}, "the archive does not have it"
    world.archive()
    assert synced(world) == NOTES


def test_what_the_cloud_refused_stays(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"].edge
    refused = ("logs", KEYS[3])
    with kiosk.log.writer.lock, kiosk.log.transact() as db:
        row = (1, kiosk.log.replica, *refused, "too-large", "", 0, b"")
        db.execute("INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    world.heal()
    assert held(world) == NOTES | {refused}
    assert "refused" in leaving.why_not(kiosk.log, *refused, Rule(direction="absent"))
    assert leaving.why_not(kiosk.log, "logs", KEYS[0], Rule(direction="absent")) == ""
    world.give("kiosk", "north only")
    world.heal()
    assert held(world) == {("notes", key) for key in KEYS if key.startswith("north")} | {refused}


def test_a_power_cut_between_two_batches(world: ScopeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    kiosk = world.devices["kiosk"]
    assert synced(world) == NOTES | LOGS
    world.archive()
    evict, calls = leaving._evict, iter([True, False])

    def cut(*given: Any) -> int | None:
        if next(calls):
            return evict(*given)
        raise StorageError("the power is off")

    monkeypatch.setattr(leaving, "BATCH", 3)
    monkeypatch.setattr(leaving, "_evict", cut)
    with pytest.raises(StorageError):
        kiosk.sync()
    kiosk.crash()
    assert len(held(world) - NOTES) == len(LOGS) - 3
    assert kiosk.edge.verify() == []
    monkeypatch.setattr(leaving, "_evict", evict)
    assert synced(world) == NOTES


def test_what_is_gone_can_be_written_again_where_the_policy_lets_it(world: ScopeWorld) -> None:
    """But not what depends on what is not here yet."""
    world.heal()
    office = world.devices["office"].edge.collection("logs")
    office.patch(KEYS[0], {"mood": "good"})
    world.heal()
    world.give("kiosk", "")
    logs = world.devices["kiosk"].edge.collection("logs")
    with pytest.raises(NotHere, match="has left this device") as refused:
        logs.put(KEYS[0], {"text": "of the kiosk"})
    assert refused.value.retryable
    logs.patch(KEYS[1], {"text": "patched"})
    assert logs.get(KEYS[1]) is None, "a part of a record is not shown"
    logs.delete(KEYS[2])
    with pytest.raises(NotFound):
        logs.patch(KEYS[2], {"text": "deleted"})
    world.heal()
    for name in ("office", "kiosk"):
        notes = world.devices[name].edge.log
        assert (notes.values("logs", KEYS[1]), notes.values("logs", KEYS[2])) == ({"text": "patched"}, None)
    logs.put(KEYS[0], {"text": "of the kiosk"})
    world.heal()
    for name in ("office", "kiosk"):
        values = world.devices[name].edge.log.values("logs", KEYS[0])
        assert values == {"text": "of the kiosk"}
    world.check()


def test_without_an_archive_nothing_goes(tmp_path: Path) -> None:
    world = ScopeWorld(tmp_path / "another", ("office", "kiosk"))
    for place in PLACES:
        world.write("office", place)
    world.heal_without_archive()
    world.give("kiosk", "notes")
    for _ in range(3):
        assert synced(world) == NOTES | LOGS
    assert link_state.load_position(world.devices["kiosk"].edge.log).growth is None
    world.close()


@pytest.mark.parametrize("damaged", [False, True], ids=["of later software", "damaged"])
def test_a_policy_that_cannot_be_read_lets_nothing_go(world: ScopeWorld, damaged: bool) -> None:
    """What is damaged may say of other records that they have to."""
    log = world.devices["kiosk"].edge.log
    assert synced(world) == NOTES | LOGS
    world.archive()
    row = policy_row.load(log)
    assert row is not None
    data = row.data.replace(b'"logs"', b'"notes"') if damaged else row.data.replace(b'"schema":1', b'"schema":2')
    assert data != row.data
    policy_row.store(log, row._replace(data=data, sha256=row.sha256 if damaged else sha256(data).digest()))
    for _ in range(2):
        assert leaving.leave(log, log.cursor, 1 << 40) == 0
    assert held(world) == NOTES | LOGS
