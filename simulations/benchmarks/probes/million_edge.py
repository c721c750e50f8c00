"""Open a store of very many records, read 1,000 of them; print the seconds and the peak resident memory in MB."""

import random
import resource
import sys
from time import perf_counter

from edge import Edge
from simulations.workloads import COLLECTION

started = perf_counter()
with Edge.open(sys.argv[1], create=False) as edge:
    notes = edge.collection(COLLECTION)
    rng = random.Random(1)
    for _ in range(1_000):
        if notes.get(f"{rng.randrange(1_000_000):07}") is None:
            raise SystemExit("a record is missing")
    print(perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
