"""``get_us``: reading a record by its key from a warm store of 10,000, fields decoded.

Baseline: SQLite alone, ``SELECT`` by primary key and msgpack decoding of the same fields.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgpack

from edge import Edge
from simulations.benchmarks import raw_sqlite
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch, timed
from simulations.workloads import COLLECTION, memory_documents

RECORDS = 10_000
GETS = 2_000
ROUNDS = 15


def run(wanted: frozenset[str]) -> Iterator[Measurement]:  # noqa: ARG001 - there is one
    documents = memory_documents(RECORDS)
    keys = [document.key for document in random.Random(1).sample(documents, GETS)]
    with scratch() as folder, Edge.open(folder / "store") as edge:
        memories = edge.collection(COLLECTION)
        with edge.batch():
            for document in documents:
                memories.put(document.key, document.fields)
        db = raw_sqlite.connect(folder / "raw.db")
        raw_sqlite.insert_many(db, raw_sqlite.rows_of(documents))

        def ours() -> None:
            for key in keys:
                memories.get(key)

        def raw() -> None:
            for key in keys:
                for (body,) in db.execute(raw_sqlite.SELECT, (key,)):
                    msgpack.unpackb(body)

        expected = {document.key: document.fields for document in documents}
        if any(memories.get(key) != expected[key] for key in keys):
            raise AssertionError("get did not return what was put")
        value, baseline = alternate(ROUNDS, lambda: timed(ours) / GETS * 1e6, lambda: timed(raw) / GETS * 1e6)
        db.close()
    yield Measurement(
        "get_us",
        value,
        "us",
        ROUNDS,
        baseline,
        (Goal("value", "<=", 30),),
        baseline_is="raw SQLite select + msgpack decode",
    )
