"""What ``Edge.status`` says: of the store, its log, its link to the cloud and its projections, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.storage.keystore import key_problems
from edge.versions import versions

if TYPE_CHECKING:
    from edge.node import Edge


def status_of(edge: Edge, *, connected: bool) -> dict[str, Any]:
    """``connected``: somebody here is syncing now."""
    log = edge.log
    return {
        "store": edge.path,
        "device": edge.device.hex(),
        "replica": log.replica.hex(),
        "durability": edge.config.durability,
        "collections": {name: {"records": log.count(name)} for name in edge.collections()},
        "log": {
            "head_seq": log.head_seq,
            "acked_seq": log.acked_seq,
            "pending": log.head_seq - log.acked_seq,
            "position": log.position,
            "bytes": log.size_bytes(),
        },
        "cursor": log.cursor,
        "dead_letters": [letter.shown() for letter in log.dead_letters()],
        "schema_problems": dict(log.schema_problems),
        "key_problems": key_problems(edge.path),
        "projections": edge.projections.status(),
        "fleet": _fleet(edge),
        "sync": _link(edge, connected),
        "cache": edge.cache.status().shown(),
        "versions": versions(),
    }


def _fleet(edge: Edge) -> dict[str, Any] | None:
    """The fleet that was joined, and where its control plane is (``edge.link.membership`` keeps it)."""
    kept = edge.log.meta_get("fleet")
    if kept is None:
        return None
    return {"id": kept[0].hex(), "url": edge.config.sync_url or kept[3], "name": kept[4]}


def _link(edge: Edge, connected: bool) -> dict[str, Any] | None:
    """What the link noted last."""
    noted = edge.log.meta_get("sync")
    return None if noted is None else {**noted, "connected": noted["connected"] and connected}
