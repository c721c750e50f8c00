"""``DIR``: open the raw lancedb table and search it once for each of ten queries; then exit."""

import sys
from array import array
from pathlib import Path

import lancedb
from lancedb.query import LanceVectorQueryBuilder

folder = Path(sys.argv[1])
query = list(array("f", (folder / "query.f32").read_bytes()))
table = lancedb.connect(folder / "raw").open_table("memories")
for _ in range(10):
    search = table.search(query, vector_column_name="embedding")
    assert isinstance(search, LanceVectorQueryBuilder)
    assert len(search.distance_type("cosine").limit(10).select(["key", "_distance"]).to_list()) == 10
