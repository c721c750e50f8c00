"""Vectors: named spaces of an agent, each of one dimension, metric and precision (ADR 17).

A space is a declared collection of its own, so that it has its own matrix, table and index. It is named by a digest;
its keys begin with the agent and the space, by which they are erased. A vector is a record: what ``Vectors`` adds is
checking it against the declaration, and distances.

What always holds: a vector is quantised before the operation is made, so ``get`` returns the same numbers on every
replica; ``range`` is exact, and so is ``knn`` unless an index serves whose recall was measured.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from math import isnan, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.agent.names import escape
from edge.agent.permitted import permitted
from edge.storage.transaction import Write
from sync.errors import InvalidValue, NotFound, SchemaMismatch
from sync.operations import Kind
from sync.places import unescaped
from sync.schema import METRICS, PRECISIONS, VectorSpec, check_key
from sync.values import python_scalar

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf
    from edge.storage.collection import Collection, Hit
    from edge.storage.delta_log import DeltaLog

FIELD = "vector"
PREFIX = "agent.vectors."
RANGE_LIMIT = 1_000
_WRITES_AT_ONCE = 1_000


class Vector(NamedTuple):
    """``vector`` as it is stored: what its precision has left of it."""

    key: str
    vector: array[float]
    metadata: dict[str, Any]


class Neighbour(NamedTuple):
    """``score``: higher is better (cosine similarity, dot product, negative squared distance). ``distance``: lower is
    (1 - cosine, negative dot product, Euclidean). ``why``, if asked for: what answered.
    """

    key: str
    score: float
    distance: float
    metadata: dict[str, Any]
    vector: array[float]
    why: str = ""


@permitted("vectors", "_shelf", reads="all count get knn range status", writes="delete upsert upsert_many")
class Vectors:
    """Get one from ``agent.vectors(space)``. Safe to use from several threads."""

    def __init__(
        self,
        shelf: Shelf,
        agent: str,
        space: str,
        *,
        dimension: int | None = None,
        metric: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.agent, self.space = agent, space
        self._shelf = shelf
        self._prefix = _prefix(agent, space)
        name = collection_name(agent, space)
        given = {"dimension": dimension, "metric": metric, "precision": precision}
        _check_words(given)
        schema = shelf.log.schemas.get(name)
        if schema is None:
            if dimension is None:
                raise NotFound(f"agent {agent!r} has no space {space!r}", hint="vectors(space, dimension=…) makes one")
            spec = VectorSpec(FIELD, dimension, metric or "cosine", "", precision or "float32")
            self._collection: Collection = shelf.collection(name, vector=spec)
        else:
            self._collection = shelf.collection(name)
        self._given: Mapping[str, Any] = given
        self._spec: VectorSpec | None = None
        spec = self._checked()
        self._given = _words(spec)
        self.dimension, self.metric, self.precision = spec.dimensions, spec.metric, spec.precision

    def __repr__(self) -> str:
        return f"<Vectors {self.space!r} of {self.agent!r}: {self.dimension} {self.precision}, {self.metric}>"

    # -- writing ------------------------------------------------------------------------------------------------------

    def upsert(self, key: str, vector: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Store a vector (numbers, a float array, float32 bytes) and what is known of it, in place of what was there.
        It is on disk when this returns.

        Raises SchemaMismatch (another dimension), InvalidValue (NaN, infinity; beyond float16; zeros under cosine),
        TooLarge, StorageError.
        """
        self._shelf.submit((self._write(key, vector, metadata),))

    def upsert_many(self, items: Iterable[tuple[Any, ...]]) -> int:
        """``(key, vector)`` or ``(key, vector, metadata)`` of each; a thousand are one transaction. Returns how many.

        Raises as ``upsert``; the thousands before the one that is wrong are stored then.
        """
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
            raise InvalidValue(
                f"items are a list of (key, vector) or (key, vector, metadata), not {type(items).__name__}",
                hint='such as [("ada", [0.1, 0.9], {"floor": 2})]',
            )
        count = 0
        writes: list[Write] = []
        for item in items:
            if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
                raise InvalidValue(
                    f"an item is (key, vector) or (key, vector, metadata), not {item!r:.60}",
                    hint='such as ("ada", [0.1, 0.9])',
                )
            writes.append(self._write(*item))
            if len(writes) == _WRITES_AT_ONCE:
                self._shelf.submit(writes)
                count += len(writes)
                writes = []
        if writes:
            self._shelf.submit(writes)
        return count + len(writes)

    def delete(self, *keys: str) -> None:
        """One transaction. Raises NotFound (and deletes none then), InvalidValue, StorageError."""
        try:
            self._shelf.submit([Write(Kind.DELETE, self._collection.name, self._key(key)) for key in keys])
        except NotFound as error:
            missing = ", ".join(repr(key) for key in keys if self.get(key) is None)
            where = f"space {self.space!r} of agent {self.agent!r}"
            raise NotFound(f"{where} has no vector {missing:.200}", hint="all() lists what there is") from error

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Vector | None:
        """Raises InvalidValue, StorageError."""
        fields = self._collection.get(self._key(key))
        return None if fields is None or FIELD not in fields else _shown(key, fields)

    def all(self, prefix: str = "") -> Iterator[Vector]:
        """In order of key."""
        if type(prefix) is not str:
            raise InvalidValue(f"a prefix is a string, not {type(prefix).__name__}")
        for key, fields in self._collection.scan(self._prefix + prefix):
            if FIELD in fields:
                yield _shown(key[len(self._prefix) :], fields)

    def knn(
        self,
        vector: Any,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in Collection.search
        *,
        explain: bool = False,
    ) -> list[Neighbour]:
        """The ``k`` nearest, best first. ``filter`` is over the metadata.

        Raises SchemaMismatch (another dimension), InvalidValue (NaN; zeros under cosine), InvalidFilter, StorageError.
        """
        self._checked()
        hits = self._collection.search(vector=vector, k=k, filter=filter, explain=explain)
        return [self._neighbour(hit) for hit in hits]

    def range(
        self,
        vector: Any,
        *,
        radius: float | None = None,
        min_score: float | None = None,
        limit: int = RANGE_LIMIT,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in Collection.search
    ) -> list[Neighbour]:
        """All within a distance of ``radius`` (cosine: 1 - cosine; l2: Euclidean), or with a score of ``min_score`` at
        least, best first; of more than ``limit`` (1 to 10,000) the nearest. Always exact. Raises as ``knn``.
        """
        spec = self._checked()
        hits = self._collection.within(vector, _least(spec.metric, radius, min_score), limit, filter)
        return [self._neighbour(hit) for hit in hits]

    def count(self) -> int:
        """How many vectors there are."""
        return self._collection.count()

    def status(self) -> dict[str, Any]:
        """Plain values: the declaration, how many vectors of how many stored bytes, which tier answers and why, whether
        that is exact, and of an approximate index what was measured. Raises StorageError.
        """
        spec = self._checked()
        return {
            "agent": self.agent,
            "space": self.space,
            "dimension": spec.dimensions,
            "metric": spec.metric,
            "precision": spec.precision,
            "vector_bytes": spec.stored_bytes,
            **self._collection.vector_status(),
        }

    # -- inside -------------------------------------------------------------------------------------------------------

    def _write(self, key: str, vector: Any, metadata: Mapping[str, Any] | None = None) -> Write:
        spec = self._checked()
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidValue(f"metadata is a mapping, not {type(metadata).__name__}")
        if metadata is not None and FIELD in metadata:
            raise InvalidValue(f"metadata has no {FIELD!r}: that is where the vector is", hint="another name for it")
        if vector is None:
            raise InvalidValue("a vector is a list of numbers, not None", hint="such as [0.1, 0.9, 0.0]")
        schema = self._collection.schema
        fields = schema.normalise({**(metadata or {}), FIELD: vector})
        if spec.metric == "cosine" and not any(spec.unpack(fields[FIELD])):
            raise InvalidValue(
                f"the vector of {key!r:.60} is all zeros as {spec.precision}, which has no direction",
                hint="cosine compares directions; l2 and dot take zeros",
            )
        return self._shelf.log.put_of(self._collection.name, self._key(key), fields, schema)

    def _key(self, key: str) -> str:
        return check_key(self._prefix + check_key(key))

    def _checked(self) -> VectorSpec:
        """What is declared now: another device's declaration may have come. Raises SchemaMismatch."""
        spec = self._collection.schema.vector
        if spec is not None and spec is self._spec:
            return spec
        known = {} if spec is None else _words(spec)
        for word, value in self._given.items():
            if spec is None or (value is not None and known[word] != value):
                raise SchemaMismatch(
                    f"space {self.space!r} of agent {self.agent!r} has {word} {known.get(word)!r}, not {value!r:.40}",
                    hint="leave it out to take the space as it is, or make another one",
                )
        assert spec is not None
        self._spec = spec
        return spec

    def _neighbour(self, hit: Hit) -> Neighbour:
        fields = dict(hit.fields)
        vector = fields.pop(FIELD)
        key = hit.key[len(self._prefix) :]
        return Neighbour(key, hit.score, _distance(self.metric, hit.score), fields, vector, hit.why)


