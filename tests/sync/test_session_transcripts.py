"""The session, step by step: what it asks for, in which order, and what it makes of every kind of answer.

Each test reads as a transcript: what is told to the session, and the effects that it hands out, in short words.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from sync.errors import (
    AgentDBError,
    BadSignature,
    BrokenChain,
    CorruptStore,
    ProtocolError,
    Unreachable,
    UnsupportedVersion,
)
from sync.keys import DeviceKey, KeyRing, wrap
from sync.messages import (
    BaselinePage,
    Failure,
    Hello,
    Pull,
    PullBaseline,
    PullPage,
    PushAck,
    Refusal,
    WrappedKey,
)
from sync.operations import Kind, Operation, Shape
from sync.segment import FLAG_LAST, FLAG_STATE, GENESIS, open_segment, parse_header, segment_id
from tests.sync.session_wire import (
    FLEET,
    LIFE1,
    LIFE2,
    OTHER,
    RENEWED,
    REPLICA,
    Wire,
    operation,
    words,
)

CONNECTED = ["learn time 5 epochs []", "persist acked 0 life 1", "mend"]


def test_a_new_device_with_nothing_to_say_is_idle_after_the_handshake() -> None:
    wire = Wire()
    assert wire.connect() == CONNECTED
    assert wire.step() == []
    assert wire.session.idle


def test_a_write_is_noted_before_it_is_sent_and_acknowledged_after() -> None:
    wire = Wire(head_seq=2)
    assert wire.connect() == CONNECTED
    assert wire.step() == ["load after 0"]
    wire.session.loaded([operation(REPLICA, 1, "a"), operation(REPLICA, 2, "b")])
    effects = wire.session.ready()
    assert [words(effect) for effect in effects] == ["persist sent 2"]
    assert wire.session.ready() == [], "nothing is sent before the note is durable"
    wire.session.advance(effects[0])
    assert wire.step() == ["send push Push"]
    assert not wire.session.idle
    wire.answer("push", wire.ack(head=2))
    assert wire.step() == ["persist acked 2"]
    assert wire.step() == ["send pull Pull"], "the head moved: by our own operations, as the page will say"
    wire.answer("pull", PullPage([], 2, 2, 5))
    assert wire.step() == ["apply 0 cursor 2 baseline None"]
    assert wire.step() == []
    assert wire.session.idle


def test_segments_of_one_replica_are_chained() -> None:
    wire = Wire(head_seq=2, acked=(1, b"x" * 32), sent=((1, b"x" * 32),), incarnation=LIFE1)
    wire.connect(last_seq=1, last_segment=b"x" * 32)
    assert wire.step() == ["load after 1"]
    wire.session.loaded([operation(REPLICA, 2, "b")])
    wire.step()
    wire.step()
    header = parse_header(wire.pushed().segment)
    assert (header.first_seq, header.previous, header.stream) == (2, b"x" * 32, REPLICA)


def test_a_lost_ack_costs_nothing_and_its_refusals_come_with_the_welcome() -> None:
    wire = Wire(head_seq=1)
    wire.connect()
    wire.step()
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.step()
    wire.step()
    ack = wire.ack()
    wire.session.failed(wire.sends["push"].number, Unreachable("cut"))
    assert not wire.session.connected
    assert wire.step() == [], "the backoff has not passed"
    wire.session.tick(60_000)
    assert wire.step() == ["send push Hello"]
    refusal = Refusal(1, "future-stamp", "ahead")
    wire.answer("push", wire.welcome(last_seq=1, last_segment=ack.last_segment, head=1, refusals=[refusal]))
    assert wire.step() == ["learn time 5 epochs []", "persist acked 1 refused [1] life 1", "mend"]


def test_a_request_that_was_given_up_and_arrives_later_is_recognised() -> None:
    """The first push is slow, not lost: the cloud takes it after the device has sealed the same operations anew."""
    wire = Wire(head_seq=1)
    wire.connect()
    wire.step()
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.step()
    wire.step()
    slow = wire.pushed().segment
    wire.session.failed(wire.sends["push"].number, Unreachable("slow"))
    wire.session.tick(60_000)
    wire.connect()
    assert wire.step() == ["load after 0"]
    wire.session.loaded([operation(REPLICA, 1, "a")])
    assert wire.step() == ["persist sent 1"]
    wire.step()
    assert wire.pushed().segment != slow
    wire.answer("push", Failure("broken-chain", "held already", "", False))
    wire.session.tick(120_000)
    assert wire.connect(last_seq=1, last_segment=segment_id(slow)) == [
        "learn time 5 epochs []",
        "persist acked 1 life 1",
        "mend",
    ]


def test_the_late_answer_of_an_earlier_connection_is_dropped() -> None:
    wire = Wire(head_seq=1)
    wire.connect()
    wire.step()
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.step()
    wire.step()
    old = wire.sends["push"]
    ack = wire.ack()
    wire.session.failed(old.number, Unreachable("cut"))
    wire.session.receive(old.number, ack)
    assert wire.step() == []
    assert wire.session.position.acked == (0, b"")


def test_pages_are_applied_with_their_cursor_before_the_next_is_asked_for() -> None:
    wire = Wire()
    wire.connect(head=5)
    assert wire.step() == ["send pull Pull"]
    wire.answer("pull", PullPage([wire.feed(1, 2)], 3, 5, 5))
    effects = wire.session.ready()
    assert [words(effect) for effect in effects] == ["apply 2 cursor 3 baseline None"]
    assert wire.session.ready() == []
    wire.session.advance(effects[0])
    assert wire.step() == ["send pull Pull"]
    message = wire.sends["pull"].message
    assert isinstance(message, Pull)
    assert (message.cursor, message.wait_ms) == (3, 0)


def test_a_live_session_waits_at_the_head() -> None:
    wire = Wire(live=True)
    wire.connect()
    assert wire.step() == ["send pull Pull"]
    message = wire.sends["pull"].message
    assert isinstance(message, Pull)
    assert message.wait_ms == 20_000
    wire.session.written(1)
    assert wire.step() == ["load after 0"], "the push lane does not wait for the long poll"


def test_a_baseline_continues_where_it_was_and_ends_with_the_cursor_of_its_first_page() -> None:
    wire = Wire()
    assert wire.connect(head=9, baseline=True) == [*CONNECTED[:2], "apply 0 cursor None baseline b''", "mend"]
    assert wire.step() == ["send pull PullBaseline"]
    state = wire.state(9, "a")
    wire.answer("pull", BaselinePage([state], b"token", 9, 9, 5))
    assert wire.step() == ["apply 1 cursor None baseline b'token'"]
    assert not wire.session.idle
    assert wire.step() == ["send pull PullBaseline"]
    message = wire.sends["pull"].message
    assert isinstance(message, PullBaseline)
    assert (message.after, message.everything) == (b"token", False)
    wire.answer("pull", BaselinePage([state], b"", 9, 11, 5))
    assert wire.step() == ["apply 1 cursor 9 baseline None"]
    assert wire.step() == ["send pull Pull"]


def test_a_cloud_restored_to_before_our_cursor_is_given_the_whole_state() -> None:
    wire = Wire(head_seq=3, acked=(3, b"x" * 32), sent=((3, b"x" * 32),), cursor=8, incarnation=LIFE1, own_until=7)
    said = wire.connect(incarnation=LIFE2, restored_head=5, head=6, last_seq=2, last_segment=b"w" * 32)
    assert said == ["learn time 5 epochs []", "persist repair True", "mend as state"]
    assert wire.step() == ["load state after None"]
    wire.session.loaded_state([operation(OTHER, 0, "a")], ("notes", "a"))
    assert wire.step() == ["send push Push"]
    assert parse_header(wire.pushed().segment).flags == FLAG_STATE
    first = wire.ack(last_seq=2, last_segment=b"w" * 32)
    wire.answer("push", first)
    assert wire.step() == ["load state after ('notes', 'a')"]
    wire.session.loaded_state([operation(REPLICA, 0, "b")], None)
    assert wire.step() == ["persist sent 3"], "the last one becomes what the cloud holds: noted before it is sent"
    assert wire.step() == ["send push Push"]
    header = parse_header(wire.pushed().segment)
    assert (header.flags, header.first_seq) == (FLAG_STATE | FLAG_LAST, 3)
    wire.answer("push", wire.ack(last_seq=3))
    assert wire.step() == ["persist acked 3 life 2 cursor 5 repair False"]
    assert wire.step() == ["send pull Pull"]


def test_a_cloud_restored_completely_needs_no_repair() -> None:
    wire = Wire(head_seq=3, acked=(3, b"x" * 32), sent=((3, b"x" * 32),), cursor=8, incarnation=LIFE1)
    said = wire.connect(incarnation=LIFE2, restored_head=8, head=8, last_seq=3, last_segment=b"x" * 32)
    assert said == ["learn time 5 epochs []", "persist acked 3 life 2", "mend"]
    assert wire.session.idle


@pytest.mark.parametrize(("last_seq", "last_segment"), [(9, b"s" * 32), (3, b"s" * 32)], ids=["rolled back", "cloned"])
def test_a_store_that_somebody_else_went_on_with_becomes_a_new_replica(last_seq: int, last_segment: bytes) -> None:
    """It reads the feed again from where everything under its old name was its own: the rest was kept from it."""
    wire = Wire(head_seq=3, acked=(3, b"x" * 32), sent=((3, b"x" * 32),), cursor=4, incarnation=LIFE1, own_until=2)
    assert wire.connect(last_seq=last_seq, last_segment=last_segment, head=9) == [
        "learn time 5 epochs []",
        "mend as state",
        "new incarnation",
    ]
    assert wire.step() == ["send push Hello"]
    hello = wire.sends["push"].message
    assert isinstance(hello, Hello)
    assert (hello.replica, hello.acked, hello.log_head) == (RENEWED, 0, 0)
    wire.answer("push", wire.welcome(head=9))
    assert wire.step() == ["learn time 5 epochs []", "mend as state"]
    assert wire.step() == ["load state after None"]
    wire.session.loaded_state([operation(OTHER, 0, "a")], None)
    wire.step()
    wire.step()
    opened = open_segment(
        wire.pushed().segment, identity=lambda _: wire.device.public, ring=wire.ring, check=lambda header: None
    )
    assert (opened.header.replica, opened.header.first_seq, opened.header.previous) == (RENEWED, 0, GENESIS)
    wire.answer("push", wire.ack(last_seq=0, head=10))
    assert wire.step() == ["persist acked 0 life 1 cursor 2 repair False"]


def test_a_cloud_that_claims_every_name_is_not_believed_for_ever() -> None:
    wire = Wire(head_seq=1, incarnation=LIFE1)
    for _ in range(3):
        wire.connect(last_seq=7, last_segment=b"z" * 32)
    assert wire.step() == ["send push Hello"]
    wire.answer("push", wire.welcome(last_seq=7, last_segment=b"z" * 32))
    assert isinstance(wire.session.error, ProtocolError)
    assert wire.step() == ["learn time 5 epochs []"]


@pytest.mark.parametrize("held", [b"x" * 32, b"y" * 32], ids=["before its last segment", "with its ack lost"])
def test_an_interrupted_repair_begins_again(held: bytes) -> None:
    sent = ((3, b"x" * 32), (3, b"y" * 32))
    wire = Wire(head_seq=3, acked=(3, b"x" * 32), sent=sent, cursor=4, incarnation=LIFE1, repair=True)
    wire.connect(last_seq=3, last_segment=held, head=4)
    assert wire.step() == ["load state after None"]


def test_a_store_that_somebody_else_repaired_under_its_name_becomes_a_new_replica() -> None:
    """Copied while it still had to push its state: the copy was quicker."""
    wire = Wire(head_seq=3, acked=(0, b""), sent=(), cursor=4, incarnation=LIFE1, repair=True)
    assert "new incarnation" in wire.connect(last_seq=3, last_segment=b"other" + bytes(27), head=4)


def test_new_epoch_keys_are_unwrapped_and_handed_over() -> None:
    wire = Wire(ring=KeyRing())
    key = WrappedKey(4, wrap(b"n" * 32, wire.device.public, FLEET, 4))
    assert wire.connect(keys=[key])[0] == "learn time 5 epochs [4]"
    assert wire.ring.key(4) == b"n" * 32


_LIES = ["backwards", "beyond", "more, but not now", "overlap", "other life", "forged", "truncated", "no clear"]


@pytest.mark.parametrize("case", _LIES)
def test_a_lying_page_changes_nothing(case: str) -> None:
    wire = Wire(cursor=4, incarnation=LIFE1)
    wire.connect(head=9)
    wire.step()
    stranger = DeviceKey.from_bytes(b"s" * 64)
    page, expected = {
        "backwards": (PullPage([], 3, 9, 5), ProtocolError),
        "beyond": (PullPage([], 10, 9, 5), ProtocolError),
        "more, but not now": (PullPage([], 4, 9, 5), ProtocolError),
        "overlap": (PullPage([wire.feed(4, 2)], 6, 9, 5), BrokenChain),
        "other life": (PullPage([wire.feed(5, stream=LIFE2)], 6, 9, 5), BrokenChain),
        "forged": (PullPage([wire.feed(5, signer=stranger)], 6, 9, 5), BadSignature),
        "truncated": (PullPage([wire.feed(5)[:-1]], 6, 9, 5), AgentDBError),
        "no clear": (PullPage([wire.feed(5, 4)], 6, 9, 5), AgentDBError),
    }[case]
    wire.answer("pull", page)
    assert isinstance(wire.session.error, expected)
    assert wire.session.position.cursor == 4
    assert wire.step() == []


@pytest.mark.parametrize("answer", [PushAck(0, b"", [], 0, 0), PullPage([], 0, 0, 0), BaselinePage([], b"", 0, 0, 0)])
def test_an_answer_to_something_else_is_a_protocol_error(answer: object) -> None:
    wire = Wire()
    wire.step()
    wire.answer("push", answer)
    assert isinstance(wire.session.error, ProtocolError)


def test_an_ack_of_another_segment_is_not_believed() -> None:
    wire = Wire(head_seq=1)
    wire.connect()
    wire.step()
    wire.session.loaded([operation(REPLICA, 1, "a")])
    wire.step()
    wire.step()
    wire.answer("push", wire.ack(last_segment=b"q" * 32))
    assert isinstance(wire.session.error, BrokenChain)
    assert wire.session.position.acked == (0, b"")


def test_a_version_that_was_not_offered_is_refused() -> None:
    wire = Wire()
    wire.step()
    wire.answer("push", wire.welcome(version=4))
    assert isinstance(wire.session.error, UnsupportedVersion)


def test_failures_back_off_exponentially_and_the_cloud_may_ask_for_more() -> None:
    wire = Wire()
    now, delays = 0, []
    for _ in range(5):
        assert wire.step() == ["send push Hello"]
        wire.answer("push", Failure("storage", "busy", "", True))
        wait = wire.session.wake_ms()
        assert wait is not None
        delays.append(wait)
        now += wait
        wire.session.tick(now)
    assert delays == [125, 250, 500, 1000, 2000]
    wire.step()
    wire.answer("push", Failure("storage", "busy", "", True, 90_000))
    assert wire.session.wake_ms() == 112_500, "the jitter on top"


def test_a_log_that_lost_what_it_should_push_is_an_error_not_a_loop() -> None:
    wire = Wire(head_seq=2)
    wire.connect()
    assert wire.step() == ["load after 0"]
    with pytest.raises(CorruptStore):
        wire.session.loaded([])


def test_a_batch_that_does_not_fit_a_segment_is_halved() -> None:
    wire = Wire(head_seq=8)
    wire.connect()
    wire.step()
    shape = Shape(Kind.PUT, "notes", ("blob",), "l")
    blobs = [Operation(REPLICA, i + 1, 1 + i, 0, shape, "k", (_noise(i),)) for i in range(8)]
    wire.session.loaded(blobs)
    assert wire.step() == ["load after 0"]
    wire.session.loaded(blobs[:4])
    assert wire.step() == ["persist sent 4"]


def _noise(salt: int) -> bytes:
    """200 KB that does not compress."""
    return b"".join(sha256(f"{salt}/{i}".encode()).digest() for i in range(6_250))


def test_a_push_that_fails_after_every_greeting_backs_off_all_the_same() -> None:
    """Found by the simulator ("disks"): a cloud whose disk was full was asked four times a second by each device,
    because each handshake that went well began the delays anew.
    """
    wire = Wire(head_seq=1)
    now, delays = 0, []
    for _ in range(4):
        wire.connect()
        wire.step()
        wire.session.loaded([operation(REPLICA, 1, "a")])
        wire.step()
        wire.step()
        wire.answer("push", Failure("disk-full", "full", "", True))
        wait = wire.session.wake_ms()
        assert wait is not None
        delays.append(wait)
        now += wait
        wire.session.tick(now)
    assert delays == [125, 250, 500, 1000]
