"""What a store must be after it was interrupted, whoever did it: opened, read, searched, verified, written to, synced.

``expected`` is how many steps were acknowledged; the store must hold what these lead to, or one step more, if that
was under way. Or it is the states that are right. Every function returns what is wrong, in sentences; none of them
knows how the store was interrupted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud.server.creation import create_home
from cloud.server.home import Home
from cloud.storage.archive.restore import restore_fleet
from cloud.storage.archive.verify import verify
from cloud.storage.sqlite_store import SqliteStore
from edge import Collection, Edge
from edge.ports import SystemRandom
from simulations.crash.disk import Files
from simulations.crash.steps import CLOUD, COLLECTION, DECLARATION, DEVICE, DIMENSIONS, State, Step, states
from simulations.crash.wire import join, synchronise
from simulations.crash.work import CONFIG, DISK, open_home
from sync.errors import AgentDBError
from sync.images import image_values
from sync.schema import unpack_vector

_MANY = 100
_ARCHIVING = ("archive", "snapshot")


Expected = int | tuple[State, ...]
"""How many steps were acknowledged, or the states that are right."""


RETURNED = "a change that had failed is there"


def device(
    base: Path,
    expected: Expected,
    *,
    tables: bool = True,
    heals: bool = False,
    syncs: bool = True,
    copies: bool = True,
    returned: tuple[State, ...] = (),
) -> list[str]:
    """The device below ``base``. ``heals``: projections may be found damaged once, and are whole then. ``tables``: the
    LanceDB tier is looked at too. ``syncs``: with its control plane beside it. ``copies``: its snapshot is looked at.
    ``returned``: states that are no more than noted, as ``RETURNED``.
    """
    problems: list[str] = []
    with Edge.open(base / DISK / "store") as edge:
        found = read(edge)
        if found not in _allowed(DEVICE, expected):
            problems.append(RETURNED if found in returned else _differs(found, DEVICE, expected))
        if COLLECTION in edge.collections():
            problems += [f"before verify: {problem}" for problem in searches(edge, found, tables=tables)]
        first = edge.verify()
        if first and not heals:
            problems += [f"verify: {problem}" for problem in first]
        problems += [f"second verify: {problem}" for problem in edge.verify()]
        if COLLECTION in edge.collections():
            problems += [f"after verify: {problem}" for problem in searches(edge, found, tables=tables)]
        problems += _still_writes(edge)
        if syncs:
            problems += _still_syncs(base, edge)
    if copies and isinstance(expected, int) and _done(DEVICE, "snapshot", expected):
        with Edge.open(base / DISK / "snapshot") as edge:
            at = [step.kind for step in DEVICE].index("snapshot")
            if read(edge) != states(DEVICE)[at]:
                problems.append("the snapshot does not hold what the store held")
            problems += [f"snapshot: {problem}" for problem in edge.verify()]
    return problems


def _done(steps: Sequence[Step], kind: str, acknowledged: int) -> bool:
    return any(step.kind == kind for step in steps[:acknowledged])


def _allowed(steps: tuple[Step, ...], expected: Expected) -> tuple[State, ...]:
    return states(steps)[expected : expected + 2] if isinstance(expected, int) else expected


def read(edge: Edge) -> State:
    """All records of the collection, the vectors as plain lists."""
    if COLLECTION not in edge.collections():
        return {}
    return {key: shown(fields) for key, fields in edge.collection(COLLECTION).scan()}


def shown(fields: dict[str, Any]) -> dict[str, Any]:
    vector = fields.get("v")
    return fields if vector is None else {**fields, "v": list(vector)}


def _differs(found: State, steps: tuple[Step, ...], expected: Expected) -> str:
    others = [number for number, state in enumerate(states(steps)) if state == found]
    if others and isinstance(expected, int):
        return f"it is as after step {others[-1]}, but {expected} were acknowledged"
    right = _allowed(steps, expected)[0]
    wrong = sorted(key for key in {*found, *right} if found.get(key) != right.get(key))
    return f"these records are not as they were acknowledged: {', '.join(wrong)}"


def searches(edge: Edge, expected: State, *, tables: bool) -> list[str]:
    """Each search must find what the records say, and say what they are."""
    notes = edge.collection(COLLECTION)
    if notes.schema.vector is None:  # not declared yet when it was interrupted
        return []
    problems = []
    query = [1.0, -1.0, 0.5, 2.0]
    ranked = sorted(expected, key=lambda key: -_cosine(expected[key]["v"], query))
    hits = notes.search(vector=query, k=_MANY)
    if sorted(hit.key for hit in hits) != sorted(ranked):
        problems.append(f"exact search found {[hit.key for hit in hits]} of {ranked}")
    problems += _wrong(notes, [(hit.key, hit.fields) for hit in hits], expected, "exact search")
    if tables:
        texts = notes.search("number", k=_MANY)
        if sorted(hit.key for hit in texts) != sorted(expected):
            problems.append(f"text search found {[hit.key for hit in texts]} of {sorted(expected)}")
        problems += _wrong(notes, [(hit.key, hit.fields) for hit in texts], expected, "text search")
        rows = notes.to_arrow().to_pylist()
        if sorted(row["_key"] for row in rows) != sorted(expected):
            problems.append(f"the table has the rows {sorted(row['_key'] for row in rows)} of {sorted(expected)}")
    return problems


def _wrong(notes: Collection, hits: Sequence[tuple[str, dict[str, Any]]], expected: State, where: str) -> list[str]:
    wrong = [key for key, fields in hits if shown(fields) != expected.get(key)]
    return [f"{where} shows other fields of {', '.join(wrong)} than {notes.name!r} holds"] if wrong else []


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = [sum(value * value for value in vector) ** 0.5 for vector in (one, other)]
    return float(sum(a * b for a, b in zip(one, other, strict=True)) / (lengths[0] * lengths[1] or 1.0))


def _still_writes(edge: Edge) -> list[str]:
    fields = {"body": "written after it", "v": [1.0] * DIMENSIONS}
    edge.collection(COLLECTION, **DECLARATION).put("after", fields)
    return [] if shown(edge.collection(COLLECTION).get("after") or {}) == fields else ["a new record is not there"]


def _still_syncs(base: Path, edge: Edge) -> list[str]:
    """Both sides have the same afterwards; a control plane that was never made is made now."""
    with open_home(base / "cloud") as home:
        join(edge, home, "device")
        synchronise(edge, home)
        same = cloud_state(home) == read(edge)
    return [] if same else ["after a sync, device and cloud hold different records"]


# -- the control plane ------------------------------------------------------------------------------------------------


def cloud(
    base: Path, expected: Expected, *, syncs: bool = True, archives: tuple[State, ...] = (), made: bool = True
) -> list[str]:
    """The control plane below ``base`` and its archive. ``syncs``: with the devices beside it; else a new one comes.
    ``archives`` are the states that an archive may be in, if ``expected`` does not say it. Not ``made``: making it may
    have failed, and can be done again then.
    """
    directory = base / DISK / "home"
    if not (directory / "cloud.db").exists():
        if expected == 0:
            return []  # it was being made when it was interrupted: that is begun again elsewhere
        if not made:
            create_home(directory, "crash", CONFIG)
    if isinstance(expected, int):
        runs = [number for number, step in enumerate(CLOUD[:expected], 1) if step.kind in _ARCHIVING]
        was_archived = bool(runs)
        archives = states(CLOUD)[(runs or [0])[-1] : expected + 2]
    else:
        was_archived = False
    problems: list[str] = []
    with Home.open(directory) as home:
        found = cloud_state(home)
        if found not in _allowed(CLOUD, expected):
            problems.append(_differs(found, CLOUD, expected))
        problems += [f"verify: {problem}" for problem in home.store.verify()]
        if home.config.archive.url != "objects":
            problems.append("the configuration is not what was acknowledged")
        problems += archive(home, archives, needed=was_archived)
        with home.archiving() as writer:
            writer.run_once()
        problems += [f"archived again: {problem}" for problem in archive(home, (found,), needed=True)]
        problems += _cloud_syncs(base, home, syncs=syncs)
    return problems


def cloud_state(home: Home) -> State:
    with home.store.reading() as view:
        return _records(view, home.fleet.fleet)


def _records(view: Any, fleet: bytes) -> State:
    state: State = {}
    for row in view.records(fleet, None, 10_000, 1 << 30):
        values = image_values(row.image) if row.collection == COLLECTION else None
        if values is not None:
            state[row.key] = {**values, "v": list(unpack_vector(values["v"]))}
    return state


def archive(home: Home, allowed: Sequence[State], *, needed: bool) -> list[str]:
    """What was archived when it was acknowledged can be restored, from the objects and the keys alone."""
    fleet = home.fleet.fleet
    report = verify(home.objects, home.keys, fleet, anchor=home.anchor)
    problems = [f"archive: {problem.object}: {problem.what}" for problem in report.problems]
    if report.manifests == 0:
        return [*problems, "an archive that was acknowledged is not there"] if needed else problems
    with scratch() as folder:
        store = SqliteStore.open(folder / "restored.db")
        try:
            restored = restore_fleet(home.objects, home.keys, store, fleet, random=SystemRandom(), anchor=home.anchor)
            with store.reading() as view:
                found = _records(view, restored.fleet)
        finally:
            store.close()
    if found not in allowed:
        problems.append(f"what was restored is not what was archived: {sorted(found)}")
    return problems


def _cloud_syncs(base: Path, home: Home, *, syncs: bool) -> list[str]:
    with scratch() as folder:
        places = [folder / "new", *(base / name for name in "ab" if syncs and (base / name / "log.db").exists())]
        stores = [Edge.open(place) for place in places]
        try:
            for _ in range(2):
                for edge in stores:
                    join(edge, home, edge.path.rpartition("/")[2])
                    synchronise(edge, home)
            states_now = [read(edge) for edge in stores]
        finally:
            for edge in stores:
                edge.close()
    return [] if all(state == cloud_state(home) for state in states_now) else ["cloud and devices differ after a sync"]


# -- states on a real file system -------------------------------------------------------------------------------------


def fast_folder() -> Path:
    """Where files that need not survive anything are made: in memory, if there is such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - no secret lies there, and the name below it is random
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agentdb-crash-", dir=fast_folder()) as name:
        yield Path(name)


def lay_out(root: Path, files: Files) -> None:
    """These files and no others, as private as the originals."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o700, parents=True)
    for path, content in files.items():
        if content is None:
            (root / path).mkdir(mode=0o700)
        else:
            (root / path).touch(mode=0o600)
            (root / path).write_bytes(content)


def picked_up(root: Path) -> Files:
    """The opposite of ``lay_out``."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def judged(kind: str, base: Path, expected: Expected, how: dict[str, Any]) -> list[str]:
    """As ``device`` or ``cloud`` says; an error that they meet is a problem, too."""
    try:
        return device(base, expected, **how) if kind == "device" else cloud(base, expected, **how)
    except AgentDBError as error:
        return [f"{type(error).__name__}: {error} ({error.hint})"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict on this state, and named
        return [f"{type(error).__name__}: {error}"]
