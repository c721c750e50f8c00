"""PolicyKeeper: which of a device's writes the active policy keeps on the device, and why (ADR 24): ``local``, records
that are larger than their rule sends, and, while nothing fresh was heard of the fleet for so long that it asks for
``writes-local``, all of them.

What always holds: the system's own collections, declarations and erasures among them, are never kept. Under a policy
that cannot be read, all else that is written stays here until one can: nobody knows what it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.storage import kept_back
from edge.storage.kept_back import ALL, LOCAL, NOT_SENT
from sync.lanes import NORMAL
from sync.places import is_of_agents
from sync.policy import Policy
from sync.scope import ScopeTable

if TYPE_CHECKING:
    from edge.control.policy import ActivePolicy
    from edge.storage.delta_log import DeltaLog
    from edge.storage.kept_back import Keeper

NOT_WRITTEN = ("down", "absent")  # directions of places at which nothing is written here
WRITES_LOCAL = "writes-local"
STALE_NOTE = "writes_local"  # of the log: whether it holds
SIZE, STALE, UNREAD = "record-size", "stale", "unread"


class PolicyKeeper:
    """``stale``: its ``writes-local`` holds."""

    def __init__(self, policy: Policy | None, scope: ScopeTable, *, stale: bool = False) -> None:
        self._scope = scope
        self._stale = stale
        rules = policy.sync if policy is not None else ()
        self.measures = any(rule.record_bytes_max for rule in rules)
        self.keeps = stale or self.measures or any(rule.direction == "local" for rule in rules)

    def bound(self, collection: str, key: str) -> int:
        rule = self._scope.rule(collection, key)
        if rule.direction == "local":
            return ALL
        if not rule.is_sent or _is_the_systems(collection):
            return 0  # nothing is written there but notes of our own
        return ALL if self._stale else rule.record_bytes_max

    def why(self, collection: str, key: str, size: int) -> str:
        rule = self._scope.rule(collection, key)
        if not rule.is_sent:
            return LOCAL if rule.direction == "local" else NOT_SENT
        if self._stale and not _is_the_systems(collection):
            return STALE
        return SIZE if 0 < rule.record_bytes_max < size else ""

    def may_send(self, collection: str) -> bool:
        if self._stale and not _is_the_systems(collection):
            return False
        return self._scope.sends(collection)

    def defers(self, collection: str) -> bool:
        return self._scope.sends(collection)

    def rule_of(self, collection: str, key: str) -> int:
        """The number of the [[sync]] that decides; 0: none does."""
        return self._scope.rule(collection, key).number


class UnreadKeeper:
    """Of a policy that cannot be read."""

    keeps, measures = True, False

    def bound(self, collection: str, _key: str) -> int:
        return 0 if _is_the_systems(collection) else ALL

    def why(self, collection: str, _key: str, _size: int) -> str:
        return "" if _is_the_systems(collection) else UNREAD

    def may_send(self, collection: str) -> bool:
        return _is_the_systems(collection)

    def defers(self, _collection: str) -> bool:
        return True

    def rule_of(self, _collection: str, _key: str) -> int:
        return 0


def held_back(log: DeltaLog, keeper: Keeper) -> list[dict[str, Any]]:
    """As rows of ``status["deferred"]``: what is kept back for now; not what a rule keeps here for good. Raises
    StorageError.
    """
    found: dict[tuple[int, str], list[int]] = {}
    for one in kept_back.deferred(log, keeper):
        found.setdefault((keeper.rule_of(one.collection, one.key), one.why), []).append(one.size)
    return [
        {"lane": NORMAL, "rule": rule, "records": len(sizes), "bytes": sum(sizes), "why": why, "until_ms": 0}
        for (rule, why), sizes in sorted(found.items())
    ]


def keeper_of(log: DeltaLog, active: ActivePolicy) -> PolicyKeeper:
    """Raises StorageError."""
    steps = active.document.staleness if active.document is not None else ()
    asked = any(step.do == WRITES_LOCAL for step in steps)
    return PolicyKeeper(active.document, active.scope, stale=asked and bool(log.meta_get(STALE_NOTE)))


def _is_the_systems(collection: str) -> bool:
    return collection.startswith("_") and not is_of_agents(collection)
