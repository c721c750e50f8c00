"""Whose a record is: which agent's, and in which of its namespaces.

Keys of what agents have begin with the agent and the namespace, both escaped; ``_PLACES`` says where those do not.
Erasures (ADR 19) and the scopes of policies (ADR 24) read it here: both sides have to agree on it.
"""

from __future__ import annotations

from typing import NamedTuple

Place = tuple[str, str]  # collection, key
PREFIX = "agent."  # of the collections of agents
# Where in a key the agent's name is; behind it comes the namespace, in the collections of agents only.
_PLACES = {"_checkpoints": 1, "_recalls": 0, "_values": 0}
_WITH_NAMESPACES = frozenset({"_recalls"})


class Whole(NamedTuple):
    """Operations that are all that the cloud has of their records: what was asked for besides, of which it has
    ``none``, and what it does not give (``denied``).
    """

    none: tuple[Place, ...] = ()
    denied: tuple[Place, ...] = ()


def escaped(name: str) -> str:
    """A name as a part of a key."""
    return name.replace("%", "%25").replace("/", "%2F")


def unescaped(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")


def is_of_agents(collection: str) -> bool:
    """Whether its records belong to agents."""
    return collection.startswith(PREFIX) or collection in _PLACES


def has_namespaces(collection: str) -> bool:
    return collection.startswith(PREFIX) or collection in _WITH_NAMESPACES


def agent_of(collection: str, key: str) -> tuple[str, str | None] | None:
    """(agent, namespace), both as keys have them; the namespace is None where there is none. None: it is no agent's."""
    ours = collection.startswith(PREFIX)
    place = 0 if ours else _PLACES.get(collection)
    if place is None:
        return None
    parts = key.split("/", place + 2)
    if len(parts) < place + 2:
        return None
    return parts[place], parts[1] if ours or collection in _WITH_NAMESPACES else None
