"""Erasures: which agents and namespaces are shut, by digest, and how the log is rid of what it says of them (ADR 19).

An erasure is a record of ``_erasures``. Its key is the digest of a scope and its timestamp; ``at`` is when it was, in
milliseconds since 1970; ``until``, once it is lifted, is the hybrid timestamp up to which its scope stays shut. Of
several lifts the first one counts (``until`` is a minimum). Whose a record is, ``sync.places`` says.

What always holds: within a scope that is shut nothing is written here but deletes, and nothing of it is merged that
comes from elsewhere, nor what is older than its opening.
"""

from __future__ import annotations

from _blake2 import blake2b  # hashlib loads OpenSSL: 10 of the 100 ms that a cold put may take, and 4 MB
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import msgpack

from edge.storage import kept_back
from edge.storage.log_schema import translate
from sync.errors import Erased, StoreLocked
from sync.images import fold, image_values, is_alive
from sync.operations import Kind, Operation, Shape
from sync.places import agent_of, is_of_agents, unescaped
from sync.records import Record

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.group_commit import Job
    from edge.storage.transaction import Write

ERASURES = "_erasures"
DONE = "erased"  # the note of those that this device has carried out: a list of keys
_EMPTY = msgpack.packb({})
_CHUNK = 1_000
_SAYING = (
    "SELECT o.seq, o.ts, c.id, c.name, o.key FROM operations o JOIN collections c ON c.id = o.collection "
    "WHERE o.fields <> X'80' AND (? IS NULL OR o.ts <= ?)"
)
_IMAGE = "SELECT image FROM records WHERE collection = ? AND key = ?"
_SET_IMAGE = "UPDATE records SET image = ?, living = ? WHERE collection = ? AND key = ?"
_SAY_NOTHING = "UPDATE operations SET kind = ?, rules = '', fields = ? WHERE seq = ?"


def scope_of(agent: str, namespace: str | None) -> str:
    """The digest of an agent, or of one of its namespaces; both as keys have them."""
    name = agent if namespace is None else f"{agent}/{namespace}"
    return blake2b(name.encode(), digest_size=16, person=b"agentdb.erased").hexdigest()


def scopes_of(collection: str, key: str) -> tuple[str, ...]:
    """The scopes that a record is in."""
    owner = agent_of(collection, key)
    if owner is None:
        return ()
    agent, namespace = owner
    return (scope_of(agent, None),) if namespace is None else (scope_of(agent, None), scope_of(agent, namespace))


class Erasures:
    """``at`` and ``until`` map the keys of erasures. The delta log's; it changes them as it follows its disk."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        self.until: dict[str, int | None] = {}
        self._of: dict[str, set[str]] = {}  # scope -> its erasures

    def learn(self, records: Iterable[tuple[str, bytes]]) -> None:
        """(key, image) of records that are new or have changed."""
        for key, image in records:
            fields = image_values(image) or {}
            at, until = fields.get("at"), fields.get("until")
            if type(at) is int and (until is None or type(until) is int):  # else somebody wrote it by hand
                self.at[key], self.until[key] = at, until
                self._of.setdefault(scope_in(key), set()).add(key)

    def shut(self, scope: str) -> list[str]:
        """The erasures of a scope that were not lifted."""
        return sorted(key for key in self._of.get(scope, ()) if self.until[key] is None)

    def is_shut(self, collection: str, key: str) -> bool:
        return any(self.shut(scope) for scope in scopes_of(collection, key))

    def check(self, writes: Sequence[Write]) -> None:
        """Before they are committed. Raises Erased."""
        for kind, collection, key, *_ in writes:
            if kind != Kind.DELETE and self.is_shut(collection, key):
                raise self._refusal(collection, key)

    def _refusal(self, collection: str, key: str) -> Erased:
        """Of a write within a scope that is shut."""
        agent, namespace = agent_of(collection, key) or ("", None)
        named = f"agent {unescaped(agent)!r}"
        if namespace is None or self.shut(scope_of(agent, None)):
            lift = f"edge.agent({unescaped(agent)!r}).lift_erasure()"
        else:
            named = f"namespace {unescaped(namespace)!r} of {named}"
            lift = f"edge.agent({unescaped(agent)!r}).lift_erasure({unescaped(namespace)!r})"
        return Erased(f"{named} was erased, and is shut", hint=f"another name, or {lift}")

    def admitted(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that may be committed; the others have their error."""
        out = []
        for job in jobs:
            try:
                self.check(job.writes)
            except Erased as error:
                job.error = error
            else:
                out.append(job)
        return out

    def sorted(self, operations: Sequence[Operation]) -> tuple[Sequence[Operation], dict[tuple[str, str], int]]:
        """What may be merged of what comes from elsewhere; and the places (collection, key) of what may not, with the
        newest timestamp there: whoever drops something answers with a delete, lest nobody else does.
        """
        denied: dict[tuple[str, str], int] = {}
        if not self.at:
            return operations, denied
        untils = self._untils_with(operations)
        admitted = []
        for one in operations:
            if one.shape.kind == Kind.DELETE or not self._denies(one, untils):
                admitted.append(one)
            else:
                place = (one.shape.collection, one.key)
                denied[place] = max(one.ts, denied.get(place, 0))
        return admitted, denied

    def _untils_with(self, operations: Sequence[Operation]) -> Mapping[str, int | None]:
        """``until`` as it will be with these: a lift comes together with what it lets in."""
        untils = self.until
        for one in operations:
            if one.shape.collection != ERASURES or one.key not in untils:
                continue
            fields = image_values(one.values[0]) if one.shape.kind == Kind.IMAGE else one.fields
            until, known = (fields or {}).get("until"), untils[one.key]
            if type(until) is int and (known is None or until < known):
                untils = {**untils, one.key: until}
        return untils

    def _denies(self, operation: Operation, untils: Mapping[str, int | None]) -> bool:
        found = [
            untils[erasure]
            for scope in scopes_of(operation.shape.collection, operation.key)
            for erasure in self._of.get(scope, ())
        ]
        return any(until is None or operation.ts <= until for until in found)


