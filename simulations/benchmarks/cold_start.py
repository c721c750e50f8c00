"""Cold start: a process starts, opens a store of 1,000 records, makes one durable put and exits.

``cold_start_ms``: wall time of the whole process, seen from outside. ``cold_start_rss_mb``: its peak resident memory.
Baseline: the same with raw lancedb (connect, open a table of the same 1,000 rows, add one).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edge import Edge
from simulations.benchmarks.measure import Goal, Measurement, probe, scratch, whole_processes
from simulations.processes import environment
from simulations.workloads import COLLECTION, memory_documents

RECORDS = 1_000
ROUNDS = 9


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - one run gives both
    with scratch() as folder:
        make_store(folder / "store")
        raw = str(folder / "lancedb")
        subprocess.run([sys.executable, probe("cold_lancedb"), "create", raw], env=environment(), check=True)
        ours, baseline = whole_processes(
            ROUNDS, [probe("cold_edge"), str(folder / "store")], [probe("cold_lancedb"), "put", raw]
        )
    yield Measurement(
        "cold_start_ms",
        ours.wall_ms,
        "ms",
        ROUNDS,
        baseline.wall_ms,
        (Goal("value", "<=", 100), Goal("ratio", "<=", 0.1)),
        baseline_is="raw lancedb: open, add one row",
    )
    yield Measurement(
        "cold_start_rss_mb",
        ours.rss_mb,
        "MB",
        ROUNDS,
        baseline.rss_mb,
        (Goal("value", "<=", 32),),
        baseline_is="raw lancedb: open, add one row",
    )


def make_store(path: Path) -> None:
    with Edge.open(path) as edge:
        memories = edge.collection(COLLECTION)
        with edge.batch():
            for document in memory_documents(RECORDS):
                memories.put(document.key, document.fields)
