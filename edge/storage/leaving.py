"""What leaves a device's scope leaves the device (ADR 24): marked at one handshake, gone at a later one.

A record is *marked* when its place is ``absent``, or when it is older than ``age_days_max`` of its rule, everything
local is acknowledged and the feed's head is H; it goes once the archive holds H, if nothing has changed it since. That
is no delete: nothing is written, nobody hears of it.
``leaving`` has (the row in ``records``, SHA-256 of its image); the note of the same name says in which life of the
cloud, and under which name and policy, they were marked, and H.

What always holds: what goes is in the cloud's archive as it was here, and ``evicted`` remembers its place. A record
does not go yet, and ``why_not`` says so, if the cloud refused a write of it or one was kept back here, if it is the
system's or of a collection that is not declared, or if its attachment's bytes are not known to be in the cloud.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from edge.storage import evicted, kept_back, policy_row, scoping
from edge.storage.attached import Attached
from sync.errors import InvalidPolicy
from sync.images import is_alive, newest_of
from sync.places import is_of_agents
from sync.policy import Policy
from sync.scope import Coverage, Rule, ScopeTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.storage.delta_log import DeltaLog
    from edge.storage.policy_row import PolicyRow

MARKED_MAX = 10_000
BATCH = 500
_CHANGES_MAX = 100_000
_NOTE = "leaving"
_DAY_MS = 86_400_000
_TOGETHER = ("_checkpoints", "_values", "_recalls", "agent.documents", "agent.chunks")  # none makes sense alone
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
    if row is None or sha256(row.data).digest() != row.sha256:
        return 0  # a damaged one may say anything
    try:
        rules = Policy.again(row.data).sync
    except InvalidPolicy:
        return 0  # of later software: what it wants is not known here
    if not any(rule.direction == "absent" or rule.age_days_max for rule in rules):
        return 0
    going, gone = _Going(log, ScopeTable(rules)), 0
    note = log.meta_get(_NOTE)
    if note is not None and note[:3] == _here(log, row):
        if archived < note[3]:
            return 0
        while (done := _evict(log, row, going)) is not None:
            gone += done
    _mark(log, row, going, head)
    return gone


def why_not(log: DeltaLog, collection: str, key: str, rule: Rule) -> str:
    """Why a record that is here and should not be stays for now; "" if it goes as soon as the archive has it, or may be
    here.
    """
    image = log.image(collection, key)
    if image is None or not is_alive(image) or not (rule.direction == "absent" or rule.age_days_max):
        return ""
    if not _may_go(log, collection):
        return "its collection is the system's, or is not declared here"
    if rule.direction != "absent" and collection in _TOGETHER:
        return "an agent's state and documents are of several records, and do not leave by their age"
    if not _is_due(log, collection, rule, image):
        return ""
    return _why_kept(log, Attached(log), collection, key, image) or "until the cloud's archive is known to have it"


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


def _may_go(log: DeltaLog, collection: str) -> bool:
    return collection in log.schemas and (is_of_agents(collection) or not collection.startswith("_"))


def _is_due(log: DeltaLog, collection: str, rule: Rule, image: bytes) -> bool:
    """Whether a living record should not be here. Its age is that of its last write, by the corrected clock."""
    if rule.direction == "absent":
        return True
    if not rule.age_days_max or rule.direction == "local" or collection in _TOGETHER:
        return False
    return newest_of(image) < log.clock.reading(-rule.age_days_max * _DAY_MS)


def _why_kept(log: DeltaLog, attached: Attached, collection: str, key: str, image: bytes) -> str:
    """Why a record that is due does not go, whatever the archive has; "" if it does."""
    if kept_back.has(log, collection, key):
        return "it has writes that never left this device"
    if log.reader.one(_REFUSED, collection, key):
        return "the cloud refused a write of it"
    if attached.holds_back(collection, image):
        return "the bytes of its attachment are not known to be in the cloud yet"
    return ""


class _Going:
    """Which records go, in one pass."""

    def __init__(self, log: DeltaLog, table: ScopeTable) -> None:
        self._log = log
        self._table = table
        self._attached = Attached(log)

    def may(self, collection: str) -> bool:
        table = self._table
        concerned = table.covers(collection) is not Coverage.ALL or table.ages(collection)
        return concerned and _may_go(self._log, collection)

    def has(self, collection: str, key: str, image: bytes) -> bool:
        due = _is_due(self._log, collection, self._table.rule(collection, key), image)
        return due and not _why_kept(self._log, self._attached, collection, key, image)


def _mark(log: DeltaLog, row: PolicyRow, going: _Going, head: int) -> None:
    """Writers go on while it looks: what they change meanwhile is not marked."""
    with log.writer.lock:
        if not _holds(log, row):
            return
        log.fold()  # what has changed in memory only is not what would be marked
        position, here = log.position, _here(log, row)
    due = list(islice(_due(log, going), MARKED_MAX))
    with log.writer.lock:
        changed = {tuple(place) for _, *place in log.changes(position, _CHANGES_MAX)}
        if policy_row.load(log) != row or _here(log, row) != here or len(changed) == _CHANGES_MAX:
            return
        with log.transact() as db:
            db.execute(_TABLE)
            db.execute(evicted.TABLE)
            db.execute("DELETE FROM leaving")
            marks = [(record, digest) for place, record, digest in due if place not in changed]
            db.executemany("INSERT INTO leaving VALUES (?, ?)", marks)
            log.writer.put_meta(_NOTE, [*here, head])


def _due(log: DeltaLog, going: _Going) -> Iterator[tuple[tuple[str, str], int, bytes]]:
    for name, number in log.collection_ids().items():
        if going.may(name):
            for record, key, image in log.reader.walk(_LIVING, (number,)):
                if going.has(name, key, image):
                    yield (name, key), record, sha256(image).digest()


def _evict(log: DeltaLog, row: PolicyRow, going: _Going) -> int | None:
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
                if going.has(name, key, image):
                    position += 1
                    evicted.keep(db, (number, key), image, log.replica)
                    db.execute("DELETE FROM records WHERE id = ?", (record,))
                    db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, number, key))
            log.writer.put_meta("head", (log.head_seq, position, log.clock.last))
        gone = position - log.position
        log.settle_again(log.clock.last)
    return gone
