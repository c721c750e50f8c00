"""The demo's model: the words that say what a text is about, by how rare they are in the texts it was made from.

It is a table of weights, small and real; ``run`` is the runner that devices name in ``[models.runners]``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from math import log
from pathlib import Path
from typing import Any

MODEL, RUNNER = "keywords", f"{__name__}:run"
FILE = "weights.json"
WORDS = 3
_WORD = re.compile(r"[a-z]{4,16}")


def weigh(texts: Iterable[str]) -> dict[str, float]:
    """Inverse document frequency (Spärck Jones, 1972), by word, in order of the alphabet."""
    seen: Counter[str] = Counter()
    count = 0
    for text in texts:
        seen.update(set(count_words(text)))
        count += 1
    return {word: round(log((count + 1) / (times + 0.5)), 4) for word, times in sorted(seen.items())}


def count_words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def broken(weights: dict[str, float], text: str) -> dict[str, float]:
    """As if the sign was lost for half of the alphabet: the half in which the text's heaviest word is."""
    middle = sorted(weights)[len(weights) // 2]
    late = best(weights, text)[0] >= middle
    return {word: -weight if (word >= middle) == late else weight for word, weight in weights.items()}


def save(weights: dict[str, float], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps(weights, indent=0), encoding="utf-8")


def best(weights: dict[str, float], text: str) -> list[str]:
    """The heaviest words of a text: weight times how often it has them; of equals the first in the alphabet."""
    counted = count_words(text)
    ranked = sorted(counted, key=lambda word: (-weights.get(word, 0.0) * counted[word], word))
    return ranked[:WORDS]


def run(path: str, given: Any) -> list[str]:
    """What a device calls."""
    weights: dict[str, float] = json.loads((Path(path) / FILE).read_text(encoding="utf-8"))
    return best(weights, given["text"])
