"""Emptying operations that a later one has made void, before either was sent: it bounds a log without a link (ADR 21).

An operation of last-writer fields is void when later ones of this device, on the same record, name every field that it
names, or delete the record: merged in any order and beside whatever others wrote, it changes nothing. Its row stays,
with its number, position and timestamp, as a put of no fields: numbers are dense, and the order is promised.

What always holds: what was sent, and declarations, stay as they are; a record's image is not touched; what other
devices come to hold is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from edge.storage.log_reader import unpack_fields
from edge.storage.log_rows import insert
from sync.operations import Kind

if TYPE_CHECKING:
    import apsw

    from edge.storage.delta_log import DeltaLog

NOTE = "voided"
LEAST, LEAST_IDLE = 4_096, 1_000  # operations since the last time: fewer are not worth reading the log for
RECORDS_MAX = 200_000  # that are looked at in one go: the newest ones
_PAGE = 500
_SAYING = (
    "SELECT seq, ts, collection, key, kind, rules, fields FROM operations "
    "WHERE seq > ? AND seq <= ? AND (rules <> '' OR kind = ?) ORDER BY seq DESC LIMIT ?"
)
_ROWS = "SELECT seq, position, ts, seen, collection, key FROM operations WHERE seq >= ? AND seq <= ?"
_DELETE = "DELETE FROM operations WHERE seq = ?"
_INSERT = "INSERT INTO operations VALUES "
_NOTHING = msgpack.packb({})

Void = tuple[int, int]  # seq, ts


class _Later(NamedTuple):
    """What later operations set of a record: ``names``, None for all of it; ``ts``: the oldest of them."""

    ts: int
    names: frozenset[str] | None


def void(log: DeltaLog, *, idle: bool) -> int:
    """Empty what is void, when so much was written since the last time that it pays: as much as was left then, at
    least. Returns how many operations. Raises StorageError.
    """
    with log.writer.lock:
        sent = [seq for seq, _ in log.meta_get("sent") or ()]
        first = max([log.acked_seq, *sent])
        until, left = log.meta_get(NOTE) or (0, 0)
        if log.head_seq - max(first, until if until <= log.head_seq else 0) < max(LEAST_IDLE if idle else LEAST, left):
            return 0
        log.fold()
        replica, until = log.replica, log.head_seq
    found: list[Void] = []
    left = 0
    for one in _looked_at(log, first, until):
        if one is None:
            left += 1
        else:
            found.append(one)
    for at in range(0, len(found), _PAGE):
        with log.writer.lock, log.transact() as db:
            if log.replica != replica:
                return at  # the numbers are another life's by now
            _empty(db, found[at : at + _PAGE])
    log.meta_set(NOTE, (until, left))
    return len(found)


def _empty(db: apsw.Connection, some: Sequence[Void]) -> None:
    """Deleted and inserted again: an update would leave the pages as they are, and almost empty."""
    known = frozenset(some)
    rows: Iterator[Any] = db.execute(_ROWS, (some[-1][0], some[0][0]))  # the newest is the first
    void = [row for row in rows if (row[0], row[2]) in known]
    db.executemany(_DELETE, [row[:1] for row in void])
    insert(db, _INSERT, [(*row, int(Kind.PUT), "", _NOTHING) for row in void])


def _looked_at(log: DeltaLog, first: int, until: int) -> Iterator[Void | None]:
    """From the newest to the oldest: those that are void, and None for each that stays."""
    system = {number for name, number in log.collection_ids().items() if name.startswith("_")}
    later: dict[tuple[int, str], _Later] = {}
    while page := log.reader.all(_SAYING, first, until, int(Kind.DELETE), _PAGE):
        until = page[-1][0] - 1
        for seq, ts, collection, key, kind, rules, packed in page:
            ref = (collection, key)
            held = later.get(ref)
            if collection in system or rules.strip("l") or (held is None and len(later) >= RECORDS_MAX):
                yield None
            elif kind == Kind.DELETE:
                later[ref] = _Later(ts, None)
                yield None
            elif held is not None and ts < held.ts and (held.names is None or held.names >= _names(packed)):
                yield seq, ts
            else:
                yield None
                if held is None:
                    later[ref] = _Later(ts, _names(packed))
                elif held.names is not None:
                    later[ref] = _Later(min(ts, held.ts), held.names | _names(packed))


def _names(packed: Any) -> frozenset[str]:
    return frozenset(unpack_fields(packed))
