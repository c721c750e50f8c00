"""What is kept back (ADR 24): records that were written while the policy, or a bound of it, kept them on this device.

A write that is kept back has no operation: its image goes into its table in the commit, a mark has its position, and
``kept_back`` has a row: ``version``, the position of the last such write; ``told``, the largest timestamp in what was
ever loaded to be sent, 0 for nothing; ``refused``, why the cloud would not take it; ``base``, the record as it was
before the first of these writes, without which the store's state would be pushed (a repair, ADR 12): NULL for none,
empty where others know of it, and nothing is here that they may not have: it was erased, or had left. There is no table
before the first. The row goes when the cloud has the record, as it is by then; what is written meanwhile keeps it.

What always holds: nothing of such a write leaves the device while its place, or its size, is kept; a commit has the row
of every one of its images that has no operation. It leaves to others: what is kept (``edge.control.keeping``), when to
send (``sync.keeping``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edge.storage import kept_bases, renaming
from edge.storage.log_schema import has_table
from sync.errors import FutureStamp
from sync.images import is_alive, split_image
from sync.limits import FUTURE_MS_MAX, OPERATION_BYTES_MAX
from sync.records import Record, state_operation

if TYPE_CHECKING:
    import apsw

    from edge.storage.delta_log import DeltaLog
    from edge.storage.group_commit import Job
    from edge.storage.transaction import Transaction
    from sync.effects import Ticket
    from sync.operations import Operation

ALL = -1  # whatever its size
LOCAL, NOT_SENT = FOR_GOOD = "local", "not-sent"  # why something stays, of ``Keeper.why``, until another policy comes
FUTURE, REFUSED = "future", "refused"  # why it does besides what that says
_PARTS_MAX = 2  # of a record; the cloud's bound of a record is that of an operation
_TABLE = """CREATE TABLE IF NOT EXISTS kept_back (
    collection INTEGER NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0,
    refused TEXT NOT NULL DEFAULT '', base BLOB, PRIMARY KEY (collection, key)) WITHOUT ROWID"""
_KEEP = (
    "INSERT INTO kept_back (collection, key, version, base) VALUES (?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET version = excluded.version, refused = ''"
)
_ROWS = (
    "SELECT k.key, k.version, k.refused, length(r.image) FROM kept_back k LEFT JOIN records r "
    "ON r.collection = k.collection AND r.key = k.key WHERE k.collection = ? AND k.key > ? ORDER BY k.key"
)
_COLLECTIONS = "SELECT DISTINCT k.collection, c.name FROM kept_back k JOIN collections c ON c.id = k.collection"
_IMAGE = "SELECT image FROM records WHERE collection = ? AND key = ?"
_HAS = "SELECT 1 FROM kept_back k JOIN collections c ON c.id = k.collection WHERE c.name = ? AND k.key = ?"
_NOTHING = Record().encode()
_DROP = "DELETE FROM kept_back WHERE collection = ? AND key = ? AND version = ?"


class Keeper(Protocol):
    """What of a device's writes stays on it. Asked under the write lock, for places: be brief. ``keeps``: whether
    anything does at all; ``measures``: whether it depends on sizes.
    """

    keeps: bool
    measures: bool

    def bound(self, collection: str, key: str) -> int:
        """``ALL``; else the bytes up to which a record of this place is sent, 0 for any number."""
        ...

    def why(self, collection: str, key: str, size: int) -> str:
        """Why a record of that size stays here, "" if it need not."""
        ...

    def may_send(self, collection: str) -> bool:
        """Whether any place of the collection is sent."""
        ...

    def defers(self, collection: str) -> bool:
        """Whether anything of the collection may stay for now only."""
        ...

    def rule_of(self, collection: str, key: str) -> int:
        """The number of the [[sync]] that decides; 0: none does."""
        ...


class Kept:
    """Of one log, which owns it; in memory. ``keeper`` None: everything is sent. ``changes`` counts what may have made
    something due; ``released`` are called after something was let go.
    """

    def __init__(self) -> None:
        self.keeper: Keeper | None = None
        self.bound: Callable[[str, str], int] | None = None  # the keeper's, unless it is 0 for all
        self.changes = 0
        self.there: bool | None = None  # whether there is a table; None: not looked
        self.released: list[Callable[[], object]] = []

    def obey(self, keeper: Keeper | None) -> None:
        """From now on; ``close_off`` was called. The caller holds the write lock."""
        self.keeper, self.bound = keeper, keeper.bound if keeper is not None and keeper.keeps else None
        self.changes += 1

    def bounds(self, collection: str, key: str) -> int:
        """As ``Keeper.bound``."""
        bound = self.bound
        return 0 if bound is None else bound(collection, key)

    def concerns(self, jobs: Sequence[Job]) -> bool:
        """Whether anything that they write is kept back, or would be if it were large."""
        bound = self.bound
        return bound is not None and any(bound(write[1], write[2]) for job in jobs for write in job.writes)

    def follow(self, transaction: Transaction) -> None:
        """After its commit."""
        if transaction.kept:
            self.there = True
        if transaction.shrunk:
            self.changes += 1
        elif self.there is not False and self.keeper is not None and self.keeper.measures and transaction.marks:
            self.changes += 1  # others may have made one smaller

    def why(self, collection: str, key: str, size: int) -> str:
        return "" if self.keeper is None else self.keeper.why(collection, key, size)

    def may_send(self, collection: str) -> bool:
        return self.keeper is None or self.keeper.may_send(collection)


class Waiting(NamedTuple):
    """A record that is kept back: ``size`` in bytes, as it is stored; ``why``, "" if it goes with the next sync."""

    collection: str
    key: str
    size: int
    why: str


def is_there(log: DeltaLog) -> bool:
    """Whether anything was ever kept back here. Raises StorageError."""
    kept = log.kept
    if kept.there is None or (log.read_only and not kept.there):
        kept.there = log.reader.has_table("kept_back")
    return kept.there


def names(log: DeltaLog) -> list[str]:
    """The collections of which something is kept back, sorted. Raises StorageError."""
    return sorted(name for _, name in log.reader.all(_COLLECTIONS)) if is_there(log) else []


def close_off(log: DeltaLog) -> None:
    """Before something else decides what stays. Of what may have been sent besides until now, in parts, operations may
    have left: it is noted as told, so that a delete of it is not forgotten. A record may be gone from here and come
    back before the next write of it is kept: that one goes on from no slot that was known elsewhere. The caller holds
    the lock. Raises StorageError.
    """
    if not is_there(log):
        return
    log.begin_run()
    numbers = log.collection_ids()
    found = [(numbers[name],) for name in names(log) if log.kept.may_send(name)]
    if found:
        with log.transact() as db:
            db.executemany("UPDATE kept_back SET told = max(told, 1) WHERE collection = ? AND told = 0", found)


def keep(db: apsw.Connection, transaction: Transaction) -> None:
    """A part of a commit: version and base of what has no operation in it; and what came from elsewhere is merged into
    bases as it is into records.
    """
    if transaction.merged and has_table(db, "kept_back"):
        kept_bases.merge(db, transaction.merged)
    if transaction.kept:
        db.execute(_TABLE)
        db.executemany(_KEEP, [(*ref, version, base) for ref, (version, base) in transaction.kept.items()])


# -- sending ----------------------------------------------------------------------------------------------------------


def load(
    log: DeltaLog, after: tuple[str, str] | None, max_operations: int, max_bytes: int
) -> tuple[list[Operation], Ticket, tuple[str, str] | None]:
    """What may go by now, as state, in order of place after one; which versions of what these are, and where to go on.
    Raises StorageError.
    """
    from edge.storage import log_clock

    if not is_there(log):
        return [], (), None
    with log.writer.lock:
        log.fold()
        limit = log.clock.reading(FUTURE_MS_MAX)
        rows: list[tuple[str, str, bytes]] = []
        ticket: list[tuple[str, str, int]] = []
        told: list[tuple[int, int, str]] = []
        gone: list[tuple[int, str, int]] = []
        size = 0
        with log.transact() as db:
            for number, name, key, version in _due(log, db, after):
                image = db.execute(_IMAGE, (number, key)).get
                if image is None:
                    gone.append((number, key, version))
                    continue
                newest = Record.decode(image).newest_ts
                if newest > limit:
                    continue  # the cloud would refuse it: its time comes, or it is mended
                size += len(image) + len(key)
                if ticket and (size > max_bytes or len(ticket) >= max_operations):
                    break
                rows.append((name, key, image))
                ticket.append((name, key, version))
                told.append((newest, number, key))
            db.executemany(_DROP, gone)
            db.executemany("UPDATE kept_back SET told = max(told, ?) WHERE collection = ? AND key = ?", told)
            if told and (newest := max(it[0] for it in told)) > (log.meta_get("told_ts") or 0):
                log.writer.put_meta("told_ts", newest)
        operations = as_state(log, renaming.without_pending(log, rows))
        if operations:
            log_clock.tell(log)
    return operations, tuple(ticket), ticket[-1][:2] if ticket else None


def _due(log: DeltaLog, db: apsw.Connection, after: tuple[str, str] | None) -> Iterator[tuple[int, str, str, int]]:
    """(collection id, name, key, version)."""
    start, after_key = after or ("", "")
    found: list[Any] = db.execute(_COLLECTIONS).fetchall()
    for number, name in sorted(found, key=itemgetter(1)):
        if name >= start and log.kept.may_send(name):
            rows: list[Any] = db.execute(_ROWS, (number, after_key if name == start else "")).fetchall()
            for key, version, refused, size in rows:
                if not refused and not log.kept.why(name, key, size or 0):
                    yield number, name, key, version


def as_state(log: DeltaLog, rows: Sequence[tuple[str, str, bytes]]) -> list[Operation]:
    """A record that has outgrown one operation, by what others wrote into it, comes in parts; of these the cloud takes
    as many as fit a record.
    """
    return [
        state_operation(collection, key, part, log.state_shape)
        for collection, key, image in rows
        for part in split_image(image, OPERATION_BYTES_MAX)[:_PARTS_MAX]
    ]


def release(log: DeltaLog, ticket: Ticket, refused: tuple[str, str] | None) -> None:
    """After the cloud's answer to what was loaded with that ticket. Raises StorageError."""
    numbers = log.collection_ids()
    rows = [(numbers[name], key, version) for name, key, version in ticket]
    with log.writer.lock, log.transact() as db:
        if refused is None:
            db.executemany(_DROP, rows)
        elif refused[0] == FutureStamp.code:  # it did not take it: the stamps may still be mended
            db.executemany("UPDATE kept_back SET told = 1 WHERE collection = ? AND key = ? AND version = ?", rows)
        else:
            said = f"{refused[0]}: {refused[1]}"[:1_000]
            sql = "UPDATE kept_back SET refused = ? WHERE collection = ? AND key = ? AND version = ?"
            db.executemany(sql, [(said, *row) for row in rows])
    if refused is None:
        for listener in log.kept.released:
            listener()


