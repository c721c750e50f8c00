"""``DIR``: open the store and search it once for each of ten queries; then exit."""

import sys
from array import array
from pathlib import Path

from edge import Edge, EdgeConfig

folder = Path(sys.argv[1])
query = array("f", (folder / "query.f32").read_bytes())
with Edge.open(folder / "store-memory", config=EdgeConfig(flush_interval_ms=3_600_000)) as edge:
    for _ in range(10):
        assert len(edge.collection("memories").search(vector=query, k=10)) == 10
