"""Memory: what an agent of a device remembers, in one namespace (ADR 14).

What always holds: a call that writes is one durable transaction; nothing asks a model but the embedder that the user
gave; what is superseded, expired or archived is not shown, and is there; searching writes nothing by itself.

It leaves to others: scores (``scoring``), counting accesses (``recalls``), forgetting and consolidation
(``memory_care``), finding texts and vectors (``edge.storage.projections``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.agent.embedders import K_MAX, Embedder, answered, asked, vector_fields
from edge.agent.memory_base import MemoryBase, merged
from edge.agent.memory_record import MEMORIES, Remembered, check_kinds, has_ended, moment, shown, unit
from edge.agent.names import check_text
from edge.agent.permitted import permitted
from edge.agent.scoring import Terms
from edge.storage.transaction import Write
from sync.errors import InvalidValue

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edge.agent.memory_care import Extractor, Forgetting, Forgotten

_CANDIDATES, _CANDIDATES_MIN = 4, 50


class Added(NamedTuple):
    """``merged``: there was this memory already. ``Memory.similar`` takes it, too: who adds pays for no search, and
    whoever wants to know of near duplicates asks.
    """

    id: str
    merged: bool


class Recall(NamedTuple):
    """A memory that a search found, best first. ``terms`` if ``explain`` was asked for."""

    id: str
    text: str
    score: float
    memory: Remembered
    terms: Terms | None = None


@permitted(
    "memories",
    "shelf",
    reads="all get history search similar",
    writes="add consolidate forget reembed restore retract supersede touch update",
)
class Memory(MemoryBase):
    """Get one from ``edge.agent(name).memory(namespace)``. Safe to use from several threads."""

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(
        self,
        text: str,
        kind: str = "episodic",
        *,
        importance: float = 0.5,
        valid_at: int | None = None,
        ttl_s: float | None = None,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Added:
        """Remember a text; it is on disk when this returns. The same text again is the same memory, and an access.

        ``importance`` from 0 to 1; ``valid_at``: since when it holds, in milliseconds since 1970 (now); ``ttl_s``:
        after how many seconds it is not shown any more; ``key``: a name for a fact of which only the latest text holds;
        what it replaces is in ``history``. Raises InvalidValue, TooLarge, SchemaMismatch, StorageError.
        """
        now = self.shelf.clock.wall_ms()
        fields = self.fields_of(
            text, kind, now=now, importance=importance, valid_at=valid_at, ttl_s=ttl_s, key=key, metadata=metadata
        )
        if key is not None or kind == "working":
            self.shelf.check_alone("a memory with a key, or of kind working,")
        made = self._id(kind, text, key)
        with self.shelf.lock(f"{self.prefix}working/" if kind == "working" else made):
            # Most are new, and the commit knows best. But who asks a model for a vector looks first.
            probably = key is None and kind != "working" and self.embedder is None and not self.shelf.in_batch()
            if probably and self.shelf.put_new(MEMORIES, made, fields, None if metadata else self._schema):
                return Added(made, merged=False)
            added, writes = self.prepared(fields, key)
            self.shelf.submit(writes)
        return added

    def prepared(self, fields: dict[str, Any], key: str | None = None) -> tuple[Added, list[Write]]:
        """What adding these fields comes to, and the writes that do it."""
        text, kind, now = fields["text"], fields["kind"], fields["created_at"]
        made, held = self._place(kind, text, key)
        if held is not None and held["text"] == text and not has_ended(held, now):
            changed = merged(held, fields)
            self.shelf.recalls.note([made], now)
            if self.shelf.in_batch():  # which may have ended it before: then it is there again, and as it was
                return Added(made, merged=True), [self._put(made, {**held, **changed})]
            return Added(made, merged=True), [self.patch_of(made, changed)] if changed else []
        writes: list[Write] = []
        if held is not None:
            kept, writes = self._kept(made, held, fields["valid_at"])
            fields = fields if kept is None else {**fields, "supersedes": kept}
        if key is not None:
            for other, ending in self._of_other_kinds(made, kind, key, fields["valid_at"]):
                fields = {"supersedes": other, **fields}
                writes.append(ending)
        self._embed([fields])
        writes.append(self._put(made, fields))
        if kind == "working":
            writes += self._displaced(made, now)
        return Added(made, merged=False), writes

    def supersede(self, memory: str, text: str, /, *, valid_at: int | None = None, **changes: Any) -> Added:
        """A new memory in the place of one that does not hold any more, since ``valid_at`` (now). ``changes`` are as
        for ``add``; what is not said is as it was, its key among it. Raises NotFound, and what ``add`` does.
        """
        self.shelf.check_alone("supersede")
        unknown = changes.keys() - {"importance", "kind", "metadata", "ttl_s"}
        if unknown:
            raise InvalidValue(
                f"there is nothing called {min(unknown)!r} to change",
                hint="importance, kind, metadata, ttl_s, valid_at",
            )
        self.held(memory)
        with self.shelf.lock(memory):
            added, writes = self._superseding(memory, self.held(memory), text, valid_at, changes)
            self.shelf.submit(writes)
        return added

    def _superseding(
        self, memory: str, old: dict[str, Any], text: str, valid_at: int | None, changes: Mapping[str, Any]
    ) -> tuple[Added, list[Write]]:
        if old.get("superseded_by"):
            raise InvalidValue(f"memory {memory!r} was superseded already", hint=f"supersede {old['superseded_by']}")
        now = self.shelf.clock.wall_ms()
        given: dict[str, Any] = {name: old.get(name) for name in ("importance", "kind", "metadata")} | dict(changes)
        kind = given["kind"]
        fields = self.fields_of(text, now=now, valid_at=valid_at, **given)
        if given.get("ttl_s") is None and old.get("expires_at") is not None:
            fields["expires_at"] = old["expires_at"]
        name = old.get("name")
        if name is not None and kind == old["kind"]:
            return self.prepared({**fields, "name": name}, name)
        made, there = self._place(kind, text, None)
        if made == memory:
            raise InvalidValue("a memory does not supersede itself: the text and the kind are the same")
        # The old text is written again, so that who changed it meanwhile is in the conflict record.
        until = min(old.get("invalid_at", fields["valid_at"]), fields["valid_at"])  # it may have been retracted before
        end = self.patch_of(memory, {"invalid_at": until, "superseded_by": made, "text": old["text"]})
        if there is not None and there["text"] == text and not has_ended(there, now):
            return Added(made, merged=True), [end]
        writes = [end] if there is None else [end, *self._kept(made, there, fields["valid_at"])[1]]
        fields["supersedes"] = memory
        self._embed([fields])
        return Added(made, merged=False), [*writes, self._put(made, fields)]

    def retract(self, memory: str, *, invalid_at: int | None = None) -> None:
        """It does not hold any more, since ``invalid_at`` (now). Raises NotFound, InvalidValue, StorageError."""
        old = self.held(memory)
        at = moment("invalid_at", invalid_at, self.shelf.clock.wall_ms())
        self.collection.patch(memory, {"invalid_at": at, "text": old["text"]})

    def update(self, memory: str, /, **changes: Any) -> None:
        """Change text, importance, metadata or valid_at of a memory that goes on being the same one. Raises NotFound,
        InvalidValue, TooLarge, StorageError.
        """
        self.held(memory)
        unknown = changes.keys() - {"text", "importance", "metadata", "valid_at"}
        if unknown or not changes:
            raise InvalidValue("update changes text, importance, metadata or valid_at", hint=", ".join(sorted(unknown)))
        if changes.get("metadata") is not None and not isinstance(changes["metadata"], Mapping):
            raise InvalidValue(f"metadata is a mapping, not {type(changes['metadata']).__name__}")
        if "text" in changes:
            check_text("a memory", changes["text"])
            self._embed([changes])
        if "importance" in changes:
            changes["importance"] = unit("importance", changes["importance"])
        if "valid_at" in changes:
            changes["valid_at"] = moment("valid_at", changes["valid_at"], 0)
        with self.shelf.lock(memory):
            if "text" in changes:  # the vectors of the old one go; ``reembed`` makes one where there is no embedder
                changes = {**dict.fromkeys(vector_fields(self.held(memory))), **changes}
            self.collection.patch(memory, changes)

    def touch(self, *memories: str) -> None:
        """Count an access to each. Raises NotFound, ReadOnly."""
        self.shelf.log.check_writable()
        for memory in memories:
            self.held(memory)
        self.shelf.recalls.note(memories, self.shelf.clock.wall_ms())

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, memory: str) -> Remembered | None:
        """A memory of this namespace, whatever became of it, or None. Raises InvalidValue."""
        fields = self.collection.get(memory) if self._is_mine(memory) else None
        return None if fields is None else shown(memory, fields)

    def all(self, *, ended: bool = False) -> Iterator[Remembered]:
        """Every memory that holds now, by kind; with ``ended``, also what is superseded, expired or archived."""
        now = self.shelf.clock.wall_ms()
        for key, fields in self.collection.scan(self.prefix):
            if ended or (not has_ended(fields, now) and fields["valid_at"] <= now):
                yield shown(key, fields)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in Collection.search
        kinds: Iterable[str] | None = None,
        as_of: int | None = None,
        mode: str | None = None,
        archived: bool = False,
        explain: bool = False,
        touch: bool = True,
    ) -> list[Recall]:
        """The ``k`` memories that answer ``query`` best, of those that hold at ``as_of`` (milliseconds; now).

        ``mode`` is text, or with an embedder vector or hybrid (which is the default then). ``filter`` is over
        metadata, and what ``Remembered`` has (kind, importance, key, …). ``archived``: what was forgotten, too.
        ``touch``: what is returned counts as accessed. Raises InvalidValue, InvalidFilter, StorageError.
        """
        if kinds is not None:
            kinds = check_kinds(kinds)
        now = self.shelf.clock.wall_ms()
        at = moment("as_of", as_of, now)
        question = asked(query, k, mode, self.embedder, self.collection)
        hits = self.collection.search(
            **question._asdict(),
            k=max(_CANDIDATES_MIN, _CANDIDATES * k),
            filter=self._filter(filter, kinds, at, now, archived=archived),
        )
        answered(question, self.embedder, self.collection)
        recalls = self.shelf.recalls.of([hit.key for hit in hits])
        best = max((hit.score for hit in hits), default=0.0)
        found = []
        for hit in hits:
            memory = shown(hit.key, hit.fields)
            relevance = max(hit.score, 0.0) if question.mode == "vector" or best <= 0 else hit.score / best
            accesses, last = recalls.get(hit.key, (0, 0))
            retention = self.scoring.retained(memory.kind, accesses, at - max(last, memory.created_at))
            terms = self.scoring.score(relevance, retention, memory.importance)
            found.append(Recall(hit.key, memory.text, terms.score, memory, terms if explain else None))
        found.sort(key=lambda recall: (-recall.score, recall.id))
        if touch:
            self.shelf.recalls.note([recall.id for recall in found[:k]], now)
        return found[:k]

    def similar(self, memory: str | Added, k: int = 5, *, mode: str | None = None) -> list[Recall]:
        """What says nearly the same as a memory, or as what ``add`` has just returned: reported, never dropped. ``k``
        from 1 to 999. Raises NotFound, InvalidValue.
        """
        memory = memory.id if isinstance(memory, Added) else memory
        if type(k) is not int or not 1 <= k < K_MAX:
            raise InvalidValue(f"k is a whole number from 1 to {K_MAX - 1}, not {k!r:.40}")
        found = self.search(self.held(memory)["text"], k + 1, mode=mode, touch=False)
        return [recall for recall in found if recall.id != memory][:k]

    def history(self, memory: str) -> list[Remembered]:
        """What it superseded and what superseded it, oldest first. Raises NotFound."""
        out = [shown(memory, self.held(memory))]
        seen = {memory}
        while (before := out[0].supersedes) and before not in seen and (found := self.get(before)) is not None:
            seen.add(before)
            out.insert(0, found)
        while (after := out[-1].superseded_by) and after not in seen and (found := self.get(after)) is not None:
            seen.add(after)
            out.append(found)
        return out

    # -- many at once -------------------------------------------------------------------------------------------------

    def forget(self, policy: Forgetting, *, dry_run: bool = False) -> Forgotten:
        """Archive what is least retained, and delete what has expired. Raises InvalidValue, StorageError."""
        from edge.agent.memory_care import forget

        return forget(self, policy, dry_run=dry_run)

    def restore(self, *memories: str) -> int:
        """Bring archived memories back. Returns how many were archived. Raises NotFound."""
        from edge.agent.memory_care import restore

        return restore(self, memories)

    def consolidate(
        self, extractor: Extractor, *, kinds: Sequence[str] = ("episodic",), limit: int = 100
    ) -> Future[list[str]]:
        """In the background: what a function of yours makes of up to ``limit`` memories that it has not had yet is
        remembered, as semantic memories unless it says otherwise (``memory_care.consolidate``).
        """
        from edge.agent.memory_care import consolidate

        return consolidate(self, extractor, kinds=kinds, limit=limit)

    def reembed(
        self, embedder: Embedder | None = None, *, on_progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Vectors for the memories of this namespace that have none. With an ``embedder`` of another model, go over to
        it: for the memories of all agents, here and on every device of the fleet. Until all have its vectors those of
        the old model are searched, and from then on the new ones; another call goes on where one was interrupted.

        ``on_progress(done, all)`` after each 500 memories. Returns how many vectors were made. Raises InvalidValue (no
        embedder, or not one), StorageError, and what the embedder does.
        """
        from edge.agent.reembedding import reembed

        made = reembed(self.shelf, self.collection, embedder or self.embedder, self.prefix, on_progress)
        self.embedder = embedder or self.embedder
        return made
