"""Vectors for texts that have none, and going over from one embedding model to another (ADR 16).

The vectors of each model are in a field of their own. Those of a new model are written beside the old ones, which go on
being searched; when every text has one, the collection's declaration changes to the new field, in one operation that
reaches the whole fleet; then the old ones are dropped.

What always holds: each step is a transaction, so another call goes on where one was interrupted; a ranking compares the
vectors of one field, so never those of two models; a vector is written only beside the text that it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from edge.agent.embedders import (
    Embedder,
    active_field,
    checked,
    spec_of,
    vector_fields,
    vectors_of,
)
from edge.agent.names import check_progress
from edge.storage.transaction import Write
from sync.errors import InvalidValue
from sync.operations import Kind
from sync.schema import FieldRule

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.storage.collection import Collection

_STEP = 500
_EMBEDDED_AT_ONCE = 64
_PASSES_MAX = 20  # over what others add meanwhile, before the change; what comes after it is found by its words

OnProgress = Callable[[int, int], None]


def reembed(
    shelf: Shelf, collection: Collection, embedder: Embedder | None, prefix: str, on_progress: OnProgress | None
) -> int:
    """Below ``prefix``, or of the whole collection if its vectors are another model's. Returns how many vectors were
    made. Raises InvalidValue (no embedder; within a batch), StorageError, and what the embedder does.
    """
    if embedder is None:
        raise InvalidValue("there is no embedder", hint="reembed(embedder), or embedder= where the store is got")
    shelf.check_alone("reembed")
    check_progress(on_progress)
    spec = spec_of(checked(embedder))
    schema = collection.schema
    if schema.vector is not None and schema.vector[1:] == spec[1:]:
        made = _fill(shelf, collection, embedder, schema.vector.field, prefix, on_progress)
        _drop_others(shelf, collection, schema.vector.field)
        return made
    made = 0
    for _ in range(_PASSES_MAX):
        if not (more := _fill(shelf, collection, embedder, spec.field, "", on_progress)):
            break
        made += more
    schema = collection.schema  # as it is by now
    old = active_field(schema)
    fields = {name: rule for name, rule in schema.fields.items() if name != old}
    shelf.log.declare(schema._replace(fields={**fields, spec.field: FieldRule("vector")}, vector=spec))
    made += _fill(shelf, collection, embedder, spec.field, "", None)
    _drop_others(shelf, collection, spec.field)
    return made


def _fill(
    shelf: Shelf, collection: Collection, embedder: Embedder, field: str, prefix: str, on_progress: OnProgress | None
) -> int:
    todo = [key for key, fields in collection.scan(prefix) if field not in fields and "text" in fields]
    made = 0
    for at in range(0, len(todo), _STEP):
        keys = todo[at : at + _STEP]
        texts = {key: fields["text"] for key in keys if (fields := collection.get(key)) is not None}
        vectors: dict[str, bytes] = {}
        waiting = list(texts)
        for start in range(0, len(waiting), _EMBEDDED_AT_ONCE):
            some = waiting[start : start + _EMBEDDED_AT_ONCE]
            vectors |= dict(zip(some, vectors_of(embedder, [texts[key] for key in some]), strict=True))
        made += _write(shelf, collection, field, texts, vectors)
        if on_progress is not None:
            on_progress(min(at + _STEP, len(todo)), len(todo))
    return made


def _write(shelf: Shelf, collection: Collection, field: str, texts: dict[str, str], vectors: dict[str, bytes]) -> int:
    """Those whose text is still the one that was embedded. The locks are those of who changes a text."""
    with ExitStack() as locks:
        for lock in sorted({id(lock): lock for lock in map(shelf.lock, texts)}.items()):
            locks.enter_context(lock[1])
        writes = []
        for key, vector in vectors.items():
            fields = collection.get(key)
            if fields is not None and fields.get("text") == texts[key]:
                writes.append(_patch(collection, key, {field: vector}))
        shelf.submit(writes)
    return len(writes)


def _drop_others(shelf: Shelf, collection: Collection, field: str) -> None:
    """The vectors of models that are not searched any more."""
    writes: list[Write] = []
    for key, fields in collection.scan():
        others = [name for name in vector_fields(fields) if name != field]
        if others:
            writes.append(_patch(collection, key, dict.fromkeys(others)))
    _submit(shelf, writes)


def _patch(collection: Collection, key: str, fields: dict[str, Any]) -> Write:
    schema = collection.schema
    return Write(Kind.PATCH, collection.name, key, schema.normalise(fields), schema=schema)


def _submit(shelf: Shelf, writes: Sequence[Write]) -> None:
    for at in range(0, len(writes), _STEP):
        shelf.submit(writes[at : at + _STEP])
