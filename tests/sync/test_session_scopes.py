"""Sessions that follow a scope, and that a link's limits hold back: scripted, as ``test_session_transcripts``."""

from __future__ import annotations

from sync.effects import PULL, PUSH, Growth, SessionLimits
from sync.messages import BaselinePage, Pull, PullBaseline, PullPage
from sync.pacing import PacedSession
from tests.sync.session_wire import LIFE1, REPLICA, Wire, operation

OLD, NEW = b"o" * 32, b"n" * 32


class ScopedWire(Wire):
    """Connected to a cloud of version 3, in the life that it knows."""

    session: PacedSession

    def __init__(self, *, live: bool = False, head: int = 0, **position: object) -> None:
        super().__init__(live=live, kind=PacedSession, incarnation=LIFE1, **position)  # type: ignore[arg-type]
        self.begun = self.connect(version=3, head=head, archived=2)

    def asked(self) -> tuple[bytes, bytes | int]:
        """The scope, and from where."""
        message = self.sends["pull"].message
        assert isinstance(message, (Pull, PullBaseline))
        return message.scope, message.cursor if isinstance(message, Pull) else message.after


def test_a_growth_goes_on_between_pages_of_the_feed_and_sets_the_cursor_back() -> None:
    wire = ScopedWire(head=2, scope=OLD, growth=Growth(NEW, b"", LIFE1))
    assert wire.step() == ["send pull PullBaseline"]
    assert wire.asked() == (NEW, b"")
    wire.answer("pull", BaselinePage([], b"more", 1, 2, 5))
    assert wire.step() == ["apply 0 cursor None baseline None"]
    assert wire.session.position.growth == Growth(NEW, b"more", LIFE1)
    assert wire.step() == ["send pull Pull"], "the feed is behind"
    assert wire.asked() == (OLD, 0)
    wire.answer("pull", PullPage([wire.feed(1, 2)], 2, 2, 5))
    assert wire.step() == ["apply 2 cursor 2 baseline None"]
    assert wire.step() == ["send pull PullBaseline"]
    assert wire.asked() == (NEW, b"more")
    wire.answer("pull", BaselinePage([], b"", 1, 2, 5))
    assert wire.step() == ["apply 0 cursor 1 baseline None"]
    position = wire.session.position
    assert (position.scope, position.growth, position.owed, position.cursor) == (NEW, None, False, 1)
    assert wire.step() == ["send pull Pull"]
    assert wire.asked() == (NEW, 1)
    assert not wire.session.idle


def test_a_growth_that_left_something_out_stays_owed() -> None:
    wire = ScopedWire(growth=Growth(NEW, b"", LIFE1))
    wire.step()
    wire.answer("pull", BaselinePage([], b"more", 0, 0, 5, narrowed=True))
    wire.step()
    wire.step()
    wire.answer("pull", BaselinePage([], b"", 0, 0, 5))
    wire.step()
    assert (wire.session.position.scope, wire.session.position.owed) == (NEW, True)


def test_what_is_owed_is_fetched_as_soon_as_nothing_is_left_out() -> None:
    wire = ScopedWire(live=True, scope=OLD, owed=True)
    assert not wire.session.polls, "it asks whether something is still left out, and waits for nothing"
    assert wire.step()[-1] == "send pull Pull"
    asked = wire.sends["pull"].message
    assert isinstance(asked, Pull)
    assert asked.wait_ms == 0
    wire.answer("pull", PullPage([], 0, 0, 5, narrowed=True))
    assert wire.session.polls
    assert wire.step() == ["send pull Pull"]
    wire.answer("pull", PullPage([], 0, 0, 5))
    assert wire.step() == ["send pull PullBaseline"]
    assert wire.asked() == (OLD, b"")
    wire.answer("pull", BaselinePage([], b"", 0, 0, 5))
    wire.step()
    assert not wire.session.position.owed


def test_a_page_that_left_something_out_is_owed() -> None:
    wire = ScopedWire(head=1, scope=OLD)
    wire.step()
    wire.answer("pull", PullPage([wire.feed(1)], 1, 1, 5, narrowed=True))
    wire.step()
    assert (wire.session.position.cursor, wire.session.position.owed) == (1, True)


def test_another_policy_asks_again_and_the_old_answer_is_nobody_s() -> None:
    wire = ScopedWire(live=True, scope=OLD)
    wire.step()
    old = wire.sends["pull"]
    wire.session.rescoped(OLD, Growth(NEW), owed=False)
    assert wire.step() == ["send pull PullBaseline"]
    wire.session.receive(old.number, PullPage([wire.feed(1)], 1, 1, 5))
    assert wire.step() == []
    assert wire.session.position.cursor == 0


def test_a_growth_that_another_policy_ended_is_not_noted() -> None:
    wire = ScopedWire(growth=Growth(NEW, b"", LIFE1))
    wire.step()
    wire.answer("pull", BaselinePage([], b"", 0, 0, 5))
    (effect,) = wire.session.ready()
    wire.session.rescoped(OLD, Growth(b"x" * 32), owed=False)
    wire.session.advance(effect, done=False)
    assert (wire.session.position.scope, wire.session.position.growth) == (OLD, Growth(b"x" * 32))


def test_a_growth_begins_anew_in_another_life_of_the_cloud() -> None:
    wire = ScopedWire(growth=Growth(NEW, b"token", b"2" * 16))
    assert wire.step() == ["send pull PullBaseline"]
    assert wire.asked() == (NEW, b"")


def test_what_is_to_leave_may_when_all_is_here_and_acknowledged() -> None:
    wire = ScopedWire(head=1)
    assert not any(said.startswith("leave") for said in [*wire.begun, *wire.step()])
    wire.answer("pull", PullPage([wire.feed(1)], 1, 1, 5))
    said = [*wire.step(), *wire.step(), *wire.step()]
    assert [one for one in said if one.startswith("leave")] == ["leave at 1, archived to 2"]
    assert wire.session.idle


def test_held_lanes_ask_for_nothing_until_they_are_let_go() -> None:
    wire = ScopedWire(live=True)
    wire.session.pace(SessionLimits(), frozenset({PUSH, PULL}))
    wire.session.written(1)
    assert wire.session.pushes
    assert wire.step() == []
    wire.session.pace(SessionLimits(), frozenset({PULL}))
    assert wire.step() == ["load after 0"]
    wire.session.pace(SessionLimits(), frozenset())
    assert wire.step() == ["send pull Pull"]


def test_a_push_that_was_not_sent_is_loaded_again_and_stays_noted() -> None:
    wire = ScopedWire()
    wire.session.written(1)
    wire.step()
    wire.session.loaded([operation(REPLICA, 1, "k")])
    wire.step()
    assert wire.step() == ["send push Push"]
    first = wire.sends["push"]
    wire.session.withdraw(first.number)
    assert wire.step() == ["load after 0"]
    wire.session.loaded([operation(REPLICA, 1, "k")])
    wire.step()
    wire.step()
    assert len(wire.session.position.sent) == 2
    wire.answer("push", wire.ack())
    assert wire.step() == ["persist acked 1"]
    assert not wire.session.pushes
