"""The session and the time: when a device asks for it again, and when it may mend what a wrong clock has stamped."""

from __future__ import annotations

from sync.effects import PUSH, Load, SessionLimits
from sync.errors import Unreachable
from sync.messages import PullPage, Refusal
from sync.pacing import PacedSession
from tests.sync.session_wire import LIFE1, LIFE2, REPLICA, Wire, operation

CONNECTED = ["learn time 5 epochs []", "persist acked 0 life 1", "mend"]


def test_a_live_session_shakes_hands_again_every_hour() -> None:
    wire = Wire(live=True)
    wire.connect()
    assert wire.step() == ["send pull Pull"]
    assert wire.session.wake_ms() == 3_600_000
    wire.session.tick(3_599_999)
    assert wire.step() == []
    wire.session.tick(3_600_000)
    assert wire.step() == ["send push Hello"]
    wire.answer("push", wire.welcome())
    assert wire.step() == ["learn time 5 epochs []", "persist acked 0 life 1", "mend"]


def test_a_refusal_for_its_stamp_makes_the_device_ask_for_the_time() -> None:
    wire = Wire(head_seq=1)
    wire.connect()
    wire.step()
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.step()
    wire.step()
    refusals = [Refusal(1, "future-stamp", "ahead")]
    ack = wire.ack(refusals=refusals)
    wire.answer("push", ack)
    assert wire.step() == ["persist acked 1 refused [1]"]
    assert wire.step() == []
    wire.session.tick(wire.session.wake_ms() or 0)
    assert wire.connect(last_seq=1, last_segment=ack.last_segment) == [
        "learn time 5 epochs []",
        "persist acked 1 life 1",
        "mend",
    ]


def test_what_was_sent_is_answered_before_anything_is_mended() -> None:
    """And nothing that was not sent goes with it."""
    wire = Wire(head_seq=3, sent=((1, b"x" * 32),))
    assert wire.connect() == CONNECTED[:2]
    (load,) = wire.session.ready()
    assert load == Load(0, 1, 4 << 20)
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.step()
    wire.step()
    ack = wire.ack()
    wire.answer("push", ack)
    assert wire.step() == ["persist acked 1"]
    assert wire.connect(last_seq=1, last_segment=ack.last_segment)[-1] == "mend"


def test_a_live_link_that_is_asked_shakes_hands_before_it_is_idle_again() -> None:
    wire = Wire(live=True, incarnation=LIFE1)
    wire.connect()
    assert wire.step() == ["send pull Pull"]
    assert wire.session.idle
    wire.session.greet()
    assert not wire.session.idle
    assert wire.session.wake_ms() == 0
    assert wire.step() == ["send push Hello"]
    assert wire.session.wake_ms() is None, "only the answer can do something"
    wire.answer("pull", PullPage([], 0, 0, 5))  # of the poll that was under way
    wire.session.greet()  # again, and the answer that is on its way may be older than this
    wire.answer("push", wire.welcome())
    assert not wire.session.idle
    assert wire.step()[0] == "learn time 5 epochs []"
    assert wire.step() == ["send push Hello"]
    wire.answer("push", wire.welcome(head=1))
    wire.step()
    assert not wire.session.idle, "the cloud has something"
    assert wire.step() == ["send pull Pull"]
    wire.answer("pull", PullPage([wire.feed(1)], 1, 1, 5))
    wire.step()
    assert wire.session.idle


def test_who_asks_does_not_wait_for_the_end_of_a_backoff() -> None:
    wire = Wire(live=True, incarnation=LIFE1)
    assert wire.step() == ["send push Hello"]
    wire.session.failed(wire.sends["push"].number, Unreachable("no network"))
    assert wire.step() == []
    assert (wire.session.wake_ms() or 0) > 0
    wire.session.greet()
    assert wire.step() == ["send push Hello"]
    wire.session.failed(wire.sends["push"].number, Unreachable("no network"))
    assert wire.step() == [], "once"


def test_who_asks_again_and_again_takes_nothing_back_that_is_on_its_way() -> None:
    """Over a link whose answers take longer than that."""
    wire = Wire(live=True, incarnation=LIFE1, head_seq=1)
    wire.connect(head=3)
    assert wire.step() == ["load after 0", "send pull Pull"]
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.session.greet()
    assert wire.step() == ["persist sent 1"]
    assert wire.step() == ["send push Push"]
    wire.session.greet()
    ack = wire.ack(head=4)
    wire.answer("push", ack)
    assert wire.step() == ["persist acked 1"]
    assert wire.step() == [], "the page is still to come"
    assert wire.session.wake_ms() == 3_600_000, "and nothing is there to do before"
    wire.session.greet()
    wire.answer("pull", PullPage([wire.feed(1, 3)], 4, 4, 5))
    assert wire.step() == ["apply 3 cursor 4 baseline None"]
    assert wire.connect(head=4, last_seq=1, last_segment=ack.last_segment)[0] == "learn time 5 epochs []"
    assert wire.session.idle


def test_a_link_that_may_not_push_what_a_repair_has_to_waits_for_that_alone() -> None:
    wire = Wire(kind=PacedSession, live=True, incarnation=LIFE1, head_seq=1, acked=(1, b"x" * 32))
    session = wire.session
    assert isinstance(session, PacedSession)
    session.pace(SessionLimits(), frozenset({PUSH}))
    assert wire.connect(incarnation=LIFE2)[1] == "persist repair True"
    assert wire.step() == []
    session.greet()
    assert wire.step() == []
    assert session.wake_ms() is None, "asking whether it may by now is the caller's"
    session.tick(3_600_000)
    assert wire.step() == []
    assert session.wake_ms() is None
    session.pace(SessionLimits(), frozenset())
    assert wire.step() == ["load state after None"]
