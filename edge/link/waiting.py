"""What waits on a device because of its link's class or budget: lane, how much, why, until when; for ``status``.

It is worked out from what is durable and, where a link is up, from that link's gate: nothing is kept of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.link.gate import Gate
from edge.link.pacing import unsent
from sync.budgets import CLASS, LANE, REQUEST_OVERHEAD_BYTES, SIZE, STALE
from sync.lanes import BULK, LANES
from sync.limits import BODY_PART_BYTES

_SEALED_BYTES = 1_024  # what sealing adds, and the answer

if TYPE_CHECKING:
    from edge.storage.cache import Cache
    from edge.storage.delta_log import DeltaLog


def waiting(log: DeltaLog, cache: Cache, gate: Gate) -> list[dict[str, Any]]:
    """A row for each lane of which something has to wait: ``lane``, ``records`` (of bulk: bodies of attachments),
    ``bytes``, ``why`` (budget, rate, lane, size, class, stale), ``until_ms`` (UTC, 0 if nobody knows). Raises
    StorageError.
    """
    if gate.limits is None:
        return []
    counts: dict[str, list[int]] = {}
    for lane, size in unsent(log, gate):
        counts.setdefault(lane, []).append(size)
    bodies = [one.size for one in cache.pending()]
    parts = [min(size, BODY_PART_BYTES) for size in bodies]
    rows = []
    for lane in LANES:
        sizes, least = counts.get(lane, []), min(counts.get(lane, []), default=0)
        if lane == BULK:
            sizes, least = sizes + bodies, min([*sizes, *parts], default=0)
        wait = gate.ask(lane, least + REQUEST_OVERHEAD_BYTES + _SEALED_BYTES) if sizes else None
        if wait is not None:
            until_ms = 0 if wait.why in (CLASS, SIZE, LANE, STALE) else gate.today_ms() + wait.ms
            rows.append(
                {"lane": lane, "records": len(sizes), "bytes": sum(sizes), "why": wait.why, "until_ms": until_ms}
            )
    return rows
