"""Evicted: the places whose records have left this device (ADR 24), and what it has to remember of them.

``evicted`` has, for each place, the newest timestamp of what left, and a *stub*: the image of a record that is not
whole. At first that is its floor and this replica's own slots, from which a later write here has to go on; then also
what was written to the place since, here or elsewhere. The whole record comes with a baseline, a growth or a fetch
(``sync.fetching``), joins the stub, and is here again. A state says what the place waits for: ``QUIET`` nothing,
``WANTED`` to be fetched, since something was written; ``ALONE``: the cloud has nothing of it, so the stub is all;
``DENIED``: written to, and the cloud does not give it to this device now.

What always holds: a place is in ``records`` or in ``evicted``, never in both; it moves in the transaction of what moves
it. What is only a stub nobody reads: it is as if absent. Without rows, nothing here costs more than a look at an empty
set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from edge.storage.log_schema import has_table
from sync.errors import FutureStamp, NotHere
from sync.images import PLAIN
from sync.limits import FETCHED_RECORDS_MAX
from sync.moving import MOVED_RULES
from sync.operations import Kind, Operation
from sync.places import Place, Whole
from sync.records import Record
from sync.stamps import device_of

if TYPE_CHECKING:
    import apsw

    from edge.storage.delta_log import DeltaLog
    from edge.storage.renaming import Row
    from edge.storage.transaction import Ref, Write
    from sync.schema import CollectionSchema

QUIET, WANTED, ALONE, DENIED = 0, 1, 2, 3
SAID = (
    "until somebody writes to it",
    "it is to be fetched",
    "the cloud has nothing of it",
    "it was written to; the cloud does not give it",
)
OVER_ALL, OVER_STUB = 1, 2  # what a write is over: all that there is to know here, or a stub that stays one
TABLE = (
    "CREATE TABLE IF NOT EXISTS evicted (collection INTEGER NOT NULL, key TEXT NOT NULL, newest INTEGER NOT NULL, "
    "state INTEGER NOT NULL, stub BLOB NOT NULL, PRIMARY KEY (collection, key)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS wanted ON evicted (collection, key) WHERE state = 1"
)
_OF = "SELECT newest, state, stub FROM evicted WHERE collection = ? AND key = ?"
_COLLECTIONS = "SELECT id FROM collections c WHERE EXISTS (SELECT 1 FROM evicted WHERE collection = c.id)"
_WANTED = (
    "SELECT collection, key FROM evicted INDEXED BY wanted WHERE state = 1 AND (collection, key) > (?, ?) "
    "ORDER BY collection, key LIMIT ?"
)
_PUT = "INSERT OR REPLACE INTO evicted VALUES (?, ?, ?, ?, ?)"
_SET = "UPDATE evicted SET state = ?, stub = ? WHERE collection = ? AND key = ?"
_DROP = "DELETE FROM evicted WHERE collection = ? AND key = ?"
_WRITTEN = (
    "SELECT c.name, e.key, e.stub FROM evicted e JOIN collections c ON c.id = e.collection "
    "WHERE e.state IN (1, 3) AND (c.name, e.key) > (?, ?) ORDER BY c.name, e.key LIMIT ?"
)
_TWICE = (
    "SELECT c.name, e.key FROM evicted e JOIN records r ON r.collection = e.collection AND r.key = e.key "
    "JOIN collections c ON c.id = e.collection LIMIT 100"
)
_UNDER = "SELECT key, newest FROM evicted WHERE collection = ? AND key >= ? AND key < ? LIMIT ?"
_NEED_ALL = frozenset("csk")  # rules whose new value depends on what others wrote


class Stub(NamedTuple):
    """``newest``: timestamp of what left; ``image`` None: there is nothing to remember."""

    newest: int
    state: int
    image: bytes | None


class Evicted:
    """Of one log; whoever uses it to write holds the write lock. ``collections`` (ids) have rows; ``wanted``: there may
    be places to fetch; ``asked``: places that somebody would write to if they were here; ``turns`` grows when there may
    be more of both. ``blind``: whether nothing is received at a place, so that nothing is fetched either, and who
    writes there writes over what is here.
    """

    def __init__(self) -> None:
        self.collections: frozenset[int] = frozenset()
        self.wanted = False
        self.asked: dict[Place, None] = {}
        self.turns = 0
        self.blind: Callable[[str, str], bool] = _never

    def learn(self, db: apsw.Connection) -> None:
        """Read what is there. Raises apsw.Error."""
        if not has_table(db, "evicted"):
            self.collections, self.wanted = frozenset(), False
            return
        self.collections = frozenset(number for (number,) in db.execute(_COLLECTIONS))
        self.wanted = db.execute("SELECT EXISTS (SELECT 1 FROM evicted INDEXED BY wanted WHERE state = 1)").get == 1

    def among(self, db: apsw.Connection, refs: Iterable[Ref]) -> dict[Ref, Stub]:
        """The stubs of those that have one. Raises apsw.Error."""
        found: dict[Ref, Stub] = {}
        for ref in refs:
            if ref[0] in self.collections and (row := db.execute(_OF, ref).fetchone()) is not None:
                found[ref] = Stub(row[0], row[1], row[2] or None)
        return found

    def over(self, stub: Stub, write: Write, schema: CollectionSchema, ts: int) -> int:
        """What a local write at ``ts`` is over, where there is a stub. Raises NotHere for one that depends on the rest,
        FutureStamp for one that is stamped before it.
        """
        if stub.newest >= ts:
            raise FutureStamp(
                f"record {write.key!r:.100} of {write.collection!r} was written by a clock that is ahead, and has left",
                hint="it can be written again when that time has come; other records are not concerned",
            )
        if stub.state == ALONE or self.blind(write.collection, write.key):
            return OVER_ALL
        kind, letter = write.kind, schema.rule_letter
        if kind == Kind.DELETE:
            return OVER_ALL
        if kind in (Kind.PUT, Kind.REMOVE) or (
            kind == Kind.PATCH and any(letter(name) in _NEED_ALL for name in write.payload or ())
        ):
            self.refuse(write)
        return OVER_STUB

    def refuse(self, write: Write) -> NoReturn:
        """Ask for the record. Raises NotHere."""
        self._ask((write.collection, write.key))
        raise NotHere(
            f"record {write.key!r:.100} of {write.collection!r} has left this device, and this write depends on it",
            hint="it comes with the next sync, then write again; increments, additions and deletes go now",
        )

    def _ask(self, place: Place) -> None:
        while len(self.asked) >= FETCHED_RECORDS_MAX:
            self.asked.pop(next(iter(self.asked)), None)
        self.asked[place] = None
        self.turns += 1

    def answered(self, places: Iterable[Place]) -> None:
        """Nobody has to ask for these again: the cloud has none of them, or does not give them."""
        for place in places:
            self.asked.pop(place, None)

    def store(self, db: apsw.Connection, stubs: Stubs) -> None:
        """Within the transaction that has changed them. Raises apsw.Error."""
        if not stubs.moved:
            return
        db.executemany(_SET, [(stub.state, stub.image or b"", *ref) for ref, stub in stubs.changed.items()])
        db.executemany(_DROP, list(stubs.back))

    def stored(self, db: apsw.Connection, stubs: Stubs) -> None:
        """After it has committed. Raises apsw.Error."""
        if stubs.moved:
            self.turns += 1
            self.learn(db)

    def places(self, log: DeltaLog, collection: str, prefix: str = "", limit: int = -1) -> list[tuple[str, int]]:
        """(key, newest timestamp) of those of a collection whose keys begin so. Raises StorageError."""
        number = log.collection_ids().get(collection)
        if number not in self.collections:
            return []
        return list(log.reader.all(_UNDER, number, prefix, prefix + "\U0010ffff" * 129, limit))


class Stubs:
    """What a transaction knows of stubs: as they are now, those that ``changed``, and those whose records are here
    ``back``.
    """

    __slots__ = ("back", "changed", "now")

    def __init__(self) -> None:
        self.now: dict[Ref, Stub] = {}
        self.changed: dict[Ref, Stub] = {}
        self.back: dict[Ref, None] = {}

    @property
    def moved(self) -> bool:
        return bool(self.changed or self.back)

    def copy(self) -> Stubs:
        """For a caller whose writes may be taken back."""
        other = Stubs()
        other.now, other.changed, other.back = dict(self.now), dict(self.changed), dict(self.back)
        return other

    def others(self, touched: dict[Ref, bytes]) -> dict[Ref, bytes]:
        """Of what is touched, that whose records are here."""
        return {ref: image for ref, image in touched.items() if ref not in self.now} if self.now else touched

    def wrote(self, ref: Ref, over: int, image: bytes) -> None:
        """A local write was over that, and led to this image."""
        if over == OVER_ALL:
            self.came_back(ref)
        else:
            self._set(ref, WANTED, image)

    def came_back(self, ref: Ref) -> None:
        del self.now[ref]
        self.changed.pop(ref, None)
        self.back[ref] = None

    def passes_by(self, ref: Ref, operation: Operation) -> bool:
        """Whether an operation from elsewhere is none of what the stub has to know: it is older than what has left, so
        the cloud has it, and it comes with the rest if that is asked for. Not so one without a number, which no log
        has: it may be what this store has to take back as a copy (``renaming``), and the cloud has not.
        """
        stub = self.now[ref]
        logged = operation.shape.kind not in (Kind.DELETE, Kind.IMAGE) and operation.seq > 0
        return logged and operation.ts <= stub.newest and stub.state != ALONE

    def heard(self, ref: Ref, operation: Operation, image: bytes, *, whole: bool) -> None:
        """An operation from elsewhere changed the image: a delete of all that has left leaves nothing to ask for."""
        if whole or (operation.shape.kind == Kind.DELETE and operation.ts > self.now[ref].newest):
            self.came_back(ref)
        else:
            self._set(ref, WANTED, image)

    def answered(self, whole: Whole, number: Callable[[str], int]) -> dict[Ref, bytes]:
        """What was asked for, and did not come; ``number`` of a collection. Returns what is here nevertheless."""
        here: dict[Ref, bytes] = {}
        for places, denied in ((whole.none, False), (whole.denied, True)):
            for collection, key in places:
                ref = (number(collection), key)
                stub = self.now.get(ref)
                if stub is None:
                    continue
                written = stub.image is not None and Record.decode(stub.image).alive
                if denied:
                    self._set(ref, DENIED if written else QUIET, stub.image)
                elif written:
                    here[ref] = stub.image or b""
                    self.came_back(ref)
                else:
                    self._set(ref, ALONE, stub.image)
        return here

    def _set(self, ref: Ref, state: int, image: bytes | None) -> None:
        self.now[ref] = self.changed[ref] = Stub(self.now[ref].newest, state, image)


def stub_of(image: bytes, replica: bytes) -> tuple[int, bytes]:
    """The newest timestamp of a record that leaves, and its stub."""
    record = Record.decode(image)
    stub = Record()
    stub.floor = record.floor
    if image[0] != PLAIN:
        for (name, rule), slots in record.slots.items():
            own = {writer: slot for writer, slot in slots.items() if device_of(writer) == device_of(replica)}
            if rule in MOVED_RULES and own:  # those of its earlier names, and of what was kept back, too
                stub.slots[name, rule] = own
    return record.newest_ts, stub.encode() if stub.slots or any(stub.floor) else b""


def keep(db: apsw.Connection, ref: Ref, image: bytes, replica: bytes) -> None:
    """Within the transaction that takes the record's row away. Raises apsw.Error."""
    newest, stub = stub_of(image, replica)
    db.execute(_PUT, (*ref, newest, QUIET, stub))


