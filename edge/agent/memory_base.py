"""What the calls of a memory are made of: ids, fields, and the writes that put, keep, patch and displace records.

It leaves to others: what the calls mean (``memory``, ``memory_care``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from edge.agent.embedders import Embedder, embedded, searched
from edge.agent.memory_record import (
    FIELDS,
    MEMORIES,
    Remembered,
    check_kinds,
    fields_asked,
    has_ended,
    moment,
    shown,
    unit,
)
from edge.agent.names import check_text, escape
from edge.agent.scoring import KINDS, Scoring
from edge.storage.transaction import Write
from sync.errors import InvalidValue, NotFound
from sync.operations import Kind
from sync.schema import declare

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf

WORKING_CAPACITY = 20
_DECLARED = declare(MEMORIES, fields=FIELDS).fields
_TTL_S_MAX = 1e10


class MemoryBase:
    """Of one namespace of one agent."""

    def __init__(
        self,
        shelf: Shelf,
        agent: str,
        namespace: str,
        *,
        embedder: Embedder | None = None,
        scoring: Scoring | None = None,
        capacity: int = WORKING_CAPACITY,
    ) -> None:
        if type(capacity) is not int or capacity < 1:
            raise InvalidValue(f"capacity is a whole number, 1 or more, not {capacity!r:.40}")
        self.agent, self.namespace = agent, namespace
        if scoring is not None and not isinstance(scoring, Scoring):
            raise InvalidValue(f"scoring is a Scoring, not {type(scoring).__name__}", hint="Scoring(retention=0.2, …)")
        self.scoring = (Scoring() if scoring is None else scoring).checked()
        self.capacity = capacity
        self.shelf = shelf
        self.prefix = f"{escape('an agent', agent)}/{escape('a namespace', namespace)}/"
        self.embedder = embedder
        self.collection = searched(shelf, MEMORIES, FIELDS, embedder)
        held = self.collection.schema
        ours = all(held.fields.get(name) == rule for name, rule in _DECLARED.items())
        self._schema = held if ours else None  # what ``fields_of`` returns need not be checked by it again

    def __repr__(self) -> str:
        return f"<Memory {self.namespace!r} of {self.agent!r}>"

    def _place(self, kind: str, text: str, key: str | None) -> tuple[str, dict[str, Any] | None]:
        """The id for a text, and what is there: a text that was changed since (``update``) keeps its id."""
        made = self._id(kind, text, key)
        held = self.collection.get(made)
        number = 0
        while key is None and held is not None and held["text"] != text:
            number += 1
            made = self._id(kind, text, None, str(number))
            held = self.collection.get(made)
        return made, held

    def _kept(self, memory: str, old: Mapping[str, Any], until: int) -> tuple[str | None, list[Write]]:
        """What was at an id, under another one, before something else takes its place there; both ends of its history
        are told. The id is for what comes to have replaced it; None: something else had, and goes on having.
        """
        kept = self._id(old["kind"], old["text"], None, f"{memory} {old['created_at']} {old['valid_at']}")
        after = old.get("superseded_by")
        copy = {**old, "invalid_at": min(old.get("invalid_at", until), until), "superseded_by": after or memory}
        copy.pop("name", None)
        writes = [self._put(kept, copy)]
        for end, of in (("superseded_by", old.get("supersedes")), ("supersedes", after)):
            if of is not None and self.collection.get(of) is not None:
                writes.append(self.patch_of(of, {end: kept}))
        return None if after else kept, writes

    def _of_other_kinds(self, made: str, kind: str, key: str, until: int) -> list[tuple[str, Write]]:
        """What has the key and is of another kind, and its end: the kind is in the id."""
        found = []
        for other in (self._id(one, "", key) for one in KINDS if one != kind):
            held = self.collection.get(other)
            if held is not None and held.get("superseded_by") is None and held.get("invalid_at", until + 1) > until:
                ending = {"invalid_at": until, "superseded_by": made, "text": held["text"]}
                found.append((other, self.patch_of(other, ending)))
        return found

    def _id(self, kind: str, text: str, key: str | None, of: str = "") -> str:
        what = ("key", key) if key is not None else ("text", kind, text, of)
        digest = blake2b("\0".join(what).encode(), digest_size=16).hexdigest()
        return f"{self.prefix}{kind}/{digest}"

    def _is_mine(self, memory: str) -> bool:
        if type(memory) is not str:
            raise InvalidValue(
                f"the id of a memory is a string, not {type(memory).__name__}",
                hint="the id= of what add, search and all return; of several one after the other: touch(*ids)",
            )
        return memory.startswith(self.prefix)

    def held(self, memory: str) -> dict[str, Any]:
        """Its fields. Raises NotFound."""
        fields = self.collection.get(memory) if self._is_mine(memory) else None
        if fields is None:
            raise NotFound(
                f"namespace {self.namespace!r} of agent {self.agent!r} has no memory {memory!r:.100}",
                hint="all(ended=True) lists what there is",
            )
        return fields

    def fields_of(
        self,
        text: str,
        kind: str,
        *,
        now: int,
        importance: float = 0.5,
        valid_at: int | None = None,
        ttl_s: float | None = None,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Of a new memory, from the arguments of ``add``. Raises InvalidValue, TooLarge."""
        check_text("a memory", text)
        if kind not in KINDS:
            check_kinds([kind])
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidValue(f"metadata is a mapping, not {type(metadata).__name__}")
        fields: dict[str, Any] = {
            "agent": self.agent,
            "created_at": now,
            "importance": unit("importance", importance),
            "kind": kind,
            "namespace": self.namespace,
            "text": text,
            "valid_at": now if valid_at is None else moment("valid_at", valid_at, now),
        }
        if metadata:
            fields["metadata"] = dict(metadata)
        if key is not None:
            escape("a fact", key)
            fields["name"] = key
        if ttl_s is not None:
            if type(ttl_s) not in (int, float) or not 0 < ttl_s <= _TTL_S_MAX:
                raise InvalidValue(f"ttl_s is a number of seconds above 0, not {ttl_s!r:.40}")
            fields["expires_at"] = now + int(ttl_s * 1000)
        return fields

    def _embed(self, many: Sequence[dict[str, Any]]) -> None:
        if self.embedder is not None:
            vectors = embedded(self.embedder, [fields["text"] for fields in many], self.collection)
            for fields, vector in zip(many, vectors, strict=True):
                fields.update(vector)

    def _put(self, memory: str, fields: Mapping[str, Any]) -> Write:
        return self.shelf.put_of(MEMORIES, memory, fields)

    def patch_of(self, memory: str, fields: Mapping[str, Any]) -> Write:
        schema = self.collection.schema
        return Write(Kind.PATCH, MEMORIES, memory, schema.normalise(fields), schema=schema)

    def _displaced(self, new: str, now: int) -> list[Write]:
        """What is beyond the capacity of working memory, the least retained first."""
        held = [
            shown(key, fields)
            for key, fields in self.collection.scan(f"{self.prefix}working/")
            if key != new and not has_ended(fields, now)
        ]
        beyond = len(held) + 1 - self.capacity
        if beyond <= 0:
            return []
        return [self.patch_of(memory.id, {"archived_at": now}) for _, memory in self.ranked(held, now)[:beyond]]

    def ranked(self, memories: Sequence[Remembered], now: int) -> list[tuple[float, Remembered]]:
        """Each with how well it is retained, weighted by its importance; the least retained first."""
        recalls = self.shelf.recalls.of([memory.id for memory in memories])
        out = []
        for memory in memories:
            accesses, last = recalls.get(memory.id, (0, 0))
            retention = self.scoring.retained(memory.kind, accesses, now - max(last, memory.created_at))
            out.append((retention * (0.5 + 0.5 * memory.importance), memory))
        return sorted(out, key=lambda pair: (pair[0], pair[1].created_at, pair[1].id))

    def _filter(
        self, given: Mapping[str, Any] | None, kinds: Iterable[str] | None, at: int, now: int, *, archived: bool
    ) -> dict[str, Any]:
        parts: list[Mapping[str, Any]] = [
            {"agent": self.agent, "namespace": self.namespace, "valid_at": {"$lte": at}},
            {"$or": [{"invalid_at": None}, {"invalid_at": {"$gt": at}}]},
            {"$or": [{"expires_at": None}, {"expires_at": {"$gt": max(at, now)}}]},
        ]
        if not archived:
            parts.append({"archived_at": None})
        if kinds is not None:
            parts.append({"kind": {"$in": list(kinds)}})
        if given is not None:
            parts.append(fields_asked(given))
        return {"$and": parts}


def merged(held: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What the same text, added again, changes: more importance, other metadata, a later end or none."""
    changed: dict[str, Any] = {}
    if new.get("metadata") is not None and new["metadata"] != held.get("metadata"):
        changed["metadata"] = new["metadata"]
    if new["importance"] > held["importance"]:
        changed["importance"] = new["importance"]
    until, known = new.get("expires_at"), held.get("expires_at")
    if known is not None and (until is None or until > known):
        changed["expires_at"] = until
    return changed
