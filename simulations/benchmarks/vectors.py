"""A space of 100,000 vectors of 384 numbers, in clusters as embeddings are: ``vector_knn_ms``, the nearest 10 by the
exact tier, against numpy's matrix product in memory; ``ann_knn_ms``, the same by the approximate index, against an
exact search of the same LanceDB table; ``ann_recall``, its recall@10 for queries that are not stored, against numpy.

Baseline of the last: numpy, which finds all.
Medians (``p99`` beside them). The index is what background care makes of it, by the product's own threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np

from edge import Edge, EdgeConfig, Vectors
from simulations.benchmarks.measure import Goal, Measurement, scratch
from sync.schema import pack_vector

VECTORS, DIMENSIONS, QUERIES, K = 100_000, 384, 100, 10
CENTRES = 1_000


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    rows = _clustered(VECTORS, 1)
    queries = _clustered(QUERIES, 2)
    with scratch() as folder:
        with Edge.open(folder, config=EdgeConfig(durability="relaxed")) as edge:
            space = edge.agent("guide").vectors("bench", dimension=DIMENSIONS)
            space.upsert_many((f"{at:07}", row) for at, row in enumerate(rows))
            if "vector_knn_ms" in wanted:
                yield _exact(space, rows, queries)
        if wanted - {"vector_knn_ms"}:
            yield from _approximate(folder, rows, queries)


def _clustered(count: int, seed: int) -> Any:
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIMENSIONS)).astype(np.float32)
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(CENTRES, size=count)] + rng.standard_normal((count, DIMENSIONS)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _exact(space: Vectors, rows: Any, queries: Any) -> Measurement:
    space.knn(queries[0], K)
    mine, raw = [], []
    for query in queries:
        raw.append(_ms(lambda query=query: _numpy(rows, query)))
        mine.append(_ms(lambda query=query: space.knn(query, K)))
    found = space.knn(queries[0], K)
    if [int(hit.key) for hit in found] != _numpy(rows, queries[0]).tolist():
        raise AssertionError("the exact tier does not find what numpy finds")
    return _measured("vector_knn_ms", mine, raw, "numpy: matrix product, partition", ())


def _approximate(folder: Path, rows: Any, queries: Any) -> Iterator[Measurement]:
    config = EdgeConfig(durability="relaxed", exact_mib_max=0, flush_interval_ms=3_600_000)
    with Edge.open(folder, config=config) as edge:
        space = edge.agent("guide").vectors("bench")
        tables = edge.projections.tables()
        tables.flush()
        started = perf_counter()
        edge.projections.attend()
        tables.near.ann.wait()
        took_s = perf_counter() - started
        status = space.status()
        name = next(one for one in edge.collections() if one.startswith("agent.vectors."))
        packed = [pack_vector(query, DIMENSIONS) for query in queries]
        space.knn(queries[0], K)
        mine, raw, hit = [], [], 0
        for query, stored in zip(queries, packed, strict=True):
            raw.append(_ms(lambda stored=stored: tables.search_vector(name, stored, K)))
            mine.append(_ms(lambda query=query: space.knn(query, K)))
            hit += len({int(one.key) for one in space.knn(query, K)} & set(_numpy(rows, query).tolist()))
        said = {
            "index": status["approximate"],
            "build_s": took_s,
            "measured": status["index"].get("recall", 0.0),
            "partitions": status["index"].get("partitions", 0),
            "probes": status["index"].get("probes", 0),
        }
        yield _measured("ann_knn_ms", mine, raw, "an exact search of the same LanceDB table", (Goal("ratio", "<=", 1),))
        yield Measurement(
            "ann_recall", hit / K / QUERIES, "share", QUERIES, 1.0, (Goal("value", ">=", 0.95),), extra=said
        )


def _measured(name: str, mine: list[float], raw: list[float], baseline: str, goals: tuple[Goal, ...]) -> Measurement:
    extra = {"p99": quantiles(mine, n=100)[98]}
    return Measurement(name, median(mine), "ms", len(mine), median(raw), goals, extra=extra, baseline_is=baseline)


def _numpy(rows: Any, query: Any) -> Any:
    scores = rows @ query
    best = np.argpartition(-scores, K)[:K]
    return best[np.argsort(-scores[best])]


def _ms(call: Any) -> float:
    started = perf_counter()
    call()
    return (perf_counter() - started) * 1e3
