"""What leaves a device's scope leaves the device (ADR 24): marked at one handshake, gone at a later one.

A record is *marked* when its place is ``absent``, everything local is acknowledged and the feed's head is H; it goes
once the archive holds H, if nothing has changed it since. That is no delete: nothing is written, nobody hears of it.
``leaving`` has (the row in ``records``, SHA-256 of its image); the note of the same name says in which life of the
cloud, and under which name and policy, they were marked, and H.

What always holds: what goes is in the cloud's archive as it was here. A record does not go yet, and ``why_not`` says
so, if the cloud refused a write of it or one was kept back here, if its collection has fields that count or are sets,
from whose slots a later write here would have to go on, or if it is an agent's or the system's.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from edge.storage import kept_back, policy_row, scoping
from sync.errors import InvalidPolicy
from sync.places import is_of_agents
from sync.policy import Policy
from sync.scope import Coverage, ScopeTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import apsw

    from edge.storage.delta_log import DeltaLog
    from edge.storage.policy_row import PolicyRow

MARKED_MAX = 10_000
BATCH = 500
_NOTE = "leaving"
_TABLE = "CREATE TABLE IF NOT EXISTS leaving (record INTEGER PRIMARY KEY, image BLOB NOT NULL)"
_LIVING = "SELECT id, key, image FROM records WHERE collection = ? AND living = 1"
_REFUSED = "SELECT 1 FROM dead_letters WHERE collection = ? AND key = ? LIMIT 1"
_MARKED = (
    "SELECT l.record, l.image, r.collection, c.name, r.key, r.image FROM leaving l LEFT JOIN records r "
    "ON r.id = l.record LEFT JOIN collections c ON c.id = r.collection ORDER BY l.record LIMIT ?"
)


def leave(log: DeltaLog, head: int, archived: int) -> int:
    """At a handshake, once everything local is acknowledged: let go what was marked, if the archive has it, and mark
    what is there now. ``head`` is the feed's, ``archived`` up to where the archive holds it. Returns how many went.
    Raises StorageError.
    """
    row = policy_row.load(log)
    if row is None:
        return 0
    try:
        rules = Policy.again(row.data).sync
    except InvalidPolicy:
        return 0  # of later software: what it wants is not known here
    if not any(rule.direction == "absent" for rule in rules):
        return 0
    table, gone = ScopeTable(rules), 0
    note = log.meta_get(_NOTE)
    if note is not None and note[:3] == _here(log, row):
        if archived < note[3]:
            return 0
        while (done := _evict(log, row, table)) is not None:
            gone += done
    _mark(log, row, table, head)
    return gone


def why_not(log: DeltaLog, collection: str, key: str) -> str:
    """Why a record whose place is ``absent`` stays for now, "" if it goes as soon as the archive has it."""
    if kept_back.of_place(log, collection, key, None) is not None:
        return "it has writes that never left this device"
    if not _is_plain(log, collection):
        return "its collection is an agent's or the system's, or has fields that count, or are sets"
    return "the cloud refused a write of it" if log.reader.one(_REFUSED, collection, key) else ""


# -- inside -----------------------------------------------------------------------------------------------------------


def _here(log: DeltaLog, row: PolicyRow) -> list[Any]:
    return [log.meta_get("incarnation"), log.replica, row.sha256]


def _holds(log: DeltaLog, row: PolicyRow) -> bool:
    """Whether the data is complete under this policy, and everything that was written here is acknowledged."""
    return (
        policy_row.load(log) == row
        and scoping.load(log) == (row.sha256, None, False)
        and log.acked_seq >= log.head_seq
        and not log.meta_get("repair")
    )


def _is_plain(log: DeltaLog, collection: str) -> bool:
    schema = log.schemas.get(collection)
    of_others = collection.startswith("_") or is_of_agents(collection)
    return not of_others and schema is not None and schema.all_lww()


def _mark(log: DeltaLog, row: PolicyRow, table: ScopeTable, head: int) -> None:
    with log.writer.lock:
        if not _holds(log, row):
            return
        log.fold()  # what has changed in memory only is not what would be marked
        with log.transact() as db:
            db.execute(_TABLE)
            db.execute("DELETE FROM leaving")
            db.executemany("INSERT INTO leaving VALUES (?, ?)", list(islice(_absent(log, db, table), MARKED_MAX)))
            log.writer.put_meta(_NOTE, [*_here(log, row), head])


def _absent(log: DeltaLog, db: apsw.Connection, table: ScopeTable) -> Iterator[tuple[int, bytes]]:
    for name, number in log.collection_ids().items():
        if _is_plain(log, name) and table.covers(name) is not Coverage.ALL:
            rows: Iterable[Any] = db.execute(_LIVING, (number,))
            for record, key, image in rows:
                if table.rule(name, key).direction != "absent" or kept_back.holds(db, number, key):
                    continue
                if not db.execute(_REFUSED, (name, key)).get:
                    yield record, sha256(image).digest()


def _evict(log: DeltaLog, row: PolicyRow, table: ScopeTable) -> int | None:
    """The next of those that are marked; None: there are no more, or it must not go on."""
    with log.writer.lock:
        if not _holds(log, row):
            return None
        log.fold()
        position = log.position
        with log.transact() as db:
            marked: list[Any] = db.execute(_MARKED, (BATCH,)).fetchall()
            if not marked:
                return None
            for record, digest, number, name, key, image in marked:
                db.execute("DELETE FROM leaving WHERE record = ?", (record,))
                if image is None or sha256(image).digest() != digest:
                    continue  # it has gone, or is another than was marked
                if kept_back.holds(db, number, key):
                    continue
                if table.rule(name, key).direction == "absent" and not db.execute(_REFUSED, (name, key)).get:
                    position += 1
                    db.execute("DELETE FROM records WHERE id = ?", (record,))
                    db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, number, key))
            log.writer.put_meta("head", (log.head_seq, position, log.clock.last))
        gone = position - log.position
        log.settle_again(log.clock.last)
    return gone
