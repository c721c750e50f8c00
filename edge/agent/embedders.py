"""Embedders: what turns texts into vectors. A Protocol, since they are always somebody else's.

The vectors of each model are in a field of their own, named for it, and the collection says whose are searched: a
search with another model's vector is an error, not a wrong answer, and no ranking has vectors of two models.
``reembed`` (``reembedding``) goes over to another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edge.agent.names import check_function, check_text
from edge.storage.search import MODES
from sync.errors import InvalidValue, SchemaMismatch
from sync.limits import VECTOR_DIMENSIONS_MAX
from sync.schema import CollectionSchema, VectorSpec, pack_vector

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.storage.collection import Collection

VECTOR = "embedding"  # what the names of vector fields begin with
K_MAX = 1_000
MODEL_NAME_MAX = 256


class Embedder(Protocol):
    """``dimensions`` of each vector; ``embed`` returns one for each text, in order."""

    @property
    def model(self) -> str:
        """Its name, of up to 256 characters: the same on all devices whose vectors may be compared."""
        ...

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has, 1 to 8,192."""
        ...

    def embed(self, texts: Sequence[str]) -> Sequence[Any]:
        """One vector for each text, in order: sequences or arrays of finite numbers, or an array of (texts,
        dimensions). What it raises passes to whoever wrote or searched, and nothing is written.
        """
        ...


class CallableEmbedder:
    """Any function from a list of texts to as many vectors of ``dimensions`` numbers: ``embed`` of ``Embedder``. Raises
    InvalidValue.
    """

    def __init__(self, function: Callable[[Sequence[str]], Sequence[Any]], *, model: str, dimensions: int) -> None:
        check_function(
            "what makes vectors",
            function,
            "from a list of texts to as many vectors",
        )
        self._function = function
        self.model = check_model_name(model)
        self.dimensions = check_dimensions(dimensions)

    def embed(self, texts: Sequence[str]) -> Sequence[Any]:
        """What the function returns."""
        return self._function(texts)


def check_model_name(model: Any) -> str:
    """Raises InvalidValue."""
    if type(model) is not str or not model or len(model) > MODEL_NAME_MAX:
        raise InvalidValue(
            f"a model is named by a string of 1 to {MODEL_NAME_MAX} characters, not {model!r:.60}",
            hint="the same on every device of the fleet",
        )
    return model


def check_dimensions(value: Any) -> int:
    """Raises InvalidValue."""
    if type(value) is not int or not 1 <= value <= VECTOR_DIMENSIONS_MAX:
        raise InvalidValue(
            f"dimensions are a whole number from 1 to {VECTOR_DIMENSIONS_MAX:,}, not {value!r:.40}",
            hint="the length of the model's vectors",
        )
    return value


def vector_field(embedder: Embedder) -> str:
    """The field of its vectors: two devices that begin with different models fill different fields."""
    named = f"{embedder.model}\0{embedder.dimensions}".encode("utf-8", "surrogatepass")
    return f"{VECTOR}_{blake2b(named, digest_size=4).hexdigest()}"


def spec_of(embedder: Embedder) -> VectorSpec:
    return VectorSpec(vector_field(embedder), embedder.dimensions, "cosine", embedder.model)


def active_field(schema: CollectionSchema) -> str | None:
    """Where the vectors are that a search compares."""
    return None if schema.vector is None else schema.vector.field


def vector_fields(fields: Mapping[str, Any]) -> list[str]:
    """Those of a record's fields that hold vectors, of whatever model."""
    return [name for name in fields if name == VECTOR or name.startswith(f"{VECTOR}_")]


class Question(NamedTuple):
    """As ``Collection.search`` takes it."""

    text: str | None
    vector: Any
    mode: str


def embedded(embedder: Embedder, texts: Sequence[str], into: Collection) -> list[dict[str, bytes]]:
    """The vector of each text, as the field that it belongs in. Raises SchemaMismatch if the collection has another
    model's by now, and what ``vectors_of`` does.
    """
    schema = into.schema  # read once: another thread may go over to another model while this one computes
    check_model(schema, embedder)
    field = active_field(schema) or vector_field(embedder)
    return [{field: vector} for vector in vectors_of(embedder, texts)]


