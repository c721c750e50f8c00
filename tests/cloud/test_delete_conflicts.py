"""Delete against update: whoever wins, the record is whole or gone, for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.rows import Claim
from sync.errors import TooLarge
from tests.cloud.conflict_world import longest, pair, settle
from tests.cloud.stream_world import Fleet


def the_edit(_c: str, _k: str, _field: str, left: Claim, right: Claim, _context: object) -> Any:
    return (right if left.delete else left).value


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, resolvers={"longest": longest, "edit": the_edit, "kept": kept})
    yield fleet
    fleet.close()


@pytest.mark.parametrize("first", ["van", "kiosk"])
def test_an_edit_that_wins_over_a_delete_brings_the_whole_record_back(fleet: Fleet, first: str) -> None:
    van, kiosk = pair(fleet)
    van.delete("notes", "k")
    edit = kiosk.patch("notes", "k", text="edited")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    [conflict] = fleet.conflicts()
    assert (conflict.field, conflict.rule, conflict.state) == ("", "latest", "resolved")
    sides = {"held": conflict.held, "came": conflict.came}
    assert sides[conflict.winner].value == {"text": "edited"}
    assert sides[conflict.winner].ts == edit.ts
    loser = sides["held" if conflict.winner == "came" else "came"]
    assert (loser.device, loser.delete, loser.value) == ("van", True, None)
    assert conflict.resolution == fleet.head()
    assert settle(fleet) == {"text": "edited", "n": 1}


@pytest.mark.parametrize("first", ["van", "kiosk"])
def test_a_delete_that_wins_over_an_edit_leaves_nothing(fleet: Fleet, first: str) -> None:
    van, kiosk = pair(fleet)
    kiosk.patch("notes", "k", text="edited")
    van.delete("notes", "k")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    [conflict] = fleet.conflicts()
    assert (conflict.field, conflict.state, conflict.resolution) == ("", "resolved", 0)
    assert (conflict.held if conflict.winner == "held" else conflict.came).delete
    assert settle(fleet) is None


def test_everything_comes_back_whatever_merges_it(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, tags="set", seen="counter", best="max", notes="keep-all")
    for device in (van, kiosk):
        device.patch("notes", "k", tags=[device.name], best=len(device.name), notes=device.name)
        device.increment("notes", "k", "seen", 2)
        device.push()
        device.pull()
    van.pull()
    kiosk.pull()
    before = fleet.shown("notes", "k")
    assert before is not None
    assert before["notes"] == ["van", "kiosk"]
    assert (before["seen"], before["best"], len(before["tags"])) == (4, 5, 2)
    van.delete("notes", "k")
    kiosk.patch("notes", "k", text="edited")
    kiosk.push()
    van.push()
    # Of several siblings one comes back: the cloud is one replica, and a replica has one value of a
    # keep-all field.
    assert settle(fleet) == {**before, "text": "edited", "notes": ["kiosk"]}


def test_a_later_edit_of_an_old_field_wins_over_the_value_that_came_back(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    third = fleet.device("third")
    third.pull()
    third.schemas = van.schemas
    van.delete("notes", "k")
    third.patch("notes", "k", n=7)
    kiosk.patch("notes", "k", text="edited")
    van.push()
    kiosk.push()
    assert fleet.shown("notes", "k") == {"text": "edited", "n": 1}
    third.push()
    assert [conflict.field for conflict in fleet.conflicts()] == ["", ""]
    assert settle(fleet) == {"text": "edited", "n": 7}


def test_a_record_made_anew_by_someone_who_knew_does_not_inherit(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    third = fleet.device("third")
    third.pull()
    third.schemas = van.schemas
    van.delete("notes", "k")
    van.push()
    kiosk.pull()
    kiosk.put("notes", "k", text="new life")
    kiosk.push()
    third.patch("notes", "k", m=5)
    third.push()
    [conflict] = fleet.conflicts()
    assert (conflict.field, conflict.winner) == ("", "came")
    assert settle(fleet) == {"text": "new life", "m": 5}


@pytest.mark.parametrize("rule", ["priority", "resolver:longest", "latest"])
@pytest.mark.parametrize("winner", ["edit", "delete"])
def test_an_edit_that_is_brought_back_leaves_a_new_life_alone(fleet: Fleet, rule: str, winner: str) -> None:
    """Found by the simulator (seed 19 of "disks"): the answer to a late edit of a deleted record replaced what somebody
    who knew of the delete had written since, and nothing said so.
    """
    van, kiosk = pair(fleet, rule)
    late, deletes = (van, kiosk) if winner == "edit" else (kiosk, van)
    late.patch("notes", "k", text="a late edit", m=5)
    deletes.delete("notes", "k")
    deletes.push()
    third = fleet.device("third")
    third.pull()
    third.schemas = van.schemas
    third.put("notes", "k", text="new life", n=2)
    third.push()
    late.push()
    shown = settle(fleet)
    assert shown is not None
    assert (shown["text"], shown["n"]) == ("new life", 2)
    assert [conflict.field for conflict in fleet.conflicts()] == [""]


def test_a_later_edit_of_what_was_deleted_leaves_alone_what_was_decided_for_an_earlier_one(fleet: Fleet) -> None:
    """Found by the simulator (seed 265 of "hotkey"): the record that a resolver had given was replaced, and no conflict
    named what it had held.
    """
    van, kiosk = pair(fleet, "resolver:edit")
    third = fleet.device("third")
    third.pull()
    third.schemas = van.schemas
    van.patch("notes", "k", text="an edit", m=5)
    third.patch("notes", "k", n=9)
    kiosk.delete("notes", "k")
    for device in (kiosk, van, third):
        fleet.clock.now_ms += 1_000
        device.push()
    assert settle(fleet) == {"text": "an edit", "m": 5, "n": 9}
    assert [conflict.field for conflict in fleet.conflicts()] == ["", ""]


@pytest.mark.parametrize("first", ["van", "kiosk"])
@pytest.mark.parametrize("deletes", ["van", "kiosk"])
@pytest.mark.parametrize("later", ["van", "kiosk"])
def test_priority_between_delete_and_edit(fleet: Fleet, first: str, deletes: str, later: str) -> None:
    van, kiosk = pair(fleet, "priority")
    for device in (van, kiosk) if later == "kiosk" else (kiosk, van):
        if device.name == deletes:
            device.delete("notes", "k")
        else:
            device.patch("notes", "k", text=f"edited by the {device.name}")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    [conflict] = fleet.conflicts()
    assert (conflict.held if conflict.winner == "held" else conflict.came).device == "van"
    assert settle(fleet) == (None if deletes == "van" else {"text": "edited by the van", "n": 1})


@pytest.mark.parametrize("first", ["van", "kiosk"])
def test_a_resolver_between_delete_and_edit(fleet: Fleet, first: str) -> None:
    van, kiosk = pair(fleet, "resolver:longest")
    kiosk.patch("notes", "k", text="edited")
    van.delete("notes", "k")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    [conflict] = fleet.conflicts()
    assert (conflict.field, conflict.state, conflict.winner) == ("", "resolved", "resolved")
    assert settle(fleet) == {"text": "kept"}


@pytest.mark.parametrize("wins", ["delete", "edit"])
@pytest.mark.parametrize("first", ["van", "kiosk"])
def test_a_person_between_delete_and_edit(fleet: Fleet, wins: str, first: str) -> None:
    van, kiosk = pair(fleet, "manual")
    if wins == "edit":
        van.delete("notes", "k")
    kiosk.patch("notes", "k", text="edited")
    if wins == "delete":
        van.delete("notes", "k")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    whole = {"text": "edited", "n": 1}
    assert fleet.shown("notes", "k") == (whole if wins == "edit" else None)
    assert [conflict.state for conflict in fleet.conflicts()] == ["open"]
    fleet.plane.resolve(fleet.id, 1, take="loser")
    assert settle(fleet) == (None if wins == "edit" else whole)


@pytest.mark.parametrize("late", [False, True])
def test_what_comes_back_never_outgrows_what_travels(fleet: Fleet, late: bool) -> None:
    """The edit and what it is an edit of fit an operation each, but not one together. What is ``late`` has the cloud
    tell the record whole, too: a page with it would stop everybody.
    """
    van, kiosk = pair(fleet)
    van.patch("notes", "k", text="x" * 200_000)
    van.push()
    kiosk.pull()
    if late:
        kiosk.patch("notes", "k", m=1)
    van.delete("notes", "k")
    van.push()
    kiosk.patch("notes", "k", big="y" * 100_000)
    [ack] = kiosk.push()
    assert ack.refusals == []
    [conflict] = fleet.conflicts()
    assert (conflict.state, conflict.note[:45]) == ("open", "cannot be written: the record would be over 2")
    shown = settle(fleet)
    assert shown is not None
    assert sorted(shown) == ["big"]
    joined = fleet.device("joined")
    joined.baseline(everything=True)
    assert joined.get("notes", "k") == shown
    joined.fetch([("notes", "k")])
    with pytest.raises(TooLarge):
        fleet.plane.resolve(fleet.id, conflict.number, take="value", value={"text": "x" * 200_000, "m": "y" * 90_000})
    fleet.plane.resolve(fleet.id, conflict.number, take="value", value={"text": "short"})
    assert settle(fleet) == {"text": "short"}


def kept(_c: str, _k: str, _field: str, _left: Claim, _right: Claim, _context: object) -> Any:
    return {"text": "kept"}


def test_a_field_of_a_new_life_that_was_declared_to_merge_since(fleet: Fleet) -> None:
    """It is held by a last writer, and is written so: what its rule makes of its value may be nothing at all."""
    van, kiosk = pair(fleet, "resolver:kept")
    third = fleet.device("third")
    third.schemas = van.schemas
    third.pull()
    van.delete("notes", "k")
    van.push()
    kiosk.pull()
    kiosk.put("notes", "k", seen="often", tags="x")
    kiosk.push()
    van.declare("notes", conflict="resolver:kept", fields={"seen": "counter", "tags": "set"})
    van.push()
    third.patch("notes", "k", text="edited")
    [ack] = third.push()
    assert ack.refusals == []
    [conflict] = fleet.conflicts()
    assert (conflict.field, conflict.state) == ("", "resolved")
    assert settle(fleet) == {"seen": "often", "tags": "x", "text": "kept"}
