"""What runs on the device: the store, the agent's API, the replicator.

Lazy (PEP 562): ``from edge import Edge`` costs what opening a store and putting a record need, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.node import Edge
    from edge.storage.collection import Collection, Hit

__all__ = ["Collection", "Edge", "EdgeConfig", "Hit"]

_HOMES = {
    "Collection": "edge.storage.collection",
    "Edge": "edge.node",
    "EdgeConfig": "edge.config",
    "Hit": "edge.storage.collection",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
