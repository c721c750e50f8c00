"""A diff names every table that differs, once, and what the scope gains and loses."""

from __future__ import annotations

from typing import Any

from hypothesis import given

from sync.policy import Policy
from sync.policy_diff import Change, diff
from tests.sync.policies import documents


def policy(**tables: Any) -> Policy:
    return Policy.from_document({"schema": 1, "name": "a", **tables})


@given(documents, documents)
def test_a_diff_is_empty_only_if_both_mean_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    old, new = Policy.from_document(one), Policy.from_document(other)
    assert diff(old, old) == []
    if not diff(old, new):
        assert unordered(old) == unordered(new)


def unordered(policy: Policy) -> dict[str, Any]:
    """Its document, but for the order of tables of which each holds."""
    document = policy.to_document()
    ordered = ("sync", "agent")
    return {
        key: sorted(map(repr, value)) if isinstance(value, list) and key not in ordered else value
        for key, value in document.items()
    }


def test_tables_are_the_same_by_what_they_are_about() -> None:
    notes, logs, guide = {"collections": ["notes"]}, {"collections": ["logs"]}, {"agents": ["guide"]}
    old = policy(
        sync=[notes, logs, guide],
        link=[{"class": "metered", "bytes_per_day": 5}],
        merge=[{"collection": "notes", "conflict": "manual"}],
    )
    new = policy(
        sync=[logs, {**notes, "direction": "up"}, {"collections": ["x*"], "prefixes": ["a/"], "direction": "absent"}],
        link=[{"class": "metered", "bytes_per_day": 6}],
        store={"quota_mib": 7},
    )
    assert diff(old, new) == [
        Change("removed", "[[sync]] agents guide", "", guide, None),
        Change("changed", "[[sync]] collections notes", "direction", None, "up"),
        Change(
            "added",
            "[[sync]] collections x*, prefixes a/",
            "",
            None,
            {"collections": ["x*"], "prefixes": ["a/"], "direction": "absent"},
        ),
        Change("moved", "[[sync]] collections logs", "", 2, 1),
        Change("moved", "[[sync]] collections notes", "", 1, 2),
        Change("removed", "[[merge]] collection notes", "", {"collection": "notes", "conflict": "manual"}, None),
        Change("changed", "[store]", "quota_mib", None, 7),
        Change("changed", "[[link]] class metered", "bytes_per_day", 5, 6),
        Change("lost", "scope", "collection notes", None, None),
        Change("lost", "scope", "collection x*, prefix a/", None, None),
    ]
    back = [change for change in diff(new, old) if change.where == "scope"]
    assert [(change.what, change.key) for change in back] == [
        ("gained", "collection notes"),
        ("gained", "collection x*, prefix a/"),
    ]
