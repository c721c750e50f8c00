"""What a policy keeps on the device: it is there for everybody here and for nobody else; once it may go it goes, whole,
whatever was lost, cut, restored or copied meanwhile.
"""

from __future__ import annotations

import pytest

from edge import Edge
from edge.storage.group_commit import Job
from edge.storage.transaction import Write
from sync.errors import NotFound
from sync.images import is_alive
from sync.operations import Kind
from tests.contracts.kept_world import BIG, PLACE, forget_deletes, in_the_cloud, rows, values, why, world
from tests.contracts.scope_world import KEYS, PLACES, ScopeWorld

__all__ = ["world"]


# -- local ------------------------------------------------------------------------------------------------------------


def test_what_is_local_is_here_for_everybody_and_goes_nowhere(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    logs, head = kiosk.edge.collection("logs"), kiosk.edge.log.head_seq
    logs.put("a", {"text": "one small step"})
    logs.patch("a", {"mood": "good"})
    kiosk.notes.put("c", {"visits": 2, "tags": ["new"], "best": 3, "ideas": "first"})
    kiosk.notes.increment("c", "visits", 3)
    with kiosk.edge.batch():
        logs.put("b", {"text": "two"})
        kiosk.notes.add("c", "tags", "old")
    with pytest.raises(NotFound):
        logs.delete("nothing")
    logs.delete("b")
    for _ in range(2):
        log = kiosk.edge.log
        assert log.head_seq == head, "no operation"
        assert logs.get("a") == {"text": "one small step", "mood": "good"}
        assert kiosk.notes.get("c") == {"visits": 5, "tags": ["new", "old"], "best": 3, "ideas": ["first"]}
        assert ([key for key, _ in logs.scan()], logs.count()) == (["a"], 1)
        assert [hit.key for hit in logs.search(text="small")] == ["a"]
        assert kiosk.edge.verify() == []
        assert rows(kiosk) == {("logs", "a"), ("logs", "b"), ("notes", "c")}
        with Edge.open(kiosk.path, read_only=True) as reader:
            assert reader.collection("logs").get("a") == logs.get("a")
            assert reader.status()["kept_back"]["records"] == 3
        assert kiosk.sync()
        kiosk.crash()
        logs = kiosk.edge.collection("logs")
    assert kiosk.edge.status()["deferred"] == []
    world.heal()
    assert [place for place in world.images() if place[0] in ("logs", "notes")] == []
    assert values(world, "office", ("logs", "a")) is None


def test_a_process_that_reads_follows(world: ScopeWorld) -> None:
    """Also what changed neither the log nor where it was last folded."""
    kiosk = world.devices["kiosk"]
    logs = kiosk.edge.collection("logs")
    logs.put("north/0", {"text": "1"})
    world.give("kiosk", "local south")
    with Edge.open(kiosk.path, read_only=True) as reader:
        held = reader.collection("logs")
        for text in ("two", "three", "four"):
            logs.put("south/0", {"text": text})
            assert held.get("south/0") == {"text": text}
            logs.put("south/0", {"text": "and " + text})
            assert held.get("south/0") == {"text": "and " + text}
            logs.put("north/0", {"text": text})
            assert held.get("north/0") == {"text": text}
            assert dict(held.scan()) == dict(logs.scan())
            assert sorted(hit.key for hit in held.search(text=text, k=5)) == ["north/0", "south/0"]
        assert reader.digest() == kiosk.edge.digest()


def test_it_goes_as_state_once_it_may_and_the_row_with_the_ack(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    for place in PLACES:
        world.write("kiosk", place)
    kiosk.notes.increment(PLACE[1], "visits", 4)
    assert kiosk.sync()
    world.give("kiosk", "")
    for place in (PLACE, ("logs", KEYS[1])):
        world.write("kiosk", place, "patch")
    kiosk.lose_next_answer_to = "Push"
    kiosk.sync(steps=14)
    kiosk.crash()
    world.heal()
    assert rows(kiosk) == set()
    world.check()
    assert values(world, "office") == values(world, "kiosk")
    assert (values(world, "office") or {})["visits"] == 4
    assert kiosk.edge.digest() == world.devices["office"].edge.digest() == world.cloud.digest()


def test_what_was_written_before_is_sent_and_what_is_written_after_is_not(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    kiosk.notes.put(PLACE[1], {"text": "for all", "visits": 1})
    world.give("kiosk", "local")
    kiosk.notes.patch(PLACE[1], {"text": "mine"})
    kiosk.notes.increment(PLACE[1], "visits", 5)
    world.heal()
    assert values(world, "office") == {"text": "for all", "visits": 1}
    assert values(world, "kiosk") == {"text": "mine", "visits": 6}
    world.devices["office"].notes.increment(PLACE[1], "visits", 10)
    world.heal()
    assert (values(world, "kiosk") or {})["visits"] == 6, "what others write is not received"
    world.give("kiosk", "")
    world.heal()
    assert values(world, "office") == values(world, "kiosk") == {"text": "mine", "visits": 16}
    assert kiosk.edge.digest() == world.cloud.digest()


def test_a_delete_that_is_kept_back_is_a_delete_for_all_in_the_end(world: ScopeWorld) -> None:
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    for place in PLACES:
        world.write("office", place)
    world.heal()
    world.give("kiosk", "local")
    kiosk.notes.delete(PLACE[1])
    kiosk.notes.put("mine alone", {"text": "a"})
    kiosk.notes.delete("mine alone")
    world.heal()
    assert values(world, "office") is not None
    forget_deletes(kiosk)
    assert kiosk.edge.log.image("notes", "mine alone") is None, "nobody else has ever heard of it"
    assert rows(kiosk) == {PLACE}
    world.give("kiosk", "")
    world.heal()
    assert values(world, "office") is None
    assert office.edge.digest() == kiosk.edge.digest() == world.cloud.digest()


def test_a_delete_of_what_left_meanwhile_is_not_forgotten(world: ScopeWorld) -> None:
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    world.give("kiosk", "local")
    kiosk.notes.put(PLACE[1], {"text": "mine"})
    world.give("kiosk", "")
    kiosk.notes.patch(PLACE[1], {"mood": "good"})
    kiosk.before = {"Push": lambda: world.give("kiosk", "local")}  # the log goes first
    world.heal()
    assert values(world, "office") == {"mood": "good"}
    kiosk.notes.delete(PLACE[1])
    forget_deletes(kiosk)
    world.give("kiosk", "")
    world.heal()
    assert office.notes.get(PLACE[1]) is None
    assert kiosk.edge.digest() == world.cloud.digest()


def test_a_repair_sends_what_others_had_and_no_more(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.archive()
    kiosk.notes.put(PLACE[1], {"text": "for all", "visits": 2})
    kiosk.notes.put("other", {"text": "for all"})
    assert kiosk.sync()
    world.give("kiosk", "local")
    kiosk.notes.patch(PLACE[1], {"text": "mine"})
    for key in ("a", "mine", "z"):
        kiosk.notes.put(key, {"text": "mine"})
    world.restore()
    for _ in range(2):
        assert in_the_cloud(world) is None or in_the_cloud(world) == {"text": "for all", "visits": 2}
        assert kiosk.sync()
    assert in_the_cloud(world) == {"text": "for all", "visits": 2}
    assert in_the_cloud(world, ("notes", "other")) == {"text": "for all"}
    assert all(in_the_cloud(world, ("notes", key)) is None for key in ("a", "mine", "z"))
    world.give("kiosk", "")
    kiosk.before = {"Push": world.restore}
    world.heal()
    assert in_the_cloud(world) == values(world, "office") == {"text": "mine", "visits": 2}
    world.check()


def test_a_cloud_that_was_restored_to_before_it_went_is_given_it_again(world: ScopeWorld) -> None:
    """Found by the state machine with clocks set: nothing else of the device's had moved since."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local")
    kiosk.notes.put(PLACE[1], {"text": "mine"})
    world.give("kiosk", "")
    world.archive()
    assert kiosk.sync(steps=30)
    assert in_the_cloud(world) == {"text": "mine"}
    world.restore()
    assert in_the_cloud(world) is None
    world.heal()
    assert in_the_cloud(world) == values(world, "office") == {"text": "mine"}
    world.check()


def test_a_repair_ends_where_nothing_but_kept_records_follows(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.archive()
    world.give("kiosk", "local south")
    kiosk.notes.put("north/0", {"text": "for all"})
    assert kiosk.sync()
    for at in range(20):
        kiosk.notes.put(f"a{at:02}", {"text": "for all"})
        kiosk.notes.put(f"south/{at:02}", {"text": "mine"})
    world.restore()
    assert kiosk.sync()
    kiosk.notes.put("north/1", {"text": "for all"})
    assert kiosk.sync()
    world.heal()
    assert world.devices["office"].notes.count() == 22


def test_absent_lets_nothing_go_that_never_left(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    for place in PLACES:
        world.write("office", place)
    world.heal()
    world.give("kiosk", "local")
    mine = ("logs", KEYS[2])
    world.write("kiosk", mine)
    world.give("kiosk", "notes")
    world.heal()
    assert values(world, "kiosk", ("logs", KEYS[3])) is None
    assert values(world, "kiosk", mine) is not None
    assert why(kiosk, mine) == "not-sent"
    world.give("kiosk", "")
    world.heal()
    assert values(world, "office", mine) == values(world, "kiosk", mine)
    world.give("kiosk", "notes")
    world.heal()
    assert values(world, "kiosk", mine) is None
    assert rows(kiosk) == set()


def test_one_batch_of_both(world: ScopeWorld) -> None:
    """All or nothing, wherever its writes go."""
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local south")

    def half() -> None:
        with kiosk.edge.batch():
            kiosk.notes.put("north/0", {"text": "a"})
            kiosk.notes.put("south/0", {"text": "a"})
            kiosk.notes.patch("south/9", {"text": "nothing there"})

    with pytest.raises(NotFound):
        half()
    log = kiosk.edge.log
    assert (kiosk.notes.count(), log.reader.one("SELECT count(*) FROM sqlite_schema WHERE name = 'kept_back'")) == (
        0,
        0,
    )
    assert log.reader.one("SELECT count(*) FROM marks WHERE position > ?", log.position) == 0
    with kiosk.edge.batch():
        for at in range(4):
            kiosk.notes.put(f"north/{at}", {"text": "sent"})
            kiosk.notes.put(f"south/{at}", {"text": "kept"})
            kiosk.notes.increment(f"south/{at}", "visits")
    kiosk.crash()
    assert kiosk.edge.verify() == []
    assert kiosk.notes.count() == 8
    world.heal()
    assert world.devices["office"].notes.count() == 4
    assert all(is_alive(image) for place, image in world.images().items() if place[0] == "notes")
    assert rows(kiosk) == {("notes", f"south/{at}") for at in range(4)}


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_what_is_too_large_stays_until_it_is_small_or_may_be_large(world: ScopeWorld) -> None:
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    kiosk.notes.put(PLACE[1], {"text": "small", "visits": 1})
    kiosk.notes.put("b", {"text": "small"})
    world.heal()
    world.give("kiosk", "small")
    for key in (PLACE[1], "b", "c"):
        kiosk.notes.put(key, {"text": BIG, "mood": key})
    kiosk.notes.increment(PLACE[1], "visits", 2)
    world.heal()
    (row,) = kiosk.edge.status()["deferred"]
    assert (row["rule"], row["records"], row["why"]) == (1, 3, "record-size")
    assert row["bytes"] > 3_000
    assert (office.notes.get("b"), office.notes.get("c")) == ({"text": "small"}, None)
    office.notes.patch(PLACE[1], {"ideas": "of the office"})
    world.heal()
    assert (kiosk.notes.get(PLACE[1]) or {})["ideas"] == ["of the office"], "what others write comes as ever"
    kiosk.notes.patch("b", {"text": "short"})
    world.heal()
    assert office.notes.get("b") == {"text": "short", "mood": "b"}
    office.notes.put("c", {"text": "of the office"})
    changes = kiosk.edge.log.kept.changes
    world.heal()
    assert kiosk.edge.log.kept.changes > changes, "a link that is up looks again"
    assert office.notes.get("c") == kiosk.notes.get("c") == {"text": "of the office", "mood": "c"}
    assert rows(kiosk) == {PLACE}
    world.give("kiosk", "")
    world.heal()
    assert office.notes.get(PLACE[1]) == kiosk.notes.get(PLACE[1])
    assert (office.notes.get(PLACE[1]) or {})["visits"] == 3
    assert kiosk.edge.digest() == office.edge.digest() == world.cloud.digest()


def test_a_large_record_that_was_deleted_is_gone_for_all(world: ScopeWorld) -> None:
    kiosk, office = world.devices["kiosk"], world.devices["office"]
    kiosk.notes.put(PLACE[1], {"text": "small"})
    world.heal()
    world.give("kiosk", "small")
    kiosk.notes.patch(PLACE[1], {"text": BIG})
    world.heal()
    kiosk.notes.delete(PLACE[1])
    world.heal()
    assert office.notes.get(PLACE[1]) is None
    assert rows(kiosk) == set()
    world.check()


def test_one_commit_of_one_that_fails_and_one_that_does_not(world: ScopeWorld) -> None:
    kiosk = world.devices["kiosk"]
    world.give("kiosk", "local south")
    schema = kiosk.edge.log.schemas["notes"]
    nothing = Write(Kind.PATCH, "notes", "south/9", {"text": "a"}, schema=schema)
    puts = [Write(Kind.PUT, "notes", f"south/{at}", {"text": "a"}, schema=schema) for at in range(3)]
    bad, good = Job([puts[0], nothing]), Job(puts[1:])
    kiosk.edge.log._commit_all([bad, good])
    assert (type(bad.error), good.error) == (NotFound, None)
    assert rows(kiosk) == {("notes", "south/1"), ("notes", "south/2")}
    assert [key for key, _ in kiosk.notes.scan()] == ["south/1", "south/2"]
    assert kiosk.edge.verify() == []
