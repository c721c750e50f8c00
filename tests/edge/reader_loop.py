"""One process writes and is killed again and again, three read: whether they see what was acknowledged, and all of it.

A process of its own (``python -m tests.edge.reader_loop DIR KILLS SEED``), single-threaded, so that it may fork. After
each write the writer notes its turn in memory that all share. A reader notes what was acknowledged before it looks and
after: what it sees must lie between, or be of the turn that is under way.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edge import Edge
from edge.storage import log_writer

READERS = 3
BATCH = 10
WHAT = ("put", "patch", "delete", "batch", "memory", "checkpoint")
UNDER_WAY = "under way"
MEMORY = "the pump needs oil"
PRUNE_EVERY, KEEP = 25, 30  # far apart: a reader that looks up the newest and then reads it must find it


class Shared:
    """The newest turn that was acknowledged, of each kind of write; and what each reader has checked."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, 4096)).cast("q")
        self._names = {name: cell for cell, name in enumerate((*WHAT, UNDER_WAY))}

    def __getitem__(self, name: str) -> int:
        return self._cells[self._names[name]]

    def __setitem__(self, name: str, turn: int) -> None:
        self._cells[self._names[name]] = turn

    def checked(self, reader: int) -> int:
        return self._cells[64 + reader]

    def note_check(self, reader: int) -> None:
        self._cells[64 + reader] += 1


def write(store: Path, shared: Shared, seed: int) -> None:
    """The writer: until it is killed. Folds, checkpoints, trims and new incarnations come often."""
    log_writer.FOLD_OPERATIONS_MAX = 40
    rng = random.Random(seed)
    edge = Edge.open(store, wait_s=10)
    edge.log.writer.db.execute("PRAGMA wal_autocheckpoint=40")
    notes = edge.collection("notes", fields={"n": "int"})
    agent = edge.agent("a")
    thread, memory = agent.thread(), agent.memory()
    first = 1 + max(look(edge, what) for what in WHAT)

    def act(what: str, work: Callable[[], Any]) -> None:
        work()
        shared[what] = shared[UNDER_WAY]

    def batch(turn: int) -> None:
        with edge.batch():
            for number in range(BATCH):
                notes.put(f"b{number}", {"n": turn})

    for turn in range(first, 1 << 30):
        shared[UNDER_WAY] = turn
        large = str(turn // 7) * 20_000 if turn % 5 == 0 else ""
        act("put", partial(notes.put, "p", {"n": turn, "x": "y" * rng.randrange(300)}))
        act("patch", partial(notes.patch, "q", {"n": turn}, upsert=True))
        act("delete", partial(notes.delete, "d") if turn % 2 and "d" in notes else partial(notes.put, "d", {"n": turn}))
        act("batch", partial(batch, turn))
        act("memory", partial(memory.add, MEMORY, "semantic", metadata={"n": turn}))
        act("checkpoint", partial(thread.put, {"n": turn, "large": large}))
        if turn % PRUNE_EVERY == 0:
            thread.prune(keep_latest=KEEP)
        if turn % 6 == 0:
            edge.log.fold()
            edge.log.acknowledge(edge.log.head_seq, bytes(32))
            edge.log.trim(edge.log.position)
        if turn % 13 == 0:
            edge.log.new_incarnation()


def look(edge: Edge, what: str) -> int:
    """The turn that is seen; 0 for nothing."""
    if "notes" not in edge.collections():
        return 0
    notes = edge.collection("notes")
    if what == "batch":
        turns = {fields["n"] for _, fields in notes.scan("b")}
        assert len(turns) <= 1, f"half of a batch: {turns}"
        return max(turns, default=0)
    if what == "memory":
        return max((one.metadata["n"] for one in edge.agent("a").memory().all()), default=0)
    if what == "checkpoint":
        thread = edge.agent("a").thread()
        return 0 if thread.head() is None else int(thread.get()["n"])
    fields = notes.get({"put": "p", "patch": "q", "delete": "d"}[what])
    return 0 if fields is None else int(fields["n"])


def check(edge: Edge, what: str, shared: Shared) -> None:
    before = shared[what]
    seen = look(edge, what)
    after = shared[UNDER_WAY]
    if what == "delete" and seen == 0:
        assert before == 0 or any(turn % 2 for turn in range(before, after + 1)), (before, after)
        return
    assert before <= seen <= after, f"{what}: {seen} is seen, {before} was acknowledged, {after} is under way"


def read(store: Path, shared: Shared, reader: int, seed: int, stop: Callable[[], bool]) -> None:
    rng = random.Random(seed)
    while not stop():
        if not (store / "log.db").exists() or (store / "making").exists():
            time.sleep(0.005)
            continue
        with Edge.open(store, read_only=True) as edge:
            for _ in range(rng.randrange(1, 60)):
                for what in rng.sample(WHAT, 3):
                    check(edge, what, shared)
                    shared.note_check(reader)
                if rng.random() < 0.02:
                    assert edge.log.verify() == []
                time.sleep(0.001)


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def main(store: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    shared = Shared()
    stop = store.with_suffix(".stop")
    readers = [forked(partial(read, store, shared, reader, seed + reader, stop.exists)) for reader in range(READERS)]
    for number in range(kills):
        before = shared["put"]
        writer = forked(partial(write, store, shared, seed + number))
        while shared["put"] <= before:  # it has opened the store, and written
            assert os.waitpid(writer, os.WNOHANG) == (0, 0), "the writer ended by itself"
            time.sleep(0.002)
        time.sleep(rng.random() * 0.4)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with Edge.open(store, read_only=True) as edge:
            for what in WHAT:
                check(edge, what, shared)
    stop.touch()
    ends = [os.waitpid(reader, 0)[1] for reader in readers]
    assert ends == [0] * READERS, "a reader saw what it must not see: see above"
    checks = [shared.checked(reader) for reader in range(READERS)]
    sys.stdout.write(f"{kills} kills, {shared['put']} turns, {min(checks)} to {max(checks)} checks by each reader\n")
    assert min(checks) > kills


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
