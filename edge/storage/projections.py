"""What is searched: chooses the tier that answers, and keeps the projections alive behind the delta log.

Two tiers, both derived from the log and rebuildable from its images. *exact*: all vectors of a collection in one matrix,
scanned by BLAS; serves vector search while they fit the memory budget, and never imports lancedb. *lance*: LanceDB tables;
serve text, hybrid, and vectors above the budget. A search sees every acknowledged write in either.

What always holds: nothing here is touched by open, put or get. The background thread starts with the first use of the
lance tier (or by ``start``); an error in it stops nobody, is kept for ``status`` and tried again at the next interval.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sync.errors import AgentDBError, InvalidValue, SchemaMismatch
from sync.images import image_values
from sync.schema import CollectionSchema, pack_vector

if TYPE_CHECKING:
    from threading import Event, Thread

    from edge.storage.delta_log import DeltaLog
    from edge.storage.exact import ExactIndex
    from edge.storage.tables import LanceTables

MODES = ("vector", "text", "hybrid")
FLOAT_BYTES = 4


class Found(NamedTuple):
    """(key, score) best first, the tier that answered, and why it did."""

    hits: list[tuple[str, float]]
    tier: str
    why: str


class Projections:
    """``directory`` holds ``lance/`` and ``exact/``. ``exact_bytes_max`` is the budget of one collection's matrix."""

    def __init__(self, log: DeltaLog, directory: str, *, exact_bytes_max: int, flush_interval_ms: int) -> None:
        self._log = log
        self._directory = directory
        self._exact_bytes_max = exact_bytes_max
        self._flush_interval_s = flush_interval_ms / 1000
        self._lock = allocate_lock()
        self._exact: dict[str, ExactIndex] = {}
        self._tables: LanceTables | None = None
        self._thread: Thread | None = None
        self._stop: Event | None = None
        self._problem = ""

    # -- searching ----------------------------------------------------------------------------------------------------

    def search(
        self,
        schema: CollectionSchema,
        text: str | None,
        vector: Any,
        k: int,
        expression: Mapping[str, Any] | None,
        mode: str | None,
    ) -> Found:
        """Raises InvalidValue, SchemaMismatch, InvalidFilter, StorageError."""
        mode = _mode_of(schema, text, vector, mode)
        query = b""
        if mode != "text":
            assert schema.vector is not None
            query = pack_vector(vector, schema.vector.dimensions, schema.vector.field)
        if mode == "vector":
            size = self._matrix_bytes(schema)
            if size <= self._exact_bytes_max:
                allowed = None if expression is None else self._allowed(schema, expression)
                hits = self.exact(schema).search(query, k, allowed)
                return Found(
                    [(hit.key, hit.score) for hit in hits], "exact", f"{size} of {self._exact_bytes_max} bytes"
                )
        return self._search_tables(schema, text, query, k, expression, mode)

    def _search_tables(
        self,
        schema: CollectionSchema,
        text: str | None,
        query: bytes,
        k: int,
        expression: Mapping[str, Any] | None,
        mode: str,
    ) -> Found:
        raise NotImplementedError

    def predicate(self, schema: CollectionSchema, expression: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
        """A filter as a function of a record's fields. Raises InvalidFilter."""
        from edge.storage.filters import parse

        found = parse(expression, schema)
        return (lambda _: True) if found is None else found.matches

    def _allowed(self, schema: CollectionSchema, expression: Mapping[str, Any]) -> Callable[[str], bool]:
        """The same as a function of the key, for candidates that the exact tier proposes."""
        matches = self.predicate(schema, expression)

        def allowed(key: str) -> bool:
            image = self._log.image(schema.name, key)
            values = None if image is None else image_values(image)
            return values is not None and matches(values)

        return allowed

    def _matrix_bytes(self, schema: CollectionSchema) -> int:
        assert schema.vector is not None
        return self._log.count(schema.name) * schema.vector.dimensions * FLOAT_BYTES

    # -- the tiers ----------------------------------------------------------------------------------------------------

    def exact(self, schema: CollectionSchema) -> ExactIndex:
        """The exact tier of a collection, opened with its first use."""
        with self._lock:
            found = self._exact.get(schema.name)
            if found is None or found.spec != schema.vector:
                from edge.storage.exact import ExactIndex

                if found is not None:
                    found.close()
                found = self._exact[schema.name] = ExactIndex(self._directory, self._log, schema)
            return found

    def lance(self, name: str) -> Any:
        raise NotImplementedError

    def to_arrow(self, name: str) -> Any:
        raise NotImplementedError

    def verify(self, schemas: Mapping[str, CollectionSchema]) -> list[str]:
        return []

    def status(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        with self._lock:
            for index in self._exact.values():
                index.close()
            self._exact.clear()


def _mode_of(schema: CollectionSchema, text: Any, vector: Any, mode: str | None) -> str:
    if mode is None:
        mode = "hybrid" if text is not None and vector is not None else "vector" if text is None else "text"
    if mode not in MODES:
        raise InvalidValue(f"unknown search mode {mode!r:.80}", hint="vector, text or hybrid")
    if mode != "vector" and (type(text) is not str or not text.strip()):
        raise InvalidValue(f"a {mode} search needs text", hint="search(text='…')")
    if mode != "text" and vector is None:
        raise InvalidValue(f"a {mode} search needs a vector", hint="search(vector=[…]), or search(text='…')")
    if mode != "vector" and not schema.text:
        raise SchemaMismatch(f"collection {schema.name!r} declares no text fields", hint="declare text=['field']")
    if mode != "text" and schema.vector is None:
        raise SchemaMismatch(
            f"collection {schema.name!r} has no vector field", hint="declare vector=(field, dimensions)"
        )
    return mode
