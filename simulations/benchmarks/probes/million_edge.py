"""Open a store of very many records, read 1,000 of them."""

import random
import sys

from edge import Edge
from simulations.workloads import COLLECTION

with Edge.open(sys.argv[1], create=False) as edge:
    notes = edge.collection(COLLECTION)
    rng = random.Random(1)
    for _ in range(1_000):
        if notes.get(f"{rng.randrange(1_000_000):07}") is None:
            raise SystemExit("a record is missing")
