"""``create DIR``: a table of 1,000 memory documents. ``put DIR``: open it and add one row."""

import sys

import lancedb

ROW = {"key": "cold", "agent": "agent-1", "at_ms": 1, "importance": 0.5, "tags": ["plan"], "text": "a cold start"}

db = lancedb.connect(sys.argv[2])
if sys.argv[1] == "create":
    from simulations.workloads import memory_documents

    rows = [{"key": document.key, **document.fields} for document in memory_documents(1_000)]
    db.create_table("memories", rows)
else:
    db.open_table("memories").add([ROW])
