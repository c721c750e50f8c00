"""What the tests of policies share: policies and their parts as Hypothesis draws them, from few letters, so that names,
globs and prefixes meet.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sync.policy import SCHEMA
from sync.policy_tables import DIRECTIONS, PRIORITIES, VECTOR_FORMS

names = st.text("abc", min_size=1, max_size=3)
globs = st.text("abc", max_size=2).map(lambda name: name + "*")
patterns = st.one_of(names, globs)
prefixes = st.text("ab/", min_size=1, max_size=4)
collections = st.one_of(names, st.sampled_from(["_collections", "_erasures"]))
agents_collections = st.sampled_from(["agent.memories", "agent.vectors.x", "_checkpoints", "_recalls", "_values"])


def some(one: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(one, min_size=1, max_size=most, unique=True)


_HOW: dict[str, st.SearchStrategy[Any]] = {
    "direction": st.sampled_from(DIRECTIONS),
    "priority": st.sampled_from(PRIORITIES),
    "urgent_when": st.fixed_dictionaries({"field": names, "at_least": st.one_of(st.integers(0, 9), st.floats(0, 9))}),
    "interval_s": st.integers(0, 100),
    "record_bytes_max": st.integers(0, 1000),
    "age_days_max": st.integers(0, 100),
    "vectors": st.sampled_from(VECTOR_FORMS),
}
sync_rules = st.one_of(
    st.fixed_dictionaries({"collections": some(patterns)}, optional={"prefixes": some(prefixes), **_HOW}),
    st.fixed_dictionaries({"agents": some(patterns)}, optional={"namespaces": some(names), **_HOW}),
)
grants = st.fixed_dictionaries({}, optional={"read": some(patterns), "write": some(patterns)})
agent_rules: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"name": patterns}, optional={"allow": grants, "deny": grants}
)
_PARTS: dict[str, st.SearchStrategy[Any]] = {
    "sync": st.lists(sync_rules, max_size=6),
    "merge": st.lists(
        st.fixed_dictionaries({"collection": names, "conflict": st.sampled_from(["latest", "manual", "resolver:x"])}),
        max_size=2,
        unique_by=lambda one: one["collection"],
    ),
    "retention": st.lists(
        st.fixed_dictionaries({"collection": names, "delete_days": st.integers(1, 400)}),
        max_size=2,
        unique_by=lambda one: one["collection"],
    ),
    "forget": st.lists(
        st.fixed_dictionaries(
            {"agent": patterns}, optional={"min_retention": st.floats(0, 1), "keep": st.integers(0, 9)}
        ),
        max_size=2,
    ),
    "store": st.fixed_dictionaries({}, optional={"quota_mib": st.integers(0, 9)}),
    "link": st.lists(
        st.fixed_dictionaries(
            {"class": names}, optional={"urgent_share": st.floats(0, 1), "bytes_per_day": st.integers(0, 1 << 40)}
        ),
        max_size=2,
        unique_by=lambda one: one["class"],
    ),
    "log": st.fixed_dictionaries({"level": st.sampled_from(["info", "debug"])}),
    "agent": st.lists(agent_rules, max_size=4, unique_by=lambda one: one["name"]),
    "cedar": st.fixed_dictionaries({"text": st.just("permit(principal, action, resource);")}),
    "staleness": st.lists(
        st.fixed_dictionaries({"after_hours": st.integers(1, 9), "do": st.sampled_from(["report", "bulk-off"])}),
        max_size=2,
        unique_by=lambda one: one["do"],
    ),
}
documents = st.fixed_dictionaries({"schema": st.just(SCHEMA), "name": names}, optional=_PARTS)