# -- what the store says of itself ------------------------------------------------------------------------------------


def as_before(log: DeltaLog, rows: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
    """Of the store's state, in order of place: what others may be given of it."""
    if not rows or not is_there(log):
        return rows
    numbers = log.collection_ids()
    bases: dict[tuple[str, str], bytes | None] = {}
    for name, its_rows in groupby(rows, itemgetter(0)):
        keys = [row[1] for row in its_rows]
        sql = "SELECT key, base FROM kept_back WHERE collection = ? AND key >= ? AND key <= ?"
        bases |= {(name, key): base for key, base in log.reader.all(sql, numbers[name], keys[0], keys[-1])}
    shown = ((name, key, bases.get((name, key), image)) for name, key, image in rows)
    return [(name, key, image) for name, key, image in shown if image]


def of_place(log: DeltaLog, collection: str, key: str, keeper: Keeper | None) -> Waiting | None:
    """Whether a record is kept back, and why. Raises StorageError."""
    return next(iter(waiting(log, keeper, (collection, key))), None)


def waiting(log: DeltaLog, keeper: Keeper | None, place: tuple[str, str] | None = None) -> Iterator[Waiting]:
    """All that is kept back, or that of one place. Raises StorageError."""
    for name in names(log) if place is None else place[:1] if is_there(log) else ():
        yield from _waiting_of(log, keeper, name, None if place is None else place[1])


def deferred(log: DeltaLog, keeper: Keeper) -> Iterator[Waiting]:
    """What is kept back for now; not what a rule keeps here for good. Raises StorageError."""
    for name in names(log):
        if keeper.defers(name):
            yield from (one for one in _waiting_of(log, keeper, name) if one.why and one.why not in FOR_GOOD)


def _waiting_of(log: DeltaLog, keeper: Keeper | None, collection: str, key: str | None = None) -> Iterator[Waiting]:
    sql = (
        "SELECT k.key, k.refused, length(r.image) FROM kept_back k JOIN collections c ON c.id = k.collection "
        "JOIN records r ON r.collection = k.collection AND r.key = k.key WHERE c.name = ?"
    )
    only = "" if key is None else " AND k.key = ?"
    for held, refused, size in log.reader.walk(sql + only, (collection,) if key is None else (collection, key)):
        why = "" if keeper is None else keeper.why(collection, held, size)
        if not why and refused:
            why = REFUSED
        elif not why:
            image = log.image(collection, held) or _NOTHING
            why = FUTURE if Record.decode(image).newest_ts > log.clock.reading(FUTURE_MS_MAX) else ""
        yield Waiting(collection, held, size, why)


def counted(log: DeltaLog) -> tuple[int, int]:
    """How many records are kept back, and their bytes as they are stored. Raises StorageError."""
    if not is_there(log):
        return 0, 0
    sql = (
        "SELECT count(*), total(length(r.image)) FROM kept_back k JOIN records r "
        "ON r.collection = k.collection AND r.key = k.key"
    )
    count, size = log.reader.one(sql)
    return count, int(size)


def bases(log: DeltaLog, collection: str) -> dict[str, bytes | None]:
    """Of each record of a collection that is kept back: what of it others may be given. Raises StorageError."""
    number = log.collection_ids().get(collection)
    if number is None or not is_there(log):
        return {}
    return dict(log.reader.all("SELECT key, base FROM kept_back WHERE collection = ?", number))


def has(log: DeltaLog, collection: str, key: str) -> bool:
    """Whether a record has what never left this device. Raises StorageError."""
    return is_there(log) and log.reader.one(_HAS, collection, key) is not None


# -- forgetting, erasing, mending -------------------------------------------------------------------------------------


def not_swept(db: apsw.Connection) -> str:
    """For a query of tombstones: others may know of these records, and have not heard of the delete. A tombstone of
    what never left this device is forgotten like any other.
    """
    if not has_table(db, "kept_back"):
        return ""
    return (
        " AND NOT EXISTS (SELECT 1 FROM kept_back k WHERE k.collection = records.collection "
        "AND k.key = records.key AND (k.base IS NOT NULL OR k.told > 0))"
    )


def forget(db: apsw.Connection, records: Sequence[tuple[int]]) -> None:
    """These rows of ``records`` are about to go."""
    if records and has_table(db, "kept_back"):
        sql = "DELETE FROM kept_back WHERE (collection, key) = (SELECT collection, key FROM records WHERE id = ?)"
        db.executemany(sql, records)


def erase(db: apsw.Connection, names: Collection[str], is_of: Callable[[str, str], bool], position: int) -> int:
    """Rid the store of what an erasure's scope had kept back, once nothing of it lives that is older: a record that
    never left goes whole, of others the row. Returns how many records went, whose positions follow this one.
    """
    if not has_table(db, "kept_back"):
        return 0
    first = position
    found: list[Any] = db.execute(_COLLECTIONS).fetchall()
    for number, name in found:
        if name not in names:
            continue
        sql = (
            "SELECT k.key, k.base IS NULL AND k.told = 0, r.id, r.image FROM kept_back k LEFT JOIN records r "
            "ON r.collection = k.collection AND r.key = k.key WHERE k.collection = ?"
        )
        rows: list[Any] = db.execute(sql, (number,)).fetchall()
        for key, never_left, record, image in rows:
            if not is_of(name, key):
                continue
            if image is not None and is_alive(image):  # written since it was lifted, or still to be deleted
                db.execute("UPDATE kept_back SET base = X'' WHERE collection = ? AND key = ?", (number, key))
                continue
            db.execute("DELETE FROM kept_back WHERE collection = ? AND key = ?", (number, key))
            if never_left and image is not None:
                position += 1
                db.execute("DELETE FROM records WHERE id = ?", (record,))
                db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, number, key))
    return position - first
