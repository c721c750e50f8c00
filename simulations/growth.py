"""Growth: what 100,000 writes to 1,000 records leave on the disk, once the background care has done its work.

Records with a text and a vector of 384 numbers are written over and over, each write one durable commit, while the
runtime's own care runs beside it: nothing here compacts, trims or vacuums. Two devices of one fleet, with a real
control plane: *linked* is in sync all the time; *returning* writes without a link, settles, and syncs at the end. What
counts is the directory after each has settled, of the second also before it syncs (``unsent``), over the live data: the
directory of a new device that joins the fleet, pulls the 1,000 records, and settles with the same projections.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge import Collection, Edge, EdgeConfig
from simulations.benchmarks.measure import scratch
from simulations.control_plane import ControlPlane
from simulations.processes import ROOT, Children
from simulations.workloads import COLLECTION, TEXT_FIELD, memory_documents

WRITES, RECORDS, DIMENSIONS = 100_000, 1_000, 384
RATIO_MAX = 3.0
OUTPUT = ROOT / "build"
VECTOR_FIELD = "embedding"
_SAMPLES = 100
_TEXTS = 5_000
_QUIET_ROUNDS = 4
_SETTLE_S_MAX = 180.0
_PARTS = {"log.db": "log", "log.db-wal": "wal", "lance": "lance", "exact": "exact"}


class Sample(NamedTuple):
    """Bytes by part of the directory, after so many ``writes`` and seconds."""

    writes: int
    seconds: float
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class Grown(NamedTuple):
    """One device: its course, its ``peak``, and what is left ``after`` it has settled; ``unsent``: settled before it
    synced.
    """

    name: str
    samples: list[Sample]
    unsent: int | None
    after: int

    @property
    def worst(self) -> int:
        """Of the times when it had settled."""
        return max(self.after, self.unsent or 0)

    @property
    def peak(self) -> int:
        return max(sample.total for sample in self.samples)


def parts(store: Path) -> dict[str, int]:
    """The bytes of all files of a store's directory, by what they are."""
    found = dict.fromkeys([*_PARTS.values(), "other"], 0)
    for folder, _, names in os.walk(store):
        for name in names:
            path = Path(folder) / name
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                continue  # removed while we looked: then it does not count
            found[_PARTS.get(path.relative_to(store).parts[0], "other")] += size
    return found


