"""Memories at size: ``memory_search_text_ms`` and ``memory_search_hybrid_ms`` over 100,000 memories of one namespace
with vectors of 384 numbers, k = 10, medians (``p99`` beside them); ``open_large_ms``: opening that store, and one read;
``open_million_mb``: peak resident memory of a process that opens a store of 1,000,000 records and reads 1,000.

The texts are the benchmark's documents; the vectors of an embedder that hashes words, so that texts with words in
common are near each other. Baseline of the text search: LanceDB's own full-text search over the same table.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np

from edge import CallableEmbedder, Edge, Memory
from simulations.benchmarks.measure import Goal, Measurement, probe, scratch, whole_processes
from simulations.workloads import COLLECTION, memory_documents

MEMORIES = 100_000
RECORDS = 1_000_000
QUERIES = 150
K = 10
DIMENSIONS = 384
_BATCH = 5_000


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    with scratch() as folder:
        if wanted - {"open_million_mb"}:
            yield from _searches(folder / "memories")
        if "open_million_mb" in wanted:
            yield _million(folder / "million")


def words(texts: Sequence[str]) -> Any:
    """Random vectors of their words, added up: 384 numbers for each text."""
    out = np.zeros((len(texts), DIMENSIONS), np.float32)
    for number, text in enumerate(texts):
        for word in text.split():
            if word not in _known:
                rng = np.random.default_rng(zlib.crc32(word.encode()))
                _known[word] = rng.standard_normal(DIMENSIONS, np.float32)
            out[number] += _known[word]
    return out


_known: dict[str, Any] = {}
EMBEDDER = CallableEmbedder(words, model="words-384", dimensions=DIMENSIONS)


def _searches(folder: Path) -> Iterator[Measurement]:
    documents = memory_documents(MEMORIES)
    queries = [" ".join(document.fields["text"].split()[:4]) for document in documents[:: MEMORIES // QUERIES]][
        :QUERIES
    ]
    with Edge.open(folder) as edge:
        memory = edge.agent("guide").memory(embedder=EMBEDDER)
        for at in range(0, MEMORIES, _BATCH):
            with edge.batch():
                for number, document in enumerate(documents[at : at + _BATCH], at):
                    memory.add(f"{document.fields['text']} {number}")
    opened, count = [], 0
    for _ in range(9):
        started = perf_counter()
        with Edge.open(folder) as edge:
            count += next(iter(edge.agent("guide").memory().all())) is not None
            opened.append((perf_counter() - started) * 1e3)
    yield Measurement("open_large_ms", median(opened), "ms", len(opened), None, (Goal("value", "<=", 100),))
    with Edge.open(folder) as edge:
        memory = edge.agent("guide").memory(embedder=EMBEDDER)
        memory.search("anything", K)
        edge.projections.tables().maintain(force=True)
        table = edge.lance("agent.memories")
        raw = [
            _timed(lambda query=query: table.search(query, query_type="fts").limit(K).to_list()) for query in queries
        ]
        for mode in ("text", "hybrid"):
            times = [_timed(lambda query=query, mode=mode: _search(memory, query, mode)) for query in queries]
            yield Measurement(
                f"memory_search_{mode}_ms",
                median(times),
                "ms",
                len(times),
                median(raw),
                (Goal("value", "<=", 20), Goal("p99", "<=", 60)),
                extra={"p99": quantiles(times, n=100)[98]},
                baseline_is="LanceDB's own full-text search",
            )


def _search(memory: Memory, query: str, mode: str) -> None:
    if len(memory.search(query, K, mode=mode)) != K:
        raise AssertionError("a search found too few")


def _timed(call: Any) -> float:
    started = perf_counter()
    call()
    return (perf_counter() - started) * 1e3


def _million(folder: Path) -> Measurement:
    with Edge.open(folder) as edge:
        notes = edge.collection(COLLECTION)
        some = memory_documents(10_000)
        for at in range(0, RECORDS, len(some)):
            with edge.batch():
                for number, document in enumerate(some, at):
                    notes.put(f"{number:07}", document.fields)
    (reading,) = whole_processes(3, [probe("million_edge"), str(folder)])
    return Measurement(
        "open_million_mb",
        reading.rss_mb,
        "MB",
        3,
        None,
        (Goal("value", "<=", 100),),
        extra={"process_ms": reading.wall_ms},
    )