def vectors_of(embedder: Embedder, texts: Sequence[str]) -> list[bytes]:
    """One vector for each text, packed. Raises InvalidValue if the embedder returns another number, or no vectors, and
    SchemaMismatch for another dimension; what the embedder raises passes.
    """
    returned = embedder.embed(texts)
    try:
        vectors = list(returned)
    except TypeError as error:
        raise InvalidValue(f"embedder {embedder.model!r} returned {type(returned).__name__}, no vectors") from error
    if len(vectors) != len(texts):
        raise InvalidValue(f"embedder {embedder.model!r} returned {len(vectors)} vectors for {len(texts)} texts")
    return [pack_vector(vector, embedder.dimensions, f"of {embedder.model}") for vector in vectors]


def check_model(schema: CollectionSchema, embedder: Embedder) -> None:
    """Raises SchemaMismatch if the vectors there are those of another model."""
    known = schema.vector
    if known is not None and known[1:4] != (embedder.dimensions, "cosine", embedder.model):
        raise SchemaMismatch(
            f"{schema.name} has vectors of {known.model!r} with {known.dimensions} dimensions, not of "
            f"{embedder.model!r} with {embedder.dimensions}",
            hint="give the embedder of that model, or none; reembed(embedder) goes over to another one",
        )


def asked(query: str, k: int, mode: str | None, embedder: Embedder | None, collection: Collection) -> Question:
    """A search of texts, checked; the ``mode`` is text, or with an embedder hybrid, if none is asked for. Raises
    InvalidValue, SchemaMismatch, and what the embedder does.
    """
    check_text("a query", query)
    if type(k) is not int or not 1 <= k <= K_MAX:
        raise InvalidValue(f"k is a whole number from 1 to {K_MAX}, not {k!r:.40}")
    if mode is None:
        mode = "text" if embedder is None else "hybrid"
    if mode not in MODES:
        raise InvalidValue(f"unknown search mode {mode!r:.40}", hint="vector, text or hybrid")
    if mode == "text":
        return Question(query, None, mode)
    if embedder is None:
        raise InvalidValue(f"there is no embedder for a {mode} search", hint="embedder=, where the store is got")
    ((vector,),) = (fields.values() for fields in embedded(embedder, [query], collection))
    return Question(None if mode == "vector" else query, vector, mode)


def answered(question: Question, embedder: Embedder | None, collection: Collection) -> None:
    """After the search: raises SchemaMismatch if it compared the vectors of a model that the question's is not of."""
    if question.mode != "text" and embedder is not None:
        check_model(collection.schema, embedder)


def checked(embedder: Any) -> Embedder:
    """Raises InvalidValue for what is no embedder."""
    if isinstance(embedder, type):
        raise InvalidValue(
            f"an embedder is an object, not the class {embedder.__name__}", hint=f"such as {embedder.__name__}(…)"
        )
    if not all(hasattr(embedder, word) for word in ("model", "dimensions", "embed")):
        raise InvalidValue(
            f"an embedder has a model, dimensions and embed(texts); {type(embedder).__name__} has not",
            hint="CallableEmbedder(function, model=…, dimensions=…) makes one",
        )
    found: Embedder = embedder
    return found


def searched(shelf: Shelf, name: str, fields: Mapping[str, str], embedder: Embedder | None) -> Collection:
    """A collection of texts, in the field ``text``; with an embedder, of its vectors. Raises SchemaMismatch,
    InvalidValue.
    """
    if embedder is not None:
        checked(embedder)
    schema = shelf.log.schemas.get(name)
    known = None if schema is None else schema.vector
    if schema is not None and embedder is not None:
        check_model(schema, embedder)
    if schema is not None and (known is not None or embedder is None):
        return shelf.collection(name)
    vector = None if embedder is None else spec_of(embedder)
    return shelf.collection(name, fields=fields, text=["text"], vector=vector)
