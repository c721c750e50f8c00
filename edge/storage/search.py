"""What a search returns, which tier answers it, and how two rankings become one.

Score convention, everywhere: higher is better. Cosine similarity, dot product, negative squared Euclidean distance;
BM25; reciprocal rank fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from sync.schema import VectorSpec

Tier = Literal["exact", "lance"]

EXACT_BYTES_MAX = 100_000 * 384 * 4
"""The default memory budget of the exact tier, for one collection: 100,000 vectors of 384 dimensions, 154 MB."""

RRF_CONSTANT = 60
_OVERFETCH_MIN = 50
_OVERFETCH = 4


class Scored(NamedTuple):
    """A record found by a search, without its fields: those are read from the log, which is the truth."""

    key: str
    score: float


def vector_tier(spec: VectorSpec, records: int, bytes_max: int = EXACT_BYTES_MAX) -> Tier:
    """Exact while the matrix fits the budget."""
    return "exact" if records * spec.dimensions * 4 <= bytes_max else "lance"


def depth_for(k: int) -> int:
    """How many hits each ranking should contribute to a hybrid search for ``k``."""
    return max(_OVERFETCH_MIN, _OVERFETCH * k)


def fuse(rankings: Iterable[Sequence[Scored]], k: int) -> list[Scored]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): the sum over rankings of 1 / (60 + rank).

    Ranks begin at 1. Ties in order of key.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.key] = scores.get(hit.key, 0.0) + 1.0 / (RRF_CONSTANT + rank)
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Scored(key, score) for key, score in best[:k]]
