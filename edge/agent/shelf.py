"""Shelf: what the stores of agents have in common: the log they read, how they write, what is newest.

It leaves to others: what a thread is (``thread``), which agents there are (``agents``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from edge.agent.heads import Heads
from edge.agent.large_values import VALUES, LargeValues, Ref
from edge.agent.names import TYPES
from edge.agent.recalls import Recalls
from sync.errors import InvalidValue, StaleWrite
from sync.images import image_values
from sync.schema import declare

if TYPE_CHECKING:
    from edge.agent.erase import Receipt
    from edge.storage.batch import Batch
    from edge.storage.cache import Cache
    from edge.storage.collection import Collection
    from edge.storage.delta_log import DeltaLog
    from edge.storage.transaction import Write
    from sync.ports import Clock, RandomSource
    from sync.schema import CollectionSchema

CHECKPOINTS, SNAPSHOTS = "_checkpoints", "_snapshots"
_PAGE = 500
_LOCKS = 64


class Shelf:
    """Of one open store. ``submit`` writes, into the batch of the thread or task that has one open."""

    def __init__(
        self,
        log: DeltaLog,
        submit: Callable[[Sequence[Write]], Any],
        batch: Callable[[], Batch],
        open_batch: Callable[[], Batch | None],
        clock: Clock,
        random: RandomSource,
        collection: Callable[..., Collection],
        erase: Callable[[str, str | None], Receipt],
        cache: Callable[[], Cache],
        check_allowed: Callable[[str, str, str], None],
    ) -> None:
        self.log = log
        self.collection = collection
        self.erase = erase
        self.batch = batch
        self.clock = clock
        self.heads = Heads(log, random, CHECKPOINTS)
        self.large = LargeValues(log, submit, self.put_of)
        self.recalls = Recalls(log)
        self._locks = [threading.RLock() for _ in range(_LOCKS)]
        self.submit = submit
        self.open_batch = open_batch
        self._cache = cache
        self.check_allowed = check_allowed  # (agent, "read" or "write", "agent.memories" …): raises NotAllowed

    def of_the_owner(self) -> Self:
        """The same, for work that is the device's and not an agent's: it asks for no permission."""
        owner = copy(self)
        owner.check_allowed = _no_question
        return owner

    @property
    def cache(self) -> Cache:
        return self._cache()

    def lock(self, name: str) -> threading.RLock:
        """For whoever reads something of that name and writes what follows from it."""
        return self._locks[hash(name) % _LOCKS]

    def ensure(self, collection: str) -> CollectionSchema:
        """The schema of one of the collections here, declared with its first use. Raises StorageError."""
        if collection not in self.log.schemas:
            self.log.declare(declare(collection))
        return self.log.schemas[collection]

    def put_of(self, collection: str, key: str, fields: Mapping[str, Any]) -> Write:
        """Raises InvalidValue, TooLarge."""
        schema = self.ensure(collection)
        return self.log.put_of(collection, key, schema.normalise(fields), schema)

    def put_new(
        self, collection: str, key: str, fields: Mapping[str, Any], checked_by: CollectionSchema | None = None
    ) -> bool:
        """Put a record, durably, unless there is one: the commit looks, which saves looking before it. Not for batches.
        ``checked_by``: the fields are as this schema has them. Raises InvalidValue, TooLarge, StorageError.
        """
        schema = self.ensure(collection)
        if schema is not checked_by:
            fields = schema.normalise(fields)
        try:
            self.log.submit((self.log.put_of(collection, key, fields, schema, new=True),))
        except StaleWrite:
            return False
        return True

    def in_batch(self) -> bool:
        """Whether the thread or task that asks has a batch open."""
        return self.open_batch() is not None

    def check_alone(self, what: str) -> None:
        """What reads before it writes cannot see what its own batch has written. Raises InvalidValue in one."""
        if self.in_batch():
            raise InvalidValue(f"{what} reads what it changes: not inside of a batch", hint="after its end")

    def close(self) -> None:
        """Write what is still to be written. Raises StorageError."""
        self.recalls.flush()

    def store(self, agent: str, key: str, fields: Mapping[str, Any], packed: bytes, before: Ref | None) -> None:
        """A checkpoint with a large value. Raises InvalidValue, TooLarge, StorageError."""
        self.large.store(
            agent,
            packed,
            before,
            lambda ref: self.put_of(CHECKPOINTS, key, {**fields, "ref": ref.pack()}),
            alone=key if self.in_batch() else "",
        )

    def matcher(self, collection: str, given: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
        """A filter as a function of fields. Raises InvalidFilter."""
        from edge.storage.filters import parse

        where = parse(given, self.log.schemas[collection])
        return where.matches if where is not None else _anything

    def pinned(self, prefix: str) -> set[str]:
        """The checkpoints of a thread that snapshots name."""
        found: set[str] = set()
        for _, fields in self.records(SNAPSHOTS):
            at = fields.get("heads", {}).get(prefix)
            if at is not None:
                found.add(at)
        return found

    def agents(self) -> list[str]:
        """The names of all agents that have something, sorted."""
        from edge.agent.agents import agents

        return agents(self)

    def collect(self, agent: str) -> int:
        """Delete large values of this replica that no checkpoint of the agent (as in keys) needs any more. Returns how
        many.
        """
        if not self.log.scan(VALUES, prefix=f"{agent}/{self.log.replica.hex()}/", limit=1) or self._has_left(agent):
            return 0
        return self.large.collect(agent, lambda: self._needed(agent))

    def _has_left(self, agent: str) -> bool:
        """Whether some of its checkpoints or values are not here by the policy: what they need cannot be told then."""
        left, log = self.log.writer.evicted, self.log
        prefixes = [(VALUES, f"{agent}/"), *((CHECKPOINTS, f"{kind}/{agent}/") for kind in sorted(TYPES))]
        return any(left.places(log, collection, prefix, 1) for collection, prefix in prefixes)

    def _needed(self, agent: str) -> Iterable[Ref]:
        for kind in sorted(TYPES):
            for _, fields in self.records(CHECKPOINTS, f"{kind}/{agent}/"):
                if "ref" in fields:
                    yield Ref.unpack(agent, fields["ref"])

    def records(self, collection: str, prefix: str = "", after: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Of one of the collections here, in order of key, beginning after ``after``."""
        while page := self.log.scan(collection, after=after, prefix=prefix, limit=_PAGE):
            for key, image in page:
                fields = image_values(image)
                if fields is not None:
                    yield key, fields
            after = page[-1][0]


def _no_question(agent: str, action: str, store: str) -> None:
    pass


def _anything(_: Mapping[str, Any]) -> bool:
    return True
