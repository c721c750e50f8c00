"""What a store does with its contributions when it learns that it is a copy (ADR 12); ``sync.moving`` has the rules.

``without_pending`` keeps what has not been acknowledged out of the state that a store pushes. ``rename`` is a part of
``DeltaLog.new_incarnation``'s transaction, ``taken_back`` of the one that stores a page of the feed. In between
``meta`` remembers, as ``renamed``, what was moved of each old name: ``[[replica, [moved …]] …]``.

What always holds: a contribution is moved in the transaction in which the name changes, and taken back in the one that
brings it under the old name, so neither happens twice nor is forgotten. When something was taken back the store's state
has to be pushed once more, and that is noted in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import apsw

from edge.storage import evicted, kept_bases
from edge.storage.log_reader import unpack_hidden
from sync.errors import FutureStamp
from sync.images import is_alive
from sync.moving import MOVED_RULES, Contribution, Moved, move, set_back, take_back
from sync.operations import Operation
from sync.records import Record

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

RENAMED = "renamed"
_NOTED_MAX = 10_000  # contributions of one old name: the first ones, since those are what a copy shares
_NAMES_MAX = 4

_PENDING_BETWEEN = (
    "SELECT c.name, o.key, o.seq, o.ts, o.rules, o.fields "
    "FROM operations o JOIN collections c ON c.id = o.collection "
    "WHERE o.seq > ? AND o.rules GLOB '*[cnx]*' AND (c.name, o.key) >= (?, ?) AND (c.name, o.key) <= (?, ?) "
    "ORDER BY o.seq"
)

Row = tuple[str, str, bytes]  # collection, key, image
Renamed = dict[bytes, list[Moved]]
_PENDING = (
    "SELECT o.collection, o.key, c.name, o.seq, o.ts, o.rules, o.fields "
    "FROM operations o JOIN collections c ON c.id = o.collection "
    "WHERE (o.seq > ? OR o.seq IN (SELECT seq FROM dead_letters WHERE replica = ? AND code = ? AND seq > ?)) "
    "AND o.rules GLOB '*[cnx]*' ORDER BY o.collection, o.key, o.seq"
)


def rename(log: DeltaLog, db: apsw.Connection) -> None:
    """Move what is not acknowledged, or was refused and is still to be written again (``log_clock``). The images are in
    their table, and the operations still in the log.
    """
    moved: list[Moved] = []
    kept_bases.take_pending(log, db)
    refused = (log.replica, FutureStamp.code, log.meta_get("rewritten") or 0)
    rows: list[Any] = db.execute(_PENDING, (log.acked_seq, *refused)).fetchall()
    for (number, key, collection), its_rows in groupby(rows, itemgetter(0, 1, 2)):
        contributions = [it for row in its_rows for it in _contributions(*row[3:])]
        image = db.execute("SELECT image FROM records WHERE collection = ? AND key = ?", (number, key)).get
        if image is None:
            image = evicted.image_at(db, log.writer.evicted, (number, key))
        if image is None:
            continue  # nothing is left of it
        record = Record.decode(image)
        moved += move(record, log.replica, (collection, key), contributions)
        kept_bases.move_pending(log, db, (number, collection, key), contributions)
        after = record.encode()
        if after != image and not evicted.set_image(db, log.writer.evicted, (number, key), after):
            db.execute(
                "UPDATE records SET living = ?, image = ? WHERE collection = ? AND key = ?",
                (int(is_alive(after)), after, number, key),
            )
    if moved:
        moved.sort(key=lambda it: it.seq)
        names = [entry for entry in log.renamed.items() if entry[0] != log.replica]
        log.writer.put_meta(RENAMED, [*names[1 - _NAMES_MAX :], (log.replica, moved[:_NOTED_MAX])])


def without_pending(log: DeltaLog, rows: list[Row]) -> list[Row]:
    """Images as state that other stores may be given: what this one contributed and the cloud has not acknowledged
    comes with its operations, after it was found that nobody else has written under its name.
    """
    if not rows:
        return rows
    pending: dict[tuple[str, str], list[Contribution]] = {}
    for name, key, *columns in log.reader.all(_PENDING_BETWEEN, log.acked_seq, *rows[0][:2], *rows[-1][:2]):
        pending.setdefault((name, key), []).extend(_contributions(*columns))
    return [(name, key, _without(image, log.replica, pending.get((name, key)))) for name, key, image in rows]


def _without(image: bytes, replica: bytes, contributions: Sequence[Contribution] | None) -> bytes:
    if not contributions:
        return image
    record = Record.decode(image)
    set_back(record, replica, contributions)
    return record.encode()


def taken_back(renamed: Renamed, operations: Sequence[Operation]) -> tuple[Sequence[Operation], dict[str, Any]]:
    """A page's operations with what has to be merged besides, and what to note (``meta``) in the same transaction."""
    if not renamed:
        return operations, {}
    left = {replica: list(entries) for replica, entries in renamed.items()}
    besides = take_back(left, operations)
    notes: dict[str, Any] = {} if left == renamed else {RENAMED: list(left.items())}
    if besides:
        notes["repair"] = True
    return [*operations, *besides], notes


def unpacked(note: Sequence[Any] | None) -> Renamed:
    """What ``meta`` remembers, for ``taken_back``."""
    return {replica: [Moved(*entry) for entry in entries] for replica, entries in note or ()}


def _contributions(seq: int, ts: int, rules: str, packed: bytes) -> Iterator[Contribution]:
    """None of an operation that remembers nothing: what it put into its slot stays there."""
    fields, hidden = unpack_hidden(packed)
    if hidden is None:
        return
    run, slots = hidden
    merged = [(name, rule) for name, rule in zip(fields, rules, strict=True) if rule in MOVED_RULES]
    for (name, rule), held in zip(merged, slots, strict=True):
        before, added = (None, 0) if held is None else ((held[0], held[1]), held[2])
        yield Contribution(seq, ts, name, rule, fields[name], before, run, added)
