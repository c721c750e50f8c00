"""Which part of the fleet's data is here (ADR 24): three notes of the log, and how they change with policies and pages.

``scope``: the digest of the policy under which the data is complete as of the cursor, b"" for everything;
``next_scope``: the growth towards another, as ``sync.effects.Growth``; ``owed``: a page left something of it out.

What always holds: the notes change in the transaction of what they are about: a policy's row, or a page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sync.effects import Apply, Growth

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.scope import ScopeTable

    Named = tuple[bytes, ScopeTable]  # the SHA-256 of a policy, b"" for none, and its scope

SCOPE, NEXT, OWED = "scope", "next_scope", "owed"


def load(log: DeltaLog) -> tuple[bytes, Growth | None, bool]:
    """``scope``, ``next_scope``, ``owed``. Raises StorageError."""
    growth: list[Any] | None = log.meta_get(NEXT)
    return log.meta_get(SCOPE) or b"", Growth(*growth) if growth else None, bool(log.meta_get(OWED))


def page_notes(log: DeltaLog, page: Apply) -> dict[str, Any] | None:
    """What changes with a page; None if it is not to be taken: of a growth that has ended or begun anew, or one for a
    device that has written nothing, which has. The caller holds the lock.
    """
    if page.pristine and log.head_seq:
        return None
    notes: dict[str, Any] = {OWED: True} if page.narrowed else {}
    if page.growth is not None:
        of, after, gaps = page.growth
        scope, growth, _ = load(log)
        standing = growth or Growth(scope)
        if of.scope != standing.scope or of.token not in (b"", standing.token):
            return None
        notes[NEXT] = after
        if after is None:
            notes |= {SCOPE: of.scope, OWED: gaps}
    return notes


def rescope(log: DeltaLog, before: Named | None, now: Named) -> dict[str, Any]:
    """What changes with a policy. ``before``: the one that held until now, if it can be read. The caller holds the
    lock, and counts it in ``log.rescoped`` afterwards.
    """
    from sync.scope import ScopeTable, changed, is_older

    scope, growth, owed = load(log)
    digest, table = now
    if before is None and digest == (growth.scope if growth is not None else scope):
        return {}  # as it was before a restart
    if growth is None and not owed:
        known = ScopeTable() if not scope else before[1] if before is not None and before[0] == scope else None
        back = known is not None and bool(log.writer.evicted.collections) and is_older(known, table)
        if known is not None and not changed(known, table).gains and not back:
            return {SCOPE: digest}
    return {NEXT: Growth(digest)}
