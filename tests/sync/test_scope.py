"""A compiled scope answers as trying the rules one by one would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.places import agent_of, escaped, is_of_agents
from sync.policy import Policy
from sync.policy_tables import SyncRule
from sync.scope import LAST_RESORT, Coverage, Region, Rule, ScopeTable, changed, is_older
from tests.sync.policies import agents_collections, collections, names, prefixes, sync_rules

rules = st.lists(sync_rules, max_size=8).map(
    lambda found: Policy.from_document({"schema": 1, "name": "a", "sync": found}).sync
)
parts = st.text("abc", max_size=3)
places = st.one_of(
    st.tuples(collections, st.one_of(prefixes, st.text(min_size=1, max_size=6))),
    st.tuples(agents_collections, st.builds("{}/{}/{}".format, parts, parts, parts)),
    st.tuples(agents_collections, parts.filter(bool)),
)


def meets(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def matches(rule: SyncRule, collection: str, key: str) -> bool:
    if is_of_agents(collection):
        agent, namespace = agent_of(collection, key) or ("", None)
        named = any(meets(escaped(pattern), agent) for pattern in rule.agents)
        return named and (not rule.namespaces or namespace in [*map(escaped, rule.namespaces)])
    if collection.startswith("_"):
        return False
    named = any(meets(pattern, collection) for pattern in rule.collections)
    return named and (not rule.prefixes or key.startswith(rule.prefixes))


def first(found: Sequence[SyncRule], collection: str, key: str) -> int:
    return next((at for at, rule in enumerate(found, 1) if matches(rule, collection, key)), 0)


@settings.get_profile("costly laws")
@given(rules, st.lists(places, min_size=1, max_size=20))
def test_the_first_that_matches_decides(found: Sequence[SyncRule], asked: list[tuple[str, str]]) -> None:
    table = ScopeTable(found)
    for collection, key in [*asked, *asked]:
        number = first(found, collection, key)
        rule = table.rule(collection, key)
        assert rule.number == number
        if number:
            told = found[number - 1]
            assert rule == Rule(number, *told[4:])
        else:
            assert rule is LAST_RESORT
        assert table.has(collection, key) == (rule.direction in ("both", "down"))


@settings.get_profile("costly laws")
@given(rules, st.one_of(collections, agents_collections), st.lists(places, max_size=20), st.data())
def test_what_covers_says_holds_for_every_key(
    found: Sequence[SyncRule], collection: str, asked: list[tuple[str, str]], data: st.DataObject
) -> None:
    table = ScopeTable(found)
    said = table.covers(collection)
    keys = [key for _, key in asked] + [prefix for rule in found for prefix in rule.prefixes]
    inside = {table.has(collection, key) for key in keys}
    if said is Coverage.ALL:
        assert inside <= {True}
    if said is Coverage.NONE:
        assert inside <= {False}
    if not is_of_agents(collection):  # and some is never said of what is not both
        witnesses = inside | {table.has(collection, "~")}
        assert (said is Coverage.SOME) == (witnesses == {True, False})


@settings.get_profile("costly laws")
@given(rules, rules, st.lists(places, min_size=1, max_size=20))
def test_a_change_says_what_comes_and_goes(
    old: Sequence[SyncRule], new: Sequence[SyncRule], asked: list[tuple[str, str]]
) -> None:
    was, becomes = ScopeTable(old), ScopeTable(new)
    change = changed(was, becomes)
    every = was.regions() + becomes.regions()
    for collection, key in asked:
        before, after = was.has(collection, key), becomes.has(collection, key)
        if collection.startswith("_") and not is_of_agents(collection):
            assert (before, after) == (True, True)
            continue
        region = region_of(every, collection, key)
        assert (region in change.gains) == (after and not before)
        assert (region in change.loses) == (before and not after)
    assert changed(was, ScopeTable(old)) == (frozenset(), frozenset())
    assert changed(becomes, was) == (change.loses, change.gains)


def region_of(every: Sequence[Region], collection: str, key: str) -> Region:
    """The narrowest that a place is in."""
    of = "agent" if is_of_agents(collection) else "collection"
    owner = agent_of(collection, key) or ("", None)
    name = owner[0] if of == "agent" else collection
    known = sorted({one.name for one in every if one.of == of and meets(one.name, name)}, key=_narrow)
    here = {one.part for one in every if one.of == of and meets(one.name, name)}
    if of == "agent":
        return Region(of, known[-1], owner[1] if owner[1] in here and owner[1] else "")
    return Region(of, known[-1], max((part for part in here if key.startswith(part)), key=len))


def _narrow(pattern: str) -> tuple[int, int]:
    return (not pattern.endswith("*"), len(pattern))


@given(rules, st.lists(places, max_size=20))
def test_a_rule_that_is_not_reached_decides_nowhere(found: Sequence[SyncRule], asked: list[tuple[str, str]]) -> None:
    reached = ScopeTable(found).reached()
    asked += [(name, prefix) for rule in found for name in rule.collections for prefix in rule.prefixes]
    for collection, key in asked:
        if not collection.endswith("*"):
            assert first(found, collection, key) in reached


def test_what_an_agent_has_is_together_and_system_collections_always_sync() -> None:
    policy = Policy.from_document(
        {
            "schema": 1,
            "name": "a",
            "sync": [
                {"agents": ["a/b"], "namespaces": ["lab"], "direction": "up"},
                {"agents": ["a/b"], "direction": "absent"},
                {"collections": ["*"], "direction": "local"},
            ],
        }
    )
    table = ScopeTable(policy.sync)
    for collection, key in (
        ("agent.memories", "a%2Fb/tea/x"),
        ("agent.chunks", "a%2Fb/tea/x"),
        ("_checkpoints", "context/a%2Fb/main/1"),
        ("_values", "a%2Fb/00/11"),
        ("_recalls", "a%2Fb/tea/x"),
    ):
        assert table.rule(collection, key).number == 2
        assert table.rule(collection, key.replace("a%2Fb", "ab")) is LAST_RESORT
    assert table.rule("agent.memories", "a%2Fb/lab/x").number == 1
    assert table.rule("_checkpoints", "context/a%2Fb/lab/1").number == 2
    assert {table.covers(name) for name in ("_collections", "_erasures", "_snapshots")} == {Coverage.ALL}
    assert table.covers("notes") is Coverage.NONE
    assert table.covers("agent.memories") is Coverage.SOME


def test_what_is_kept_of_names_is_bounded() -> None:
    table = ScopeTable(Policy.from_document({"schema": 1, "name": "a", "sync": [{"agents": ["b*"]}]}).sync)
    for at in range(10_000):
        assert table.rule(f"c{at}", "k").number == 0
        assert table.rule("agent.memories", f"b{at}/n/k").number == 1
        assert table.covers(f"c{at}") is Coverage.ALL
    for kept in (table._chains, table._owners, table._coverage):
        assert 0 < len(kept) <= 4_097


@given(names, st.dictionaries(names, st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.floats(), names)))
def test_a_write_is_urgent_by_a_number_that_is_large_enough(field: str, fields: dict[str, Any]) -> None:
    rule = ScopeTable(
        Policy.from_document(
            {
                "schema": 1,
                "name": "a",
                "sync": [
                    {"collections": ["*"], "priority": "bulk", "urgent_when": {"field": field, "at_least": 5}},
                ],
            }
        ).sync
    ).rule("a", "k")
    value = fields.get(field)
    large = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 5
    assert rule.lane(fields) == ("urgent" if large else "bulk")


def test_what_may_be_too_old_is_said_of_each_collection() -> None:
    told_rules: list[dict[str, Any]] = [
        {"collections": ["notes"], "prefixes": ["old/"], "age_days_max": 30},
        {"collections": ["logs"], "direction": "absent"},
        {"agents": ["guide"], "age_days_max": 7},
    ]
    table = ScopeTable(policy_of(told_rules))
    told = {name: table.ages(name) for name in ("notes", "logs", "others", "_collections", "agent.memories")}
    assert told == {"notes": True, "logs": False, "others": False, "_collections": False, "agent.memories": True}
    assert not ScopeTable(policy_of(told_rules[:2])).ages("agent.memories")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"age_days_max": 30}, {}, True),
        ({"age_days_max": 30}, {"age_days_max": 31}, True),
        ({"age_days_max": 30}, {"age_days_max": 30}, False),
        ({"age_days_max": 30}, {"age_days_max": 7}, False),
        ({}, {"age_days_max": 7}, False),
        ({"age_days_max": 30}, {"direction": "up"}, False),
        ({"age_days_max": 30}, {"direction": "absent"}, False),
    ],
)
def test_what_was_too_old_and_is_not_any_more(before: dict[str, Any], after: dict[str, Any], told: bool) -> None:
    old, new = (ScopeTable(policy_of([{"collections": ["notes"], **rule}])) for rule in (before, after))
    assert is_older(old, new) is told


def policy_of(rules: list[dict[str, Any]]) -> Any:
    return Policy.from_document({"schema": 1, "name": "ages", "sync": rules}).sync


def test_what_is_covered_is_known_also_if_another_thread_forgets_it_in_between() -> None:
    class Forgetting(dict[str, Any]):
        """As a table whose ``_chains`` another thread clears as soon as it was asked."""

        def __contains__(self, name: object) -> bool:
            found = super().__contains__(name)
            self.clear()
            return found

    table = ScopeTable(Policy.from_document({"schema": 1, "name": "a", "sync": [{"collections": ["a"]}]}).sync)
    table.rule("a", "k")
    table._chains = Forgetting(table._chains)
    assert table.covers("a") is Coverage.ALL
