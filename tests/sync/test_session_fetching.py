"""Single records that a session fetches by name: asked for when nothing greater is under way, until there are none."""

from __future__ import annotations

import pytest

from sync.effects import Apply
from sync.errors import ProtocolError
from sync.fetching import FetchingSession
from sync.messages import FetchRecords, PullPage, RecordName, RecordsPage
from sync.places import Place, Whole
from tests.sync.session_wire import LIFE1, REPLICA, Wire

A, B, C = places = [("notes", "a"), ("notes", "b"), ("notes", "c")]


def wired(*, live: bool = False, version: int = 3, head: int = 0) -> tuple[Wire, FetchingSession]:
    """Connected, in the life that it knows."""
    wire = Wire(kind=FetchingSession, live=live, incarnation=LIFE1)
    wire.connect(version=version, head=head)
    assert isinstance(wire.session, FetchingSession)
    return wire, wire.session


def asking(*asked: Place) -> tuple[Wire, FetchingSession]:
    wire, session = wired()
    session.wants()
    assert wire.step()[-1] == "load places"
    session.loaded_places(asked)
    assert wire.step() == ["send pull FetchRecords"]
    return wire, session


def applied(wire: Wire) -> Apply:
    (effect,) = wire.session.ready()
    assert isinstance(effect, Apply)
    wire.session.advance(effect)
    return effect


def test_they_are_asked_for_until_there_are_none() -> None:
    wire, session = asking(A, B, C)
    names = [RecordName(*place) for place in places]
    assert wire.sends["pull"].message == FetchRecords(REPLICA, names, LIFE1)
    assert not session.idle
    wire.answer("pull", RecordsPage([wire.state(4, "b")], 3, [2], 4, 5))
    effect = applied(wire)
    assert ([operation.key for operation in effect.operations], effect.cursor) == (["b"], None)
    assert effect.whole == Whole(none=(A,), denied=(C,))
    assert wire.step() == ["load places"]
    session.loaded_places([])
    assert wire.step() == ["send pull Pull"], "the page said that the feed is further"
    wire.answer("pull", PullPage([wire.feed(1, 4)], 4, 4, 5))
    assert wire.step() == ["apply 4 cursor 4 baseline None"]
    assert wire.step() == ["leave at 4, archived to 0"]
    assert session.idle


def test_what_an_answer_does_not_cover_is_not_told_of() -> None:
    wire, session = asking(A, B, C)
    wire.answer("pull", RecordsPage([], 1, [], 0, 5))
    assert applied(wire).whole == Whole(none=(A,))
    assert session.fetches, "the others are asked for again"


@pytest.mark.parametrize(
    ("keys", "answered", "denied"),
    [("", 0, []), ("x", 2, []), ("c", 2, []), ("a", 2, [2])],
    ids=["nothing", "not asked for", "beyond what is answered", "denied beyond it"],
)
def test_an_answer_to_another_question_is_none(keys: str, answered: int, denied: list[int]) -> None:
    wire, session = asking(A, B, C)
    wire.answer("pull", RecordsPage([wire.state(0, *keys)] if keys else [], answered, denied, 0, 5))
    assert isinstance(session.error, ProtocolError)
    assert not session.connected
    assert wire.step() == []


def test_records_that_nobody_asked_for_are_not_taken() -> None:
    wire, session = wired(head=1)
    assert wire.step() == ["send pull Pull"]
    wire.answer("pull", RecordsPage([wire.state(1, "a")], 1, [], 1, 5))
    assert isinstance(session.error, ProtocolError)


def test_they_do_not_wait_for_the_end_of_a_long_poll() -> None:
    wire, session = wired(live=True)
    assert wire.step()[-1] == "send pull Pull"
    poll = wire.sends["pull"]
    session.wants()
    assert wire.step() == ["load places"]
    session.loaded_places([A])
    assert wire.step() == ["send pull FetchRecords"]
    session.wants()
    assert "load places" not in [*wire.step(), *wire.step()], "what is under way is not asked for twice"
    session.receive(poll.number, PullPage([wire.feed(1)], 1, 1, 5))
    assert wire.step() == [], "nobody's answer by now"


def test_a_cloud_that_knows_no_such_question_is_not_asked() -> None:
    wire, session = wired(version=2)
    session.wants()
    assert not session.fetches
    assert "load places" not in wire.step()
    assert session.idle
