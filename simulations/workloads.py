"""What benchmarks write: memory documents as agents make them, one-field edits, texts to search for.

Everything is a function of its seed, so two processes, two rounds and two machines work on the same bytes. The
documents are not kind to a compressor: keys and importances are random at full precision, texts are drawn from a
skewed vocabulary and share no sentences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

COLLECTION = "memories"
TEXT_FIELD = "text"

_SYLLABLES = (
    "ba",
    "ro",
    "ket",
    "mi",
    "lan",
    "so",
    "tur",
    "ve",
    "din",
    "pa",
    "qu",
    "os",
    "tri",
    "fel",
    "gor",
    "hi",
    "jun",
    "kar",
    "li",
)
_TAGS = ("home", "work", "urgent", "robot", "sensor", "plan", "note", "web")
_WORDS, _AGENTS = 400, 5
_START_MS = 1_700_000_000_000


class Document(NamedTuple):
    key: str
    fields: dict[str, Any]

    def as_json(self) -> bytes:
        """What it would be in a REST API or a log: the measure of "bytes as JSON"."""
        return json_bytes(self.key, self.fields)


def json_bytes(key: str, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"key": key, **fields}, ensure_ascii=False, separators=(",", ":")).encode()


def memory_documents(count: int, seed: int = 7) -> list[Document]:
    """About 300 bytes each as JSON: random 8-hex keys, 5 agents, 16 to 24 words of a 400-word vocabulary by Zipf's law,
    random importance at full precision, rising times in milliseconds, 0 to 3 of 8 tags.
    """
    rng = random.Random(seed)
    words = _vocabulary(rng)
    weights = [1 / rank for rank in range(1, _WORDS + 1)]
    at_ms = _START_MS
    documents: dict[str, dict[str, Any]] = {}
    while len(documents) < count:
        at_ms += rng.randint(1, 2_000)
        documents[f"{rng.getrandbits(32):08x}"] = {
            "agent": f"agent-{rng.randrange(_AGENTS)}",
            "at_ms": at_ms,
            "importance": rng.random(),
            "tags": rng.sample(_TAGS, rng.randint(0, 3)),
            TEXT_FIELD: " ".join(rng.choices(words, weights, k=rng.randint(16, 24))),
        }
    return [Document(key, fields) for key, fields in documents.items()]


def edits(documents: Sequence[Document], count: int, seed: int = 8) -> list[Document]:
    """One-field changes of ``count`` of the documents: a new importance, at full precision again."""
    rng = random.Random(seed)
    return [Document(document.key, {"importance": rng.random()}) for document in rng.sample(documents, count)]


def phrases(documents: Sequence[Document], count: int, seed: int = 10) -> list[str]:
    """Text queries: three neighbouring words of a random document each."""
    rng = random.Random(seed)
    found = []
    for document in rng.choices(documents, k=count):
        words = document.fields[TEXT_FIELD].split()
        start = rng.randrange(len(words) - 2)
        found.append(" ".join(words[start : start + 3]))
    return found


def _vocabulary(rng: random.Random) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < _WORDS:
        words["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4)))] = None
    return list(words)
