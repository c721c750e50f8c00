"""A flipped bit in any byte of any file of a closed store, one at a time.

Each time the store is opened, read, searched, verified, and where keys are concerned synced. What comes out is one of

* ``correct``: nothing was wrong, before verify or after (free space, or a copy that nobody needs);
* ``healed``: a projection was found damaged and rebuilt, and all is right then;
* ``typed error``: an AgentDBError, or verify that goes on to name the damage, and until then nothing wrong was shown;
* ``other setting``: a byte of cloud.toml that makes another valid configuration: text of the owner's, without checksum;
* ``lost tail``: of the write-ahead log of a killed process only: commits at its end are missing (ADR 0009).

Anything else is a violation: wrong data, another exception, a crash of the process that looks.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cloud.config import parse
from cloud.server.home import Home
from edge import Edge
from simulations.crash.disk import Files
from simulations.crash.judge import archive, cloud_state, lay_out, picked_up, read, scratch, searches
from simulations.crash.results import Result, Tally, spread
from simulations.crash.steps import CLOUD, COLLECTION, DEVICE, State, states
from simulations.crash.wire import join, synchronise
from simulations.crash.work import CONFIG, DISK, CloudWork, DeviceWork, Work, open_home
from sync.errors import AgentDBError

QUICK, FULL = 20, None
_LEFT_OPEN = {"device": 12, "cloud": 7}  # steps before a process is killed, for what is in its write-ahead log
_WAL_PAGES = 100_000
_SYNC_MS_MAX = 700  # it takes 10, and goes on trying with keys that are wrong
Outcome = tuple[str, list[str]]


class Target(NamedTuple):
    """A store, closed or (``killed``) as a killed process leaves it, with the files beside it; ``steps`` were done."""

    name: str
    files: Files
    steps: int
    killed: bool


class Kind(NamedTuple):
    """Files that are flipped and looked at in one way; ``pattern`` matches the names below ``base``."""

    target: str
    name: str
    pattern: str
    look: Callable[[Path, int], Outcome]


def run(pool: ProcessPoolExecutor, *, jobs: int, limit: int | None, seed: int) -> Iterator[Result]:
    with scratch() as folder:
        for target in _targets(folder):
            (folder / target.name).mkdir(exist_ok=True)
            for kind in KINDS:
                if kind.target == target.name:
                    yield _all(pool, target, kind, folder / target.name, jobs=jobs, limit=limit, seed=seed)


def _all(
    pool: ProcessPoolExecutor, target: Target, kind: Kind, folder: Path, *, jobs: int, limit: int | None, seed: int
) -> Result:
    chance = random.Random(f"{seed} {kind.name}")
    bytes_of = {path: len(held or b"") for path, held in target.files.items() if re.fullmatch(kind.pattern, path)}
    every = [(path, offset) for path, size in sorted(bytes_of.items()) for offset in range(size)]
    chosen = every if limit is None else sorted(chance.sample(every, min(limit, len(every))))
    template = folder / "template"
    lay_out(template, target.files)
    tally = Tally("flips", target.name, kind.name, len(chosen))
    cases = (
        (KINDS.index(kind), str(folder), number, target.steps, path, offset, (offset + seed) % 8)
        for number, (path, offset) in enumerate(chosen)
    )
    for case, (outcome, problems) in spread(pool, jobs, flip, cases):
        tally.count(outcome, problems, f"{case[4]}, byte {case[5]}, bit {case[6]}")
    return tally.result(len(every))


def flip(kind: int, folder: str, number: int, steps: int, path: str, offset: int, bit: int) -> Outcome:
    """One flip, in a copy of the store."""
    base = Path(folder) / str(number)
    lay_out(base, _template(folder))
    content = bytearray((base / path).read_bytes())
    content[offset] ^= 1 << bit
    (base / path).write_bytes(content)
    try:
        return KINDS[kind].look(base, steps)
    except AgentDBError as error:
        return ("typed error", []) if str(error) else ("error", ["an error without a message"])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in LanceDB is none of Exception's, and a verdict too
        return "error", [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(base)


@cache
def _template(folder: str) -> Files:
    return picked_up(Path(folder) / "template")


# -- the stores -------------------------------------------------------------------------------------------------------


def _targets(folder: Path) -> Iterator[Target]:
    made: dict[str, Callable[[Path], Work]] = {"device": DeviceWork, "cloud": CloudWork}
    for name, make in made.items():
        for killed in (False, True):
            base = folder / f"{name}-{killed}"
            (base / DISK).mkdir(parents=True)
            work = make(base)
            steps = work.steps[: _LEFT_OPEN[name] if killed else None]
            for step in steps:
                work.do(step)
                if killed:
                    _never_checkpoint(work)
            files = picked_up(base)
            work.close()
            yield Target(f"{name}, killed" if killed else name, files, len(steps), killed)


def _never_checkpoint(work: Work) -> None:
    """What a store leaves that was killed before its first checkpoint is the longest write-ahead log."""
    db = work.edge.log.writer.db if isinstance(work, DeviceWork) else None
    if isinstance(work, CloudWork):
        db = work.home.store._db  # noqa: SLF001 - what an owner cannot choose
    if db is not None:
        db.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")


# -- how they are looked at -------------------------------------------------------------------------------------------


def _device(base: Path, steps: int, *, tables: bool, syncs: bool = False) -> Outcome:
    expected = states(DEVICE)[steps]
    with Edge.open(base / DISK / "store", create=False) as edge:
        problems = _device_shows(edge, expected, tables=tables)
        found = edge.verify()
        again = edge.verify() if found else []
        problems += _device_shows(edge, expected, tables=tables)
        rebuilt = _rebuilt(edge)
        if syncs:
            with open_home(base / "cloud") as home:
                edge.collection(COLLECTION).put("more", {"body": "number", "v": [1.0, 2.0, 3.0, 4.0]})
                before = read(edge)
                synchronise(edge, home, _SYNC_MS_MAX)
                if not before == read(edge) == cloud_state(home):
                    problems.append("device and cloud differ after a sync")
    return "typed error" if again else "healed" if found or rebuilt else "correct", problems


def _device_shows(edge: Edge, expected: State, *, tables: bool) -> list[str]:
    """What is wrong with what it shows, and with what it would send."""
    problems = [] if read(edge) == expected else ["records are silently wrong"]
    problems += [
        f"an operation of {operation.key!r} would be sent, which nobody wrote"
        for operation in edge.log.pending(edge.log.acked_seq, 1000, 1 << 20)
        if operation.shape.collection == COLLECTION and operation.key not in _KEYS
    ]
    return problems + searches(edge, expected, tables=tables)


_KEYS = {step.key for step in DEVICE} | {f"b{number}" for number in range(8)}


def _rebuilt(edge: Edge) -> bool:
    held = edge.projections
    exact, tables = held._exact.values(), held._tables  # noqa: SLF001 - nobody else asks for it
    return any(index.rebuilds for index in exact) or (tables is not None and bool(tables.rebuilds))


def _log(base: Path, steps: int) -> Outcome:
    return _device(base, steps, tables=False)


def _projection(base: Path, steps: int) -> Outcome:
    return _device(base, steps, tables=True)


def _keys(base: Path, steps: int) -> Outcome:
    return _device(base, steps, tables=False, syncs=True)


def _device_wal(base: Path, steps: int) -> Outcome:
    with Edge.open(base / DISK / "store", create=False) as edge:
        found, problems = read(edge), edge.verify()
    return _tail(found, states(DEVICE)[: steps + 1], problems)


def _tail(found: State, history: tuple[State, ...], problems: list[str]) -> Outcome:
    if problems:
        return "typed error", []
    if found == history[-1]:
        return "correct", []
    return "lost tail", [] if found in history else ["records are silently wrong, and not as they ever were"]


def _cloud(base: Path, steps: int) -> Outcome:
    return _home(base, states(CLOUD)[steps], syncs=False)


def _cloud_keys(base: Path, steps: int) -> Outcome:
    return _home(base, states(CLOUD)[steps], syncs=True)


def _home(base: Path, expected: State, *, syncs: bool) -> Outcome:
    with Home.open(base / DISK / "home") as home:
        problems = [] if cloud_state(home) == expected else ["records are silently wrong"]
        reported = home.store.verify()
        if syncs:
            reported += _archived(home, expected, problems)
            problems += _serves(base, home)
    return "typed error" if reported else "correct", problems


def _archived(home: Home, expected: State, problems: list[str]) -> list[str]:
    """What verify says of the archive; what a restore silently gets wrong goes to ``problems``."""
    found = archive(home, (expected,), needed=True)
    problems += [problem for problem in found if not problem.startswith("archive: ")]
    return [problem for problem in found if problem.startswith("archive: ")]


def _serves(base: Path, home: Home) -> list[str]:
    """A device that has been there, and a new one."""
    kept: list[Any] = []
    for name in ("a", "new"):
        with Edge.open(base / name) as edge:
            join(edge, home, name)
            synchronise(edge, home, _SYNC_MS_MAX)
            kept.append(read(edge))
    return [] if all(state == cloud_state(home) for state in kept) else ["cloud and devices differ after a sync"]


def _objects(base: Path, steps: int) -> Outcome:
    problems: list[str] = []
    with Home.open(base / DISK / "home") as home:
        reported = _archived(home, states(CLOUD)[steps], problems)
        with home.archiving() as writer:
            writer.run_once()
    return "typed error" if reported else "correct", problems


def _settings(base: Path, steps: int) -> Outcome:
    with Home.open(base / DISK / "home") as home:
        other = home.config != parse(CONFIG, "cloud.toml")
    return ("other setting", []) if other else _cloud_keys(base, steps)


def _cloud_wal(base: Path, steps: int) -> Outcome:
    with Home.open(base / DISK / "home") as home:
        found, problems = cloud_state(home), home.store.verify()
    return _tail(found, states(CLOUD)[: steps + 1], problems)


KINDS = (
    Kind("device", "log.db", "disk/store/log.db", _log),
    Kind("device", "keys", "disk/store/keys/.*", _keys),
    Kind("device", "exact tier", "disk/store/exact/.*", _projection),
    Kind("device", "LanceDB tables", "disk/store/lance/.*", _projection),
    Kind("device, killed", "log.db-wal", "disk/store/log.db-wal", _device_wal),
    Kind("cloud", "cloud.db", "disk/home/cloud.db", _cloud),
    Kind("cloud", "keys", "disk/home/keys/(service.key|epoch.keys)", _cloud_keys),
    Kind("cloud", "archive.anchor", "disk/home/keys/archive.anchor", _objects),
    Kind("cloud", "cloud.toml", "disk/home/cloud.toml", _settings),
    Kind("cloud", "archive objects", "disk/home/objects/.*", _objects),
    Kind("cloud, killed", "cloud.db-wal", "disk/home/cloud.db-wal", _cloud_wal),
)
