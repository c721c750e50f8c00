"""What the delta log remembers of the link to the cloud: written in one transaction each, read when a session begins.

It is kept in ``meta``: ``acked``, ``cursor`` and ``baseline`` by the delta log itself, ``swept`` by ``log_sweep``,
``sent``, ``incarnation``, ``repair`` and ``own_until`` by this module, ``scope``, ``next_scope`` and ``owed`` by
``scoping``. What a ``SyncSession`` asks to persist is one transaction, so no crash can take a part of it.
"""

from __future__ import annotations

import msgpack

from edge.storage import log_clock, scoping
from edge.storage.control_tables import ControlTables
from edge.storage.delta_log import DeltaLog
from sync.effects import Persist, Position
from sync.operations import Operation


def load_position(log: DeltaLog) -> Position:
    """Where the link stands, for a new session. Raises StorageError."""
    with log.writer.lock:
        log.ensure_settled()
    scope, growth, owed = scoping.load(log)
    return Position(
        replica=log.replica,
        head_seq=log.head_seq,
        acked=(log.acked_seq, log.acked_segment),
        sent=tuple((seq, segment) for seq, segment in log.meta_get("sent") or ()),
        cursor=log.cursor,
        incarnation=log.meta_get("incarnation") or b"",
        baseline=log.baseline,
        repair=bool(log.meta_get("repair")),
        own_until=log.meta_get("own_until") or 0,
        swept=_swept(log),
        assignment=_assignment(log),
        scope=scope,
        growth=growth,
        owed=owed,
    )


def _swept(log: DeltaLog) -> int:
    life, until = log.meta_get("swept") or (None, 0)
    return int(until) if life == log.meta_get("incarnation") else 0


def _assignment(log: DeltaLog) -> int:
    note = ControlTables(log).note()
    return note.number if note is not None else 0


def store(log: DeltaLog, effect: Persist) -> None:
    """Make a ``Persist`` durable. Raises StorageError; nothing changed then."""
    notes = {
        "sent": effect.sent,
        "incarnation": effect.incarnation,
        "repair": effect.repair,
        "own_until": effect.own_until,
    }
    log.note_link(
        acked=effect.acked,
        refusals=effect.refusals,
        cursor=effect.cursor,
        notes={name: value for name, value in notes.items() if value is not None},
    )


def state_page(
    log: DeltaLog, after: tuple[str, str] | None, max_operations: int, max_bytes: int
) -> tuple[list[Operation], tuple[str, str] | None]:
    """The next part of the whole store as state, and where to go on (None: that was all)."""
    page = log.state_operations(after, min(max_operations, 1_000))
    log_clock.tell(log)
    taken: list[Operation] = []
    size = 0
    last = after or ("", "")
    for operation in page:
        size += len(msgpack.packb(operation.values)) + len(operation.key)
        place = (operation.shape.collection, operation.key)
        if taken and size > max_bytes and place != last:  # the parts of a record stay together
            break
        taken.append(operation)
        last = place
    if not taken:
        return [], None
    more = log.state_operations(last, 1)
    return taken, last if more else None
