"""Conflicts: found by ``seen``, recorded with both sides, decided by the collection's rule, and the same
for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.rows import Claim
from cloud.stream.conflicts import OVERTAKEN
from sync.errors import InvalidValue, NotFound, Refused, SchemaMismatch
from tests.cloud.conflict_world import longest, pair, settle
from tests.cloud.stream_world import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, resolvers={"longest": longest})
    yield fleet
    fleet.close()


def test_what_the_writer_had_seen_is_no_conflict(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    kiosk.patch("notes", "k", text="new")
    kiosk.push()
    van.pull()
    van.patch("notes", "k", text="newer")
    van.delete("notes", "k")
    van.push()
    kiosk.pull()
    kiosk.put("notes", "k", text="again")
    kiosk.push()
    assert fleet.conflicts() == []
    assert settle(fleet) == {"text": "again"}


def test_what_was_seen_in_another_life_of_the_cloud_is_not_seen(fleet: Fleet) -> None:
    """The writer's cursor is of a feed that went further, before the cloud was restored."""
    van, kiosk = pair(fleet)
    van.patch("notes", "k", text="written in the new life")
    van.push()
    kiosk.cursor = 1_000
    kiosk.patch("notes", "k", text="blind")
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.field, conflict.held.value, conflict.came.value) == ("text", "written in the new life", "blind")


def test_different_fields_and_equal_values_are_no_conflict(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    van.patch("notes", "k", text="both")
    kiosk.patch("notes", "k", text="both", n=2)
    van.push()
    kiosk.push()
    assert fleet.conflicts() == []
    assert settle(fleet) == {"text": "both", "n": 2}


def test_latest_the_later_stamp_wins_and_the_loser_is_on_record(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    early = kiosk.patch("notes", "k", text="early")
    late = van.patch("notes", "k", text="late")
    van.push()
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.collection, conflict.key, conflict.field) == ("notes", "k", "text")
    assert (conflict.rule, conflict.state, conflict.winner) == ("latest", "resolved", "held")
    assert conflict.held == Claim(van.replica, 0, late.ts, "van", "late")
    assert conflict.came == Claim(kiosk.replica, early.seq, early.ts, "kiosk", "early")
    assert conflict.position == fleet.head()
    assert conflict.resolution == 0, "merging decided already: nothing to write"
    assert settle(fleet) == {"text": "late", "n": 1}


def test_latest_the_one_that_arrives_may_win(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    van.patch("notes", "k", text="early")
    kiosk.patch("notes", "k", text="late")
    van.push()
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.winner, conflict.came.value, conflict.held.value) == ("came", "late", "early")
    assert settle(fleet) == {"text": "late", "n": 1}


@pytest.mark.parametrize("first", ["van", "kiosk"])
def test_priority_beats_the_later_stamp(fleet: Fleet, first: str) -> None:
    van, kiosk = pair(fleet, "priority")
    van.patch("notes", "k", text="of the van")
    kiosk.patch("notes", "k", text="of the kiosk, later")
    for device in (van, kiosk) if first == "van" else (kiosk, van):
        device.push()
    [conflict] = fleet.conflicts()
    assert (conflict.rule, conflict.state) == ("priority", "resolved")
    assert conflict.winner == ("held" if first == "van" else "came")
    assert conflict.resolution == fleet.head(), "the cloud wrote the van's value over the later stamp"
    assert settle(fleet) == {"text": "of the van", "n": 1}


def test_equal_priority_leaves_it_to_the_stamp(fleet: Fleet) -> None:
    van, _ = pair(fleet, "priority")
    other = fleet.device("other", priority=2)
    other.pull()
    other.schemas = van.schemas
    van.patch("notes", "k", text="early")
    other.patch("notes", "k", text="late")
    other.push()
    van.push()
    [conflict] = fleet.conflicts()
    assert (conflict.winner, conflict.resolution) == ("held", 0)
    assert "equal" in conflict.note
    assert settle(fleet) == {"text": "late", "n": 1}


def test_a_third_device_is_compared_with_the_one_that_won(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, "priority")
    low, high = fleet.device("low", priority=-5), fleet.device("high", priority=9)
    for device in (low, high):
        device.pull()
        device.schemas = van.schemas
    for device, text in ((van, "van"), (kiosk, "kiosk"), (low, "low"), (high, "high")):
        device.patch("notes", "k", text=text)
    van.push()
    kiosk.push()
    low.push()
    assert fleet.shown("notes", "k") == {"text": "van", "n": 1}
    assert [c.winner for c in fleet.conflicts()] == ["held", "held"]
    assert fleet.conflicts()[1].held.device == "cloud"
    high.push()
    assert fleet.conflicts()[2].winner == "came"
    assert settle(fleet) == {"text": "high", "n": 1}


def test_a_resolver_decides_and_its_answer_reaches_everybody(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, "resolver:longest")
    van.patch("notes", "k", text="a long text")
    kiosk.patch("notes", "k", text="short")
    van.push()
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.rule, conflict.state, conflict.winner) == ("resolver:longest", "resolved", "held")
    assert conflict.resolution == fleet.head()
    assert settle(fleet) == {"text": "a long text", "n": 1}


