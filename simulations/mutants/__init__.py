"""Planted bugs: faults that a fleet would suffer from under some schedule, for the simulator to find.

Each exchanges a few lines of one file for others. What always holds (``tests/simulations/test_mutants.py``): ``old`` is
in its file exactly once, and the file with ``new`` in its place is Python. None crashes on import or shows at the first
write: they lose, double, bring back, leak or hold up something when requests are lost, processes die, disks fail,
clocks differ, stores are copied or the cloud is restored. All of them are in ``simulations.mutants.catalogue``.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``path`` from the root of the repository; ``why`` it is a fault, and what it takes to see it. ``test``: the test
    that finds it, where no run of a fleet shows it (two transactions at once, a bound that no run reaches, what a rule
    decides); "" for what the sweep has to find. ``scenario``: in which it is hunted, "" for each seed's own.
    """

    name: str
    path: str
    old: str
    new: str
    why: str
    test: str = ""
    scenario: str = ""
