"""What was kept back, as a session sends it: in turn with the log, never before what is owed, until it is answered."""

from __future__ import annotations

from sync.effects import Ticket
from sync.errors import Unreachable
from sync.keeping import KeepingSession
from sync.messages import Refusal
from sync.operations import Operation
from sync.segment import FLAG_LAST, FLAG_STATE, parse_header
from tests.sync.session_wire import LIFE2, REPLICA, Wire, operation

CONNECTED = ["learn time 5 epochs []", "persist acked 0 life 1", "mend"]
FIRST = "load kept after None, 1000"


def wired(**position: object) -> tuple[Wire, KeepingSession]:
    wire = Wire(kind=KeepingSession, **position)  # type: ignore[arg-type]
    assert isinstance(wire.session, KeepingSession)
    return wire, wire.session


def kept(*keys: str) -> tuple[list[Operation], Ticket, tuple[str, str]]:
    operations = [operation(REPLICA, 0, key) for key in keys]
    return operations, tuple(("notes", key, 7) for key in keys), ("notes", keys[-1])


def connected(**position: object) -> tuple[Wire, KeepingSession]:
    """And something may be kept back."""
    wire, session = wired(**position)
    session.keeps()
    assert wire.connect() == CONNECTED
    return wire, session


def goes_out(wire: Wire, sent: int) -> None:
    """What was loaded: first it is noted as sent."""
    assert wire.step() == [f"persist sent {sent}"]
    assert wire.step() == ["send push Push"]


def sending(*keys: str) -> tuple[Wire, KeepingSession]:
    """These were kept back, and are on their way."""
    wire, session = connected()
    assert wire.step() == [FIRST]
    session.loaded_kept(*kept(*keys))
    goes_out(wire, 0)
    return wire, session


def test_it_goes_part_by_part_and_is_let_go_with_each_answer() -> None:
    wire, session = connected()
    assert wire.step() == [FIRST]
    session.loaded_kept(*kept("a", "b"))
    assert not session.idle
    goes_out(wire, 0)
    header = parse_header(wire.pushed().segment)
    assert (header.flags & (FLAG_STATE | FLAG_LAST), header.first_seq) == (FLAG_STATE | FLAG_LAST, 0)
    wire.answer("push", wire.ack(last_seq=0))
    assert wire.step() == ["persist acked 0", "release ['a', 'b']"]
    assert wire.step() == ["load kept after ('notes', 'b'), 1000"]
    session.loaded_kept([], (), None)
    assert wire.step() == []
    assert session.idle


def test_it_takes_turns_with_the_log() -> None:
    wire, session = connected(head_seq=2)
    assert wire.step() == ["load after 0"]
    session.loaded([operation(REPLICA, 1, "x")])
    goes_out(wire, 1)
    acked = wire.ack()
    wire.answer("push", acked)
    assert wire.step() == ["persist acked 1"]
    assert wire.step() == [FIRST]
    session.loaded_kept(*kept("a"))
    goes_out(wire, 1)
    wire.answer("push", wire.ack(last_seq=1))
    assert wire.step() == ["persist acked 1", "release ['a']"]
    assert wire.step() == ["load after 1"]


def test_after_a_lost_request_the_next_answer_lets_nothing_go() -> None:
    wire, session = sending("a")
    session.failed(wire.sends["push"].number, Unreachable("the request was lost"))
    session.written(1)
    session.tick(session.wake_ms() or 0)
    wire.connect()
    assert wire.step() == ["load after 0"]
    session.loaded([operation(REPLICA, 1, "x")])
    goes_out(wire, 1)
    wire.answer("push", wire.ack())
    assert wire.step() == ["persist acked 1"]
    assert wire.step() == [FIRST]


def test_nothing_goes_before_a_repair_or_while_stamps_wait_to_be_mended() -> None:
    wire, session = wired(repair=True)
    session.keeps()
    wire.connect()
    assert wire.step() == ["load state after None"]
    wire, session = wired(head_seq=3, sent=((1, b"x" * 32),))
    session.keeps()
    assert wire.connect() == CONNECTED[:2]
    assert wire.step() == ["load after 0"]
    session.loaded([operation(REPLICA, 1, "a")])
    goes_out(wire, 1)
    wire.answer("push", wire.ack())
    assert wire.step() == ["persist acked 1"]
    assert wire.step() == ["send push Hello"]


def test_what_is_refused_is_found_and_stays() -> None:
    wire, session = sending("a", "b", "c")
    refused = [Refusal(0, "too-large", "over 256 KiB")]
    wire.answer("push", wire.ack(last_seq=0, refusals=refused))
    assert wire.step() == ["persist acked 0"]
    assert wire.step() == ["load kept after None, 1"]
    session.loaded_kept(*kept("a"))
    goes_out(wire, 0)
    wire.answer("push", wire.ack(last_seq=0))
    assert wire.step() == ["persist acked 0", "release ['a']"]
    assert wire.step() == ["load kept after ('notes', 'a'), 2"]
    session.loaded_kept(*kept("b"))
    goes_out(wire, 0)
    wire.answer("push", wire.ack(last_seq=0, refusals=refused))
    assert wire.step() == ["persist acked 0", "release ['b'], too-large"]
    assert wire.step() == ["load kept after ('notes', 'b'), 2"]


def test_a_refusal_for_its_stamp_makes_the_device_ask_for_the_time() -> None:
    wire, session = sending("a")
    wire.answer("push", wire.ack(last_seq=0, refusals=[Refusal(0, "future-stamp", "ahead")]))
    assert wire.step() == ["persist acked 0", "release ['a'], future-stamp"]
    assert not session.connected
    session.tick(session.wake_ms() or 0)
    acked = session.position.acked
    assert wire.connect(last_seq=acked[0], last_segment=acked[1]) == CONNECTED


def test_an_answer_that_shows_another_writer_leads_to_a_handshake() -> None:
    wire, _ = sending("a")
    wire.answer("push", wire.ack(last_seq=4, last_segment=b"s" * 32))
    assert wire.step() == ["send push Hello"], "and it is not let go"


def test_a_cloud_that_was_restored_to_before_it_is_found_out() -> None:
    """Neither what it holds of the log nor the cursor says so."""
    wire, session = sending("a")
    wire.answer("push", wire.ack())
    wire.step()
    session.loaded_kept([], (), None)
    assert session.idle
    again = Wire(kind=KeepingSession, **session.position._asdict())
    assert again.connect(incarnation=LIFE2)[1] == "persist repair True"


def test_without_anything_kept_it_is_a_session_like_any_other() -> None:
    wire, session = wired()
    wire.connect()
    assert wire.step() == []
    assert session.idle
