"""All planted bugs, in the order of their areas."""

from __future__ import annotations

from simulations.mutants import (
    Mutant,
    archive,
    cloud,
    device,
    erasing,
    feed,
    identity,
    keeping,
    merging,
    rollouts,
    scopes,
    session,
    steering,
    storage,
    time,
    trials,
)

_AREAS = (
    session,
    merging,
    device,
    storage,
    cloud,
    feed,
    time,
    identity,
    archive,
    erasing,
    rollouts,
    scopes,
    steering,
    keeping,
    trials,
)
MUTANTS: list[Mutant] = [mutant for area in _AREAS for mutant in area.MUTANTS]
