"""``put_batch_ops_s``: ``edge.batch()`` of 1,000 new records, one durable transaction.

Baseline: SQLite alone, ``executemany`` of the same 1,000 rows in one transaction; packed in the round, as ours are.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge import Edge
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch, timed
from simulations.workloads import COLLECTION, Document, memory_documents

BATCH = 1_000
ROUNDS = 25


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - there is one
    documents = memory_documents(BATCH * (ROUNDS + 1))
    batches = [documents[at : at + BATCH] for at in range(0, len(documents), BATCH)]
    ours_left, raw_left = iter(batches), iter(batches)
    with scratch() as folder, Edge.open(folder / "store") as edge:
        memories = edge.collection(COLLECTION)
        db = raw_sqlite.connect(folder / "raw.db")

        def ours(batch: list[Document]) -> None:
            with edge.batch():
                for document in batch:
                    memories.put(document.key, document.fields)

        def raw(batch: list[Document]) -> None:
            raw_sqlite.insert_many(db, raw_sqlite.rows_of(batch))

        value, baseline = alternate(
            ROUNDS,
            lambda: BATCH / timed(lambda: ours(next(ours_left))),
            lambda: BATCH / timed(lambda: raw(next(raw_left))),
        )
        db.close()
    yield Measurement(
        "put_batch_ops_s",
        value,
        "ops/s",
        ROUNDS,
        baseline,
        (Goal("value", ">=", 60_000), Goal("ratio", ">=", 0.35)),
        any_goal=True,
        baseline_is="raw SQLite executemany of the same rows",
    )
