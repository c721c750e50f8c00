"""A transaction: what one commit will write, worked out in memory before anything touches the disk.

It turns a caller's ``Write`` into an ``Operation`` (seq, stamp, what the writer had seen), folds it into the record's
image, and collects the rows. Several callers' writes can share one transaction: each caller's are taken as a whole or not
at all (``local`` raises and leaves no trace), and later ones see the earlier ones' effect.

What always holds: nothing here reads or writes the database except through ``fetch``, and nothing outside changes until
``DeltaLog`` has committed the rows. So a failed disk leaves no state to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgpack

from sync.errors import InvalidValue, NotFound, SchemaMismatch, TooLarge, UnknownCollection
from sync.images import is_alive, is_plain, plain_image, replaced_fields
from sync.limits import OPERATION_BYTES_MAX
from sync.operations import Kind, Operation, Shape
from sync.records import Record, compose, compose_add, compose_increment, compose_remove, fold
from sync.schema import COLLECTIONS, COLLECTIONS_SCHEMA, CollectionSchema, check_value
from sync.stamps import HybridClock

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_PUT, _PATCH, _INCREMENT, _ADD, _REMOVE, _DELETE = 1, 2, 3, 4, 5, 6  # an IntEnum costs 4 times as much to compare
_OVERHEAD_BYTES = 128  # stamps, ids, kind and rules of an operation
_SHAPES_MAX = 4096

Ref = tuple[int, str]  # (collection id, key)
Held = tuple[int | None, bytes | None]  # (rowid, image); None, None for a record never heard of


class Write(NamedTuple):
    """One change that a caller asks for; ``payload`` has been through ``CollectionSchema.normalise``.

    PUT/PATCH: the fields. INCREMENT: ``{field: by}``. ADD/REMOVE: ``{field: [elements]}``. DELETE: None. All but PUT
    raise NotFound for a record that is not there, unless ``upsert``.
    """

    kind: int
    collection: str
    key: str
    payload: Mapping[str, Any] | None = None
    upsert: bool = False


class ShapeCache:
    """Interns shapes, so that operations of one shape share one tuple and composing costs a dict lookup."""

    def __init__(self) -> None:
        self._plain: dict[tuple[int, str, tuple[str, ...]], tuple[Shape, bool]] = {}
        self._any: dict[Shape, Shape] = {}

    def plain(self, kind: int, collection: str, fields: Iterable[str]) -> tuple[Shape, bool]:
        """The shape of a write of last-writer fields, and whether the fields were in order of name."""
        names = tuple(fields)
        found = self._plain.get((kind, collection, names))
        if found is None:
            if len(self._plain) >= _SHAPES_MAX:
                self._plain.clear()
            ordered = tuple(sorted(names))
            shape = self.intern(Shape(kind, collection, ordered, "l" * len(ordered)))
            found = self._plain[kind, collection, names] = (shape, ordered == names)
        return found

    def intern(self, shape: Shape) -> Shape:
        if len(self._any) >= _SHAPES_MAX:
            self._any.clear()
        return self._any.setdefault(shape, shape)


class Transaction:
    """``images`` maps each record that was read to what it is now; ``touched`` is what must be written back."""

    def __init__(
        self,
        *,
        replica: bytes,
        clock: HybridClock,
        seq: int,
        position: int,
        seen: int,
        schemas: Mapping[str, CollectionSchema],
        collections: Mapping[str, int],
        shapes: ShapeCache,
        fetch: Callable[[Sequence[Ref]], Mapping[Ref, Held]],
    ) -> None:
        self.seq = seq
        self.position = position
        self.operations: list[tuple[int, int, int, int, int, str, int, str, bytes]] = []
        self.marks: list[tuple[int, int, str]] = []
        self.images: dict[Ref, Held] = {}
        self.touched: dict[Ref, None] = {}
        self.new_collections: dict[str, int] = {}
        self.declared: dict[str, bytes] = {}  # collection name -> image of its record in `_collections`
        self._replica = replica
        self._clock = clock
        self._seen = seen
        self._schemas = schemas
        self._collections = collections
        self._shapes = shapes
        self._fetch = fetch

    # -- local writes -------------------------------------------------------------------------------------------------

    def prefetch(self, refs: Iterable[tuple[str, str]]) -> None:
        """Read, in one go, the images of the records (collection, key) that the following writes are about."""
        wanted = []
        for collection, key in refs:
            ref = (self._collection_id(collection), key)
            if ref not in self.images:
                self.images[ref] = (None, None)
                wanted.append(ref)
        self.images.update(self._fetch(wanted))

    def local(self, writes: Sequence[Write]) -> list[Operation]:
        """Take one caller's writes, all or none. Raises NotFound, TooLarge, InvalidValue, SchemaMismatch."""
        if len(writes) == 1:
            return [self._local(writes[0])]  # changes nothing before its last check
        mark = (
            self.seq,
            self.position,
            len(self.operations),
            dict(self.images),
            dict(self.touched),
            dict(self.declared),
        )
        try:
            return [self._local(write) for write in writes]
        except BaseException:
            self.seq, self.position, count, self.images, self.touched, self.declared = mark
            del self.operations[count:]
            raise

    def _local(self, write: Write) -> Operation:
        kind, collection, key, payload, upsert = write
        collection_id = self._collections.get(collection) or self._collection_id(collection)
        ref = (collection_id, key)
        rowid, image = self.images[ref]
        schema = self.schema(collection)
        if not upsert and kind != _PUT and (image is None or not is_alive(image)):
            raise NotFound(
                f"there is no record {key!r} in {collection!r}", hint="put() creates one; so does upsert=True"
            )
        ts = self._clock.now()
        fields: Mapping[str, Any] | None = None
        if kind == _PUT and payload is not None and schema.all_lww():
            fields = payload if image is None else replaced_fields(image, payload, ts)
        if fields is not None:
            shape, ordered = self._shapes.plain(_PUT, collection, fields)
            if not ordered:
                fields = {name: fields[name] for name in shape.names}
            packed = self._packed(key, fields)
            operation = Operation(self._replica, self.seq + 1, ts, self._seen, shape, key, tuple(fields.values()))
            image = plain_image(ts, self._replica, packed)
        else:
            shape, values = self._compose(write, schema, image)
            packed = self._packed(key, dict(zip(shape.names, values, strict=True)))
            operation = Operation(self._replica, self.seq + 1, ts, self._seen, shape, key, values)
            image = fold(image, operation)
            if len(image) > OPERATION_BYTES_MAX:
                raise _too_large(key, len(image))
        self.seq += 1
        self.position += 1
        self.operations.append((self.seq, self.position, ts, self._seen, collection_id, key, kind, shape.rules, packed))
        self._write_back(ref, rowid, image, collection)
        return operation

    def _compose(self, write: Write, schema: CollectionSchema, image: bytes | None) -> tuple[Shape, tuple[Any, ...]]:
        """The operation's shape and values, given what its writer sees."""
        kind, collection, _, payload, _ = write
        if kind == _DELETE:
            return self._shapes.intern(Shape(kind, collection)), ()
        assert payload is not None
        record = None if image is None else Record.decode(image)
        if kind in (_PUT, _PATCH):
            names, rules, values = compose(record, payload, schema.rule_letter, self._replica, replace=kind == _PUT)
        else:
            names = tuple(sorted(payload))
            letter = "c" if kind == _INCREMENT else "s"
            for name in names:
                if schema.rule_letter(name) != letter:
                    raise _wrong_rule(collection, name, letter)
            rules = letter * len(names)
            values = tuple(self._contribution(kind, record, name, payload[name]) for name in names)
        for name, rule, value in zip(names, rules, values, strict=True):
            if rule == "c":
                check_value(name, value)  # the running total may have left 64 bits
        return self._shapes.intern(Shape(kind, collection, names, rules)), values

    def _contribution(self, kind: int, record: Record | None, name: str, value: Any) -> Any:
        if kind == _INCREMENT:
            return compose_increment(record, name, value, self._replica)
        return compose_add(value) if kind == _ADD else compose_remove(record, name, value)

    def _packed(self, key: str, fields: Mapping[str, Any]) -> bytes:
        try:
            packed: bytes = _pack(fields)
        except UnicodeEncodeError as error:
            raise InvalidValue(f"record {key!r} holds text that is not valid Unicode: {error.reason}") from error
        except (OverflowError, ValueError, TypeError) as error:
            raise InvalidValue(f"record {key!r} cannot be stored: {error}") from error
        if len(packed) + len(key) + _OVERHEAD_BYTES > OPERATION_BYTES_MAX:
            raise _too_large(key, len(packed))
        return packed

    # -- remote operations --------------------------------------------------------------------------------------------

    def remote(self, operations: Sequence[Operation]) -> int:
        """Merge operations from elsewhere; their records must have been prefetched. Returns how many records changed."""
        changed: set[Ref] = set()
        for operation in operations:
            collection = operation.shape.collection
            ref = (self._collection_id(collection), operation.key)
            rowid, image = self.images[ref]
            merged = fold(image, operation)
            if merged != image:
                self._write_back(ref, rowid, merged, collection)
                changed.add(ref)
        for ref in self.touched:
            if ref in changed:
                self.position += 1
                self.marks.append((self.position, *ref))
        return len(changed)

    # -- common -------------------------------------------------------------------------------------------------------

    def schema(self, collection: str) -> CollectionSchema:
        """Raises UnknownCollection."""
        schema = COLLECTIONS_SCHEMA if collection == COLLECTIONS else self._schemas.get(collection)
        if schema is None:
            raise UnknownCollection(
                f"collection {collection!r} has not been declared", hint="edge.collection(name) declares it"
            )
        return schema

    def _collection_id(self, name: str) -> int:
        found = self._collections.get(name) or self.new_collections.get(name)
        if found is None:
            found = self.new_collections[name] = len(self._collections) + len(self.new_collections) + 1
        return found

    def _write_back(self, ref: Ref, rowid: int | None, image: bytes, collection: str) -> None:
        self.images[ref] = (rowid, image)
        self.touched[ref] = None
        if collection == COLLECTIONS:
            self.declared[ref[1]] = image

    def record_rows(self) -> tuple[list[tuple[int, str, int, bytes]], list[tuple[int, bytes, int]]]:
        """Rows for new records ``(collection, key, living, image)`` and for known ones ``(living, image, rowid)``.

        New ones in order of key: neighbours in the index then meet on one page while it is warm.
        """
        inserts: list[tuple[int, str, int, bytes]] = []
        updates: list[tuple[int, bytes, int]] = []
        for ref in self.touched:
            rowid, image = self.images[ref]
            assert image is not None
            living = 1 if is_plain(image) or is_alive(image) else 0
            if rowid is None:
                inserts.append((*ref, living, image))
            else:
                updates.append((living, image, rowid))
        inserts.sort()
        return inserts, updates


def _too_large(key: str, size: int) -> TooLarge:
    return TooLarge(
        f"record {key!r} would be {size} bytes; a record and an operation have at most {OPERATION_BYTES_MAX}",
        hint="keep large content in a file or object store, and its digest in the record",
    )


def _wrong_rule(collection: str, name: str, letter: str) -> SchemaMismatch:
    rule = "counter" if letter == "c" else "set"
    return SchemaMismatch(
        f"field {name!r} of {collection!r} is not a {rule}", hint=f"declare it: fields={{{name!r}: {rule!r}}}"
    )


__all__ = ["Held", "Kind", "Ref", "ShapeCache", "Transaction", "Write"]
