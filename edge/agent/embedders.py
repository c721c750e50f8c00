"""Embedders: what turns texts into vectors. A Protocol, since they are always somebody else's.

``model`` is stored with each vector's collection: a search with another model's vector is an error, not a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edge.agent.names import check_text
from sync.errors import InvalidValue, SchemaMismatch

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.storage.collection import Collection
    from sync.schema import CollectionSchema

VECTOR = "embedding"
K_MAX = 1_000


class Embedder(Protocol):
    """``dimensions`` of each vector; ``embed`` returns one for each text, in order."""

    @property
    def model(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Sequence[Any]: ...


class CallableEmbedder:
    """Any function from texts to vectors."""

    def __init__(self, function: Callable[[Sequence[str]], Sequence[Any]], *, model: str, dimensions: int) -> None:
        self._function = function
        self.model = model
        self.dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> Sequence[Any]:
        return self._function(texts)


class Question(NamedTuple):
    """As ``Collection.search`` takes it."""

    text: str | None
    vector: Any
    mode: str


def embedded(embedder: Embedder, texts: Sequence[str], into: Collection) -> list[Any]:
    """One vector for each text. Raises InvalidValue if the embedder returns another number, and SchemaMismatch if the
    collection has another model's by now; what the embedder raises passes.
    """
    _check_model(into.schema, embedder)
    returned = embedder.embed(texts)
    try:
        vectors = list(returned)
    except TypeError as error:
        raise InvalidValue(f"embedder {embedder.model!r} returned {type(returned).__name__}, no vectors") from error
    if len(vectors) != len(texts):
        raise InvalidValue(f"embedder {embedder.model!r} returned {len(vectors)} vectors for {len(texts)} texts")
    return vectors


def _check_model(schema: CollectionSchema, embedder: Embedder) -> None:
    known = schema.vector
    if known is not None and known[1:] != (embedder.dimensions, "cosine", embedder.model):
        raise SchemaMismatch(
            f"{schema.name} has vectors of {known.model!r} with {known.dimensions} dimensions, not of "
            f"{embedder.model!r} with {embedder.dimensions}",
            hint="give the embedder of that model, or none",
        )


def asked(query: str, k: int, mode: str | None, embedder: Embedder | None, collection: Collection) -> Question:
    """A search of texts, checked; the ``mode`` is text, or with an embedder hybrid, if none is asked for. Raises
    InvalidValue, SchemaMismatch, and what the embedder does.
    """
    check_text("a query", query)
    if type(k) is not int or not 1 <= k <= K_MAX:
        raise InvalidValue(f"k is a whole number from 1 to {K_MAX}, not {k!r:.40}")
    mode = mode or ("text" if embedder is None else "hybrid")
    if mode == "text":
        return Question(query, None, mode)
    if embedder is None:
        raise InvalidValue(f"there is no embedder for a {mode} search", hint="embedder=, where the store is got")
    (vector,) = embedded(embedder, [query], collection)
    return Question(None if mode == "vector" else query, vector, mode)


def searched(shelf: Shelf, name: str, fields: Mapping[str, str], embedder: Embedder | None) -> Collection:
    """A collection of texts, in the field ``text``; with an embedder, of its vectors. Raises SchemaMismatch,
    InvalidValue.
    """
    if embedder is not None and not all(hasattr(embedder, word) for word in ("model", "dimensions", "embed")):
        raise InvalidValue(
            f"an embedder has a model, dimensions and embed(texts); {type(embedder).__name__} has not",
            hint="CallableEmbedder(function, model=…, dimensions=…) makes one",
        )
    schema = shelf.log.schemas.get(name)
    known = None if schema is None else schema.vector
    if schema is not None and embedder is not None:
        _check_model(schema, embedder)
    if schema is not None and (known is not None or embedder is None):
        return shelf.collection(name)
    vector = None if embedder is None else (VECTOR, embedder.dimensions, "cosine", embedder.model)
    return shelf.collection(name, fields=fields, text=["text"], vector=vector)
