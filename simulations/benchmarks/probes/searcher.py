"""``KIND DIR``: answers searches over JSON lines; KIND is exact or lance (our tiers), numpy or lancedb (the baselines).

``{"do": "time", "mode": "vector" | "text", "first": n, "count": m}`` → the median of m searches in milliseconds;
``{"do": "keys", "count": m}`` → the keys that each of the first m vector searches finds.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from edge import Edge, EdgeConfig
from simulations.child import serve
from simulations.vectors import DIMENSIONS, VECTOR_FIELD, Floats, directions, scan, vectors
from simulations.workloads import COLLECTION, TEXT_FIELD, memory_documents, phrases

QUERIES = 1_000
K = 10
RECORDS = 20_200
NEVER_MS = 3_600_000
Search = Callable[[Any], list[str]]


def ours(folder: Path, tier: str) -> tuple[Search, Search]:
    exact_mib = 150 if tier == "exact" else 0
    config = EdgeConfig(flush_interval_ms=NEVER_MS, exact_mib_max=exact_mib)
    memories = Edge.open(folder / f"store-{tier}", config=config, create=False).collection(COLLECTION)

    def search(**what: Any) -> list[str]:
        hits = memories.search(k=K, **what)
        if any(hit.tier != tier for hit in hits) and "vector" in what:
            raise AssertionError(f"answered by {hits[0].tier}, not by {tier}")
        return [hit.key for hit in hits]

    return lambda vector: search(vector=vector), lambda text: search(text=text)


def bare(folder: Path) -> tuple[Search, Search]:
    keys: list[str] = json.loads((folder / "keys.json").read_text())
    matrix = directions(np.load(folder / "vectors.npy"))

    def by_vector(vector: Floats) -> list[str]:
        return [keys[place] for place in scan(matrix, directions(vector.reshape(1, DIMENSIONS))[0], K)]

    def by_text(_: str) -> list[str]:
        raise AssertionError("numpy searches no text")

    return by_vector, by_text


def raw(folder: Path) -> tuple[Search, Search]:
    lancedb: Any = import_module("lancedb")  # in this process alone
    table = lancedb.connect(folder / "raw").open_table(COLLECTION)

    def by_vector(vector: Floats) -> list[str]:
        query = table.search(vector, vector_column_name=VECTOR_FIELD).distance_type("cosine").limit(K)
        return [row["key"] for row in query.to_list()]

    def by_text(text: str) -> list[str]:
        query = table.search(text, query_type="fts", fts_columns=TEXT_FIELD).limit(K)
        return [row["key"] for row in query.to_list()]

    return by_vector, by_text


def main(kind: str, folder: Path) -> None:
    found = raw(folder) if kind == "lancedb" else bare(folder) if kind == "numpy" else ours(folder, kind)
    searches = dict(zip(("vector", "text"), found, strict=True))
    queries: dict[str, Any] = {
        "vector": vectors(QUERIES, seed=11),
        "text": phrases(memory_documents(RECORDS), QUERIES),
    }

    def time(mode: str, first: int, count: int) -> float:
        seconds = []
        for place in range(first, first + count):
            query = queries[mode][place % QUERIES]
            started = perf_counter()
            searches[mode](query)
            seconds.append(perf_counter() - started)
        return median(seconds) * 1000

    def keys(count: int) -> list[list[str]]:
        return [searches["vector"](query) for query in queries["vector"][:count]]

    serve({"time": time, "keys": keys})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
