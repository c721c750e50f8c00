"""A store's link, put together: what it syncs with, whom it trusts, and which limits its links have.

Limits come from the active policy, class by class, and else from ``edge.toml``; what is urgent says the policy alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge.link.gate import Interval, LinkRules, Priority
from edge.policy_rounds import BULK_OFF, stale_steps
from edge.storage import policy_row
from sync.budgets import LinkLimits
from sync.errors import AgentDBError
from sync.lanes import URGENT

_log = logging.getLogger("agentdb.edge")

if TYPE_CHECKING:
    from edge.control.policy import ActivePolicy
    from edge.link.runner import Link
    from edge.node import Edge
    from sync.ports import Clock, RandomSource


def link_of(edge: Edge, clock: Clock, random: RandomSource) -> Link:
    """Raises ReadOnly, StorageError, CorruptStore."""
    from edge.link.runner import Link

    edge.log.check_writable()
    steered = (lambda: edge.trust, lambda: edge.twin)
    return Link(edge.log, edge.path, edge.config, clock, random, edge.cache, *steered, rules_of(edge))


def rules_of(edge: Edge) -> LinkRules:
    """What holds on this store, now and after each change of its policy; of one that cannot be read, what held before.
    Raises StorageError.
    """
    rules = LinkRules(edge.config.links, lambda: edge.link_class)
    seen: ActivePolicy | None = None
    begun = policy_row.is_there(edge.log)

    def follow() -> None:
        nonlocal seen
        if not begun and "_policies" not in vars(edge):  # no fleet steers it
            return
        try:
            active = edge.policy
        except AgentDBError as error:  # `status` and `policy show` say so; a device that does not sync is not mended
            _log.debug("the limits of links are as they were: %s", error)
            return
        if active is not seen and (seen is not None or active.document is not None):
            seen = active
            _apply(rules, edge, active)

    rules.follow = follow
    follow()
    return rules


def _apply(rules: LinkRules, edge: Edge, active: ActivePolicy) -> None:
    limits, priority, interval = {one.link_class: one for one in edge.config.links}, None, None
    if active.document is not None:
        limits |= {one.link_class: LinkLimits(*one) for one in active.document.link}
        if active.document.sync:
            priority = _priority(active)
        if any(rule.interval_s for rule in active.document.sync):
            interval = _interval(active)
    rules.limits, rules.priority, rules.interval = tuple(limits.values()), priority, interval
    rules.bulk_is_off = lambda: BULK_OFF in stale_steps(active.document, edge.trust)


def _priority(active: ActivePolicy) -> Priority:
    def priority(collection: str, key: str, fields: Callable[[], Mapping[str, Any]]) -> str:
        rule = active.rule(collection, key)
        lane: str = rule.priority if rule.urgent_when is None else rule.lane(fields())
        return lane

    return priority


def _interval(active: ActivePolicy) -> Interval:
    def interval(collection: str, key: str, fields: Callable[[], Mapping[str, Any]]) -> int:
        rule = active.rule(collection, key)
        urgent = rule.priority == URGENT or (rule.urgent_when is not None and rule.lane(fields()) == URGENT)
        return 0 if urgent else rule.interval_s

    return interval
