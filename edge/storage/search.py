"""What a search reads of the log, what a tier returns, and how two rankings become one.

Score convention, everywhere: higher is better. Cosine similarity, dot product, negative squared Euclidean distance;
BM25; reciprocal rank fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sync.errors import InvalidValue, SchemaMismatch
from sync.images import image_values

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.filters import Filter
    from sync.schema import CollectionSchema

RRF_CONSTANT = 60
MODES = ("vector", "text", "hybrid")
_OVERFETCH_MIN = 50
_OVERFETCH = 2
_IMAGES_PER_READ = 1000

Fields = dict[str, Any]
T = TypeVar("T")
U = TypeVar("U")


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
        self.collection = collection
        self._held: dict[str, Fields] = {}

    def of(self, keys: Sequence[str]) -> dict[str, Fields]:
        """The fields of those of the ``keys`` that may be returned, in their order. Raises StorageError."""
        held, where = self._held, self.where
        fresh = [key for key in keys if key not in held]
        for at in range(0, len(fresh), _IMAGES_PER_READ):
            for key, image in self._log.images(self.collection, fresh[at : at + _IMAGES_PER_READ]).items():
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


def mode_of(schema: CollectionSchema, text: Any, vector: Any, mode: str | None) -> str:
    if mode is None:
        mode = "hybrid" if text is not None and vector is not None else "vector" if text is None else "text"
    if mode not in MODES:
        raise InvalidValue(f"unknown search mode {mode!r:.80}", hint="vector, text or hybrid")
    if mode != "vector" and (type(text) is not str or not text.strip()):
        raise InvalidValue(f"a {mode} search needs text", hint="give a text that is not empty")
    if mode != "vector":
        _check_unicode(text)
    if mode != "text" and vector is None:
        raise InvalidValue(f"a {mode} search needs a vector", hint="give a vector, a text, or both")
    if mode != "vector" and not schema.text:
        raise SchemaMismatch(f"collection {schema.name!r} declares no text fields", hint="declare text=['field']")
    if mode != "text" and schema.vector is None:
        raise SchemaMismatch(f"collection {schema.name!r} has no vector field", hint="declare vector=(field, dim)")
    return mode


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"the text to search for is not valid Unicode: {error.reason}") from error


def at_once(here: Callable[[], T], aside: Callable[[], U]) -> tuple[T, U]:
    """The results of both, of which one runs in a thread of its own. Neither outlives the call."""
    from concurrent.futures import Future
    from threading import Thread

    done: Future[U] = Future()

    def run() -> None:
        try:
            result = aside()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            done.set_exception(error)
        else:
            done.set_result(result)

    thread = Thread(target=run, name="agentdb-search", daemon=True)
    thread.start()
    try:
        first = here()
    finally:
        thread.join()
    return first, done.result()
