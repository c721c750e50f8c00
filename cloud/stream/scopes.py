"""What of the feed a device may have: what is in the scope that it names *and* in the one that it is assigned (ADR 24).

A device names the scope under which its data is complete. So a widening is sent only once the device has asked for what
it lacks, and a narrowing holds at once, whatever a device names: it can name any policy of the fleet, and gets nothing
by it that it is not assigned.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol

from cloud.ports import Caller, Reading
from sync.scope import Coverage, ScopeTable, changed

EVERYTHING = ScopeTable()


class Scopes(Protocol):
    """Of a fleet's devices: (digest of the policy's bytes, its scope)."""

    def assigned(self, view: Reading, caller: Caller) -> tuple[bytes, ScopeTable] | None:
        """None: no policy; everything."""
        ...

    def named(self, view: Reading, caller: Caller, digest: bytes) -> ScopeTable:
        """Raises Refused for a digest that no policy of this fleet has."""
        ...


class Filter(Protocol):
    def covers(self, collection: str) -> Coverage: ...
    def has(self, collection: str, key: str) -> bool: ...


class Filtered(NamedTuple):
    """``filter`` None: everything. ``narrowed``: it keeps back some of what is in the scope that was named."""

    filter: Filter | None
    narrowed: bool


class Both:
    """What is in two scopes."""

    def __init__(self, one: ScopeTable, other: ScopeTable) -> None:
        self._one, self._other = one, other

    def covers(self, collection: str) -> Coverage:
        told = (self._one.covers(collection), self._other.covers(collection))
        if Coverage.NONE in told:
            return Coverage.NONE
        return Coverage.SOME if Coverage.SOME in told else Coverage.ALL

    def has(self, collection: str, key: str) -> bool:
        return self._one.has(collection, key) and self._other.has(collection, key)


def filtered(scopes: Scopes | None, view: Reading, caller: Caller, named: bytes) -> Filtered:
    """``named``: a digest, or b"" for everything. Raises Refused."""
    if scopes is None:
        return Filtered(None, narrowed=False)
    assigned = scopes.assigned(view, caller)
    if not named:
        if assigned is None:
            return Filtered(None, narrowed=False)
        return Filtered(assigned[1], narrowed=_loses(EVERYTHING, assigned[1]))
    if assigned is not None and named == assigned[0]:
        return Filtered(assigned[1], narrowed=False)
    table = scopes.named(view, caller, named)
    if assigned is None:
        return Filtered(table, narrowed=False)
    return Filtered(Both(table, assigned[1]), narrowed=_loses(table, assigned[1]))


@lru_cache(maxsize=256)
def _loses(old: ScopeTable, new: ScopeTable) -> bool:
    """Of 60 rules it takes 35 ms, and every page of a device that has not gone over asks it."""
    return bool(changed(old, new).loses)
