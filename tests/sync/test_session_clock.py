"""The session and the time: when a device asks for it again, and when it may mend what a wrong clock has stamped."""

from __future__ import annotations

from sync.effects import Load
from sync.messages import Refusal
from tests.sync.session_wire import REPLICA, Wire, operation

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
