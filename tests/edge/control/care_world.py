"""A store whose models are cared for by hand: its clock stands still, its probes say what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge import Edge
from edge.control.model_store import COUNTED_EVERY_MS, ModelStore
from edge.control.probing import Outcome
from sync.activation import COMMITTED
from sync.models import Soak
from tests.edge.control.model_world import Shelf, assign, contents, model, settle

FILES = {number: model([[float(number), 2.0], [3.0, 4.0]], note="x" * 3000 * number) for number in range(1, 7)}
SOAK = Soak(uptime_s=120, uses=3)


class Clock:
    """Stands still unless it is told to go on."""

    now_ms = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    monotonic_ms = wall_ms


class World:
    """A store whose models are cared for by hand. ``verdicts``: number -> what its probes say."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder / "shelf")
        self.clock = Clock()
        self.verdicts: dict[int, str] = {}
        self.tried: list[int] = []
        self.store = folder / "store"
        self.edge = Edge.open(self.store)
        self.models = self.begin()

    def begin(self, **how: Any) -> ModelStore:
        models = ModelStore(self.edge.log, self.edge.path, self.clock, runners={}, probe=self.probe, **how)
        models.connect(self.shelf.fill)
        return models

    def probe(self, folder: Path, manifest: Any, _runner: object, _stopped: object) -> Outcome:
        assert contents(folder) == FILES[manifest.number], "what is tried is whole"
        self.tried.append(manifest.number)
        return Outcome(self.verdicts.get(manifest.number, ""), {"loads": {"headers": 1}})

    def again(self, *, clean: bool = True) -> None:
        """Another process begins."""
        if clean:
            self.models.close()
        else:
            self.models._let_go("embed")
        self.models = self.begin()

    def give(self, number: int, soak: Soak = SOAK, **how: Any) -> None:
        assign(self.models, number, self.shelf.publish(number, FILES[number], soak=soak, **how))

    def install(self, number: int, soak: Soak = SOAK, **how: Any) -> None:
        self.give(number, soak, **how)
        settle(self.models)

    def pass_time(self, ms: int) -> None:
        self.clock.now_ms += ms
        self.models.advance()

    def keep(self) -> None:
        """What soaks does well."""
        for _ in range(3):
            self.models.report_use("embed", ok=True, ms=7.0)
        self.pass_time(COUNTED_EVERY_MS)
        self.pass_time(COUNTED_EVERY_MS)
        assert self.state == COMMITTED

    @property
    def state(self) -> str:
        return self.models.note("embed").state

    def using(self) -> int:
        """The number that ``path`` gives."""
        found = contents(self.models.path("embed"))
        return next(number for number, files in FILES.items() if files == found)
