"""What is interrupted: models come to a store, soak, are kept and returned. A process of its own.

``python -m tests.crash.model_work BASE FD`` does all of ``STEPS``, when it is told to over the socket FD, and says
``ack N`` after each: that is recorded and replayed. ``python -m tests.crash.model_work BASE --kill N`` takes up what is
left to do, with real probes and threads, and kills itself at the Nth point: before and after each commit of a note, in
the middle of a file, while probes run.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge import Edge, EdgeConfig
from edge.control.model_filling import Filling
from edge.control.model_store import ModelStore
from edge.control.probing import Outcome, run_probes
from edge.storage.model_tables import ModelTables
from sync.activation import COMMITTED, RETURNED
from sync.models import Errors, Golden, Soak
from tests.edge.control.model_world import Shelf, assign, copy_files, model

STORE = "disk/store"
GOOD = [[1.0, 0.0], [0.0, 1.0]]
BAD = [[9.0, 0.0], [0.0, 1.0]]  # answers wrongly
FILES = {number: model(BAD if number == 4 else GOOD, note="x" * 900 * number) for number in (1, 2, 3, 4, 5)}
SOAKS = {3: Soak(uptime_s=10**6), 5: Soak()}
SOAK = Soak(uses=2)
PROBES = [Golden([1.0, 2.0], [1.0, 2.0], 1e-6), Errors(share_max=0.0, of_at_least=2)]
# What each step leaves in use; 0: nothing.
STEPS: tuple[tuple[str, int, int], ...] = (
    ("open", 0, 0),
    ("assign", 1, 0),
    ("fetch", 1, 0),
    ("try", 1, 1),
    ("use", 1, 1),
    ("assign", 2, 1),
    ("fetch", 2, 1),
    ("try", 2, 2),
    ("use", 2, 2),
    ("assign", 3, 2),
    ("fetch", 3, 2),
    ("try", 3, 3),
    ("fail", 3, 2),
    ("assign", 4, 2),
    ("fetch", 4, 2),
    ("try", 4, 2),
    ("damage", 2, 0),
    ("fetch", 2, 0),
    ("try", 2, 2),
    ("use", 2, 2),
    ("assign", 5, 2),
    ("fetch", 5, 2),
    ("try", 5, 5),
)


class Still:
    """A clock that does not go on: all uptime is that of uses."""

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    monotonic_ms = wall_ms


def shelf(base: Path) -> Shelf:
    return Shelf(base / "shelf")


def documents(base: Path, number: int) -> tuple[bytes, bytes]:
    return shelf(base).publish(number, FILES[number], soak=SOAKS.get(number, SOAK), probes=PROBES)


def stub(_folder: Path, manifest: Any, _runner: object, _stopped: object) -> Outcome:
    return Outcome("golden: answers wrongly" if manifest.number == 4 else "", {})


def opened(base: Path, edge: Edge) -> ModelStore:
    models = ModelStore(edge.log, edge.path, Still(), runners={}, probe=stub)
    models.connect(shelf(base).fill)
    return models


def do(base: Path, models: ModelStore, what: str, number: int) -> None:
    if what == "assign":
        assign(models, number, documents(base, number))
    elif what == "fetch":
        assert models.fetch() == 1, models.problems
    elif what == "try":
        assert models.advance() == 1, models.problems
    elif what in ("use", "fail"):
        for _ in range(2):
            models.report_use("embed", ok=what == "use")
    elif what == "damage":
        path = models.slots("embed").path("b") / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(bytes(len(data)))
        assert models.verify()


def record(base: Path, link: socket.socket) -> None:
    link.send(b"ready")
    assert link.recv(64) == b"go"
    with Edge.open(base / STORE) as edge:
        models = opened(base, edge)
        for at, (what, number, active) in enumerate(STEPS, 1):
            do(base, models, what, number)
            note = models.note("embed")
            assert (note.active.number if note.active is not None else 0) == active, (what, number, note)
            link.send(b"ack %d" % at)
        models.close()


# -- with real processes ----------------------------------------------------------------------------------------------


class Points:
    """Kills this process when it comes to the Nth of them."""

    def __init__(self, last: int) -> None:
        self._left = last

    def here(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*args: Any, **options: Any) -> Any:
            self.here()
            result = work(*args, **options)
            self.here()
            return result

        return done


def live(base: Path, kill_at: int) -> None:
    """Version 2 after version 1, then 4, which is bad; ends when it is through."""
    points = Points(kill_at)
    ModelTables.commit = points.around(ModelTables.commit)  # type: ignore[method-assign]
    defaults = ModelStore.__init__.__kwdefaults__
    assert defaults is not None
    defaults["probe"] = points.around(run_probes)

    def fill(filling: Filling) -> None:
        source = base / "shelf" / str(filling.documents.manifest.number)
        part = filling.folder / "model.safetensors"
        part.write_bytes((source / "model.safetensors").read_bytes()[:40])
        points.here()
        copy_files(source, filling)

    config = EdgeConfig(models_runners={"toy": "tests.edge.control.runner:run"})
    with Edge.open(base / STORE, config=config) as edge:
        edge.models.connect(fill)
        for number in (1, 2, 4):
            while not is_done(edge.models, number):
                if edge.models.note("embed").active is None or number != 1:
                    assign(edge.models, number, documents(base, number))
                with edge.models.changed:
                    edge.models.changed.wait(0.05)
                if using(edge.models) == number:
                    edge.models.report_use("embed")
    sys.stdout.write("through\n")


def using(models: ModelStore) -> int:
    note = models.note("embed")
    return note.active.number if note.active is not None else 0


def is_done(models: ModelStore, number: int) -> bool:
    note = models.note("embed")
    if number == 4:
        return any(one.number == 4 for one in models.tables.refused("embed"))
    return using(models) > number or (using(models) == number and note.state in (COMMITTED, RETURNED))


if __name__ == "__main__":
    if sys.argv[2] == "--kill":
        live(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        record(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
