"""What is kept back, while everything else goes wrong: lost answers, refusals, clocks, copies, power cuts, damage."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cloud.stream import ingest
from edge import Edge
from edge.storage import kept_back
from sync.errors import CorruptStore, StorageError, TooLarge
from tests.cloud.identity_world import SeededRandom
from tests.contracts.kept_world import BIG, PLACE, damage_policy, in_the_cloud, rows, values, why, world
from tests.contracts.scope_world import ScopeWorld

__all__ = ["world"]


def test_a_write_while_its_state_is_under_way(world: ScopeWorld) -> None:
    """Kept again, or an operation: the one stays, the other is sent for itself."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    kiosk.notes.put("a", {"text": "1", "visits": 1})
    kiosk.notes.put("b", {"text": "1", "visits": 1})
    world.give("kiosk", "")

    def meanwhile() -> None:
        kiosk.notes.increment("a", "visits")
        world.give("kiosk", "local")
        kiosk.notes.increment("b", "visits")

    kiosk.before = {"Push": meanwhile}
    world.heal()
    assert in_the_cloud(world, ("notes", "a")) == {"text": "1", "visits": 2}
    assert in_the_cloud(world, ("notes", "b")) == {"text": "1", "visits": 1}
    assert rows(kiosk) == {("notes", "b")}
    world.give("kiosk", "")
    world.heal()
    assert in_the_cloud(world, ("notes", "b")) == {"text": "1", "visits": 2}
    assert kiosk.edge.digest() == world.cloud.digest()