def collection_name(agent: str, space: str) -> str:
    """By digest: of any names, and it does not say them once they are erased. Raises InvalidValue, TooLarge."""
    return PREFIX + blake2b(_prefix(agent, space).encode(), digest_size=16, person=b"agentdb.vectors").hexdigest()


def spaces_of(log: DeltaLog, agent: str) -> list[str]:
    """The spaces of an agent that have a vector, sorted."""
    escape("an agent", agent)
    found = []
    for name in list(log.schemas):
        if name.startswith(PREFIX) and (page := log.scan(name, limit=1)):
            owner, space, _ = page[0][0].split("/", 2)
            if unescaped(owner) == agent:
                found.append(unescaped(space))
    return sorted(found)


def _prefix(agent: str, space: str) -> str:
    return f"{escape('an agent', agent)}/{escape('a space', space)}/"


def _words(spec: VectorSpec) -> dict[str, Any]:
    return {"dimension": spec.dimensions, "metric": spec.metric, "precision": spec.precision}


def _check_words(given: Mapping[str, Any]) -> None:
    for word, known in (("metric", METRICS), ("precision", PRECISIONS)):
        if given[word] is not None and given[word] not in known:
            raise InvalidValue(f"unknown {word} {given[word]!r:.40}", hint=f"one of {', '.join(known)}")


def _least(metric: str, radius: Any, min_score: Any) -> float:
    """The score that is asked for. Raises InvalidValue."""
    if (radius is None) == (min_score is None):
        raise InvalidValue("a range has a radius or a min_score", hint="one of the two: radius=, min_score=")
    value = python_scalar(radius if min_score is None else min_score)
    if type(value) not in (int, float) or isnan(value):
        raise InvalidValue(f"a radius or a score is a number, not {value!r:.40}")
    if min_score is not None:
        return float(value)
    if metric == "dot":
        raise InvalidValue("a dot product is no distance, and has no radius", hint="min_score=")
    if value < 0:
        raise InvalidValue(f"a radius is 0 or more, not {radius!r:.40}")
    return float(1 - value if metric == "cosine" else -value * value)


def _distance(metric: str, score: float) -> float:
    if metric == "l2":
        return sqrt(max(0.0, -score))
    return max(0.0, 1.0 - score) if metric == "cosine" else -score  # rounding may leave a score above 1


def _shown(key: str, fields: Mapping[str, Any]) -> Vector:
    rest = dict(fields)
    return Vector(key, rest.pop(FIELD), rest)
