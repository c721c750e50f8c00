"""``DIR``: make what searches are measured on, and end without closing anything, as a crash would.

``DIR/store``: 20,000 records with text and a 384-d vector, in both projections, and 200 more that are in neither.
``DIR/raw``: the same 20,200 rows as a plain lancedb table with a full-text index. ``DIR/vectors.npy`` and
``DIR/keys.json``: the same once more, for exact answers. ``DIR/query.f32``: one query.
"""

import json
import os
import sys
from pathlib import Path

import lancedb
import numpy as np
from lancedb.index import FTS

from edge import Edge, EdgeConfig
from simulations.vectors import DIMENSIONS, VECTOR_FIELD, vectors
from simulations.workloads import COLLECTION, TEXT_FIELD, memory_documents

PROJECTED, FRESH, BATCH = 20_000, 200, 2_000
NEVER_MS = 3_600_000  # the projection is brought up to date here, and by no timer

folder = Path(sys.argv[1])
documents = memory_documents(PROJECTED + FRESH)
rows = vectors(len(documents))
edge = Edge.open(folder / "store", config=EdgeConfig(flush_interval_ms=NEVER_MS))
memories = edge.collection(COLLECTION, vector=(VECTOR_FIELD, DIMENSIONS, "cosine"), text=[TEXT_FIELD])


def put(first: int, last: int) -> None:
    for at in range(first, last, BATCH):
        with edge.batch():
            for place in range(at, min(at + BATCH, last)):
                document = documents[place]
                memories.put(document.key, {**document.fields, VECTOR_FIELD: rows[place]})


put(0, PROJECTED)
memories.search(vector=rows[0])  # writes the exact tier's matrix
edge.lance(COLLECTION)  # and the tables
put(PROJECTED, PROJECTED + FRESH)

raw = lancedb.connect(folder / "raw").create_table(
    COLLECTION,
    [{"key": doc.key, **doc.fields, VECTOR_FIELD: row} for doc, row in zip(documents, rows, strict=True)],
)
raw.create_index(TEXT_FIELD, config=FTS())
np.save(folder / "vectors.npy", rows)
(folder / "keys.json").write_text(json.dumps([document.key for document in documents]))
(folder / "query.f32").write_bytes(vectors(1, seed=99)[0].tobytes())
sys.stdout.flush()
os._exit(0)
