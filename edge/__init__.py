"""What runs on the device: the store, the agent's API, the replicator.

Lazy (PEP 562): ``from edge import Edge`` costs what opening a store and putting a record need, and no more. The
exceptions are those of ``sync.errors``, whose docstring has their tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.agent.agents import Agent, Restored, Snapshot, Snapshots
    from edge.agent.attachments import Attachment, Attachments, Found
    from edge.agent.documents import Document, Documents, Indexed, Passage
    from edge.agent.embedder_adapters import HttpEmbedder, SentenceTransformerEmbedder
    from edge.agent.embedders import CallableEmbedder, Embedder
    from edge.agent.erase import Erasure, Receipt
    from edge.agent.loading import Chunk, Splitter
    from edge.agent.media import CallableMediaEmbedder, MediaEmbedder
    from edge.agent.memory import Added, Memory, Recall
    from edge.agent.memory_care import Forgetting, Forgotten
    from edge.agent.memory_record import Remembered
    from edge.agent.scoring import Scoring, Terms
    from edge.agent.thread import Checkpoint, Thread
    from edge.agent.vectors import Neighbour, Vector, Vectors
    from edge.aio import (
        AsyncAgent,
        AsyncAttachments,
        AsyncBatch,
        AsyncCache,
        AsyncCollection,
        AsyncDocuments,
        AsyncEdge,
        AsyncMemory,
        AsyncSnapshots,
        AsyncThread,
        AsyncVectors,
    )
    from edge.aio_models import AsyncModels
    from edge.aio_steering import AsyncTwin
    from edge.config import EdgeConfig
    from edge.control.model_status import ModelStatus
    from edge.control.model_store import ModelStore
    from edge.control.twin import Twin
    from edge.node import Edge
    from edge.storage.cache import Cache, CacheStatus, Evicted, Share
    from edge.storage.collection import Collection, Hit
    from sync.errors import (
        AgentDBError,
        BadSignature,
        BodyNotHere,
        BrokenChain,
        CorruptStore,
        DataError,
        DecryptionFailed,
        Deferred,
        DiskFull,
        Erased,
        Expired,
        FutureStamp,
        InputError,
        InvalidConfig,
        InvalidFilter,
        InvalidPolicy,
        InvalidValue,
        Malformed,
        NotAllowed,
        NotFound,
        NotHere,
        ProtocolError,
        QuotaExceeded,
        ReadOnly,
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
        Untrusted,
    )
    from sync.schema import FieldRule, VectorSpec

__all__ = [
    "Added",
    "Agent",
    "AgentDBError",
    "AsyncAgent",
    "AsyncAttachments",
    "AsyncBatch",
    "AsyncCache",
    "AsyncCollection",
    "AsyncDocuments",
    "AsyncEdge",
    "AsyncMemory",
    "AsyncModels",
    "AsyncSnapshots",
    "AsyncThread",
    "AsyncTwin",
    "AsyncVectors",
    "Attachment",
    "Attachments",
    "BadSignature",
    "BodyNotHere",
    "BrokenChain",
    "Cache",
    "CacheStatus",
    "CallableEmbedder",
    "CallableMediaEmbedder",
    "Checkpoint",
    "Chunk",
    "Collection",
    "CorruptStore",
    "DataError",
    "DecryptionFailed",
    "Deferred",
    "DiskFull",
    "Document",
    "Documents",
    "Edge",
    "EdgeConfig",
    "Embedder",
    "Erased",
    "Erasure",
    "Evicted",
    "Expired",
    "FieldRule",
    "Forgetting",
    "Forgotten",
    "Found",
    "FutureStamp",
    "Hit",
    "HttpEmbedder",
    "Indexed",
    "InputError",
    "InvalidConfig",
    "InvalidFilter",
    "InvalidPolicy",
    "InvalidValue",
    "Malformed",
    "MediaEmbedder",
    "Memory",
    "ModelStatus",
    "ModelStore",
    "Neighbour",
    "NotAllowed",
    "NotFound",
    "NotHere",
    "Passage",
    "ProtocolError",
    "QuotaExceeded",
    "ReadOnly",
    "Recall",
    "Receipt",
    "Refused",
    "Remembered",
    "Restored",
    "SchemaMismatch",
    "Scoring",
    "SentenceTransformerEmbedder",
    "Share",
    "Snapshot",
    "Snapshots",
    "Splitter",
    "StaleNonce",
    "StaleWrite",
    "StorageError",
    "StoreLocked",
    "SyncError",
    "Terms",
    "Thread",
    "TooLarge",
    "Twin",
    "Unauthenticated",
    "UnknownCollection",
    "Unreachable",
    "UnsupportedVersion",
    "Untrusted",
    "Vector",
    "VectorSpec",
    "Vectors",
]

_HOMES = {
    "Added": "edge.agent.memory",
    "Agent": "edge.agent.agents",
    "AsyncAgent": "edge.aio",
    "AsyncAttachments": "edge.aio",
    "AsyncBatch": "edge.aio",
    "AsyncCache": "edge.aio",
    "AsyncCollection": "edge.aio",
    "AsyncDocuments": "edge.aio",
    "AsyncEdge": "edge.aio",
    "AsyncMemory": "edge.aio",
    "AsyncModels": "edge.aio_models",
    "AsyncSnapshots": "edge.aio",
    "AsyncThread": "edge.aio",
    "AsyncTwin": "edge.aio_steering",
    "Attachment": "edge.agent.attachments",
    "Attachments": "edge.agent.attachments",
    "Cache": "edge.storage.cache",
    "CacheStatus": "edge.storage.cache",
    "AsyncVectors": "edge.aio",
    "CallableEmbedder": "edge.agent.embedders",
    "CallableMediaEmbedder": "edge.agent.media",
    "Checkpoint": "edge.agent.thread",
    "Chunk": "edge.agent.loading",
    "Collection": "edge.storage.collection",
    "Document": "edge.agent.documents",
    "Documents": "edge.agent.documents",
    "Edge": "edge.node",
    "EdgeConfig": "edge.config",
    "Embedder": "edge.agent.embedders",
    "Erasure": "edge.agent.erase",
    "Evicted": "edge.storage.cache",
    "FieldRule": "sync.schema",
    "Forgetting": "edge.agent.memory_care",
    "Forgotten": "edge.agent.memory_care",
    "Found": "edge.agent.attachments",
    "HttpEmbedder": "edge.agent.embedder_adapters",
    "Hit": "edge.storage.collection",
    "Indexed": "edge.agent.documents",
    "MediaEmbedder": "edge.agent.media",
    "Memory": "edge.agent.memory",
    "ModelStatus": "edge.control.model_status",
    "ModelStore": "edge.control.model_store",
    "Neighbour": "edge.agent.vectors",
    "Passage": "edge.agent.documents",
    "Recall": "edge.agent.memory",
    "Receipt": "edge.agent.erase",
    "Remembered": "edge.agent.memory_record",
    "Restored": "edge.agent.agents",
    "Scoring": "edge.agent.scoring",
    "Share": "edge.storage.cache",
    "SentenceTransformerEmbedder": "edge.agent.embedder_adapters",
    "Snapshot": "edge.agent.agents",
    "Snapshots": "edge.agent.agents",
    "Splitter": "edge.agent.loading",
    "Terms": "edge.agent.scoring",
    "Thread": "edge.agent.thread",
    "Twin": "edge.control.twin",
    "Vector": "edge.agent.vectors",
    "VectorSpec": "sync.schema",
    "Vectors": "edge.agent.vectors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES.get(name, "sync.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
