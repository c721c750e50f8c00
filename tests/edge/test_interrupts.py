"""A signal handler that raises (Ctrl-C, an alarm) may do so between any two steps of a write. Whatever it interrupts,
the next write goes on, and what was acknowledged is on the disk.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from edge.node import Edge
from edge.storage import log_writer
from tests.edge.stores import SeededRandom, TickingClock

INTERRUPTS = 150


class Interrupted(Exception):
    pass


@contextmanager
def alarms() -> Iterator[Callable[[float], object]]:
    """A function that makes the main thread raise ``Interrupted`` so many seconds later (0: not any more)."""

    def raises(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raises)
    try:
        yield partial(signal.setitimer, signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def open_store(folder: Path) -> Edge:
    return Edge.open(folder, clock=TickingClock(), random=SeededRandom())


@pytest.mark.parametrize("seed", range(4))
def test_interrupted_writes_are_whole_or_not_there(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FOLD_RECORDS_MAX", 20)  # folds are interrupted, too
    rng = random.Random(seed)
    acked: dict[str, int] = {}
    trying: dict[str, int] = {}
    edge = open_store(tmp_path / "store")
    notes = edge.collection("notes")
    number = 0

    def write() -> None:
        nonlocal number
        number += 1
        key = f"k{rng.randrange(40)}"
        kind = rng.choice(["put", "put", "patch", "batch", "fold", "meta"])
        if kind == "meta":
            edge.log.meta_set("note", number)
            return
        if kind == "fold":
            edge.log.fold()
            return
        changes = {key: number, f"new{number}": number} if kind == "batch" else {key: number}
        trying.update(changes)
        if kind == "batch":
            with edge.batch():
                for name in changes:
                    notes.put(name, {"n": number})
        elif kind == "put":
            notes.put(key, {"n": number})
        else:
            notes.patch(key, {"n": number}, upsert=True)
        acked.update(changes)
        trying.clear()

    interrupts = 0
    with alarms() as alarm:
        while interrupts < INTERRUPTS:
            try:
                alarm(rng.random() * 0.003 + 1e-5)
                try:
                    while True:
                        write()
                finally:
                    alarm(0)
            except Interrupted:
                interrupts += 1
                # Nobody knows about what was under way until the next write; then what is there is what counts.
                notes.put("next", {"n": interrupts})
                acked["next"] = interrupts
                for key in trying:
                    held = notes.get(key)
                    if held is not None:
                        acked[key] = held["n"]
                trying.clear()
    expected = {key: {"n": value} for key, value in acked.items()}
    assert dict(notes.scan()) == expected
    edge.close()
    with open_store(tmp_path / "store") as again:
        assert dict(again.collection("notes").scan()) == expected
        assert again.verify() == []
        operations = again.log.pending(0, 100_000, 1 << 30)
        assert [operation.seq for operation in operations] == list(range(1, len(operations) + 1))