def test_a_put_that_is_under_way_when_the_policy_comes_is_kept_by_it(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    logs = kiosk.edge.collection("logs")
    logs.put("before", {"text": "the next one is taken to be new as well"})
    log = kiosk.edge.log
    head = log.head_seq
    with log.writer.lock:
        put = Thread(target=lambda: logs.put("mine", {"text": "mine"}))
        put.start()
        while log._group._holder is None:
            time.sleep(0.001)
        time.sleep(0.05)  # it waits for the lock
        world.give("kiosk", "local")
    put.join()
    assert (log.head_seq, logs.get("mine")) == (head, {"text": "mine"})
    world.heal()
    assert ("logs", "mine") not in world.images()


def test_what_the_cloud_will_not_take_stays_and_holds_up_nothing(
    world: ScopeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    for at in range(20):
        kiosk.notes.put(f"{at}", {"text": "1"})
    world.give("kiosk", "")
    taken = ingest._Push._take_state

    def picky(self: Any, operation: Any) -> None:
        if operation.key in ("3", "11"):
            raise TooLarge("the record would be too large")
        taken(self, operation)

    monkeypatch.setattr(ingest._Push, "_take_state", picky)
    assert kiosk.sync()
    assert rows(kiosk) == {("notes", "3"), ("notes", "11")}
    assert why(kiosk, ("notes", "3")) == "refused"
    assert len([place for place in world.images() if place[0] == "notes"]) == 18
    monkeypatch.undo()
    assert kiosk.sync()
    assert rows(kiosk) == {("notes", "3"), ("notes", "11")}, "it is not asked again and again"
    kiosk.notes.patch("3", {"mood": "good"})
    (row,) = kiosk.edge.status()["deferred"]
    assert (row["why"], row["records"]) == ("refused", 2)
    world.give("kiosk", "local")
    kiosk.notes.patch("3", {"text": "2"})
    world.give("kiosk", "")
    assert kiosk.sync()
    assert rows(kiosk) == {("notes", "11")}
    assert in_the_cloud(world, ("notes", "3")) == {"text": "2", "mood": "good"}


@pytest.mark.parametrize("ahead_ms", [90_000_000, -90_000_000])
def test_what_a_wrong_clock_stamped_is_mended(world: ScopeWorld, ahead_ms: int) -> None:
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    world.give("kiosk", "local south")
    kiosk.clock.now_ms += ahead_ms
    kiosk.notes.put("south/0", {"text": "1", "visits": 1})
    kiosk.notes.put("north/0", {"text": "1"})
    kiosk.notes.increment("south/0", "visits", 2)
    kiosk.crash()
    kiosk.notes.increment("south/0", "visits", 4)
    assert kiosk.sync()
    kiosk.notes.patch("south/0", {"text": "2"})
    assert kiosk.notes.get("south/0") == {"text": "2", "visits": 7}, "the later write is the later one"
    world.give("kiosk", "")
    world.heal()
    office.notes.patch("south/0", {"text": "3"})
    world.heal()
    assert office.notes.get("south/0") == kiosk.notes.get("south/0") == {"text": "3", "visits": 7}
    assert kiosk.edge.digest() == world.cloud.digest()


def test_what_comes_from_the_future_waits_until_its_time(world: ScopeWorld) -> None:
    """Here: until it is mended, which it cannot be while something that was sent has no answer."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    kiosk.clock.now_ms += 3_600_000
    kiosk.notes.put("a", {"text": "1"})
    kiosk.edge.log.learn_time(kiosk.clock.now_ms - 3_600_000)
    world.give("kiosk", "")
    assert kept_back.load(kiosk.edge.log, None, 100, 1 << 20)[0] == []
    assert why(kiosk, ("notes", "a")) == "future"
    assert kiosk.edge.status()["deferred"][0]["why"] == "future"
    kiosk.edge.log.mend_stamps()
    assert why(kiosk, ("notes", "a")) == ""
    assert len(kept_back.load(kiosk.edge.log, None, 100, 1 << 20)[0]) == 1


def test_copies_both_bring_what_they_kept(world: ScopeWorld, tmp_path: Path) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    kiosk.notes.put("a", {"text": "before", "visits": 1, "best": 4})
    kiosk.notes.increment("a", "visits", 2)
    kiosk.edge.snapshot(tmp_path / "copy")
    kiosk.notes.increment("a", "visits", 10)
    twin = Edge.open(tmp_path / "copy", clock=kiosk.clock, random=kiosk.random)
    twin.collection("notes").increment("a", "visits", 100)
    twin.collection("notes").patch("a", {"best": 9})
    assert twin.collection("notes").get("a") == {"text": "before", "visits": 103, "best": 9}
    original = kiosk.edge
    kiosk.edge = twin
    assert kiosk.sync()
    assert in_the_cloud(world, ("notes", "a")) is None
    world.give("kiosk", "")
    assert kiosk.sync()
    twin.close()
    kiosk.edge = original
    world.give("kiosk", "")
    world.heal()
    assert in_the_cloud(world, ("notes", "a")) == {"text": "before", "visits": 113, "best": 9}
    assert values(world, "office", ("notes", "a")) == values(world, "kiosk", ("notes", "a"))


def test_a_copied_directory_brings_what_it_counted_under_the_shared_name(world: ScopeWorld, tmp_path: Path) -> None:
    kiosk = world.devices["kiosk"]
    kiosk.notes.put("a", {"visits": 1})
    kiosk.notes.put("b", {"text": "small", "visits": 1})
    assert kiosk.sync()
    world.give("kiosk", "small")
    kiosk.notes.patch("b", {"text": BIG})
    kiosk.edge.close()
    shutil.copytree(kiosk.path, tmp_path / "copy")
    kiosk.open()
    twin = Edge.open(tmp_path / "copy", clock=kiosk.clock, random=SeededRandom(99))
    for edge, by in ((kiosk.edge, 10), (twin, 100)):
        kiosk.clock.now_ms += 5
        edge.collection("notes").increment("a", "visits", by)
        edge.collection("notes").increment("b", "visits", by)
    assert kiosk.sync()
    original, kiosk.edge = kiosk.edge, twin
    for edge in (twin, original, twin):
        kiosk.edge = edge
        assert kiosk.sync()
    assert in_the_cloud(world, ("notes", "a")) == {"visits": 111}
    assert in_the_cloud(world, ("notes", "b")) == {"text": "small", "visits": 1}
    for edge in (twin, original, twin, original):
        kiosk.edge = edge
        world.give("kiosk", "")
        assert kiosk.sync()
    assert in_the_cloud(world, ("notes", "b")) == {"text": BIG, "visits": 111}
    assert original.digest() == twin.digest() == world.cloud.digest()
    twin.close()
    kiosk.edge = original


def test_what_went_away_and_came_back_counts_on(world: ScopeWorld) -> None:
    """In one process: its slot was let go with the record."""
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    for name in ("office", "kiosk"):
        world.devices[name].edge.collection("logs", text=["text"], fields={"visits": "counter"})
    world.heal()
    world.give("kiosk", "local")
    logs = kiosk.edge.collection("logs")
    logs.put("a", {"text": "1", "visits": 5})
    world.give("kiosk", "")
    world.heal()
    kiosk.edge.log.fold()
    with kiosk.edge.log.writer.lock, kiosk.edge.log.transact() as db:  # without a stub
        db.execute("DELETE FROM records WHERE key = 'a'")
    world.give("kiosk", "local")
    assert "a" not in logs
    logs.put("a", {"visits": 1})
    world.give("kiosk", "")
    world.heal()
    assert (office.edge.log.values("logs", "a") or {})["visits"] == 6


def test_a_counter_that_was_kept_over_very_many_processes(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    kiosk.notes.put("a", {"visits": 0})
    for _ in range(80):
        kiosk.edge.log.run.begin()
        kiosk.notes.increment("a", "visits")
    assert kiosk.notes.get("a") == {"visits": 80}
    assert len(kiosk.edge.log.image("notes", "a") or b"") < 4_096
    world.give("kiosk", "")
    world.heal()
    assert values(world, "office", ("notes", "a")) == {"visits": 80}


def test_a_power_cut_between_the_commit_and_what_follows(world: ScopeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    kiosk = world.devices["kiosk"]
    world.write("kiosk", PLACE)
    world.give("kiosk", "local")
    commit = type(kiosk.edge.log.writer).commit

    def cut(*given: Any, **options: Any) -> bool:
        commit(*given, **options)
        raise StorageError("the power is off")

    with monkeypatch.context() as broken:
        broken.setattr(type(kiosk.edge.log.writer), "commit", cut)
        with pytest.raises(StorageError):
            kiosk.notes.put("a", {"text": "2"})
    assert kiosk.notes.get("a") == {"text": "2"}, "it is on the disk"
    assert rows(kiosk) == {("notes", "a")}
    kiosk.crash()
    assert kiosk.notes.get("a") == {"text": "2"}
    kiosk.notes.patch("a", {"text": "3"})
    assert (kiosk.notes.get("a"), kiosk.edge.verify()) == ({"text": "3"}, [])
    world.give("kiosk", "")
    world.heal()
    world.check()


def test_of_a_policy_that_cannot_be_read_no_more_leaves_than_is_known_to(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local up")
    kiosk.notes.put("a", {"text": "mine"})
    damage_policy(kiosk)
    with pytest.raises(CorruptStore):
        kiosk.edge.policy  # noqa: B018
    kiosk.notes.put("b", {"text": "mine, too"})
    kiosk.edge.collection("logs").put("c", {"text": "for all"})
    assert kiosk.sync()
    assert [place for place in world.images() if place[0] == "notes"] == []
    assert ("logs", "c") not in world.images(), "nobody knows what the policy says of it"
    (told,) = kiosk.edge.status()["deferred"]
    assert (told["why"], told["records"]) == ("unread", 3)
    world.give("kiosk", "")
    world.heal()
    assert in_the_cloud(world, ("logs", "c")) == {"text": "for all"}
    world.check()


def test_what_was_kept_back_counts_on_after_it_has_left_and_is_written_again(world: ScopeWorld) -> None:
    """Its slots have names of their own, from which the next write that is kept back goes on."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    kiosk.notes.put("a", {"visits": 5, "best": 7})
    world.give("kiosk", "")
    world.heal()
    world.give("kiosk", "south")
    world.heal()
    assert kiosk.edge.log.image("notes", "a") is None
    world.give("kiosk", "local")
    kiosk.notes.increment("a", "visits", 3, upsert=True)
    kiosk.notes.patch("a", {"best": 3})
    world.give("kiosk", "")
    world.heal()
    world.check()
    for name in ("kiosk", "office"):
        shown = values(world, name, ("notes", "a")) or {}
        assert (shown["visits"], shown["best"]) == (8, 7)


def test_without_such_a_policy_there_is_no_table(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "north")
    world.write("kiosk", PLACE)
    world.heal()
    log = kiosk.edge.log
    assert log.reader.one("SELECT count(*) FROM sqlite_schema WHERE name = 'kept_back'") == 0
    assert log.kept.bound is None


def test_a_copy_sends_what_was_written_before_and_counts_it_once(world: ScopeWorld, tmp_path: Path) -> None:
    """Its log ends with its name: what was not acknowledged goes as state, without what is kept back."""
    kiosk = world.devices["kiosk"]
    kiosk.notes.put("a", {"text": "known", "visits": 1})
    assert kiosk.sync()
    kiosk.notes.patch("a", {"text": "for all"})
    kiosk.notes.increment("a", "visits", 10)
    kiosk.notes.put("b", {"text": "for all", "best": 3})
    world.give("kiosk", "local")
    kiosk.notes.patch("a", {"text": "mine", "mood": "mine"})
    kiosk.notes.increment("a", "visits", 100)
    kiosk.notes.patch("b", {"text": "mine", "best": 9})
    kiosk.notes.put("c", {"text": "mine"})
    kiosk.edge.snapshot(tmp_path / "copy")
    original, kiosk.edge = kiosk.edge, Edge.open(tmp_path / "copy", clock=kiosk.clock, random=kiosk.random)
    assert kiosk.edge.log.values("notes", "a") == {"text": "mine", "mood": "mine", "visits": 111}
    assert kiosk.sync()
    assert in_the_cloud(world, ("notes", "a")) == {"text": "for all", "visits": 11}
    assert in_the_cloud(world, ("notes", "b")) == {"text": "for all", "best": 3}
    assert in_the_cloud(world, ("notes", "c")) is None
    twin, kiosk.edge = kiosk.edge, original
    assert kiosk.sync()
    kiosk.edge = twin
    world.give("kiosk", "")
    assert kiosk.sync()
    kiosk.edge = original
    world.give("kiosk", "")
    world.heal()
    assert in_the_cloud(world, ("notes", "a")) == {"text": "mine", "mood": "mine", "visits": 111}
    assert values(world, "kiosk", ("notes", "a")) == values(world, "office", ("notes", "a"))
    kiosk.edge = twin
    assert kiosk.sync()
    assert twin.digest() == world.cloud.digest()
    twin.close()
    kiosk.edge = original
