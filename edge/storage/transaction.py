"""A transaction: what one commit will write, worked out in memory before anything touches the disk.

It turns a caller's ``Write`` into an ``Operation`` (seq, stamp, what the writer had seen), folds it into the
record's image, and collects the rows. Several callers' writes can share one transaction: each caller's are taken as
a whole or not at all (``local`` raises and leaves no trace), and later ones see the earlier ones' effect.

What always holds: nothing here reads or writes the database except in ``prefetch``, and nothing outside changes until
``DeltaLog`` has committed the rows. So a failed disk leaves no state to undo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.evicted import OVER_STUB, Stubs
from edge.storage.write_checks import (
    PackedPut,
    check_not_beyond,
    pack_put,
    packed_fields,
    plain_put,
    too_large,
    wrong_rule,
)
from sync.errors import (
    AgentDBError,
    FutureStamp,
    NotFound,
    StaleWrite,
    UnknownCollection,
)
from sync.images import PLAIN, fold, is_alive, replaced_fields
from sync.limits import OPERATION_BYTES_MAX
from sync.moving import MOVED_RULES, kept_writer
from sync.operations import Operation, Shape
from sync.places import Whole
from sync.records import Record, compose, compose_add, compose_increment, compose_remove
from sync.schema import COLLECTIONS, COLLECTIONS_SCHEMA, CollectionSchema, check_value

if TYPE_CHECKING:
    from edge.storage.group_commit import Job
    from edge.storage.log_core import LogCore

_PUT, _PATCH, _INCREMENT, _ADD, _REMOVE, _DELETE = 1, 2, 3, 4, 5, 6  # an IntEnum costs 4 times as much to compare

Ref = tuple[int, str]  # (collection id, key)
# What is known of a record: its row in the table, if it has one, its image, and whether the row lives (0 or 1).
Held = tuple[int | None, bytes | None, int]
# seq, position, ts, seen, collection id, key, kind, rules, packed fields
OperationRow = tuple[int, int, int, int, int, str, int, str, bytes]
NewRow = tuple[int, str, int, bytes]  # collection id, key, living, image
KnownRow = tuple[int, bytes, int]  # living, image, rowid
_UNKNOWN: Held = (None, None, 0)
_MISSING = dict.fromkeys((_PATCH, _INCREMENT, _ADD), "put() creates one; so does upsert=True")
_place = itemgetter(0, 1)


class Write(NamedTuple):
    """One change that a caller asks for; ``payload`` has been through ``CollectionSchema.normalise``.

    PUT/PATCH: the fields. INCREMENT: ``{field: by}``. ADD/REMOVE: ``{field: [elements]}``. DELETE: None. All but PUT
    raise NotFound for a record that is not there, unless ``upsert``. ``schema`` is the one that the payload was checked
    by: it is checked again if the collection has another one by the time of the commit. ``put`` is the payload once
    more, ready for the log, if it is a plain one. ``new``: raises StaleWrite for a record that is there.
    """

    kind: int
    collection: str
    key: str
    payload: Mapping[str, Any] | None = None
    upsert: bool = False
    schema: CollectionSchema | None = None
    put: PackedPut | None = None
    new: bool = False


class Transaction:
    """``held`` is what was known of the records before, ``touched`` maps those that change to their new images; ``seq``
    and ``position`` are what they will be. ``stubs`` are held and touched where a record is not here (``evicted``).
    ``kept`` has, of local writes without an operation, because they stay here (``kept_back``), their position and what
    the record was before the first of them; ``shrunk``: one that was larger than is sent no longer is; ``merged``:
    operations from elsewhere, if something may be kept back.
    """

    __slots__ = (
        *("seq", "position", "operations", "marks", "touched", "new_collections", "held", "stubs", "kept", "shrunk"),
        *("merged", "_known", "_replica", "_clock", "_seen", "_schemas", "_collections", "_shapes", "_run", "_writer"),
        *("_bound", "_keeping"),
    )

    def __init__(self, log: LogCore) -> None:
        """From where its memory says that it stands."""
        self.seq = log.head_seq
        self.position = log.position
        self.operations: list[OperationRow] = []
        self.marks: list[tuple[int, int, str]] = []
        self.touched: dict[Ref, bytes] = {}
        self.new_collections: dict[str, int] = {}
        self.held: dict[Ref, Held] = {}
        self.stubs = Stubs()
        self.kept: dict[Ref, tuple[int, bytes | None]] = {}
        self.shrunk = False
        self.merged: Sequence[Operation] = ()
        self._known: dict[str, tuple[int, CollectionSchema, bool]] = {}
        self._replica = log.replica
        self._clock = log.clock
        self._seen = log.cursor
        self._schemas: Mapping[str, CollectionSchema] = log.schemas
        self._collections = log.numbers
        self._shapes = log.shapes
        self._writer = log.writer
        self._run = log.run
        self._bound = log.kept.bound
        self._keeping = log.kept

    def prefetch(self, refs: Iterable[tuple[str, str]]) -> None:
        """Read, in one go, what is held of the records (collection, key) that are about to change."""
        number = self._collection_id
        wanted = [(number(collection), key) for collection, key in refs]
        self.held.update(self._writer.fetch(wanted))
        if self._writer.evicted.collections:
            found = self._writer.stubs([ref for ref in wanted if ref not in self.held])
            self.stubs.now.update(found)
            self.held.update((ref, (None, stub.image, 0)) for ref, stub in found.items())

    # -- local writes -------------------------------------------------------------------------------------------------

    def local_each(self, jobs: Sequence[Job]) -> None:
        """``local`` for each caller of a group, who gets its result or its error."""
        for job in jobs:
            job.error = None
            try:
                job.result = self.local(job.writes)
            except AgentDBError as error:
                job.error = error

    def local(self, writes: Sequence[Write]) -> int:
        """Take one caller's writes, all or none; returns the seq of the last that is sent. Raises NotFound, StaleWrite,
        TooLarge, InvalidValue, SchemaMismatch, FutureStamp.
        """
        if len(writes) == 1:
            self._local(writes[0], self._clock.now())  # changes nothing before its last check
            return self.seq
        seq, position, count, touched = self.seq, self.position, len(self.operations), dict(self.touched)
        marks, kept = len(self.marks), dict(self.kept)
        stubs = self.stubs.copy() if self.stubs.now else self.stubs
        try:
            self._local_many(writes)
        except BaseException:
            self.seq, self.position, self.touched, self.stubs = seq, position, touched, stubs
            del self.operations[count:]
            self.kept = kept
            del self.marks[marks:]
            raise
        return self.seq

    def _local_many(self, writes: Sequence[Write]) -> None:
        """``_local`` for each, with the commonest kind, a plain put of an unknown record, in line."""
        known, touched, held, shapes, replica = self._known, self.touched, self.held, self._shapes, self._replica
        ts = self._clock.take(len(writes))
        for write in writes:
            kind, collection, key, payload, _, checked_by, put, _ = write
            collection_id, schema, all_lww = known.get(collection) or self._know(collection)
            ref = (collection_id, key)
            plain = kind == _PUT and all_lww and checked_by is schema and self._bound is None
            if plain and payload is not None and ref not in held and ref not in touched:
                self.seq += 1
                self.position += 1
                put = put or pack_put(ref, payload, shapes)
                row, touched[ref] = plain_put(self.seq, self.position, ts, self._seen, put, replica)
                self.operations.append(row)
            else:
                self._local(write, ts)
            ts += 1

    def _local(self, write: Write, ts: int) -> None:
        kind, collection, key, payload, upsert, checked_by, _, new = write
        collection_id, schema, all_lww = self._known.get(collection) or self._know(collection)
        if checked_by not in (schema, None) and payload is not None and kind in (_PUT, _PATCH):
            payload = schema.normalise(payload)  # declared anew since the caller's thread checked it
            write = write._replace(payload=payload)
        ref = (collection_id, key)
        image = self.touched.get(ref)
        if image is None and ref in self.held:
            image = self.held[ref][1]
        stub = self.stubs.now.get(ref)
        over = 0 if stub is None else self._writer.evicted.over(stub, write, schema, ts)
        if image is not None and self._clock.beyond >= ts:
            check_not_beyond(collection, key, image, ts)
        there = upsert or kind == _PUT or (stub is not None and (over == OVER_STUB or kind == _DELETE))
        if not there and (image is None or not is_alive(image)):
            raise NotFound(f"there is no record {key!r} in {collection!r}", hint=_MISSING.get(kind, ""))
        if new and image is not None and is_alive(image):
            raise StaleWrite(f"there is a record {key!r} in {collection!r} already")
        bound = 0 if self._bound is None else self._bound(collection, key)
        if bound and self._keep(write, schema, ref, image, ts, bound, over):
            return
        seq, position = self.seq + 1, self.position + 1
        fields: Mapping[str, Any] | None = None
        if kind == _PUT and all_lww and payload is not None:
            fields = payload if image is None else replaced_fields(image, payload, ts)
        if fields is not None:  # nothing in the outcome is older than this write
            put = pack_put(ref, fields, self._shapes)
            row, image = plain_put(seq, position, ts, self._seen, put, self._replica)
        else:
            shape, values = self._compose(write, schema, image, self._replica)
            fields = dict(zip(shape.names, values, strict=True))
            packed = self._run.with_own(packed_fields(key, fields), fields, shape.rules, image, ref, ts, self._replica)
            image = fold(image, Operation(self._replica, seq, ts, self._seen, shape, key, values))
            if len(image) > OPERATION_BYTES_MAX:
                raise too_large(key, len(image))
            row = (seq, position, ts, self._seen, collection_id, key, kind, shape.rules, packed)
        self.seq, self.position = seq, position
        self.operations.append(row)
        self.touched[ref] = image
        if over:
            self.stubs.wrote(ref, over, image)

    def _keep(
        self, write: Write, schema: CollectionSchema, ref: Ref, image: bytes | None, ts: int, bound: int, over: int
    ) -> bool:
        """Take the write without an operation, if what it leads to stays here: all does if ``bound`` is negative, else
        what is larger. False, and nothing done, if it is sent. Raises NotHere over a stub that would stay one: what is
        kept back is here whole.
        """
        key, by = ref[1], self._replica
        shape, values = self._compose(write, schema, image, by)
        if not MOVED_RULES.isdisjoint(shape.rules):
            by = kept_writer(by, self._run.id, image)
            shape, values = self._compose(write, schema, image, by)
        packed_fields(key, dict(zip(shape.names, values, strict=True)))  # what cannot be stored is refused as ever
        after = fold(image, Operation(by, 0, ts, self._seen, shape, key, values))
        if len(after) > OPERATION_BYTES_MAX:
            raise too_large(key, len(after))
        if bound >= 0 and len(after) <= bound:
            self.shrunk |= image is not None and len(image) > bound
            return False
        if over == OVER_STUB:
            self._writer.evicted.refuse(write)
        self._keeping.there = self._keeping.there or None  # whatever comes of the commit, it is looked up
        self.position += 1
        base = b"" if over and (image is None or not is_alive(image)) else image  # others have what has left
        self.kept[ref] = (self.position, self.kept[ref][1] if ref in self.kept else base)
        self.marks.append((self.position, *ref))
        self.touched[ref] = after
        if over:
            self.stubs.wrote(ref, over, after)
        return True

    def _compose(
        self, write: Write, schema: CollectionSchema, image: bytes | None, by: bytes
    ) -> tuple[Shape, tuple[Any, ...]]:
        """The operation's shape and values, given what its writer, ``by``, sees."""
        kind, collection, _, payload, *_ = write
        if kind == _DELETE:
            return self._shapes.intern(Shape(kind, collection)), ()
        assert payload is not None
        record = None if image is None else Record.decode(image)
        if kind in (_PUT, _PATCH):
            names, rules, values = compose(record, payload, schema.rule_letter, by, replace=kind == _PUT)
        else:
            names = tuple(sorted(payload))
            letter = "c" if kind == _INCREMENT else "s"
            for name in names:
                if schema.rule_letter(name) != letter:
                    raise wrong_rule(collection, name, letter)
            rules = letter * len(names)
            values = tuple(self._contribution(kind, record, name, payload[name], by) for name in names)
        for name, rule, value in zip(names, rules, values, strict=True):
            if rule == "c":
                check_value(name, value)  # the running total may have left 64 bits
        return self._shapes.intern(Shape(kind, collection, names, rules)), values

    def _contribution(self, kind: int, record: Record | None, name: str, value: Any, by: bytes) -> Any:
        if kind == _INCREMENT:
            return compose_increment(record, name, value, by)
        return compose_add(value) if kind == _ADD else compose_remove(record, name, value)

    # -- remote operations --------------------------------------------------------------------------------------------

    def remote(self, operations: Sequence[Operation], whole: Whole | None = None) -> int:
        """Merge operations from elsewhere; their records must have been prefetched. Returns how many records
        changed. ``whole``: they are all that the cloud has of their records.
        """
        touched, held, stubs = self.touched, self.held, self.stubs
        if self._keeping.there is not False:
            self.merged = operations
        for operation in operations:
            collection = operation[4][1]
            ref = (self._collections.get(collection) or self._collection_id(collection), operation[5])
            image = touched.get(ref)
            if image is None:
                image = held.get(ref, _UNKNOWN)[1]
            stubbed = ref in stubs.now
            if stubbed and whole is None and stubs.passes_by(ref, operation):
                continue
            merged = fold(image, operation)
            if merged != image or (stubbed and whole is not None):
                touched[ref] = merged
                if stubbed:
                    stubs.heard(ref, operation, merged, whole=whole is not None)
        if whole is not None and stubs.now:
            touched.update(stubs.answered(whole, self._collection_id))
        self.marks = [(position, *ref) for position, ref in enumerate(touched, self.position + 1)]
        self.position += len(touched)
        return len(touched)

    def delete(self, places: Mapping[tuple[str, str], int]) -> None:
        """Delete these records, which were written elsewhere at these timestamps and not merged, unless something newer
        is known of them. They must have been prefetched.
        """
        for (collection, key), ts in places.items():
            ref = (self._collection_id(collection), key)
            image = self.touched.get(ref) or self.held.get(ref, _UNKNOWN)[1]
            older = image is None or Record.decode(image).newest_ts < ts
            if older and collection in self._schemas:
                with suppress(FutureStamp):  # then it waits until somebody whose clock is right does it
                    self._local(Write(_DELETE, collection, key, upsert=True), self._clock.now())

    def replay(self, operations: Sequence[Operation]) -> None:
        """Merge operations that are in the log already: the images they lead to were not written when a process
        died.
        """
        self.remote(operations)
        self.position -= len(self.marks)
        self.marks = []

    # -- outcome ------------------------------------------------------------------------------------------------------

    def changed(self) -> dict[Ref, Held]:
        """What will be known of the touched records: their new images, and the table's rows as they are."""
        held = self.held
        out: dict[Ref, Held] = {}
        for ref, image in self.stubs.others(self.touched).items():
            rowid, _, living = held.get(ref, _UNKNOWN)
            out[ref] = (rowid, image, living)
        return out

    def record_rows(self, overlay: Mapping[Ref, Held]) -> tuple[list[NewRow], list[KnownRow]]:
        """Rows for the table, of what this transaction touches and of the ``overlay`` besides.

        New ones in order of key: neighbours in the index then meet on one page while it is warm.
        """
        held, touched = self.held, self.stubs.others(self.touched)
        inserts: list[NewRow] = []
        updates: list[KnownRow] = []
        for ref, (rowid, image, _) in overlay.items():
            if image is None or ref in touched:
                continue
            living = 1 if image[0] == PLAIN or is_alive(image) else 0
            if rowid is None:
                inserts.append((ref[0], ref[1], living, image))
            else:
                updates.append((living, image, rowid))
        for ref, image in touched.items():
            rowid = (held.get(ref) or overlay.get(ref) or _UNKNOWN)[0]
            living = 1 if image[0] == PLAIN or is_alive(image) else 0
            if rowid is None:
                inserts.append((ref[0], ref[1], living, image))
            else:
                updates.append((living, image, rowid))
        inserts.sort(key=_place)
        return inserts, updates

    def touched_in(self, name: str) -> Iterator[tuple[str, bytes]]:
        """(key, image) of touched records of a collection, one of the system's."""
        system = self._collections.get(name) or self.new_collections.get(name)
        if system is not None:
            for (collection, key), image in self.touched.items():
                if collection == system:
                    yield key, image

    # -- names --------------------------------------------------------------------------------------------------------

    def _know(self, name: str) -> tuple[int, CollectionSchema, bool]:
        """(id, schema, whether all its fields are last-writer). Raises UnknownCollection."""
        schema = COLLECTIONS_SCHEMA if name == COLLECTIONS else self._schemas.get(name)
        if schema is None:
            raise UnknownCollection(
                f"collection {name!r} has not been declared", hint="edge.collection(name) declares it"
            )
        found = self._known[name] = (self._collection_id(name), schema, schema.all_lww())
        return found

    def _collection_id(self, name: str) -> int:
        found = self._collections.get(name) or self.new_collections.get(name)
        if found is None:
            found = self.new_collections[name] = len(self._collections) + len(self.new_collections) + 1
        return found
