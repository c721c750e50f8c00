"""Group commit: writers that meet share commits; one that fails, or is interrupted, costs the others nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge import Edge
from edge.storage.group_commit import GROUP_WRITES_MAX, GroupCommit, Job
from sync.errors import DiskFull, NotFound, StorageError, TooLarge
from tests.edge.faulty_vfs import faulty_vfs

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Disk:
    """Commits that can be held up, to let a queue form."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.commit = GroupCommit(self.alone, self.together)

    def alone(self, writes: Sequence[Any]) -> Any:
        self._wait([list(writes)])
        return sum(writes)

    def together(self, jobs: Sequence[Job]) -> None:
        self._wait([list(job.writes) for job in jobs])
        for job in jobs:
            if job.writes[0] < 0:
                job.error = TooLarge("negative")
            else:
                job.result = sum(job.writes)

    def _wait(self, group: list[Any]) -> None:
        self.groups.append(group)
        self.entered.release()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error


def in_threads(actions: Sequence[Callable[[], Any]], *, after: Callable[[], None] = lambda: None) -> list[Any]:
    """Run each in a thread, begin them one by one in order, call ``after`` when all wait; results or errors."""
    out: list[Any] = [None] * len(actions)

    def run(number: int) -> None:
        try:
            out[number] = actions[number]()
        except BaseException as error:  # noqa: BLE001 - it is what the test looks at
            out[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    after()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "nobody waits for ever"
    return out


def _queued(disk: Disk, count: int) -> None:
    assert disk.entered.acquire(timeout=10)
    for _ in range(2000):
        if len(disk.commit._queue) == count:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{len(disk.commit._queue)} wait, not {count}")


def test_one_writer_alone_commits_at_once() -> None:
    disk = Disk()
    disk.gate.set()
    assert disk.commit.run([1, 2]) == 3
    assert disk.commit.run([4]) == 4
    assert disk.groups == [[[1, 2]], [[4]]]


def test_those_who_wait_share_the_next_commit() -> None:
    disk = Disk()

    def release() -> None:
        _queued(disk, 4)
        disk.gate.set()

    results = in_threads([lambda n=n: disk.commit.run([n]) for n in range(5)], after=release)  # type: ignore[misc]
    assert results == [0, 1, 2, 3, 4]
    assert len(disk.groups) == 2
    assert len(disk.groups[0]) == 1
    assert sorted(disk.groups[1]) == sorted([n] for n in range(5) if [n] not in disk.groups[0])


def test_one_that_fails_fails_alone() -> None:
    disk = Disk()

    def release() -> None:
        _queued(disk, 3)
        disk.gate.set()

    results = in_threads([lambda n=n: disk.commit.run([n]) for n in (1, 2, -3, 4)], after=release)  # type: ignore[misc]
    assert [result for result in results if not isinstance(result, TooLarge)] == [1, 2, 4]


def test_a_failed_commit_fails_all_of_it_each_with_an_error_of_its_own() -> None:
    disk = Disk()
    disk.error = DiskFull("full", hint="make room")

    def release() -> None:
        _queued(disk, 3)
        disk.gate.set()

    results = in_threads([lambda n=n: disk.commit.run([n]) for n in range(4)], after=release)  # type: ignore[misc]
    assert [type(result) for result in results] == [DiskFull] * 4
    assert len({id(result) for result in results}) >= 3
    disk.error = None
    assert disk.commit.run([7]) == 7, "and the next one finds the way free"


def test_a_leader_that_dies_of_something_else_wakes_the_others() -> None:
    disk = Disk()
    disk.error = KeyboardInterrupt()

    def release() -> None:
        _queued(disk, 3)
        disk.gate.set()

    results = in_threads([lambda n=n: disk.commit.run([n]) for n in range(4)], after=release)  # type: ignore[misc]
    kinds = sorted(type(result).__name__ for result in results)
    assert kinds == ["KeyboardInterrupt", "KeyboardInterrupt", "StorageError", "StorageError"], "it met two leaders"
    disk.error = None
    assert disk.commit.run([7]) == 7


def test_a_group_is_bounded() -> None:
    disk = Disk()

    def release() -> None:
        _queued(disk, 3)
        disk.gate.set()

    many = [1] * (GROUP_WRITES_MAX // 2)
    results = in_threads([lambda: disk.commit.run(many)] * 4, after=release)
    assert results == [len(many)] * 4
    assert max(sum(map(len, group)) for group in disk.groups) <= GROUP_WRITES_MAX


def test_a_follower_that_is_interrupted_leaves_the_queue() -> None:
    """In a process of its own, because only a main thread receives signals."""
    script = """
import signal, threading, time, sys
sys.path.insert(0, {root!r})
from edge.storage.group_commit import GroupCommit
gate = threading.Event()
seen = []
def alone(writes):
    seen.append(list(writes)); gate.wait(20); return writes[0]
def together(jobs):
    for job in jobs:
        seen.append(list(job.writes)); job.result = job.writes[0]
commit = GroupCommit(alone, together)
leader = threading.Thread(target=commit.run, args=([1],)); leader.start()
while commit._holder is None: time.sleep(0.01)
other = threading.Thread(target=lambda: (time.sleep(0.5), commit.run([3]))); other.start()
signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError()))
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    commit.run([2])
except InterruptedError:
    seen.append("interrupted")
time.sleep(0.5)
gate.set(); leader.join(5); other.join(5)
assert commit.run([4]) == 4
print(seen)
"""
    root = str(Path(__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script.format(root=root)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[1], 'interrupted', [3], [4]]"


def test_callers_interrupted_at_any_moment_hand_the_office_on() -> None:
    """A main thread that an alarm interrupts again and again, among eight threads that write: while it waits, while
    its group is committed, while it leads, before its turn. Whatever it held, nobody waits for ever.
    """
    script = """
import random, signal, threading, time, sys
sys.path.insert(0, {root!r})
from edge.storage.group_commit import GroupCommit
from sync.errors import StorageError
chance, counted, running = random.Random(7), [], True
def alone(writes):
    time.sleep(0.0005); return writes[0]
def together(jobs):
    time.sleep(0.0005)
    for job in jobs: job.result = job.writes[0]
commit = GroupCommit(alone, together)
def work(number):
    done = 0
    while running:
        try:
            assert commit.run([number]) == number
            done += 1
        except StorageError: pass  # its leader was interrupted
    counted.append(done)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
class Alarm(Exception): pass
armed = False
def ring(*_):
    if armed: raise Alarm
signal.signal(signal.SIGALRM, ring)
rung = 0
for _ in range(600):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.004))
        for _ in range(3): commit.run([99])
        armed = False
    except Alarm:
        armed = False
        rung += 1
signal.setitimer(signal.ITIMER_REAL, 0)
running = False
for thread in threads:
    thread.join(10)
    assert not thread.is_alive(), "somebody waits for ever"
assert commit.run([4]) == 4
assert rung > 50 and min(counted) > 50, (rung, counted)
print("ok")
"""
    root = str(Path(__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script.format(root=root)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"


# -- the same through a store -----------------------------------------------------------------------------------------


def test_many_threads_lose_and_mix_nothing(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", fields={"n": "counter"})
        notes.put("shared", {"n": 0})

        def work(number: int) -> int:
            refused = 0
            for turn in range(30):
                notes.put(f"{number}-{turn}", {"turn": turn})
                notes.increment("shared", "n")
                if turn % 10 == 0:
                    try:
                        notes.delete(f"missing-{number}")
                    except NotFound:
                        refused += 1
                if turn % 7 == 0:
                    with edge.batch():
                        notes.put(f"{number}-{turn}-a", {"x": 1})
                        notes.patch(f"{number}-{turn}-a", {"y": 2})
            return refused

        results = in_threads([lambda n=n: work(n) for n in range(12)])  # type: ignore[misc]
        assert results == [3] * 12
        assert notes.count() == 1 + 12 * 30 + 12 * 5
        assert notes.get("shared") == {"n": 12 * 30}
        operations = edge.log.pending(0, 10_000, 1 << 24)
        assert [operation.seq for operation in operations] == list(range(1, edge.log.head_seq + 1))
        stamps = [operation.ts for operation in operations]
        assert stamps == sorted(set(stamps))
        assert edge.verify() == []


def test_a_full_disk_fails_every_waiting_writer_and_none_after_it(tmp_path: Path) -> None:
    with faulty_vfs() as faults, Edge.open(tmp_path / "store") as edge:
        notes = edge.collection("notes")
        notes.put("first", {"x": 1})
        acknowledged: list[str] = []

        def work(number: int) -> int:
            failed = 0
            for turn in range(25):
                if number == 0 and turn == 10:
                    faults.writes_left = 3
                if number == 0 and turn == 20:
                    faults.writes_left = None
                try:
                    notes.put(f"{number}-{turn}", {"x": "y" * 500})
                    acknowledged.append(f"{number}-{turn}")
                except StorageError:
                    failed += 1
            return failed

        failures = in_threads([lambda n=n: work(n) for n in range(6)])  # type: ignore[misc]
        faults.writes_left = None
        assert all(type(count) is int for count in failures)
        assert {key for key, _ in notes.scan()} == {"first", *acknowledged}
        assert edge.verify() == []
