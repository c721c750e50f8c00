"""Search: k = 10 over 20,000 records of 384 dimensions that are projected, and 200 more that are not yet.

``search_ms``: p50 by vector, exact tier, fields included. Baseline: raw lancedb, flat, over the same 20,200 rows; also
against a bare numpy scan of them (``numpy_ms``, ``numpy_ratio``), which knows no keys, no fields and no fresh records.
``search_recall``: share of the true 10 best (by numpy) that are found. ``search_lance_ms``: the same search through the
LanceDB tier, against raw lancedb. ``search_text_ms``: p50 of three-word BM25 searches, against raw lancedb's.

Each is a process of its own, because libraries and their thread pools influence each other; they take turns.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from simulations.benchmarks.measure import Goal, Measurement, alternate, probe, scratch
from simulations.processes import Child, Children, environment

K = 10
ROUNDS = 15
QUERIES = 20
WARM_QUERIES = 150  # the first hundred allocate memory and are up to twice as slow
RECALL_QUERIES = 200
TIMEOUT_S = 300.0
_RAW = "raw lancedb over the same rows"


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    with scratch() as folder, Children(folder) as children:
        make_store(folder, "exact", "lance")
        searchers = {
            kind: children.start(kind, probe("searcher"), kind, str(folder))
            for kind in ("exact", "lance", "numpy", "lancedb")
        }
        exact, numpy, raw, lance = searchers["exact"], searchers["numpy"], searchers["lancedb"], searchers["lance"]
        if "search_ms" in wanted:
            yield _exact(exact, numpy, raw)
        if "search_recall" in wanted:
            truth = numpy.call("keys", count=RECALL_QUERIES, answer_s=TIMEOUT_S)
            yield Measurement(
                "search_recall",
                _recall(truth, exact),
                "share",
                RECALL_QUERIES,
                1.0,
                (Goal("value", ">=", 1),),
                extra={"lance_tier": _recall(truth, lance), "raw_lancedb": _recall(truth, raw)},
                baseline_is="exact, by numpy",
            )
        for name, mode, goals in (
            ("search_lance_ms", "vector", (Goal("ratio", "<=", 1.25),)),
            ("search_text_ms", "text", ()),
        ):
            if name in wanted:
                ours_ms, raw_ms = alternate(ROUNDS, _timer(lance, mode), _timer(raw, mode))
                yield Measurement(name, ours_ms, "ms", ROUNDS, raw_ms, goals, baseline_is=_RAW)


def make_store(folder: Path, *copies: str) -> None:
    """``folder/store`` as ``probes/search_store.py`` says, and a copy for each process that will have one open."""
    subprocess.run([sys.executable, probe("search_store"), str(folder)], env=environment(), check=True)
    for copy in copies:
        shutil.copytree(folder / "store", folder / f"store-{copy}")


def _exact(exact: Child, numpy: Child, raw: Child) -> Measurement:
    ours_ms, numpy_ms, raw_ms = alternate(
        ROUNDS, _timer(exact, "vector"), _timer(numpy, "vector"), _timer(raw, "vector")
    )
    return Measurement(
        "search_ms",
        ours_ms,
        "ms",
        ROUNDS,
        raw_ms,
        (Goal("ratio", "<=", 0.2), Goal("numpy_ratio", "<=", 2.5)),
        extra={"numpy_ms": numpy_ms, "numpy_ratio": ours_ms / numpy_ms},
        baseline_is=_RAW,
    )


def _timer(searcher: Child, mode: str) -> Callable[[], float]:
    """Asks for the p50 of the next queries, in milliseconds; warm, because each process searches a while before."""
    searcher.call("time", mode=mode, first=0, count=WARM_QUERIES, answer_s=TIMEOUT_S)
    place = WARM_QUERIES

    def ask() -> float:
        nonlocal place
        place += QUERIES
        p50: float = searcher.call("time", mode=mode, first=place, count=QUERIES, answer_s=TIMEOUT_S)
        return p50

    return ask


def _recall(truth: list[list[str]], searcher: Child) -> float:
    found = searcher.call("keys", count=len(truth), answer_s=TIMEOUT_S)
    same = sum(len(set(true) & set(hits)) for true, hits in zip(truth, found, strict=True))
    return same / sum(len(true) for true in truth)
