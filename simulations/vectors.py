"""Vectors that have neighbours, as embeddings have, and the exact answer to "which are nearest?", by numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 384
VECTOR_FIELD = "embedding"
_CENTRES = 64
_SPREAD = 0.7

Floats = NDArray[np.float32]


def vectors(count: int, seed: int = 9) -> Floats:
    """``count`` rows of 384 float32 around 64 centres that are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((_CENTRES, DIMENSIONS))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, DIMENSIONS))
    return (centres[rng.integers(0, _CENTRES, count)] + _SPREAD * noise).astype(np.float32)


def directions(rows: Floats) -> Floats:
    """The rows, each of length 1: then cosine similarity is one matrix product."""
    found: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def scan(matrix: Floats, query: Floats, k: int) -> list[int]:
    """The places of the ``k`` rows nearest to the query by cosine, best first: the bare scan that nothing can undercut.

    Both are directions already.
    """
    scores = matrix @ query
    best = np.argpartition(-scores, k)[:k]
    return [int(place) for place in best[np.argsort(-scores[best], kind="stable")]]
