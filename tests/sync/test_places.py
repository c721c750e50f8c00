"""Whose a record is."""

from __future__ import annotations

import pytest

from sync.places import agent_of, has_namespaces, is_of_agents


@pytest.mark.parametrize(
    ("collection", "key", "owner"),
    [
        ("notes", "guide/tea/1", None),
        ("_collections", "agent.memories", None),
        ("agent.memories", "guide", None),
        ("agent.memories", "guide/tea/1", ("guide", "tea")),
        ("agent.vectors.ab", "guide/images/k/with/slashes", ("guide", "images")),
        ("_recalls", "guide/tea/1", ("guide", "tea")),
        ("_recalls", "guide", None),
        ("_checkpoints", "context/guide/main/1", ("guide", None)),
        ("_checkpoints", "context/guide", None),
        ("_values", "guide/00/11/000", ("guide", None)),
        ("agentlog", "guide/tea/1", None),
    ],
)
def test_the_agent_and_its_namespace(collection: str, key: str, owner: tuple[str, str | None] | None) -> None:
    assert agent_of(collection, key) == owner
    if owner is not None:
        assert is_of_agents(collection)
        assert has_namespaces(collection) == (owner[1] is not None)
