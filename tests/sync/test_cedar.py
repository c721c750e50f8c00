"""Cedar decides with cedarpy, and only ever denies more."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.cedar import Cedar
from sync.errors import InvalidPolicy
from sync.permissions import Permissions
from sync.policy import Policy

TEXT = """
permit(principal, action == Action::"read", resource);
permit(principal == Agent::"guide", action == Action::"write", resource == Collection::"notes");
forbid(principal, action, resource == Collection::"secrets");
"""


def test_it_decides_over_agent_action_and_collection() -> None:
    cedar = Cedar(TEXT)
    assert cedar.decide("guide", "read", "notes")
    assert cedar.decide("guide", "write", "notes")
    assert not cedar.decide("other", "write", "notes")
    assert not cedar.decide("guide", "read", "secrets")


@given(st.text(max_size=20), st.text(max_size=20))
def test_names_are_names_whatever_is_in_them(agent: str, collection: str) -> None:
    cedar = Cedar(TEXT)
    assert cedar.decide(agent, "read", collection)
    assert not cedar.decide(agent, "write", collection + "x")


def test_it_denies_more_and_never_less() -> None:
    rules = Policy.from_document(
        {"schema": 1, "name": "a", "agent": [{"name": "guide", "allow": {"read": ["*"], "write": ["log"]}}]}
    ).agents
    permissions = Permissions(rules, Cedar(TEXT).decide)
    assert permissions.may("guide", "read", "notes")
    assert not permissions.may("guide", "read", "secrets"), "Cedar denies what is allowed"
    assert not permissions.may("guide", "write", "notes"), "Cedar does not allow what is not"
    assert not permissions.may("guide", "write", "log")


def test_a_forbid_that_fails_denies() -> None:
    cedar = Cedar("permit(principal, action, resource); forbid(principal, action, resource) when {principal.rank > 3};")
    assert not cedar.decide("guide", "read", "notes")


def test_what_is_not_cedar_is_no_policy() -> None:
    with pytest.raises(InvalidPolicy, match=r"\[cedar\]: text is not Cedar"):
        Cedar("permit(everything)")


def test_without_cedarpy_the_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    with pytest.raises(InvalidPolicy, match="not installed") as caught:
        Cedar(TEXT)
    assert "extra" in caught.value.hint
