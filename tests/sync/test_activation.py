"""The trial of a model against the table of ADR 25: what is entered by which event, what a crash leaves, what holds."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.activation import (
    ABSENT,
    COMMITTED,
    CRASHES,
    FETCHING,
    RETURNED,
    SOAKING,
    STAGED,
    TRIES_MAX,
    TRYING,
    Action,
    Assigned,
    Begun,
    Damaged,
    Empty,
    Event,
    Fill,
    Filled,
    Note,
    Probe,
    Probed,
    Ran,
    Refuse,
    Removed,
    Rules,
    Spared,
    Started,
    Stopped,
    Tell,
    Try,
    Version,
    check,
    from_document,
    step,
    to_document,
)
from sync.errors import Malformed

SOAK = Rules(uptime_ms=3_600_000, uses=100, errors_share_max=0.02, errors_of_at_least=50)


def version(number: int, slot: str = "", rules: Rules = SOAK) -> Version:
    return Version(slot, number, bytes([number]) * 32, rules)


def after(note: Note, *events: Event) -> tuple[Note, list[Action]]:
    """The note after all of them, and the actions of the last."""
    actions: list[Action] = []
    for event in events:
        note, actions = step(note, event)
        check(note)
    return note, actions


GOOD = Ran(uptime_ms=3_600_000, uses=100)


def staged(number: int, before: Note | None = None) -> Note:
    return after(before or Note(), Assigned(version(number)), Filled(version(number).digest))[0]


def soaking(number: int, before: Note | None = None) -> Note:
    return after(staged(number, before), Begun(), Probed(version(number).digest))[0]


ONE = after(soaking(1), GOOD)[0]
TWO = after(soaking(2, ONE), GOOD)[0]


def test_the_first_version_goes_all_the_way() -> None:
    note, actions = step(Note(), Assigned(version(1)))
    one = version(1, "a")
    assert (note.state, note.active, note.candidate, actions) == (FETCHING, None, one, [Empty("a"), Fill(one)])
    note, actions = step(note, Filled(one.digest))
    assert (note.state, note.tries, actions) == (STAGED, 0, [Try()])
    note, actions = step(note, Begun())
    assert (note.state, note.tries, note.active, actions) == (TRYING, 1, None, [Probe(one)])
    note, actions = step(note, Probed(one.digest))
    assert (note.state, note.active, note.previous, note.tries, actions) == (SOAKING, one, None, 1, [Tell()])
    note, actions = step(note, Ran(uptime_ms=3_599_999, uses=1_000, steady=True))
    assert (note.state, note.tries) == (SOAKING, 0)
    note, actions = step(note, Ran(uptime_ms=1))
    assert (note.state, note.active, actions) == (COMMITTED, one, [])


def test_the_second_one_goes_into_the_other_slot_and_the_first_stays_whole_while_it_soaks() -> None:
    two = version(2, "b")
    note, actions = step(ONE, Assigned(version(2)))
    assert (note.active, actions) == (version(1, "a"), [Empty("b"), Fill(two)])
    note = soaking(2, ONE)
    assert (note.active, note.previous) == (two, version(1, "a"))
    assert step(note, Spared()) == (note, []), "what it may return to is not spare"
    note, actions = step(note, GOOD)
    assert (note.state, note.active, note.previous, actions) == (COMMITTED, two, version(1, "a"), [])
    note, actions = step(note, Assigned(version(3)))
    assert (note.active, note.previous, actions) == (two, None, [Empty("a"), Fill(version(3, "a"))])


@pytest.mark.parametrize(
    ("left", "then", "actions"),
    [
        (after(ONE, Assigned(version(2)))[0], FETCHING, [Fill(version(2, "b"))]),
        (staged(2, ONE), STAGED, [Try()]),
        (after(staged(2, ONE), Begun())[0], TRYING, [Try()]),
        (soaking(2, ONE), SOAKING, []),
        (ONE, COMMITTED, []),
        (after(staged(2, ONE), Begun(), Probed(version(2).digest, "slow"))[0], RETURNED, []),
        (Note(), ABSENT, []),
    ],
    ids=lambda part: part.state if isinstance(part, Note) else "",
)
def test_what_a_process_begins_with_after_a_crash(left: Note, then: str, actions: list[Action]) -> None:
    note, found = step(left, Started())
    assert (note.state, found) == (then, actions)
    assert note.active == left.active


def test_a_trial_that_brings_the_device_down_ends_after_three() -> None:
    note, actions = staged(2, ONE), list[Action]()
    for tries in range(1, TRIES_MAX + 1):
        note, actions = after(note, Begun())
        assert (note.tries, actions) == (tries, [Probe(version(2, "b"))])
        left, (note, actions) = note, step(note, Started())
        assert note.active == left.active == version(1, "a")
    assert (note.state, note.why, actions) == (RETURNED, CRASHES, [Refuse(version(2, "b"), CRASHES)])


def test_a_soak_that_brings_the_device_down_returns_after_three() -> None:
    note, actions = after(soaking(2, ONE), Started(), Started())
    assert (note.state, note.tries, actions) == (SOAKING, 3, [])
    note, actions = step(note, Started())
    assert (note.state, note.active, note.previous) == (RETURNED, version(1, "a"), None)
    assert actions == [Refuse(version(2, "b"), CRASHES), Tell()]


@pytest.mark.parametrize("survived", [Stopped(), Ran(steady=True)])
def test_a_process_that_ended_in_order_or_lived_long_was_not_brought_down(survived: Event) -> None:
    note = soaking(2, ONE)
    for _ in range(3 * TRIES_MAX):
        note, _ = after(note, survived, Started())
    assert note.state == SOAKING
    note = after(staged(2, ONE), Begun())[0]
    for _ in range(3 * TRIES_MAX):
        note, _ = after(note, Stopped(), Started(), Begun())
    assert note.state == TRYING


def test_what_its_probes_find_bad_was_never_active() -> None:
    note, actions = after(staged(2, ONE), Begun(), Probed(version(2).digest, "golden: 0.4 is not 0.5"))
    assert (note.state, note.active, note.candidate) == (RETURNED, version(1, "a"), None)
    assert (note.returned, note.why) == (version(2, "b"), "golden: 0.4 is not 0.5")
    assert actions == [Refuse(version(2, "b"), "golden: 0.4 is not 0.5")]
    assert step(note, Assigned(version(2), refused=True)) == (note, [])
    note, actions = step(note, Assigned(version(2)))
    assert (note.state, actions) == (FETCHING, [Fill(version(2, "b"))]), "retried: its files are still there"


def test_what_is_assigned_and_was_refused_here_takes_back_what_was_on_its_way() -> None:
    """Such as the version before, to which a halted rollout reverts."""
    refused = Assigned(version(1), refused=True)
    fetching, _ = step(ONE, Assigned(version(3)))
    assert step(fetching, refused) == (fetching._replace(state=COMMITTED, candidate=None), [Empty("b")])
    assert step(staged(2, ONE), refused)[0].candidate is None
    first, _ = step(Note(), Assigned(version(3)))
    assert step(first, refused) == (Note(), [Empty("a")]), "nothing was in use, and nothing comes into use"

    trying, _ = after(staged(2, ONE), Begun())
    unwanted, _ = step(trying, refused)
    assert unwanted.state == TRYING, "it ends first"
    assert step(unwanted, Probed(version(2).digest)) == (
        unwanted._replace(state=COMMITTED, candidate=None, tries=0, why=""),
        [Empty("b")],
    )
    wanted, _ = step(unwanted, Assigned(version(2)))
    assert step(wanted, Probed(version(2).digest))[0].active == version(2, "b"), "wanted again meanwhile"


def test_what_was_damaged_is_filled_again_whatever_is_refused_meanwhile() -> None:
    damaged, _ = step(ONE, Damaged())
    assert damaged.candidate == version(1, "a")
    refilled, _ = after(damaged, Assigned(version(2), refused=True), Filled(version(1).digest))
    tried, _ = after(refilled, Begun(), Assigned(version(2), refused=True), Probed(version(1).digest))
    assert tried.active == version(1, "a")


def test_errors_in_the_soak_return_it_once_there_were_enough_uses() -> None:
    note = after(soaking(2, ONE), Ran(uses=49, errors=49))[0]
    assert note.state == SOAKING
    note, actions = step(note, Ran(uses=1))
    assert (note.state, note.active) == (RETURNED, version(1, "a"))
    assert note.why == "49 of 50 uses failed, 2.0% may"
    assert actions == [Refuse(version(2, "b"), note.why), Tell()]
    assert after(soaking(2, ONE), Ran(uses=50, errors=1))[0].state == SOAKING, "a share that may be"
    assert after(soaking(1), Ran(uses=50, errors=2))[0].active is None, "the first of a name returns to none"


def test_a_model_without_a_soak_is_kept_at_once() -> None:
    quick = version(2, rules=Rules())
    note, actions = after(ONE, Assigned(quick), Filled(quick.digest), Begun(), Probed(quick.digest))
    assert (note.state, note.active, note.previous, actions) == (
        COMMITTED,
        quick._replace(slot="b"),
        version(1, "a"),
        [Tell()],
    )


def test_another_assignment_while_fetching_uses_the_slot_and_what_is_in_it() -> None:
    note, actions = after(ONE, Assigned(version(2)), Assigned(version(3)))
    assert (note.state, note.candidate, actions) == (FETCHING, version(3, "b"), [Fill(version(3, "b"))])
    assert step(note, Filled(version(2).digest)) == (note, []), "of one that is not wanted any more"
    note, actions = step(note, Assigned(version(1)))
    assert (note.state, note.active, note.candidate, actions) == (COMMITTED, version(1, "a"), None, [Empty("b")])


@pytest.mark.parametrize(("why", "refusals"), [("", 0), ("slow", 1)])
def test_another_assignment_while_trying_waits_for_the_end_and_nothing_is_switched(why: str, refusals: int) -> None:
    trying = after(staged(2, ONE), Begun())[0]
    note, actions = step(trying, Assigned(version(3)))
    assert (note.state, note.candidate, actions) == (TRYING, version(2, "b"), [])
    note, actions = step(note, Probed(version(2).digest, why))
    assert (note.state, note.active, note.candidate) == (FETCHING, version(1, "a"), version(3, "b"))
    assert actions[-1] == Fill(version(3, "b"))
    assert len([action for action in actions if isinstance(action, Refuse)]) == refusals
    note, actions = after(trying, Assigned(version(1)), Probed(version(2).digest))
    assert (note.state, note.active, note.candidate) == (COMMITTED, version(1, "a"), None), "reverted meanwhile"
    assert after(trying, Assigned(version(3)), Assigned(version(2)))[0] == trying


def test_a_soak_ends_when_another_version_is_assigned() -> None:
    note, actions = step(soaking(2, ONE), Assigned(version(1)))
    assert (note.state, note.active, note.returned, actions) == (COMMITTED, version(1, "a"), None, [Tell()])
    note, actions = step(soaking(2, ONE), Assigned(version(3)))
    assert (note.state, note.active, note.candidate) == (FETCHING, version(1, "a"), version(3, "b"))
    assert actions == [Tell(), Empty("b"), Fill(version(3, "b"))]
    note, actions = step(soaking(1), Assigned(version(2)))
    assert (note.active, note.candidate) == (version(1, "a"), version(2, "b")), "the first: better than none"


def test_going_back_to_the_previous_number_takes_its_slot_as_it_is() -> None:
    note, actions = step(TWO, Assigned(version(1)))
    assert (note.active, note.candidate, actions) == (version(2, "b"), version(1, "a"), [Fill(version(1, "a"))])


def test_damaged_files_are_not_given_out() -> None:
    note, actions = step(TWO, Damaged(spare=True))
    assert (note.state, note.active, note.candidate) == (FETCHING, version(1, "a"), version(2, "b"))
    assert actions == [Tell(), Fill(version(2, "b"))]
    note, actions = step(ONE, Damaged(spare=False))
    assert (note.active, note.candidate, actions) == (None, version(1, "a"), [Tell(), Fill(version(1, "a"))])
    note, actions = step(staged(2, ONE), Damaged(spare=False))
    assert (note.state, note.active, note.candidate, actions) == (STAGED, None, version(2, "b"), [Tell()])


@pytest.mark.parametrize("number", [1, 2])
def test_what_was_damaged_beside_a_candidate_is_filled_again_if_that_is_not_kept(number: int) -> None:
    """``number``: the one in use, in either slot."""
    before = {1: ONE, 2: TWO}[number]
    assert before.active is not None
    damaged, slot = before.active, before.active.slot
    left = after(staged(3, before), Damaged())[0]
    assert (left.active, left.previous) == (None, damaged)
    trying = after(left, Begun())[0]
    bad = Probed(version(3).digest, "slow")
    note, actions = after(trying, bad)
    assert (note.state, note.candidate, note.previous) == (FETCHING, damaged, None)
    assert actions == [Refuse(note.returned or damaged, "slow"), Fill(damaged)]
    assert after(note, Filled(damaged.digest), Begun(), Probed(damaged.digest))[0].active == damaged
    assert after(left, Assigned(version(4), refused=True))[1][-1] == Fill(damaged), "taken back"
    unwanted = after(trying, Assigned(version(4), refused=True), Probed(version(3).digest))
    assert unwanted[1][-1] == Fill(damaged)
    for another in (after(left, Assigned(version(4))), after(trying, Assigned(version(4)), bad)):
        candidate = another[0].candidate
        assert candidate is not None
        assert (candidate.number, candidate.slot != slot, another[0].previous) == (4, True, damaged)
    kept = after(trying, Probed(version(3).digest))[0]
    assert (kept.state, kept.previous) == (SOAKING, None), "it is nothing to return to"
    again = after(left, Assigned(version(number)))[0]
    assert again.previous is None
    assert again.candidate is not None
    assert again.candidate.digest == damaged.digest


def test_room_and_removal() -> None:
    note, actions = step(TWO, Spared())
    assert (note.previous, actions) == (None, [Empty("a")])
    for left in (after(ONE, Assigned(version(2)))[0], staged(2, ONE)):
        assert step(left, Spared()) == (left, [])
    none = after(staged(2), Begun(), Probed(version(2).digest, "slow"))[0]
    assert (none.state, none.active) == (RETURNED, None)
    assert step(none, Spared()) == (none, [Empty("a"), Empty("b")]), "what was returned is in the other slot"
    assert step(TWO, Removed()) == (Note(), [Empty("a"), Empty("b"), Tell()])


def test_notes_are_kept_as_plain_values() -> None:
    for note in (Note(), ONE, TWO, staged(2, ONE), soaking(3, TWO), after(staged(2), Begun(), Assigned(version(3)))[0]):
        assert from_document(msgpack.unpackb(msgpack.packb(to_document(note)))) == note


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3), st.lists, max_leaves=30))
def test_what_is_no_note_is_malformed(document: Any) -> None:
    with pytest.raises(Malformed):
        from_document(document)
    with pytest.raises(Malformed):
        from_document([1, document, *to_document(ONE)[2:]])