def new_key(scope: str, ts: int) -> str:
    return f"{scope}-{ts:016x}"


def scope_in(key: str) -> str:
    return key.partition("-")[0]


def pending(log: DeltaLog) -> list[str]:
    """The erasures that this device has still to carry out."""
    if not log.erasures.at:
        return []
    return sorted(log.erasures.at.keys() - {*(log.meta_get(DONE) or ())})


def note_done(log: DeltaLog, erasure: str) -> None:
    """Raises StorageError."""
    with log.writer.lock, log.transact():
        log.writer.put_meta(DONE, sorted({*(log.meta_get(DONE) or ()), erasure}))


def living(log: DeltaLog, erasure: str) -> dict[str, list[str]]:
    """The keys of living records in its scope that nobody has written to since it was lifted, by collection."""
    scope, until = scope_in(erasure), log.erasures.until[erasure]
    found: dict[str, list[str]] = {}
    for name in concerned(log):
        after = ""
        while page := log.scan(name, after=after, limit=_CHUNK):
            keys = [key for key, image in page if scope in scopes_of(name, key) and not _is_newer(image, until)]
            if keys:
                found.setdefault(name, []).extend(keys)
            after = page[-1][0]
        left = log.writer.evicted.places(log, name)  # it lives elsewhere, and whoever knows of it deletes it
        gone = [key for key, newest in left if scope in scopes_of(name, key) and (until is None or newest <= until)]
        if gone:
            found.setdefault(name, []).extend(gone)
    return found


def _is_newer(image: bytes, until: int | None) -> bool:
    return until is not None and Record.decode(image).newest_ts > until


def concerned(log: DeltaLog) -> list[str]:
    """The collections whose records belong to agents."""
    return sorted(name for name in log.schemas if is_of_agents(name))


def purge(log: DeltaLog, erasure: str) -> int:
    """Take what the log says of an erasure's scope out of it: its operations become deletes, its dead letters go, and
    what was kept back. What lives is to be deleted before. Returns how many operations changed. Raises StorageError.
    """
    with log.writer.lock:
        log.fold()
        try:
            with log.transact() as db:
                count, images = _rewrite(db, log, erasure)
        except apsw.Error as error:
            raise translate(error, log.path) from error
        if images:
            log.settle_again(log.clock.last)
        return count


def _rewrite(db: apsw.Connection, log: DeltaLog, erasure: str) -> tuple[int, int]:
    """How many operations and images changed."""
    names = frozenset(concerned(log))
    scope, until = scope_in(erasure), log.erasures.until[erasure]
    rows: list[Any] = db.execute(_SAYING, (until, until)).fetchall()
    found = [row for row in rows if row[3] in names and scope in scopes_of(row[3], row[4])]
    db.executemany(_SAY_NOTHING, [(int(Kind.DELETE), _EMPTY, row[0]) for row in found])
    images = 0 if until is None else _delete_older(db, log, found)
    letters: list[Any] = db.execute("SELECT replica, seq, collection, key FROM dead_letters").fetchall()
    gone = [(replica, seq) for replica, seq, name, key in letters if scope in scopes_of(name, key)]
    db.executemany("DELETE FROM dead_letters WHERE replica = ? AND seq = ?", gone)
    images += kept_back.erase(db, names, lambda name, key: scope in scopes_of(name, key), log.position + images)
    return len(found), images


def _delete_older(db: apsw.Connection, log: DeltaLog, rows: Sequence[Any]) -> int:
    """What was written to since it was lifted lives, with what was written since: so it is for everybody who merges the
    operations as they are now. Returns how many images changed.
    """
    position = log.position
    for seq, ts, number, name, key in rows:
        image = db.execute(_IMAGE, (number, key)).get
        if image is None:
            continue
        merged = fold(image, Operation(log.replica, seq, ts, 0, Shape(Kind.DELETE, name), key, ()))
        if merged != image:
            position += 1
            db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, number, key))
            db.execute(_SET_IMAGE, (merged, int(is_alive(merged)), number, key))
    return position - log.position


def vacuum(log: DeltaLog) -> None:
    """Leave nothing in the database's files but what it holds. Raises StoreLocked (a reader of another process keeps
    the write-ahead log), DiskFull (it needs the space once more), StorageError.
    """
    with log.writer.lock:
        log.writer.check_open()
        db = log.writer.db
        try:
            db.execute("VACUUM")
            busy = any(row[0] for row in db.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        except apsw.Error as error:
            raise translate(error, log.path) from error
    if busy:
        raise StoreLocked(
            f"{log.path} is being read by another process, which keeps what was erased in its write-ahead log",
            hint="it is tried again with the next sync or round of care; or close the other process",
        )
