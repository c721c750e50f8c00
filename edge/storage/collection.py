"""Collection: what a user does with the records of one name: put, get, change, delete, scan, search.

Every write is checked against the collection's schema here, in the caller's thread, before it joins the queue for the
next commit; so a bad write costs nobody but its author. What reaches the log can be stored, merged, projected and sent.

It leaves to others: durability and merging (``delta_log``), finding things (``projections``), filters (``filters``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.transaction import Write
from sync.errors import InvalidValue, SchemaMismatch
from sync.images import image_values
from sync.schema import CollectionSchema, check_elements, check_key, check_value
from sync.values import python_scalar

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.projections import Found, Projections

_PUT, _PATCH, _INCREMENT, _ADD, _REMOVE, _DELETE = 1, 2, 3, 4, 5, 6
SCAN_PAGE = 500
SEARCH_MAX = 10_000

Fields = dict[str, Any]
Submit = Callable[[Sequence[Write]], Any]


class Hit(NamedTuple):
    """A record that a search found. ``score``: higher is better, on the scale of the tier that answered.

    ``tier`` is "exact" or "lance"; ``why`` says why it answered, if ``explain`` was asked for.
    """

    key: str
    score: float
    fields: Fields
    tier: str
    why: str = ""


class Collection:
    """Get one from ``edge.collection(name)``. Safe to use from several threads.

    Every method that writes returns when the change is on disk (inside ``edge.batch()``: when the batch ends), and
    raises InvalidValue, TooLarge, SchemaMismatch, NotFound or StorageError with nothing changed.
    """

    def __init__(self, name: str, log: DeltaLog, submit: Submit, projections: Projections) -> None:
        self.name = name
        self._log = log
        self._submit = submit
        self._projections = projections

    def __repr__(self) -> str:
        return f"<Collection {self.name!r}>"

    @property
    def schema(self) -> CollectionSchema:
        """What is declared now; another device's declaration may have come with a sync."""
        return self._log.schemas[self.name]

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, fields: Mapping[str, Any]) -> None:
        """Store a record; last-writer fields that are not named become absent. A vector is any sequence of numbers,
        float array or float32 bytes of the declared dimension.
        """
        log = self._log
        schema = log.schemas[self.name]
        self._submit((log.put_of(self.name, check_key(key), schema.normalise(fields), schema),))

    def patch(self, key: str, fields: Mapping[str, Any], *, upsert: bool = False) -> None:
        """Change the named fields and leave the others; None makes a field absent."""
        schema = self.schema
        payload = schema.normalise(fields)
        if not payload:
            raise InvalidValue("a patch names at least one field")
        self._submit((Write(_PATCH, self.name, check_key(key), payload, upsert, schema),))

    def increment(self, key: str, field: str, by: float = 1, *, upsert: bool = False) -> None:
        """Add ``by`` (negative to subtract) to a counter field. Concurrent increments add up."""
        by = python_scalar(by)
        if type(by) not in (int, float):
            raise InvalidValue(f"an increment is a number, not {type(by).__name__}")
        rule = self._rule_of(field, "counter")
        if rule == "int" and type(by) is not int:
            raise SchemaMismatch(f"field {field!r} of {self.name!r} counts in whole numbers, not by {by!r}")
        check_value(field, by)
        self._submit((Write(_INCREMENT, self.name, check_key(key), {field: by}, upsert),))

    def add(self, key: str, field: str, *elements: str | int, upsert: bool = False) -> None:
        """Add elements to a set field. An addition wins over a removal that has not seen it."""
        self._set_change(_ADD, key, field, elements, upsert)

    def remove(self, key: str, field: str, *elements: str | int) -> None:
        """Remove elements from a set field; those that are not in it are no error."""
        self._set_change(_REMOVE, key, field, elements, upsert=False)

    def delete(self, key: str) -> None:
        """Of everything that this device has seen of the record; what others write without having seen the delete, may
        bring it back (the collection's conflict rule).
        """
        self._submit((Write(_DELETE, self.name, check_key(key)),))

    def _set_change(self, kind: int, key: str, field: str, elements: tuple[str | int, ...], upsert: bool) -> None:
        self._rule_of(field, "set")
        checked = check_elements(field, elements)
        if self._rule_type(field) == "strings" and any(type(element) is not str for element in checked):
            raise SchemaMismatch(f"field {field!r} of {self.name!r} is a set of strings")
        if not checked:
            raise InvalidValue(f"name at least one element of {field!r}")
        self._submit((Write(kind, self.name, check_key(key), {field: checked}, upsert),))

    def _rule_of(self, field: str, merge: str) -> str:
        """The type of a field that must merge by ``merge``."""
        rule = self.schema.fields.get(field)
        if rule is None or rule.merge != merge:
            raise SchemaMismatch(
                f"field {field!r} of {self.name!r} is not a {merge}",
                hint=f"declare it: fields={{{field!r}: {merge!r}}}",
            )
        return rule.type

    def _rule_type(self, field: str) -> str:
        return self.schema.fields[field].type

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Fields | None:
        """The record's fields in order of name, or None. The vector comes as ``array('f')``, sets as sorted lists."""
        values = self._log.values(self.name, check_key(key))
        return None if values is None else self._shown(values)

    def __contains__(self, key: object) -> bool:
        return self._log.values(self.name, check_key(key)) is not None

    def scan(
        self,
        prefix: str = "",
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word users know from every other store
        limit: int | None = None,
        *,
        after: str = "",
    ) -> Iterator[tuple[str, Fields]]:
        """(key, fields) in order of key (UTF-8 bytes), page by page: writes made meanwhile may or may not be seen."""
        _check_text("prefix", prefix)
        _check_text("after", after)
        allowed = self._projections.matcher(self.schema, filter)
        left = -1 if limit is None else _check_limit("limit", limit)
        return self._pages(prefix, after, left, allowed)

    def _pages(
        self, prefix: str, after: str, left: int, allowed: Callable[[Fields], bool] | None
    ) -> Iterator[tuple[str, Fields]]:
        while left:
            page = self._log.scan(self.name, after=after, prefix=prefix, limit=SCAN_PAGE)
            for key, image in page:
                values = image_values(image)
                if values is None or (allowed is not None and not allowed(values)):
                    continue
                yield key, self._shown(values)
                left -= 1
                if not left:
                    return
            if len(page) < SCAN_PAGE:
                return
            after = page[-1][0]

    def count(self) -> int:
        """How many records live."""
        return self._log.count(self.name)

    def search(
        self,
        text: str | None = None,
        vector: Any = None,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in scan
        mode: str | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The ``k`` best records by vector, by text (BM25) or by both ("hybrid", reciprocal rank fusion), best first.

        ``mode`` is "vector", "text" or "hybrid"; by default it follows from what is given. A search sees every
        acknowledged write. Raises InvalidValue, SchemaMismatch, InvalidFilter, StorageError.
        """
        _check_limit("k", k, SEARCH_MAX)
        found = self._projections.search(self.schema, text, vector, k, filter, mode)
        return self._hits(found, found.why if explain else "")

    def _hits(self, found: Found, why: str) -> list[Hit]:
        fields = found.fields
        return [
            Hit(key, score, self._shown(fields[key]), found.tier, why) for key, score in found.hits if key in fields
        ]

    def within(
        self,
        vector: Any,
        least: float,
        k: int = 1_000,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in scan
    ) -> list[Hit]:
        """The records whose vectors score at least ``least``, best first, at most ``k``: by an exact search. Raises as
        ``search``.
        """
        _check_limit("k", k, SEARCH_MAX)
        least = python_scalar(least)
        if type(least) not in (int, float) or isnan(least):
            raise InvalidValue(f"the least score is a number, not {least!r:.40}")
        return self._hits(self._projections.within(self.schema, vector, least, k, filter), "")

    def vector_status(self) -> dict[str, Any]:
        """Which tier answers a vector search and why, and what was measured of an approximate index: plain values.
        Raises SchemaMismatch, StorageError.
        """
        if self.schema.vector is None:
            raise SchemaMismatch(f"collection {self.name!r} has no vector field", hint="declare vector=(field, dim)")
        return self._projections.vector_status(self.schema)

    def to_arrow(self) -> Any:
        """The collection as a ``pyarrow.Table``: every acknowledged record, one typed column for each declared
        field (``edge.storage.tables_schema`` has the types). Imports lancedb with its first use. Raises StorageError.
        """
        return self._projections.to_arrow(self.name)

    def _shown(self, values: Fields) -> Fields:
        vector = self._log.schemas[self.name].vector
        if vector is not None:
            packed = values.get(vector.field)
            if type(packed) is bytes and vector.form_of(packed):  # else written before the declaration
                values[vector.field] = vector.unpack(packed)
        return values


def _check_text(what: str, value: Any) -> None:
    if type(value) is not str:
        raise InvalidValue(f"{what} is a string, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"{what} is not valid Unicode: {error.reason}") from error


def _check_limit(what: str, value: Any, most: int | None = None) -> int:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        upper = f" to {most}" if most is not None else " or more"
        raise InvalidValue(f"{what} is a whole number, 1{upper}, not {value!r}")
    return value
