"""Planted bugs: faults that a fleet would suffer from under some schedule, to be found by the simulator.

Each is a few lines of one file that are exchanged for others. What always holds (``tests/simulations/test_mutants.py``):
``old`` is in its file exactly once, and the file with ``new`` in its place is Python. None crashes on import or shows at
the first write: they lose, double, bring back, leak or hold up something when requests are lost, processes die, disks
fail, clocks differ, stores are copied or the cloud is restored.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``path`` from the root of the repository; ``why`` it is a fault, and what it takes to see it."""

    name: str
    path: str
    old: str
    new: str
    why: str


def all_mutants() -> list[Mutant]:
    """In the order of their areas."""
    from simulations.mutants import archive, cloud, device, feed, identity, merging, session, storage

    areas = (session, merging, device, storage, cloud, feed, identity, archive)
    return [mutant for area in areas for mutant in area.MUTANTS]
