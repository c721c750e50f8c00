"""What runs on the device: the store, the agent's API, the replicator.

Lazy (PEP 562): ``from edge import Edge`` costs what opening a store and putting a record need, and no more. The
exceptions are those of ``sync.errors``, whose docstring has their tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.agent.agents import Agent, Restored, Snapshot, Snapshots
    from edge.agent.thread import Checkpoint, Thread
    from edge.config import EdgeConfig
    from edge.node import Edge
    from edge.storage.collection import Collection, Hit
    from sync.errors import (
        AgentDBError,
        BadSignature,
        BrokenChain,
        CorruptStore,
        DataError,
        DecryptionFailed,
        DiskFull,
        FutureStamp,
        InputError,
        InvalidConfig,
        InvalidFilter,
        InvalidValue,
        Malformed,
        NotFound,
        ProtocolError,
        Refused,
        SchemaMismatch,
        StaleNonce,
        StaleWrite,
        StorageError,
        StoreLocked,
        SyncError,
        TooLarge,
        Unauthenticated,
        UnknownCollection,
        Unreachable,
        UnsupportedVersion,
    )
    from sync.schema import FieldRule, VectorSpec

__all__ = [
    "Agent",
    "AgentDBError",
    "BadSignature",
    "BrokenChain",
    "Checkpoint",
    "Collection",
    "CorruptStore",
    "DataError",
    "DecryptionFailed",
    "DiskFull",
    "Edge",
    "EdgeConfig",
    "FieldRule",
    "FutureStamp",
    "Hit",
    "InputError",
    "InvalidConfig",
    "InvalidFilter",
    "InvalidValue",
    "Malformed",
    "NotFound",
    "ProtocolError",
    "Refused",
    "Restored",
    "SchemaMismatch",
    "Snapshot",
    "Snapshots",
    "StaleNonce",
    "StaleWrite",
    "StorageError",
    "StoreLocked",
    "SyncError",
    "Thread",
    "TooLarge",
    "Unauthenticated",
    "UnknownCollection",
    "Unreachable",
    "UnsupportedVersion",
    "VectorSpec",
]

_HOMES = {
    "Agent": "edge.agent.agents",
    "Checkpoint": "edge.agent.thread",
    "Collection": "edge.storage.collection",
    "Edge": "edge.node",
    "EdgeConfig": "edge.config",
    "FieldRule": "sync.schema",
    "Hit": "edge.storage.collection",
    "Restored": "edge.agent.agents",
    "Snapshot": "edge.agent.agents",
    "Snapshots": "edge.agent.agents",
    "Thread": "edge.agent.thread",
    "VectorSpec": "sync.schema",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES.get(name, "sync.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
