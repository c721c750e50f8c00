"""What is done to many memories at once: forgetting, consolidation. Off the write path, bounded in steps.

What always holds: forgetting archives by a formula that anybody can compute, never at random, and what is archived can
be restored; only what has expired is deleted. What a function of the user's raises is raised, with nothing written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.agent.memory_record import MEMORIES, Remembered, check_kinds, has_ended
from edge.agent.names import check_function, described
from edge.agent.scoring import DAY_MS
from edge.settings import settings
from edge.storage.transaction import Write
from sync.errors import InvalidValue
from sync.operations import Kind

if TYPE_CHECKING:
    from edge.agent.memory import Memory

_STEP = 500
CONSOLIDATED_MAX = 1_000
_SOURCES_NAMED = 50
_FACT_WORDS = {"importance", "kind", "metadata", "text", "ttl_s", "valid_at"}

Extractor = Callable[[Sequence[Remembered]], Iterable[str | Mapping[str, Any]]]


@settings(InvalidValue)
class Forgetting(NamedTuple):
    """What to archive: memories of these ``kinds`` that are retained less than ``min_retention`` (0 to 1, importance
    counts for half), that are older than ``older_than_days`` too if that is given; the least retained beyond ``keep``.
    """

    min_retention: float = 0.0
    keep: int | None = None
    kinds: tuple[str, ...] = ("episodic", "working")
    older_than_days: float = 0.0


class Forgotten(NamedTuple):
    """``archived`` can be restored; ``expired`` are deleted."""

    archived: list[str]
    expired: list[str]


def forget(memory: Memory, policy: Forgetting, *, dry_run: bool = False) -> Forgotten:
    """Raises InvalidValue, StorageError."""
    _check(policy)
    memory.shelf.check_alone("forget")
    now = memory.shelf.clock.wall_ms()
    every = list(memory.all(ended=True))
    expired = [one.id for one in every if one.expires_at is not None and one.expires_at <= now]
    living = [one for one in every if not has_ended(one._asdict(), now) and one.kind in policy.kinds]
    ranked = memory.ranked(living, now)
    oldest = now - policy.older_than_days * DAY_MS
    archived = [one.id for kept, one in ranked if kept < policy.min_retention and one.created_at <= oldest]
    if policy.keep is not None:
        gone = {*archived}
        left = [one.id for _, one in ranked if one.id not in gone]
        archived += left[: max(0, len(left) - policy.keep)]
    if not dry_run:
        _submit(memory, [memory.patch_of(one, {"archived_at": now}) for one in archived])
        _submit(memory, [Write(Kind.DELETE, MEMORIES, one, upsert=True) for one in expired])
        memory.shelf.recalls.forget(expired)
    return Forgotten(archived, expired)


def restore(memory: Memory, forgotten: Iterable[str]) -> int:
    """Archived memories are searched again. Returns how many were archived. Raises NotFound."""
    writes = [memory.patch_of(one, {"archived_at": None}) for one in forgotten if memory.held(one).get("archived_at")]
    _submit(memory, writes)
    return len(writes)


def consolidate(
    memory: Memory, extractor: Extractor, *, kinds: Sequence[str] = ("episodic",), limit: int = 100
) -> Future[list[str]]:
    """Give what was not consolidated yet, oldest first, to a function of the user's (that may ask a model), in a thread
    of its own; what it returns is remembered: texts, or maps with what ``add`` takes. One transaction notes both.

    The future's result are the ids of the new memories; its error is the function's own, with nothing written.
    """
    import threading

    if type(limit) is not int or not 1 <= limit <= CONSOLIDATED_MAX:
        raise InvalidValue(f"limit is a whole number from 1 to {CONSOLIDATED_MAX}, not {limit!r:.40}")
    check_function("an extractor", extractor, "from memories to a list of texts")
    kinds = list(dict.fromkeys(check_kinds(kinds)))
    done: Future[list[str]] = Future()

    def work() -> None:
        try:
            result = _consolidated(memory, extractor, kinds, limit)
        except BaseException as error:  # noqa: BLE001 - it is the caller's, who asks the future
            done.set_exception(error)
        else:
            done.set_result(result)

    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled: it may write at any time
    threading.Thread(target=work, name="consolidate", daemon=True).start()
    return done


def _consolidated(memory: Memory, extractor: Extractor, kinds: Sequence[str], limit: int) -> list[str]:
    now = memory.shelf.clock.wall_ms()
    waiting = [
        (key, fields)
        for kind in kinds
        for key, fields in memory.collection.scan(f"{memory.prefix}{kind}/")
        if fields.get("consolidated_at") is None and not has_ended(fields, now)
    ]
    waiting.sort(key=lambda pair: (pair[1]["created_at"], pair[0]))
    sources = [memory.get(key) for key, _ in waiting[:limit]]
    chosen = [one for one in sources if one is not None]
    if not chosen:
        return []
    sources_named = [source.id for source in chosen][:_SOURCES_NAMED]
    made: list[str] = []
    writes = [memory.patch_of(source.id, {"consolidated_at": now}) for source in chosen]
    for fact in _facts(extractor(chosen)):
        metadata = {**(fact.pop("metadata", None) or {}), "from": sources_named}
        added, more = memory.prepared(memory.fields_of(**{"kind": "semantic", **fact}, now=now, metadata=metadata))
        made.append(added.id)
        writes += more
    memory.shelf.submit(writes)
    return made


def _facts(returned: Any) -> list[dict[str, Any]]:
    """What an extractor returned, as arguments of ``add``. Raises InvalidValue."""
    if isinstance(returned, (str, Mapping)) or not isinstance(returned, Iterable):
        raise InvalidValue(f"an extractor returns a list of texts or maps, not {type(returned).__name__}")
    found = []
    for one in returned:
        fact = {"text": one} if isinstance(one, str) else one
        if not isinstance(fact, Mapping) or "text" not in fact or fact.keys() - _FACT_WORDS:
            words = ", ".join(sorted(_FACT_WORDS))
            raise InvalidValue(f"an extractor returned {one!r:.60}", hint=f"texts, or maps of {words}")
        if fact.get("metadata") is not None and not isinstance(fact["metadata"], Mapping):
            raise InvalidValue(f"metadata is a mapping, not {type(fact['metadata']).__name__}")
        if fact.get("kind") == "working":
            raise InvalidValue("what is consolidated is not of kind working")
        found.append(dict(fact))
    return found


def _submit(memory: Memory, writes: Sequence[Write]) -> None:
    for at in range(0, len(writes), _STEP):
        memory.shelf.submit(writes[at : at + _STEP])


def _check(policy: Any) -> None:
    if not isinstance(policy, Forgetting):
        raise InvalidValue(
            f"a policy is a Forgetting, not {described(policy)}",
            hint="such as Forgetting(min_retention=0.1, keep=9)",
        )
    if type(policy.min_retention) not in (int, float) or not 0 <= policy.min_retention <= 1:
        raise InvalidValue(f"min_retention is a number from 0 to 1, not {policy.min_retention!r:.40}")
    if policy.keep is not None and (type(policy.keep) is not int or policy.keep < 0):
        raise InvalidValue(f"keep is a whole number, 0 or more, not {policy.keep!r:.40}")
    if type(policy.older_than_days) not in (int, float) or not policy.older_than_days >= 0:
        raise InvalidValue(f"older_than_days is a number, 0 or more, not {policy.older_than_days!r:.40}")
    check_kinds(policy.kinds)