def run(
    writes: int = WRITES, records: int = RECORDS, *, output: Path = OUTPUT, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Both devices, the new one, and the files ``growth.json`` and ``growth.svg``. Returns what is in the first."""
    with scratch() as folder, Children(folder) as children:
        cloud = ControlPlane(children, folder / "cloud")
        cloud.init(str(folder / "archive"))
        token = cloud.token(uses=3)
        url = f"http://127.0.0.1:{cloud.serve()}"
        grown = []
        for name in ("linked", "returning"):
            with _opened(folder / name) as edge:
                grown.append(_grow(name, edge, token, url, writes, records))
            say(f"{name}: {grown[-1].after:,} bytes, at most {grown[-1].peak:,}")
        with _opened(folder / "new") as edge:
            edge.join(token, name="new", url=url)
            edge.sync(url=url)
            if (held := _records(edge).count()) != records:
                raise AssertionError(f"the new device has {held} records instead of {records}")
            _use(edge)
            live = _settled(edge).total
    result = {
        "name": "growth",
        "writes": writes,
        "records": records,
        "live_bytes": live,
        "ratio": round(max(one.worst for one in grown) / live, 2),
        "target": f"ratio <= {RATIO_MAX:g}",
        "met": all(one.worst <= RATIO_MAX * live for one in grown),
        "devices": {
            one.name: {
                "after_bytes": one.after,
                "ratio": round(one.after / live, 2),
                "peak_bytes": one.peak,
                "unsent_bytes": one.unsent,
                "parts": one.samples[-1].parts,
            }
            for one in grown
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    courses = {one.name: [sample._asdict() for sample in one.samples] for one in grown}
    (output / "growth.json").write_text(json.dumps({**result, "samples": courses}, indent=1) + "\n")
    _plot(grown, live, output / "growth.svg")
    return result


def _opened(store: Path) -> Edge:
    """Plain settings, but for a shorter interval of care: what is measured is its effect, not our patience."""
    return Edge.open(store, config=EdgeConfig(flush_interval_ms=500))


def _records(edge: Edge) -> Collection:
    return edge.collection(COLLECTION, vector=(VECTOR_FIELD, DIMENSIONS, "cosine"), text=[TEXT_FIELD])


def _use(edge: Edge) -> None:
    """Both tiers are in use from here on, and cared for."""
    notes = _records(edge)
    notes.search("ba", k=1)
    notes.search(vector=np.ones(DIMENSIONS, np.float32), k=1)


def _grow(name: str, edge: Edge, token: str, url: str, writes: int, records: int) -> Grown:
    notes = _records(edge)
    _use(edge)
    if name == "linked":
        edge.join(token, name=name, url=url)
        edge.start_sync(url=url)
    samples = _write(edge, notes, writes, records)
    unsent = None
    if name == "returning":
        samples.append(_settled(edge, writes, samples))
        unsent = samples[-1].total
        edge.join(token, name=name, url=url)
    edge.sync(timeout_s=5 * _SETTLE_S_MAX, url=url)
    samples.append(_settled(edge, writes, samples))
    edge.stop_sync()
    if edge.status()["log"]["pending"]:
        raise AssertionError(f"{name} has not sent everything")
    return Grown(name, samples, unsent, samples[-1].total)


def _write(edge: Edge, notes: Collection, writes: int, records: int) -> list[Sample]:
    """Each write a commit of its own, of a record by chance, with another text and vector."""
    rng = random.Random(5)
    texts = [document.fields[TEXT_FIELD] for document in memory_documents(_TEXTS)]
    vectors = np.random.default_rng(5).standard_normal((_TEXTS, DIMENSIONS)).astype(np.float32)
    order = list(range(records)) + [rng.randrange(records) for _ in range(writes - records)]
    started = time.monotonic()
    samples = []
    for number, record in enumerate(order, 1):
        which = rng.randrange(_TEXTS)
        notes.put(f"{record:05}", {TEXT_FIELD: texts[which], VECTOR_FIELD: vectors[which], "number": number})
        if number % max(1, writes // _SAMPLES) == 0:
            samples.append(Sample(number, time.monotonic() - started, parts(Path(edge.path))))
    return samples


def _settled(edge: Edge, writes: int = 0, before: list[Sample] | None = None) -> Sample:
    """When the care has nothing left to do: the directory stays as it is for some rounds. Raises AssertionError."""
    started = time.monotonic()
    since = before[-1].seconds if before else 0.0
    rounds, last = 0, parts(Path(edge.path))
    while rounds < _QUIET_ROUNDS:
        if time.monotonic() - started > _SETTLE_S_MAX:
            raise AssertionError(f"the store does not settle: {edge.status()['projections']}")
        time.sleep(0.75)
        now = parts(Path(edge.path))
        status = edge.status()["projections"]
        late = any(tier["lag"] for name, tier in status["tiers"].items() if name == "lance")
        rounds = rounds + 1 if now == last and not late else 0
        last = now
    return Sample(writes, since + time.monotonic() - started, last)


def _plot(grown: list[Grown], live: int, path: Path) -> None:
    import pygal  # noqa: PLC0415 - 100 ms that only this needs

    chart = pygal.XY(
        js=[],
        show_dots=False,
        title="What a store takes on the disk",
        x_title="seconds",
        y_title="MB",
        width=1000,
        height=500,
        legend_at_bottom=True,
    )
    longest = max(one.samples[-1].seconds for one in grown)
    for one in grown:
        for part in ("all", *_PARTS.values()):
            course = [
                (round(sample.seconds, 1), (sample.total if part == "all" else sample.parts[part]) / 1e6)
                for sample in one.samples
            ]
            chart.add(f"{one.name}: {part}", course, stroke_style={"width": 3 if part == "all" else 1})
    for times in (1, RATIO_MAX):
        level = times * live / 1e6
        chart.add(f"{times:g} x live data", [(0, level), (longest, level)], stroke_style={"dasharray": "4, 4"})
    chart.render_to_file(str(path))
