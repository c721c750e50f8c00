"""What an agent may do: the first table that matches decides, deny wins, anything further can only deny more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import InvalidValue
from sync.permissions import Permissions
from sync.policy import Policy
from sync.policy_tables import ACTIONS, AgentRule
from tests.sync.policies import agent_rules, names
from tests.sync.test_scope import meets

rules = st.lists(agent_rules, max_size=5, unique_by=lambda one: one["name"]).map(
    lambda found: Policy.from_document({"schema": 1, "name": "a", "agent": found}).agents
)
asked = st.tuples(names, st.sampled_from(ACTIONS), names)


def naive(found: Sequence[AgentRule], agent: str, action: str, collection: str) -> bool:
    for rule in found:
        if meets(rule.name, agent):
            denied = any(meets(name, collection) for name in getattr(rule.deny, action))
            allowed = rule.allow is None or any(meets(name, collection) for name in getattr(rule.allow, action))
            return allowed and not denied
    return True


@settings.get_profile("costly laws")
@given(rules, st.lists(asked, min_size=1, max_size=20))
def test_what_may_says_is_what_reading_the_rules_says(
    found: Sequence[AgentRule], questions: list[tuple[str, str, str]]
) -> None:
    permissions = Permissions(found)
    for question in [*questions, *questions]:
        assert permissions.may(*question) == naive(found, *question)


@given(rules, st.lists(asked, min_size=1, max_size=20), st.booleans())
def test_what_is_asked_further_only_denies_more(
    found: Sequence[AgentRule], questions: list[tuple[str, str, str]], answer: bool
) -> None:
    heard: list[tuple[str, str, str]] = []

    def further(agent: str, action: str, collection: str) -> bool:
        heard.append((agent, action, collection))
        return answer

    permissions = Permissions(found, further)
    for question in [*questions, *questions]:
        assert permissions.may(*question) == (answer and naive(found, *question))
    assert len(heard) == len(set(heard)), "an answer is kept"
    assert all(naive(found, *question) for question in heard), "what is denied is not asked"


def test_without_a_table_everything_is_allowed_and_an_empty_one_allows_nothing() -> None:
    assert Permissions().may("guide", "write", "notes")
    document = {"schema": 1, "name": "a", "agent": [{"name": "guide", "allow": {}}]}
    permissions = Permissions(Policy.from_document(document).agents)
    assert not permissions.may("guide", "read", "agent.memories")
    assert permissions.may("other", "read", "notes")


def test_an_action_is_one_of_two() -> None:
    with pytest.raises(InvalidValue, match="read or write"):
        Permissions().may("guide", "erase", "notes")


def test_what_is_kept_is_bounded() -> None:
    permissions = Permissions()
    assert all(permissions.may("guide", "read", f"c{at}") for at in range(10_000))
    assert 0 < len(permissions._kept) <= 4_096
