"""What a search tier returns, and how two rankings become one.

Score convention, everywhere: higher is better. Cosine similarity, dot product, negative squared Euclidean distance;
BM25; reciprocal rank fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

RRF_CONSTANT = 60
_OVERFETCH_MIN = 50
_OVERFETCH = 4


class Scored(NamedTuple):
    """A record found by a search, without its fields: those are read from the log, which is the truth."""

    key: str
    score: float


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
