"""What waits on a device because of its link's class or budget: lane, how much, why, until when; for ``status``.

It is worked out from what is durable and, where a link is up, from that link's gate: nothing is kept of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.link.gate import Gate
from edge.link.intervals import unsent
from sync.budgets import CLASS, INTERVAL, LANE, REQUEST_OVERHEAD_BYTES, SIZE, STALE, Wait
from sync.lanes import BULK, LANES
from sync.limits import BODY_PART_BYTES

_SEALED_BYTES = 1_024  # what sealing adds, and the answer

if TYPE_CHECKING:
    from edge.storage.cache import Cache
    from edge.storage.delta_log import DeltaLog


def waiting(log: DeltaLog, cache: Cache, gate: Gate) -> list[dict[str, Any]]:
    """A row for each lane of which something has to wait: ``lane``, ``records`` (of bulk: bodies of attachments, too),
    ``bytes``, ``why`` (budget, rate, lane, size, class, stale, interval), ``until_ms`` (UTC, 0 if nobody knows). Raises
    StorageError.
    """
    limits = gate.limits
    if limits is None and gate.rules.interval is None:
        return []
    counts: dict[str, list[int]] = {}
    gathers_ms, now_ms = 0, gate.today_ms()
    for at, one in enumerate(unsent(log, gate.rules)):
        counts.setdefault(one.lane, []).append(one.size)
        due_ms = one.due_in_ms(now_ms)
        gathers_ms = min(gathers_ms, due_ms) if at else due_ms
    if limits is None and not gathers_ms:
        return []
    bodies = [] if limits is None else [one.size for one in cache.pending()]
    parts = [min(size, BODY_PART_BYTES) for size in bodies]
    rows = []
    for lane in LANES:
        sizes, least = counts.get(lane, []), min(counts.get(lane, []), default=0)
        if lane == BULK:
            sizes, least = sizes + bodies, min([*sizes, *parts], default=0)
        if not sizes:
            continue
        wait = gate.ask(lane, least + REQUEST_OVERHEAD_BYTES + _SEALED_BYTES)
        if wait is None and counts.get(lane) and gathers_ms:
            wait = Wait(gathers_ms, INTERVAL)
        if wait is not None:
            until_ms = 0 if wait.why in (CLASS, SIZE, LANE, STALE) else gate.today_ms() + wait.ms
            rows.append(
                {"lane": lane, "records": len(sizes), "bytes": sum(sizes), "why": wait.why, "until_ms": until_ms}
            )
    return rows
