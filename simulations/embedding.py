"""A tiny embedder without a model: words and their letter triples, hashed into 64 signed buckets.

It finds texts that share words or parts of words, and knows nothing of meaning. It stands in for an embedding model
where none can be downloaded: real vectors of real texts, the same on every machine, in microseconds.

Feature hashing after Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009.
"""

from __future__ import annotations

import re
from array import array
from functools import lru_cache
from math import sqrt
from zlib import crc32

DIMENSIONS = 64
MODEL = "hashed-trigrams-1"
_WORD = re.compile(r"[^\W_]{2,}")


def embed(text: str) -> array[float]:
    """64 float32 of length 1; a text without words points nowhere in particular."""
    sums = [0.0] * DIMENSIONS
    for word in _WORD.findall(text.lower()):
        for bucket, weight in _features(word):
            sums[bucket] += weight
    length = sqrt(sum(value * value for value in sums))
    if length == 0.0:
        sums[0] = length = 1.0
    return array("f", [value / length for value in sums])


@lru_cache(maxsize=65_536)
def _features(word: str) -> tuple[tuple[int, float], ...]:
    """Bucket and signed weight: the word itself counts three times as much as each of its triples."""
    framed = f"<{word}>"
    parts = [(word, 3.0), *((framed[at : at + 3], 1.0) for at in range(len(framed) - 2))]
    found = []
    for part, weight in parts:
        hashed = crc32(part.encode())
        found.append((hashed % DIMENSIONS, weight if hashed & 0x8000_0000 else -weight))
    return tuple(found)
