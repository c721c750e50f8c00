"""The work that is interrupted: ``simulations.crash.steps``, done by a real store.

A work has a directory of its own, ``base``. What is watched, killed under and replayed is below ``base/disk``; what
else it needs (the other side of a sync) lies beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cloud.server.creation import create_home
from cloud.server.home import Home
from edge import Edge
from edge.config import EdgeConfig
from edge.storage import log_writer
from simulations.crash.steps import CLOUD, COLLECTION, DECLARATION, DEVICE, Step, batch, note
from simulations.crash.wire import join, synchronise

DISK = "disk"
FOLD_RECORDS = 6
CHECKPOINT_PAGES = 8
_NEVER_MS = 3_600_000


class Work(Protocol):
    """``changed`` is called when a step has changed a device's records, which may be before the step is done.
    ``patience_ms``: how long a sync goes on trying while the disk fails.
    """

    steps: tuple[Step, ...]
    changed: Callable[[], object]
    patience_ms: int

    def do(self, step: Step) -> None:
        """One acknowledged step. Raises AgentDBError, and may be called with the next one then."""

    def close(self) -> None: ...


def run(work: Work, acknowledge: Callable[[int], None]) -> None:
    for number, step in enumerate(work.steps, 1):
        work.do(step)
        acknowledge(number)


def open_home(base: Path) -> Home:
    """The control plane at ``base``, made first if there is none, or half of one."""
    if not (base / "cloud.db").exists():
        shutil.rmtree(base, ignore_errors=True)
        create_home(base, "crash", CONFIG)
    return Home.open(base)


def _nothing() -> None: ...


CONFIG = f'[archive]\nurl = "objects"\nsnapshot_interval_s = {7 * 86_400}\n'


class DeviceWork:
    """A device at ``base/disk/store``: writes of every kind, both search tiers, a snapshot, a fleet."""

    steps = DEVICE

    def __init__(self, base: Path) -> None:
        # Folds and checkpoints come often, so that interruptions meet them.
        log_writer.FOLD_RECORDS_MAX = FOLD_RECORDS
        self._base = base
        self.changed: Callable[[], object] = _nothing
        self.patience_ms = 20_000
        self.store = base / DISK / "store"
        self._held: Edge | None = None
        self._home: Home | None = None

    @property
    def edge(self) -> Edge:
        if self._held is None:
            # The background thread would make each run another one: what it does, the steps do.
            self._held = Edge.open(self.store, config=EdgeConfig(flush_interval_ms=_NEVER_MS))
            self._held.log.writer.db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        if COLLECTION not in self._held.collections():
            self._held.collection(COLLECTION, **DECLARATION)
        return self._held

    @property
    def home(self) -> Home:
        if self._home is None:
            self._home = open_home(self._base / "cloud")
        return self._home

    def do(self, step: Step) -> None:
        edge, notes = self.edge, self.edge.collection(COLLECTION)
        if change_records(edge, step):
            self.changed()
        elif step.kind == "search":
            notes.search(vector=[1.0, 0.0, 0.0, 1.0], k=5)
        elif step.kind == "flush":
            edge.projections.tables().flush()
        elif step.kind == "maintain":
            edge.projections.tables().flush()
            edge.projections.tables().maintain(force=True)
        elif step.kind == "trim":
            edge.projections.trim()
        elif step.kind == "snapshot":
            edge.snapshot(self.store.parent / "snapshot")
        elif step.kind == "join":
            join(edge, self.home, "device")
        elif step.kind == "sync":
            synchronise(edge, self.home, self.patience_ms)
        elif step.kind == "close":
            self.close()
        else:
            assert step.kind == "open", step

    def close(self) -> None:
        held, self._held = self._held, None
        home, self._home = self._home, None
        try:
            if held is not None:
                held.close()
        finally:
            if home is not None:
                home.close()


class CloudWork:
    """A control plane at ``base/disk/home`` with its archive; each change of its state is a device's push."""

    steps = CLOUD

    def __init__(self, base: Path) -> None:
        self._base = base
        self.changed: Callable[[], object] = _nothing
        self.patience_ms = 20_000
        self.directory = base / DISK / "home"
        self._home: Home | None = None
        self._devices: dict[str, Edge] = {}

    @property
    def home(self) -> Home:
        if self._home is None:
            if not (self.directory / "cloud.db").exists():
                create_home(self.directory, "crash", CONFIG)
            self._home = Home.open(self.directory)
            self._home.store._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")  # noqa: SLF001 - as above
        return self._home

    def device(self, name: str) -> Edge:
        if name not in self._devices:
            self._devices[name] = Edge.open(self._base / name)
        edge = self._devices[name]
        join(edge, self.home, name)
        if COLLECTION not in edge.collections():
            edge.collection(COLLECTION, **DECLARATION)
        return edge

    def do(self, step: Step) -> None:
        kind = step.kind
        if kind in ("init", "open"):
            assert self.home.fleet
        elif kind == "close":
            self.close()
        elif kind == "epoch":
            self.home.plane.enrollment.rotate(self.home.fleet.fleet, "a crash test")
        elif kind in ("archive", "snapshot"):
            with self.home.archiving() as archive:
                if kind == "archive":
                    archive.run_once()
                else:
                    archive.snapshot()
        else:
            edge = self.device("b" if kind == "second" else "a")
            if kind not in ("join", "second"):
                assert change_records(edge, step), step
                self.changed()
            synchronise(edge, self.home, self.patience_ms)

    def close(self) -> None:
        devices, self._devices = self._devices, {}
        for edge in devices.values():
            edge.close()
        home, self._home = self._home, None
        if home is not None:
            home.close()


def change_records(edge: Edge, step: Step) -> bool:
    """Whether it was a step that changes records; it has done so then."""
    notes = edge.collection(COLLECTION)
    if step.kind == "put":
        notes.put(step.key, note(step.number))
    elif step.kind == "patch":
        notes.patch(step.key, {"body": note(step.number)["body"]})
    elif step.kind == "increment":
        notes.increment(step.key, "n", step.number)
    elif step.kind == "delete":
        notes.delete(step.key)
    elif step.kind == "batch":
        with edge.batch():
            for key, fields in batch(step.number):
                notes.put(key, fields)
    else:
        return False
    return True


WORKS: dict[str, Callable[[Path], Work]] = {"device": DeviceWork, "cloud": CloudWork}
