"""The collections of a fleet as the cloud knows them, and whether an operation fits them.

Schemas are records of ``_collections`` and change by ordinary operations, so the book is derived: loaded
from the store, kept in step by ingest. It is copied for each transaction that declares something; a
transaction that fails leaves it alone.

Structure (names, keys, sizes, the form of each merge rule's values) was checked when the segment was
opened. What is left is what only the fleet knows: declared collections, rules and types of declared
fields, strictness. The verdict on a shape is kept, so that most operations cost one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cloud.ports import Reading
from sync.errors import AgentDBError, InputError, InvalidValue, SchemaMismatch, UnknownCollection
from sync.images import image_values
from sync.operations import Kind, Operation, Shape
from sync.schema import (
    COLLECTIONS,
    COLLECTIONS_SCHEMA,
    CollectionSchema,
    FieldRule,
    check_collection_name,
    check_successor,
)

_TYPES: dict[str, type[Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "strings": list,
    "vector": bytes,
    "none": type(None),
}
_PAGE = 1000
# A put clears what a field held before it was declared to merge, or before the schema became strict: None is the one
# last-writer value that such a field takes.
CLEARED = FieldRule("none", "lww")


class Verdict(NamedTuple):
    """On a shape. ``error``: no operation of this shape is taken. ``checks``: which values need a look, by
    index. ``plain``: such an operation alone makes a plain record.
    """

    error: AgentDBError | None
    checks: tuple[tuple[int, str, FieldRule], ...] = ()
    plain: bool = False


class SchemaBook:
    """``position``: the feed position up to which it is known to be right."""

    def __init__(self, schemas: dict[str, CollectionSchema] | None = None, position: int = -1) -> None:
        self._schemas = {COLLECTIONS: COLLECTIONS_SCHEMA, **(schemas or {})}
        self._verdicts: dict[Shape, Verdict] = {}
        self.position = position

    @staticmethod
    def load(view: Reading, fleet: bytes, position: int) -> SchemaBook:
        """From the records of ``_collections``."""
        schemas: dict[str, CollectionSchema] = {}
        after = (COLLECTIONS, "")
        while rows := view.records(fleet, after, _PAGE):
            for row in rows:
                if row.collection != COLLECTIONS:
                    return SchemaBook(schemas, position)
                spec = (image_values(row.image) or {}).get("spec")
                if spec is not None:
                    schemas[row.key] = CollectionSchema.from_document(row.key, spec)
            after = (rows[-1].collection, rows[-1].key)
        return SchemaBook(schemas, position)

    def copy(self) -> SchemaBook:
        return SchemaBook(self._schemas, self.position)

    def get(self, collection: str) -> CollectionSchema:
        """A plain schema for what was never declared (state may come before its declaration)."""
        return self._schemas.get(collection) or CollectionSchema(collection)

    def names(self) -> list[str]:
        return sorted(self._schemas)

    def declare(self, name: str, image: bytes) -> None:
        """The record of a collection changed."""
        spec = (image_values(image) or {}).get("spec")
        if spec is not None:
            self._schemas[name] = CollectionSchema.from_document(name, spec)
            self._verdicts.clear()

    # -- does it fit? ---------------------------------------------------------------------------------------------

    def verdict(self, shape: Shape) -> Verdict:
        found = self._verdicts.get(shape)
        if found is None:
            found = self._verdicts[shape] = self._judge(shape)
        return found

    def check_values(self, operation: Operation, verdict: Verdict) -> None:
        """Raises SchemaMismatch or InvalidValue. Call it only if the verdict has checks."""
        schema = self.get(operation.shape.collection)
        for index, field, rule in verdict.checks:
            _check_value(schema, field, rule, operation.values[index])

    def all_fit(self, shape: Shape, verdict: Verdict, values: Sequence[tuple[Any, ...]]) -> bool:
        """Whether ``check_values`` would take all of them; looks at types column by column."""
        schema = self.get(shape.collection)
        for index, field, rule in verdict.checks:
            types = {type(row[index]) for row in values}
            if rule.merge == "lww":
                types.discard(type(None))
            if types - {_TYPES[rule.type]}:
                return False
            if rule.type in ("strings", "vector"):
                try:
                    for row in values:
                        _check_value(schema, field, rule, row[index])
                except InputError:
                    return False
        return True

    def check_declaration(self, operation: Operation) -> None:
        """Of an operation on ``_collections``. Raises SchemaMismatch, InvalidValue or TooLarge."""
        if operation.shape.kind == Kind.DELETE:
            raise SchemaMismatch("a collection cannot be deleted", hint="delete its records")
        name = check_collection_name(operation.key)
        if name == COLLECTIONS:
            raise SchemaMismatch("the system's own collection cannot be declared")
        new = CollectionSchema.from_document(name, operation.fields.get("spec"))
        if name in self._schemas:
            check_successor(self._schemas[name], new)

    def _judge(self, shape: Shape) -> Verdict:
        schema = self._schemas.get(shape.collection)
        if schema is None:
            return Verdict(
                UnknownCollection(
                    f"the fleet has no collection {shape.collection!r}", hint="declare it before writing to it"
                )
            )
        if shape.kind == Kind.IMAGE:
            return Verdict(InvalidValue("an image is taken as state only, not as an operation of a log"))
        checks = []
        for index, (field, letter) in enumerate(zip(shape.names, shape.rules, strict=True)):
            rule = schema.fields.get(field)
            if letter == "l" and (schema.strict if rule is None else rule.merge != "lww"):
                checks.append((index, field, CLEARED))
                continue
            if letter != schema.rule_letter(field):
                return Verdict(_misfit(schema, field))
            if rule is not None and rule.type in _TYPES and letter != "s":
                checks.append((index, field, rule))
        plain = shape.kind != Kind.DELETE and shape.rules.count("l") == len(shape.rules)
        return Verdict(None, tuple(checks), plain)


def _misfit(schema: CollectionSchema, field: str) -> SchemaMismatch:
    rule = schema.fields.get(field)
    if rule is None and schema.strict:
        return SchemaMismatch(f"collection {schema.name!r} has no field {field!r}")
    return SchemaMismatch(f"field {field!r} of {schema.name!r} merges by {rule.merge if rule else 'lww'!r}")


def _check_value(schema: CollectionSchema, field: str, rule: FieldRule, value: Any) -> None:
    if value is None and rule.merge == "lww":
        return
    if rule is CLEARED:
        raise _misfit(schema, field)
    if type(value) is not _TYPES[rule.type] or (
        rule.type == "strings" and not all(type(item) is str for item in value)
    ):
        raise SchemaMismatch(f"field {field!r} of {schema.name!r} is {rule.type}, not {type(value).__name__}")
    if rule.type == "vector" and schema.vector is not None:
        schema.vector.check(value)
