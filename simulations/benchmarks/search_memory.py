"""``search_rss_mb``: peak resident memory of a process that opens the store of 20,200 records and searches by vector.

Baseline: a process that opens a raw lancedb table of the same rows and searches it.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulations.benchmarks.measure import Goal, Measurement, probe, scratch, whole_processes
from simulations.benchmarks.search import make_store

ROUNDS = 3


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - there is one
    with scratch() as folder:
        make_store(folder, "memory")
        ours, baseline = whole_processes(
            ROUNDS, [probe("search_edge"), str(folder)], [probe("search_lancedb"), str(folder)]
        )
    yield Measurement(
        "search_rss_mb",
        ours.rss_mb,
        "MB",
        ROUNDS,
        baseline.rss_mb,
        (Goal("value", "<=", 120),),
        extra={"process_ms": ours.wall_ms, "baseline_process_ms": baseline.wall_ms},
        baseline_is="a raw lancedb process",
    )
