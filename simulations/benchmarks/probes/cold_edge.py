"""Open the store, put one record durably, exit."""

import sys

from edge import Edge

with Edge.open(sys.argv[1]) as edge:
    edge.collection("memories").put("cold", {"agent": "agent-1", "importance": 0.5, "tags": [], "text": "a cold start"})