def to_fetch(log: DeltaLog) -> list[Place]:
    """The next places to fetch. Raises StorageError."""
    evicted, names = log.writer.evicted, {number: name for name, number in log.collection_ids().items()}
    found: dict[Place, None] = {}
    for place in list(evicted.asked):
        if state_of(log, *place) is not None and not evicted.blind(*place):
            found[place] = None
        else:
            evicted.answered((place,))  # it is here by now, or does not come
    after: Ref = (0, "")
    while evicted.wanted and len(found) < FETCHED_RECORDS_MAX:
        rows = log.reader.all(_WANTED, *after, FETCHED_RECORDS_MAX)
        found.update(((names[number], key), None) for number, key in rows if not evicted.blind(names[number], key))
        if len(rows) < FETCHED_RECORDS_MAX:
            break
        after = rows[-1]
    return list(found)[:FETCHED_RECORDS_MAX]


def state_of(log: DeltaLog, collection: str, key: str) -> int | None:
    """What a place waits for whose record has left; None: it has not. Raises StorageError."""
    number = log.collection_ids().get(collection)
    row = log.reader.one(_OF, number, key) if number in log.writer.evicted.collections else None
    return None if row is None else int(row[1])


def with_stubs(log: DeltaLog, after: tuple[str, str] | None, rows: list[Row], limit: int) -> list[Row]:
    """Records in order of (collection, key), with what was written to places whose records are not here."""
    if not log.writer.evicted.collections:
        return rows
    return sorted(rows + log.reader.all(_WRITTEN, *(after or ("", "")), limit))[:limit]


def twice(log: DeltaLog) -> list[tuple[str, str]]:
    """Places that are here and evicted, of which there must be none. Raises StorageError."""
    if not log.writer.evicted.collections:
        return []
    return list(log.reader.walk(_TWICE))


# -- for repairs of the log, within their transactions -------------------------------------------------------------


def image_at(db: apsw.Connection, evicted: Evicted, ref: Ref) -> bytes | None:
    """A stub's image, None where there is none."""
    stub = evicted.among(db, (ref,)).get(ref)
    return None if stub is None else stub.image


def set_image(db: apsw.Connection, evicted: Evicted, ref: Ref, image: bytes) -> bool:
    """Whether there is such a stub, which now has this image."""
    if ref[0] not in evicted.collections:
        return False
    db.execute("UPDATE evicted SET stub = ? WHERE collection = ? AND key = ?", (image, *ref))
    return bool(db.changes())


def _never(_collection: str, _key: str) -> bool:
    return False
