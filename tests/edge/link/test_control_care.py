"""The thread that asks what a device is to run, and its connection: what is heard is asked for, and it can be ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest

from edge.link.control import ControlCare, ControlLink, Trust
from edge.link.signed_client import SignedClient
from edge.link.signing import Nonces
from sync.errors import Refused, Unreachable
from sync.keys import DeviceKey
from tests.edge.stores import SeededRandom

PATIENCE_S = 10.0


class Nothing:
    """A trust and a twin of which nobody asks anything here."""

    pinned: Callable[[], None]
    wake: Callable[[], None]

    def due(self) -> None:
        return None

    def check(self) -> None:
        pass


class Rounds:
    """A ``ControlLink`` that notes what it was asked for."""

    def __init__(self) -> None:
        self.twin = Nothing()
        self.asked: list[bool] = []
        self.failure: Exception | None = None

    def exchange(self, *, ask: bool, using: object) -> None:
        self.asked.append(ask)
        if self.failure is not None:
            raise self.failure


class Interrupted(ControlCare):
    """Another thread hears of an assignment just when this one has looked whether there is one."""

    hears: Callable[[], None] | None = None

    @property
    def _asks(self) -> bool:
        asks: bool = self.__dict__["asks"]
        if self.hears is not None and threading.current_thread().name == "agentdb-control":
            hears, self.hears = self.hears, None
            other = threading.Thread(target=hears)
            other.start()
            other.join(0.3)
        return asks

    @_asks.setter
    def _asks(self, asks: bool) -> None:
        self.__dict__["asks"] = asks


def care_of(rounds: Rounds, kind: type[ControlCare] = ControlCare) -> ControlCare:
    return kind(cast("ControlLink", rounds), cast("Trust", Nothing()), SeededRandom())


def eventually(condition: Callable[[], Any]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


def test_an_assignment_that_is_heard_of_at_any_moment_is_asked_for() -> None:
    rounds = Rounds()
    care = cast("Interrupted", care_of(rounds, Interrupted))
    care.hears = lambda: care.hear(2)
    rounds.twin.due = lambda: (1, b"{}", 0)  # type: ignore[method-assign, assignment]
    care.hear(0)  # there is something to report, and nothing to ask for
    assert eventually(lambda: care.idle and len(rounds.asked) > 1)
    care.stop()
    care.join(10)
    assert True in rounds.asked


class Late(threading.Event):
    """Whoever waits for it goes on only once ``goes_on`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout) and self.goes_on.wait(PATIENCE_S)


class Preempted(ControlCare):
    """Who looks whether it is busy is interrupted just then."""

    meanwhile: Callable[[], object] | None = None

    @property
    def _busy(self) -> bool:
        busy: bool = self.__dict__["busy"]
        if self.meanwhile is not None and threading.current_thread() is threading.main_thread():
            self.meanwhile()
        return busy

    @_busy.setter
    def _busy(self, busy: bool) -> None:
        self.__dict__["busy"] = busy


def test_it_is_not_idle_from_what_it_hears_until_that_is_asked_for() -> None:
    rounds, asking, answered = Rounds(), threading.Event(), threading.Event()

    def exchange(*, ask: bool, using: object) -> None:
        asking.set()
        assert answered.wait(PATIENCE_S)

    def goes_on() -> None:
        heard.goes_on.set()
        assert asking.wait(PATIENCE_S)

    care = cast("Preempted", care_of(rounds, Preempted))
    care._heard = heard = Late()
    heard.goes_on.set()
    care.hear(1)
    assert eventually(lambda: care.idle and rounds.asked)
    rounds.exchange = exchange  # type: ignore[method-assign]
    heard.goes_on.clear()
    care.hear(2)
    care.meanwhile = goes_on
    assert not care.idle
    answered.set()
    heard.goes_on.set()
    care.meanwhile = None
    assert eventually(lambda: care.idle)
    care.stop()
    care.join(10)


def test_a_refusal_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds()
    rounds.failure = Refused("no reports today")
    care = care_of(rounds)
    with caplog.at_level(logging.INFO, "agentdb.edge"):
        care.hear(1)
        assert eventually(lambda: rounds.asked and care.idle)
    care.stop()
    care.join(10)
    assert "no reports today" in caplog.text


def test_a_connection_that_is_being_made_can_be_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    key = DeviceKey.from_bytes(Random(1).randbytes(64))
    client = SignedClient("http://127.0.0.1:9", key, Nonces(0, lambda _: None))

    def connect() -> None:
        client.abort()  # of another thread, before there is a socket
        client._connection.sock = cast("Any", Socket())

    sent: list[bytes] = []

    class Socket:
        def settimeout(self, _: float) -> None:
            pass

        def sendall(self, data: bytes) -> None:
            sent.append(data)

        def close(self) -> None:
            pass

    monkeypatch.setattr(client._connection, "connect", connect)
    with pytest.raises(Unreachable, match="stopped"):
        client.ask("GET", "/v1/targets/00")
    assert sent == []