@pytest.mark.parametrize(("value", "reason"), [("raise", "ValueError: cannot say"), ("bad", "cannot store a object")])
def test_a_resolver_that_fails_leaves_the_conflict_open(fleet: Fleet, value: str, reason: str) -> None:
    van, kiosk = pair(fleet, "resolver:longest")
    van.patch("notes", "k", text="a long text")
    kiosk.patch("notes", "k", text=value)
    van.push()
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.state, conflict.winner, conflict.resolution) == ("open", "came", 0)
    assert reason in conflict.note
    assert settle(fleet) == {"text": value, "n": 1}


def test_an_unknown_resolver_leaves_the_conflict_open(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, "resolver:unheard-of")
    van.patch("notes", "k", text="early")
    kiosk.patch("notes", "k", text="late")
    van.push()
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.state, conflict.note) == ("open", "no resolver 'unheard-of'")


@pytest.mark.parametrize(
    ("take", "value", "shown", "winner"),
    [("winner", None, "late", "came"), ("loser", None, "early", "held"), ("value", "third", "third", "resolved")],
)
def test_manual_waits_for_a_person(fleet: Fleet, take: str, value: Any, shown: str, winner: str) -> None:
    van, kiosk = pair(fleet, "manual")
    van.patch("notes", "k", text="early")
    kiosk.patch("notes", "k", text="late")
    van.push()
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.state, conflict.winner) == ("open", "came")
    assert settle(fleet) == {"text": "late", "n": 1}
    settled = fleet.plane.resolve(fleet.id, 1, take=take, value=value)
    assert (settled.state, settled.winner) == ("resolved", winner)
    assert settled.resolution == (fleet.head() if take != "winner" else 0)
    assert fleet.conflicts() == [settled]
    assert settle(fleet) == {"text": shown, "n": 1}
    with pytest.raises(Refused):
        fleet.plane.resolve(fleet.id, 1, take="loser")


def test_a_decision_must_make_sense(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, "manual", text="str")
    van.patch("notes", "k", text="early")
    kiosk.patch("notes", "k", text="late")
    van.push()
    kiosk.push()
    before = (fleet.head(), fleet.digest(), fleet.conflicts())
    with pytest.raises(NotFound):
        fleet.plane.resolve(fleet.id, 2, take="loser")
    with pytest.raises(InvalidValue):
        fleet.plane.resolve(fleet.id, 1, take="both")
    with pytest.raises(SchemaMismatch):
        fleet.plane.resolve(fleet.id, 1, take="value", value=5)
    assert (fleet.head(), fleet.digest(), fleet.conflicts()) == before


# -- a device's last word -----------------------------------------------------------------------------------------


def test_only_the_last_write_of_a_push_conflicts(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, "priority")
    van.patch("notes", "k", text="of the van")
    van.push()
    kiosk.patch("notes", "k", text="one")
    last = kiosk.patch("notes", "k", text="two")
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.came.value, conflict.came.seq) == ("two", last.seq)
    assert settle(fleet) == {"text": "of the van", "n": 1}


def test_a_later_write_that_had_seen_the_other_settles_it(fleet: Fleet) -> None:
    van, kiosk = pair(fleet, "priority")
    kiosk.patch("notes", "k", text="blind")
    van.patch("notes", "k", text="of the van")
    van.push()
    kiosk.pull()
    kiosk.patch("notes", "k", text="knowing")
    kiosk.push()
    [conflict] = fleet.conflicts()
    assert (conflict.note, conflict.state, conflict.resolution) == (OVERTAKEN, "resolved", 0)
    assert settle(fleet) == {"text": "knowing", "n": 1}


def test_delete_and_write_again_in_one_push(fleet: Fleet) -> None:
    van, kiosk = pair(fleet)
    van.patch("notes", "k", n=5)
    van.push()
    kiosk.delete("notes", "k")
    kiosk.put("notes", "k", text="anew")
    kiosk.push()
    assert [conflict.note for conflict in fleet.conflicts()] == [OVERTAKEN]
    assert settle(fleet) == {"text": "anew"}


def test_what_a_push_goes_on_to_delete_is_not_answered(fleet: Fleet) -> None:
    """The answer to the field would bring the record back."""
    van, kiosk = pair(fleet, "priority")
    kiosk.patch("notes", "k", text="of the kiosk")
    kiosk.push()
    van.patch("notes", "k", text="blind")
    van.delete("notes", "k")
    van.push()
    assert [(conflict.field, conflict.note) for conflict in fleet.conflicts()] == [("text", OVERTAKEN)]
    assert settle(fleet) is None


def test_nobody_overrules_a_person_by_priority(fleet: Fleet) -> None:
    """The collection went on to another rule since."""
    van, kiosk = pair(fleet, "manual")
    third = fleet.device("third", priority=9)
    third.pull()
    third.schemas = van.schemas
    third.patch("notes", "k", text="of the third, who has the highest priority")
    kiosk.patch("notes", "k", text="of the kiosk")
    van.patch("notes", "k", text="of the van")
    kiosk.push()
    van.push()
    fleet.plane.resolve(fleet.id, 1, take="value", value="of a person")
    van.declare("notes", conflict="priority", fields={})
    van.push()
    third.push()
    assert settle(fleet) == {"text": "of a person", "n": 1}
