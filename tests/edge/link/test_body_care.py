"""The thread that brings attachments' bodies to the cloud: what was added is uploaded, whenever it was."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from edge.link import body_care
from edge.link.body_care import BodyCare
from tests.edge.stores import SeededRandom

if TYPE_CHECKING:
    from edge.link.runner import Link

PATIENCE_S = 10.0


class Added(threading.Event):
    """A body is added just when the thread has looked whether one was."""

    adding = False

    def is_set(self) -> bool:
        there = super().is_set()
        if self.adding and not there and threading.current_thread().name == "agentdb-bodies":
            self.adding = False
            self.set()
        return there


def test_a_body_that_is_added_at_any_moment_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_care, "ROUND_S", 0.01)
    added, uploads = Added(), threading.Semaphore(0)

    def upload(*, using: object) -> SimpleNamespace:
        uploads.release()
        return SimpleNamespace(failed=None)

    link = SimpleNamespace(
        cache=SimpleNamespace(added=added, settle=lambda: None, problem=""),
        clock=SimpleNamespace(monotonic_ms=lambda: 0),
        log=SimpleNamespace(position=0),
        random=SeededRandom(),
        check_bulk=lambda: None,
        bodies=lambda _url: SimpleNamespace(upload=upload),
    )
    care = BodyCare(cast("Link", link), None)
    assert uploads.acquire(timeout=PATIENCE_S), "at first it looks itself"
    added.adding = True
    assert uploads.acquire(timeout=PATIENCE_S)
    until = time.monotonic() + PATIENCE_S
    while not care.idle and time.monotonic() < until:
        time.sleep(0.001)
    assert not uploads.acquire(timeout=0.1), "once"
    care.stop()
    care.join(PATIENCE_S)
