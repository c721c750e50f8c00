"""Sessions of different versions of the protocol, and a fleet that comes back all at once."""

from __future__ import annotations

import random

import pytest

from sync.effects import Send
from sync.errors import Unreachable
from sync.limits import INT_MAX, RETRY_AFTER_MS_MAX
from sync.messages import Failure, Hello, Pull, PullPage
from sync.schedule import Backoff
from sync.session import SyncSession
from tests.sync.session_wire import FixedRandom, Wire


class Dice:
    """Jitter from a seed, which a device's own randomness is."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self) -> float:
        return self._random.random()


def hello_of(session: SyncSession) -> Hello:
    message = sent_by(session).message
    assert isinstance(message, Hello)
    return message


def sent_by(session: SyncSession) -> Send:
    (effect,) = session.ready()
    assert isinstance(effect, Send)
    return effect


def session_of(wire: Wire, *versions: int) -> SyncSession:
    inside = wire.session
    return SyncSession(inside.position, inside._keys, FixedRandom(), versions=versions)


def test_a_device_offers_what_it_was_made_for_and_says_which_keys_it_has() -> None:
    wire = Wire()
    wire.session.position = wire.session.position._replace(assignment=7)
    for versions, epochs, held in (((1,), [], 0), ((1, 2), [1], 0), ((2,), [1], 0), ((1, 2, 3), [1], 7)):
        hello = hello_of(session_of(wire, *versions))
        assert (hello.versions, hello.epochs, hello.assignment) == (list(versions), epochs, held)


def pulled(wire: Wire) -> Pull:
    message = wire.sends["pull"].message
    assert isinstance(message, Pull)
    return message


def test_the_newest_assignment_is_heard_of_at_the_welcome_and_with_each_page() -> None:
    wire = Wire(live=True)
    wire.connect(version=3, assignment=4)
    wire.step()
    assert (wire.session.assignment, pulled(wire).assignment) == (4, 4)
    wire.answer("pull", PullPage([], 0, 0, 5, 6))
    wire.step()
    assert (wire.session.assignment, pulled(wire).assignment) == (6, 6)


def test_with_a_cloud_of_an_earlier_version_nobody_waits_for_assignments() -> None:
    wire = Wire(live=True)
    wire.connect(version=2)
    wire.step()
    assert (wire.session.assignment, pulled(wire).assignment) == (0, INT_MAX)


def test_a_cloud_of_the_first_version_makes_nobody_forget_anything() -> None:
    for version, said in ((1, []), (2, ["sweep up to 0, marked to 0"])):
        wire = Wire()
        wire.connect(version=version)
        assert wire.step() == said


def test_what_may_be_forgotten_waits_for_all_that_was_there_at_the_welcome() -> None:
    wire = Wire(head_seq=0, cursor=3, incarnation=b"1" * 16)
    wire.connect(version=2, head=4, stable=3)
    assert wire.step() == ["send pull Pull"]
    assert not wire.session.idle


@pytest.mark.parametrize("asked_ms", [0, 5_000, 10 * RETRY_AFTER_MS_MAX])
def test_a_thousand_that_fail_at_one_moment_do_not_come_back_at_one_moment(asked_ms: int) -> None:
    """And none earlier than it was asked to, whatever was asked within reason."""
    wire = Wire()
    waits: list[int] = []
    for seed in range(1_000):
        session = SyncSession(wire.session.position, wire.session._keys, Dice(seed))
        wait = 0
        for _ in range(4):
            number = sent_by(session).number
            if asked_ms:
                session.receive(number, Failure("unreachable", "busy", "", retryable=True, retry_after_ms=asked_ms))
            else:
                session.failed(number, Unreachable("down"))
            wait = session.wake_ms() or 0
            session.tick(session._now_ms + wait)
        waits.append(wait)
    heard = min(asked_ms, RETRY_AFTER_MS_MAX)
    spread = max(2_000, heard // 2)
    assert heard <= min(waits)
    assert max(waits) <= heard + spread
    fullest = max(
        sum(1 for wait in waits if start <= wait < start + spread // 10)
        for start in range(heard, heard + spread, spread // 10)
    )
    assert fullest < 160, "a tenth of the time has about a tenth of them"


def test_the_delay_doubles_up_to_a_minute() -> None:
    backoff = Backoff(FixedRandom())
    assert [backoff.next_ms() for _ in range(10)] == [125, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    backoff.reset()
    assert backoff.next_ms(1_000) == 1_250
