"""Permissions: what a policy lets an agent do with a collection, kept once it was asked for (ADR 24).

The first [[agent]] whose name matches decides: what it denies is denied; without ``allow`` all else is allowed, with it
what it lists alone. An agent that none matches may do everything, as without a policy. What an agent has of its own is
named ``agent.memories``, ``agent.documents``, ``agent.attachments``, ``agent.vectors``, ``agent.state``.

It keeps order among agents of one process; it is no sandbox. ``further`` (Cedar) is asked for what is allowed here, and
can only deny more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sync.errors import InvalidValue
from sync.patterns import Patterns
from sync.policy_tables import ACTIONS, AgentRule

Further = Callable[[str, str, str], bool]
_KEPT_MAX = 4_096


class Permissions:
    def __init__(self, rules: Sequence[AgentRule] = (), further: Further | None = None) -> None:
        self._rules = rules
        self._further = further
        self._agents: Patterns[None] = Patterns((rule.name, at, None) for at, rule in enumerate(rules))
        self._lists = [_lists_of(rule) for rule in rules]
        self._kept: dict[tuple[str, str, str], bool] = {}

    def may(self, agent: str, action: str, collection: str) -> bool:
        """``action`` is "read" or "write". Raises InvalidValue."""
        asked = (agent, action, collection)
        found = self._kept.get(asked)
        return self._decided(asked) if found is None else found

    def _decided(self, asked: tuple[str, str, str]) -> bool:
        agent, action, collection = asked
        if action not in ACTIONS:
            raise InvalidValue(f"an action is read or write, not {action!r:.40}")
        found = self._listed(agent, action, collection) and (self._further is None or self._further(*asked))
        if len(self._kept) >= _KEPT_MAX:
            self._kept.clear()
        self._kept[asked] = found
        return found

    def _listed(self, agent: str, action: str, collection: str) -> bool:
        met = self._agents.met(agent)
        if not met:
            return True
        allowed, denied = self._lists[met[0][0]][action]
        return not denied.met(collection) and (allowed is None or bool(allowed.met(collection)))


def _lists_of(rule: AgentRule) -> dict[str, tuple[Patterns[None] | None, Patterns[None]]]:
    """By action, what is allowed (None: everything) and what is denied."""
    return {
        action: (
            None if rule.allow is None else _patterns(getattr(rule.allow, action)),
            _patterns(getattr(rule.deny, action)),
        )
        for action in ACTIONS
    }


def _patterns(names: Sequence[str]) -> Patterns[None]:
    return Patterns((name, at, None) for at, name in enumerate(names))
