"""Embedders: what turns texts into vectors. A Protocol, since they are always somebody else's.

``model`` is stored with each vector's collection: a search with another model's vector is an error, not a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sync.errors import InvalidValue


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


def embedded(embedder: Embedder, texts: Sequence[str]) -> list[Any]:
    """One vector for each text. Raises InvalidValue if the embedder returns another number; what it raises passes."""
    vectors = list(embedder.embed(texts))
    if len(vectors) != len(texts):
        raise InvalidValue(f"embedder {embedder.model!r} returned {len(vectors)} vectors for {len(texts)} texts")
    return vectors
