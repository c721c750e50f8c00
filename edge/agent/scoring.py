"""How well a memory is retained, and what that makes of its relevance.

Retention is the forgetting curve of FSRS 4.5 (Ye et al., https://github.com/open-spaced-repetition/fsrs4anki/wiki):
``R(t, S) = (1 + 19/81 * t/S) ** -0.5``, t in days since the last access, S the days after which it is 0.9. The form of
the score, a product with relevance, differs from Park et al., "Generative Agents", UIST 2023, whose sum lets a recent
triviality outrank what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log1p
from typing import Any, NamedTuple

from edge.settings import settings
from sync.errors import InvalidValue

KINDS = ("episodic", "semantic", "procedural", "working")
DAY_MS = 86_400_000
_FACTOR, _DECAY = 19 / 81, -0.5


class Terms(NamedTuple):
    """What a score is made of: ``relevance * (base + recency * retention + weight * importance)``."""

    relevance: float
    retention: float
    importance: float
    score: float


@settings(InvalidValue)
class Scoring(NamedTuple):
    """``stability_days``: of each kind, before it was ever recalled. The weights are usually 1 in sum."""

    base: float = 0.7
    retention: float = 0.2
    importance: float = 0.1
    stability_days: Mapping[str, float] = {"episodic": 7.0, "semantic": 90.0, "procedural": 180.0, "working": 0.25}

    def checked(self) -> Scoring:
        """Raises InvalidValue."""
        weights = (self.base, self.retention, self.importance)
        if any(type(weight) not in (int, float) or not 0 <= weight <= 1e6 for weight in weights) or not sum(weights):
            raise InvalidValue(f"the weights of a score are numbers from 0, one of them more, not {weights!r:.80}")
        if not isinstance(self.stability_days, Mapping):
            raise InvalidValue(f"stability_days is a mapping, not {type(self.stability_days).__name__}")
        for kind in KINDS:
            days: Any = self.stability_days.get(kind)
            if type(days) not in (int, float) or not 0 < days <= 1e6:
                raise InvalidValue(f"stability_days has no number of days above 0 for {kind!r}: {days!r:.40}")
        return self

    def retained(self, kind: str, accesses: int, since_ms: float) -> float:
        """From 1 (just now) towards 0; ``since_ms``: since it was noted or last recalled, in milliseconds."""
        stability = self.stability_days.get(kind, 7.0) * (1 + log1p(max(accesses, 0)))
        return float((1 + _FACTOR * max(since_ms, 0) / DAY_MS / stability) ** _DECAY)

    def score(self, relevance: float, retention: float, importance: float) -> Terms:
        """Of three numbers from 0 to 1, the terms and their product."""
        factor = self.base + self.retention * retention + self.importance * importance
        return Terms(relevance, retention, importance, relevance * factor)
