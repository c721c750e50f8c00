"""Children answer, fail loudly and never stay behind; the proxy counts every byte and cuts where it was told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simulations.control_plane import Proxy
from simulations.processes import Child, ChildFailed, Children, together

ECHO = "import sys\nfrom simulations.child import serve, progress\n"
ANSWER = ECHO + "serve({'add': lambda a, b: progress(1, 2) or a + b})"
REFUSE = ECHO + "from sync.errors import NotFound\ndef go(): raise NotFound('no such thing')\nserve({'go': go})"
BREAK = ECHO + "serve({'go': lambda: 1 / 0})"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('{}', flush=True)\ntime.sleep(60)"


def test_a_child_answers_and_reports_progress(tmp_path: Path) -> None:
    seen: list[int] = []
    with Children(tmp_path) as children:
        child = children.start("adder", "-c", ANSWER)
        assert child.call("add", a=1, b=2, on_progress=lambda made: seen.append(made["done"])) == 3
        assert together(lambda: child.call("add", a=1, b=1), lambda: child.call("add", a=2, b=2)) == [2, 4]
    assert seen == [1]
    assert child.process.poll() is not None


def test_an_error_of_the_product_is_told_and_the_child_lives_on(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("refuser", "-c", REFUSE)
        for _ in range(2):
            with pytest.raises(ChildFailed, match="refuser: not-found: no such thing"):
                child.call("go")


def test_a_child_that_breaks_shows_why(tmp_path: Path) -> None:
    with Children(tmp_path) as children, pytest.raises(ChildFailed, match="ZeroDivisionError"):
        children.start("breaker", "-c", BREAK).call("go")


def test_a_silent_child_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with Children(tmp_path) as children, pytest.raises(ChildFailed, match="said nothing"):
        children.start("mute", "-c", "import time; time.sleep(60)").line(0.2)


def test_no_child_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.processes.STOP_S_MAX", 0.3)
    started: list[Child] = []

    def interrupted() -> None:
        with Children(tmp_path) as children:
            started.extend(
                children.start(name, "-c", code) for name, code in (("stubborn", STUBBORN), ("idle", ANSWER))
            )
            started[0].line()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(started) == 2
    assert all(child.process.poll() is not None for child in started)


def test_the_proxy_counts_every_byte(tmp_path: Path) -> None:
    with _echo_server() as port, Children(tmp_path) as children:
        proxy = Proxy(children, "proxy", port)
        assert _exchange(proxy.port, b"x" * 70_000) == 70_000
        assert proxy.counts() == {"up": 70_000, "down": 70_000, "connections": 1, "cuts": 0}


def test_the_proxy_cuts_at_the_byte_and_stops_when_told(tmp_path: Path) -> None:
    with _echo_server() as port, Children(tmp_path) as children:
        proxy = Proxy(children, "proxy", port)
        proxy.cut(seed=1, least=1_000, most=5_000, times=2)
        for _ in range(2):
            assert _exchange(proxy.port, b"x" * 70_000) < 70_000
        first = proxy.counts()
        assert first["cuts"] == 2
        assert 1_000 <= first["up"] + first["down"] <= 6_000
        assert _exchange(proxy.port, b"x" * 70_000) == 70_000
        proxy.cut(seed=1, least=1_000, most=5_000, times=2)
        proxy.calm()
        assert _exchange(proxy.port, b"x" * 70_000) == 70_000
        assert proxy.counts()["cuts"] == 2


def test_a_server_that_is_not_there_is_a_reset_and_a_new_one_can_be_aimed_at(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:
        nobody = dead.getsockname()[1]
    with _echo_server() as port, Children(tmp_path) as children:
        proxy = Proxy(children, "proxy", nobody)
        assert _exchange(proxy.port, b"hello") == 0
        proxy.aim(port)
        assert _exchange(proxy.port, b"hello") == 5


def _exchange(port: int, data: bytes) -> int:
    """Send the data, end, and count what comes back before the end or a reset."""
    received = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        try:
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
            while part := wire.recv(1 << 16):
                received += len(part)
        except OSError:
            return received
    return received


@contextmanager
def _echo_server() -> Iterator[int]:
    """Reads to the end of a connection and sends all of it back."""

    def answer(wire: socket.socket) -> None:
        with wire:
            try:
                parts = list(iter(lambda: wire.recv(1 << 16), b""))
                wire.sendall(b"".join(parts))
            except OSError:
                return  # the proxy cut it: that is the test

    def accept(server: socket.socket) -> None:
        while True:
            try:
                wire, _ = server.accept()
            except OSError:
                return
            answer(wire)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
