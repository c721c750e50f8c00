"""What a search reads of the log, what a tier returns, and how two rankings become one.

Score convention, everywhere: higher is better. Cosine similarity, dot product, negative squared Euclidean distance;
BM25; reciprocal rank fusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sync.images import image_values

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.filters import Filter

RRF_CONSTANT = 60
_OVERFETCH_MIN = 50
_OVERFETCH = 2
_IMAGES_PER_READ = 1000

Fields = dict[str, Any]


class Scored(NamedTuple):
    """A record found by a search, without its fields: those are read from the log, which is the truth."""

    key: str
    score: float


class Candidates:
    """The records that one search may return: those that live and pass its filter. Each is read and decoded once,
    whichever ranking proposes it first; what does not pass is not kept, so this stays as small as the rankings. Two
    threads may ask at once.
    """

    def __init__(self, log: DeltaLog, collection: str, where: Filter | None) -> None:
        self.where = where
        self._log = log
        self._collection = collection
        self._held: dict[str, Fields] = {}

    def of(self, keys: Sequence[str]) -> dict[str, Fields]:
        """The fields of those of the ``keys`` that may be returned, in their order. Raises StorageError."""
        held, where = self._held, self.where
        fresh = [key for key in keys if key not in held]
        for at in range(0, len(fresh), _IMAGES_PER_READ):
            for key, image in self._log.images(self._collection, fresh[at : at + _IMAGES_PER_READ]).items():
                values = image_values(image)
                if values is not None and (where is None or where.matches(values)):
                    held[key] = values
        return {key: held[key] for key in keys if key in held}


def depth_for(k: int) -> int:
    """How many hits each ranking should contribute to a hybrid search for ``k``. What one ranking has at 2k or later
    can reach the best k only by what the other says of it, and adds less than half of a first place's score.
    """
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
