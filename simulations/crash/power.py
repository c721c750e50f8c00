"""The power goes: what a work wrote is replayed onto a disk that forgets, and cut off anywhere.

One recorded run gives the operations (``recording``), and ``disk`` says in which states they may have left the disk.
Each state is laid out as files and judged as after a kill, except that projections may be found damaged, if they
heal. SQLite's shared-memory file is not part of any state. For ``log.db`` and ``cloud.db`` the other files count as
synced whenever they were written, so that all variety goes where the acknowledged writes are.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from simulations.crash.disk import Disk, Files
from simulations.crash.judge import judged, lay_out, scratch
from simulations.crash.operations import Operation
from simulations.crash.recording import Recording, record
from simulations.crash.results import Result, Tally, spread
from simulations.crash.work import DISK
from simulations.crash.zygote import Zygote

QUICK, FULL = 80, 5_000
_WITHOUT_NEWS_MAX = 4  # rounds over all cuts that find nothing new


class Store(NamedTuple):
    """``forgetful``: beginnings of the names of those files that may lose what was not synced."""

    name: str
    work: str
    forgetful: tuple[str, ...]
    how: dict[str, bool]


_DEVICE = {"heals": True, "syncs": False}
STORES = (
    Store("log.db", "device", ("store/log.db",), {**_DEVICE, "tables": False, "copies": False}),
    Store("device", "device", ("",), _DEVICE),
    Store("cloud.db", "cloud", ("home/cloud.db",), {"syncs": False}),
    Store("archive", "cloud", ("",), {"syncs": False}),
)


class State(NamedTuple):
    """What is left on the disk, ``acknowledged`` steps after the beginning, cut off after operation ``cut``."""

    cut: int
    acknowledged: int
    files: Files


def run(pool: ProcessPoolExecutor, *, jobs: int, limit: int, seed: int) -> Iterator[Result]:
    with scratch() as folder:
        recordings: dict[str, Recording] = {}
        with Zygote() as zygote:
            for work in dict.fromkeys(store.work for store in STORES):
                recordings[work] = record(zygote, work, folder / work)
        for store in STORES:
            yield _store(pool, store, recordings[store.work], folder, jobs=jobs, limit=limit, seed=seed)


def _store(
    pool: ProcessPoolExecutor, store: Store, recording: Recording, folder: Path, *, jobs: int, limit: int, seed: int
) -> Result:
    tally = Tally("power", store.name, "states after a power cut", limit)
    cases = (
        (store.work, folder, number, state.acknowledged, store.how, state.files, state.cut)
        for number, state in enumerate(states(recording, store.forgetful, limit, random.Random(seed)))
    )
    for case, problems in spread(pool, jobs, judge_files, cases):
        tally.count("as acknowledged", problems, f"cut after operation {case[6]} of {len(recording.done)}")
    return tally.result(tally.cases)


def judge_files(
    work: str, folder: Path, number: int, acknowledged: int, how: dict[str, bool], files: Files, _cut: int
) -> list[str]:
    """Lay the files out, judge them, remove them."""
    base = folder / f"state-{number}"
    lay_out(base / DISK, files)
    try:
        return judged(work, base, acknowledged, how)
    finally:
        shutil.rmtree(base)


def states(recording: Recording, forgetful: tuple[str, ...], limit: int, chance: random.Random) -> Iterator[State]:
    """Up to ``limit`` distinct states: for each cut what was synced and everything, then chosen ones, over and over."""
    seen: set[bytes] = set()
    cuts = _cuts(recording)
    idle = 0
    for number in range(1 << 30):
        news = 0
        wanted = cuts if limit > 2 * len(cuts) or number else set(chance.sample(sorted(cuts), limit // 3))
        for state in _once(recording, forgetful, wanted, number, chance):
            digest = _digest(state)
            if digest not in seen:
                seen.add(digest)
                news += 1
                yield state
                if len(seen) == limit:
                    return
        idle = 0 if news else idle + 1
        if number > 1 and idle == _WITHOUT_NEWS_MAX:
            return


def _once(
    recording: Recording, forgetful: tuple[str, ...], cuts: set[int], number: int, chance: random.Random
) -> Iterator[State]:
    """One state for each cut: round 0 keeps what was synced, round 1 everything, the later ones as chance has it."""
    disk = Disk({}, forgetful)
    acknowledged = 0
    for at, (call, operation) in enumerate(recording.done):
        if operation.kind == "ack":
            acknowledged = operation.place
        disk.apply(operation, call.ended)
        if at in cuts:
            files = disk.after_power_cut(chance if number else None, everything=number == 1)
            yield State(at, acknowledged, {path: held for path, held in files.items() if not path.endswith("-shm")})


def _cuts(recording: Recording) -> set[int]:
    """After which operations to cut: an opening changes nothing."""
    return {at for at, (_, operation) in enumerate(recording.done) if _changes(operation)}


def _changes(operation: Operation) -> bool:
    return operation.kind != "open" and not operation.path.endswith("-shm")


def _digest(state: State) -> bytes:
    """Of the files, and of what must be in them: the same files are another case after another acknowledgement."""
    hasher = sha256(str(state.acknowledged).encode())
    for path, content in sorted(state.files.items()):
        name = path.encode()
        hasher.update(b"%d:%s" % (len(name), name))
        hasher.update(b"-" if content is None else b"%d:%s" % (len(content), content))
    return hasher.digest()
