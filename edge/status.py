"""What ``Edge.status`` says: of the store, its log, its link to the cloud and its projections, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.storage import kept_back, policy_row
from edge.storage.keystore import key_problems
from edge.versions import versions
from sync.errors import StorageError

if TYPE_CHECKING:
    from edge.link.runner import Link
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
        "trust": _trust(edge),
        **_metered(edge),
        "kept_back": _kept_back(edge),
        "policy": _policy(edge),
        "cache": edge.cache.status().shown(),
        "models": _models(edge),
        "versions": versions(),
    }


def _fleet(edge: Edge) -> dict[str, Any] | None:
    """The fleet that was joined, and where its control plane is (``edge.link.membership`` keeps it)."""
    kept = edge.log.meta_get("fleet")
    if kept is None:
        return None
    return {"id": kept[0].hex(), "url": edge.config.sync_url or kept[3], "name": kept[4]}


def _policy(edge: Edge) -> dict[str, Any] | None:
    """Which one holds, without what it says; None if none does. Of one that cannot be read, why, and what to do."""
    try:
        said = edge.policy.describe()
    except StorageError as error:
        return {"problem": error.message, "hint": error.hint, "writes": "kept here"}
    if not said:
        return None
    from edge.policy_rounds import stale_steps

    said["stale"] = stale_steps(edge.policy.document, edge.trust)
    return {name: value for name, value in said.items() if name != "document"}


def _trust(edge: Edge) -> dict[str, Any] | None:
    """What it may run, and why nothing new if so; None in a fleet without trust."""
    status = edge.trust.status()
    return None if status is None else status._asdict()


def _models(edge: Edge) -> list[dict[str, Any]]:
    """Without any, nothing is imported for them."""
    from edge.control.model_part import concerned

    return [one.shown() for one in edge.models.status()] if concerned(edge.log, edge.path) else []


def _link(edge: Edge, connected: bool) -> dict[str, Any] | None:
    """What the link noted last."""
    noted = edge.log.meta_get("sync")
    return None if noted is None else {**noted, "connected": noted["connected"] and connected}


def _kept_back(edge: Edge) -> dict[str, int]:
    """How many records have writes that have not left this device because of a policy, and their bytes."""
    records, size = kept_back.counted(edge.log)
    return {"records": records, "bytes": size}


def _held_back(edge: Edge) -> list[dict[str, Any]]:
    """Of these, what is not kept for good: by rule, and why (record-size, stale, future, refused, unread)."""
    if not kept_back.is_there(edge.log):
        return []
    from edge.control.keeping import held_back, keeper_of

    try:
        keeper = edge.log.kept.keeper or keeper_of(edge.log, edge.policy)
    except StorageError:  # ``policy`` says so
        return []
    return held_back(edge.log, keeper)


def _metered(edge: Edge) -> dict[str, Any]:
    """``budget``: where the day of the link's class stands, None if it has no bound; ``deferred``: what waits because
    of the link's class or budget (``edge.link.waiting``), or is kept back by the policy for now.
    """
    link: Link | None = vars(edge).get("_link")
    if link is None and not edge.config.links and policy_row.load(edge.log) is None:
        return {"budget": None, "deferred": _held_back(edge)}
    from edge.link.gate import Gate
    from edge.link.waiting import waiting
    from edge.linking import rules_of
    from edge.ports import SystemClock

    gate = link.gate if link is not None else Gate(edge.log, rules_of(edge), SystemClock())
    today = gate.today()
    return {
        "budget": None if today is None else today._asdict(),
        "deferred": waiting(edge.log, edge.cache, gate) + _held_back(edge),
    }
