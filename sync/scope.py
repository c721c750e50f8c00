"""ScopeTable: a policy's [[sync]] rules, compiled: which rule a place has, and whether it is in a device's scope.

The first rule that matches decides; the last resort is both, normal, live. The *scope* of a device is the places whose
rule's direction is both or down; it depends on collection and key alone, so that the cloud filters a page without any
state. Both sides use this module: they have to find the same.

What always holds: the answer is that of trying the rules one by one (``tests/sync/test_scope.py``), for the price of a
look-up in a dict and one by bisection among the prefixes of the collection. System collections that are no agent's
always sync. What is kept of names that were asked for is bounded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from sync.patterns import Patterns, one_of
from sync.places import agent_of, escaped, has_namespaces, is_of_agents
from sync.policy_tables import SyncRule, Urgent

_KEPT_MAX = 4_096
_KINDS_MAX = 20_000


class Coverage(Enum):
    """How much of a collection is in scope."""

    NONE = 0
    SOME = 1
    ALL = 2


class Rule(NamedTuple):
    """How a place syncs. ``number`` is that of the [[sync]] table, from 1; 0 is the last resort."""

    number: int = 0
    direction: str = "both"
    priority: str = "normal"
    urgent_when: Urgent | None = None
    interval_s: int = 0
    record_bytes_max: int = 0
    age_days_max: int = 0
    vectors: str = ""

    @property
    def in_scope(self) -> bool:
        """Whether this device gets what others write there."""
        return self.direction in ("both", "down")

    @property
    def is_sent(self) -> bool:
        """Whether others get what is written here."""
        return self.direction in ("both", "up")

    def lane(self, fields: Mapping[str, Any]) -> str:
        """The priority of a write of these fields."""
        when = self.urgent_when
        if when is not None:
            value: Any = fields.get(when.field)
            if isinstance(value, (int, float)) and type(value) is not bool and value >= when.at_least:
                return "urgent"
        return self.priority


class Region(NamedTuple):
    """Places that are decided alike. ``of`` "collection": ``name`` is one or a glob, ``part`` a prefix of keys;
    "agent": the same of agents, ``part`` a namespace. A part "" is the rest; so is a glob, of what no longer one and no
    name has.
    """

    of: str
    name: str
    part: str


class ScopeChange(NamedTuple):
    gains: frozenset[Region]
    loses: frozenset[Region]


LAST_RESORT = Rule()
_Chain = tuple[list[str], list[Rule]]  # from the nth bound on, up to the next, the rule n + 1; before the first, rule 0
_Terms = list[tuple[int, tuple[str, ...]]]  # (order of a rule, its prefixes or namespaces; none: all)


class ScopeTable:
    """Of the rules of a policy; of none everything syncs."""

    def __init__(self, rules: Sequence[SyncRule] = ()) -> None:
        self._rules = [*(_compiled(at, rule) for at, rule in enumerate(rules, 1)), LAST_RESORT]
        collections: list[tuple[str, int, tuple[str, ...]]] = []
        agents: list[tuple[str, int, tuple[str, ...]]] = []
        for at, rule in enumerate(rules):
            collections += [(pattern, at, rule.prefixes) for pattern in rule.collections]
            names = tuple(map(escaped, rule.namespaces))
            agents += [(escaped(pattern), at, names) for pattern in rule.agents]
        self._collections = Patterns(collections)
        self._agents = Patterns(agents)
        self.patterns = {"collection": self._collections, "agent": self._agents}
        self._agents_age = any(rule.agents and rule.age_days_max for rule in rules)
        self._chains: dict[str, _Chain | None] = {}  # None: of agents
        self._owners: dict[tuple[str, str | None], Rule] = {}
        self._coverage: dict[str, Coverage] = {}

    def rule(self, collection: str, key: str) -> Rule:
        try:
            chain = self._chains[collection]
        except KeyError:
            chain = self._chain(collection)
        if chain is not None:
            return chain[1][bisect_right(chain[0], key)]
        owner = agent_of(collection, key) or ("", None)
        return self._owners.get(owner) or self._owner(owner)

    def has(self, collection: str, key: str) -> bool:
        """Whether a place is in scope."""
        return self.rule(collection, key).in_scope

    def covers(self, collection: str) -> Coverage:
        """SOME may be said of what is all or nothing, never the other way."""
        found = self._coverage.get(collection)
        if found is None:
            found = self._coverage[collection] = self._covered(collection)
            if len(self._coverage) > _KEPT_MAX:
                self._coverage.clear()
        return found

    def sends(self, collection: str) -> bool:
        """Whether any place of it is sent; True may be said of none, never the other way."""
        chain = self._held(collection)
        return chain is None or any(rule.is_sent for rule in chain[1])

    def ages(self, collection: str) -> bool:
        """Whether some of a collection may be too old to be here: of all agents', if a rule says it of one's."""
        chain = self._held(collection)
        return self._agents_age if chain is None else any(rule.age_days_max for rule in chain[1])

    def reached(self) -> frozenset[int]:
        """The numbers of the rules that some place has."""
        kinds = map(one_of, self._collections.kinds())
        found = {self._rules[at].number for kind in kinds for at in self._parts(kind)[1]}
        for kind in map(one_of, self._agents.kinds()):
            met = self._agents.met(kind)
            found |= {self._first(met, namespace).number for namespace in [None, *_parts_of(met)]}
        return frozenset({0, *found})  # system collections have the last resort

    def at(self, region: Region) -> Rule:
        """The rule of a region that this policy does not divide."""
        name = one_of(region.name)
        if region.of == "agent":
            return self._first(self._agents.met(name), region.part)
        bounds, orders = self._parts(name)
        return self._rules[orders[bisect_right(bounds, region.part)]]

    def regions(self) -> list[Region]:
        return _regions(self)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _chain(self, collection: str) -> _Chain | None:
        chain: _Chain | None
        if is_of_agents(collection):
            chain = None
        elif collection.startswith("_"):
            chain = ([], [LAST_RESORT])
        else:
            bounds, orders = self._parts(collection)
            chain = (bounds, [self._rules[at] for at in orders])
        if len(self._chains) >= _KEPT_MAX:
            self._chains.clear()
        self._chains[collection] = chain
        return chain

    def _parts(self, collection: str) -> tuple[list[str], list[int]]:
        """Where the order of the first rule changes among the keys of a collection, and what it is from there on."""
        last = len(self._rules) - 1
        first_of: dict[str, int] = {}
        for at, prefixes in self._collections.met(collection):
            if not prefixes:
                last = at
                break
            for prefix in prefixes:
                first_of.setdefault(prefix, at)
        return _partitioned(first_of, last)

    def _owner(self, owner: tuple[str, str | None]) -> Rule:
        agent, namespace = owner
        rule = self._first(self._agents.met(agent), namespace)
        if len(self._owners) >= _KEPT_MAX:
            self._owners.clear()
        self._owners[owner] = rule
        return rule

    def _first(self, met: _Terms, namespace: str | None) -> Rule:
        for at, namespaces in met:
            if not namespaces or namespace in namespaces:
                return self._rules[at]
        return LAST_RESORT

    def _held(self, collection: str) -> _Chain | None:
        try:
            return self._chains[collection]  # asked once: another thread may clear it
        except KeyError:
            return self._chain(collection)

    def _covered(self, collection: str) -> Coverage:
        chain = self._held(collection)
        if chain is not None:
            return _coverage_of({rule.in_scope for rule in chain[1]})
        found: set[bool] = set()
        looked = 0
        for kind in map(one_of, self._agents.kinds()):
            met = self._agents.met(kind)
            for namespace in [None, *(_parts_of(met) if has_namespaces(collection) else ())]:
                found.add(self._first(met, namespace).in_scope)
                looked += 1
            if len(found) == 2 or looked > _KINDS_MAX:
                return Coverage.SOME
        return _coverage_of(found)


def changed(old: ScopeTable, new: ScopeTable) -> ScopeChange:
    """What comes into scope, and what goes out of it: of names and globs, not of records."""
    gains: set[Region] = set()
    loses: set[Region] = set()
    for region in _regions(old, new):
        before, after = old.at(region).in_scope, new.at(region).in_scope
        if before != after:
            (gains if after else loses).add(region)
    return ScopeChange(frozenset(gains), frozenset(loses))


def is_older(old: ScopeTable, new: ScopeTable) -> bool:
    """Whether something that was too old to be here is not any more."""
    for region in _regions(old, new):
        before, after = old.at(region).age_days_max, new.at(region)
        if before and after.in_scope and not 0 < after.age_days_max <= before:
            return True
    return False


def _regions(*tables: ScopeTable) -> list[Region]:
    """All that any of these policies tells apart."""
    found: list[Region] = []
    for of in ("collection", "agent"):
        every = [table.patterns[of] for table in tables]
        for name in sorted({name for patterns in every for name in patterns.kinds()}):
            met = [one for patterns in every for one in patterns.met(one_of(name))]
            found += [Region(of, name, part) for part in ["", *_parts_of(met)]]
    return found


def _parts_of(met: _Terms) -> list[str]:
    return sorted({part for _, parts in met for part in parts})


def _compiled(number: int, rule: SyncRule) -> Rule:
    return Rule(
        number,
        rule.direction,
        rule.priority,
        rule.urgent_when,
        rule.interval_s,
        rule.record_bytes_max,
        rule.age_days_max,
        rule.vectors,
    )


def _coverage_of(found: set[bool]) -> Coverage:
    if len(found) == 2:
        return Coverage.SOME
    return Coverage.ALL if True in found else Coverage.NONE


def _partitioned(first_of: Mapping[str, int], last: int) -> tuple[list[str], list[int]]:
    """Of prefixes and the order of the first rule that has each: prefixes are nested or apart, so that one walk over
    them, sorted, with those that are open, finds where it changes. ``last`` is that of no prefix.
    """
    bounds: list[str] = []
    orders = [last]

    def put(bound: str, order: int) -> None:
        if bounds and bounds[-1] == bound:
            bounds.pop()
            orders.pop()
        if orders[-1] != order:
            bounds.append(bound)
            orders.append(order)

    def close() -> None:
        prefix, _ = opened.pop()
        end = _after(prefix)
        if end is not None:
            put(end, opened[-1][1] if opened else last)

    opened: list[tuple[str, int]] = []
    for prefix in sorted(first_of):
        while opened and not prefix.startswith(opened[-1][0]):
            close()
        order = min(first_of[prefix], opened[-1][1] if opened else last)
        put(prefix, order)
        opened.append((prefix, order))
    while opened:
        close()
    return bounds, orders


def _after(prefix: str) -> str | None:
    """The least text that is greater than all with this prefix; None if there is none."""
    bare = prefix.rstrip("\U0010ffff")
    return bare[:-1] + chr(ord(bare[-1]) + 1) if bare else None
