"""Policies to publish, drawn; and what they mean, read rule by rule, with nothing compiled.

The product's tables are not asked here: both sides of it use the same, so a fault in them would show on neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from sync.policy import Policy

NAMES = ("north", "south", "kiosk")
MEMORIES = "agent.memories"
_COLLECTIONS = ("memories", "tallies", "state", "orders", "notes", "plans")
_PATTERNS = (*_COLLECTIONS, "no*", "m*")
_DIRECTIONS = ("both", "both", "up", "down", "absent", "absent")
_PRIORITIES = ("urgent", "normal", "normal", "bulk")
_RETAINED = ("orders", "notes", "plans")


def draw(name: str, dice: Random, prefix: str) -> bytes:
    """The canonical JSON of a policy. ``prefix`` begins all keys of the fleet's records, and is its agent's name."""
    rules: list[dict[str, Any]] = []
    for _ in range(dice.randrange(4)):
        collections = [dice.choice(_PATTERNS)]
        rule: dict[str, Any] = {"collections": collections, "direction": dice.choice(_DIRECTIONS)}
        if dice.random() < 0.4:
            first = collections[0][0]
            rule["prefixes"] = sorted({f"{prefix}{first}{dice.choice(('', '0', '1', '2'))}", f"{prefix}h"})
        if dice.random() < 0.3:
            rule["priority"] = dice.choice(_PRIORITIES)
        if dice.random() < 0.1:
            rule["vectors"] = "none"
        rules.append(rule)
    if dice.random() < 0.35:
        rules.append({"collections": ["*"], "direction": dice.choice(("up", "absent", "absent"))})
    document: dict[str, Any] = {"schema": 1, "name": name, "sync": rules}
    if dice.random() < 0.3:
        document["retention"] = [{"collection": dice.choice(_RETAINED), "delete_days": 1}]
    if dice.random() < 0.4:
        kind = dice.choice(("deny", "allow"))
        listed = [MEMORIES] if kind == "deny" else ["agent.state"]
        document["agent"] = [{"name": prefix.rstrip("/"), kind: {"write": listed}}]
    return Policy.from_document(document).to_json()


class Book:
    """What one policy says; of None: no policy."""

    def __init__(self, data: bytes | None) -> None:
        self._document: Mapping[str, Any] = json.loads(data) if data else {}

    def direction(self, collection: str, key: str) -> str:
        """The first rule that matches decides. System collections, and what agents have, no rule here names."""
        if collection.startswith(("_", "agent.")):
            return "both"
        for rule in self._document.get("sync", ()):
            named = any(
                pattern == collection or (pattern.endswith("*") and collection.startswith(pattern[:-1]))
                for pattern in rule["collections"]
            )
            prefixes = rule.get("prefixes")
            if named and (not prefixes or any(key.startswith(prefix) for prefix in prefixes)):
                return str(rule.get("direction", "both"))
        return "both"

    def has(self, collection: str, key: str) -> bool:
        """Whether others' writes come here."""
        return self.direction(collection, key) in ("both", "down")

    def takes_writes(self, collection: str, key: str) -> bool:
        return self.direction(collection, key) in ("both", "up")

    def may_remember(self, agent: str) -> bool:
        """Whether an agent may write memories."""
        for rule in self._document.get("agent", ()):
            if rule["name"] == agent:
                denied = MEMORIES in rule.get("deny", {}).get("write", ())
                return not denied and ("allow" not in rule or MEMORIES in rule["allow"].get("write", ()))
        return True


EVERYTHING = Book(None)
