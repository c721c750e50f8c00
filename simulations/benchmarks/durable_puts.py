"""``put_durable_ops_s``: single puts by one thread, each on the disk before it returns.

Baseline: SQLite alone through the same driver, WAL and ``synchronous=FULL``, one commit for each document (packed in
the round, as ours is). Both write the same documents in short rounds that take turns, into stores that grow equally.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge import Edge
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch, timed
from simulations.workloads import COLLECTION, memory_documents

PUTS = 250
ROUNDS = 20


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - there is one
    documents = memory_documents(PUTS * (ROUNDS + 1))
    ours_left, raw_left = iter(documents), iter(documents)
    with scratch() as folder, Edge.open(folder / "store") as edge:
        memories = edge.collection(COLLECTION)
        db = raw_sqlite.connect(folder / "raw.db")

        def ours() -> None:
            for _ in range(PUTS):
                document = next(ours_left)
                memories.put(document.key, document.fields)

        def raw() -> None:
            for _ in range(PUTS):
                db.execute(raw_sqlite.INSERT, raw_sqlite.row_of(next(raw_left)))

        value, baseline = alternate(ROUNDS, lambda: PUTS / timed(ours), lambda: PUTS / timed(raw))
        db.close()
    yield Measurement(
        "put_durable_ops_s",
        value,
        "ops/s",
        ROUNDS,
        baseline,
        (Goal("ratio", ">=", 0.75),),
        baseline_is="raw SQLite, synchronous=FULL, single-row commits",
    )
