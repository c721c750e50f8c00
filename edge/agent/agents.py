"""Agents of a store and their threads; named snapshots of where their threads stand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.agent.embedders import Embedder
from edge.agent.memory import Memory
from edge.agent.memory_base import WORKING_CAPACITY
from edge.agent.names import TYPES, escape
from edge.agent.scoring import Scoring
from edge.agent.shelf import CHECKPOINTS, SNAPSHOTS
from edge.agent.thread import Thread
from edge.storage.transaction import Write
from sync.errors import NotFound, TooLarge
from sync.operations import Kind
from sync.places import PREFIX, unescaped

if TYPE_CHECKING:
    from edge.agent.attachments import Attachments
    from edge.agent.documents import Documents
    from edge.agent.erase import Receipt
    from edge.agent.media import MediaEmbedder
    from edge.agent.shelf import Shelf
    from edge.agent.vectors import Vectors

STORES = ("attachments", "documents", "memories", "state", "vectors")  # as permissions name them
_LAST = "\U0010ffff"
_THREADS_MAX = 1_000  # of a snapshot: it is one record


class Agent:
    """One agent's stores. Get one from ``edge.agent(name)``; an agent is there as soon as it has something. What the
    policy does not let the agent do raises NotAllowed at the call (``edge.policy.may``).
    """

    def __init__(self, shelf: Shelf, name: str) -> None:
        escape("an agent", name)
        self.name = name
        self._shelf = shelf

    def __repr__(self) -> str:
        return f"<Agent {self.name!r}>"

    def thread(self, name: str = "main", *, type: str = "context") -> Thread:  # noqa: A002 - what users call it
        """The thread of that name; it is there as soon as something is put to it. ``type`` is one of context, working,
        long-term, task, relationship, embedding: threads of different types are different threads. Raises InvalidValue.
        """
        return Thread(self._shelf, self.name, name, type)

    def memory(
        self,
        namespace: str = "default",
        *,
        embedder: Embedder | None = None,
        scoring: Scoring | None = None,
        capacity: int = WORKING_CAPACITY,
    ) -> Memory:
        """What the agent remembers in a namespace. Without an ``embedder`` it is found by its words (BM25).

        ``capacity`` is that of working memory. Raises InvalidValue, SchemaMismatch (the memories have the vectors of
        another model).
        """
        return Memory(self._shelf, self.name, namespace, embedder=embedder, scoring=scoring, capacity=capacity)

    def documents(self, namespace: str = "default", *, embedder: Embedder | None = None) -> Documents:
        """The documents of a namespace. Without an ``embedder`` they are found by their words (BM25). Raises
        InvalidValue, SchemaMismatch (there are vectors of another model).
        """
        from edge.agent.documents import Documents

        return Documents(self._shelf, self.name, namespace, embedder=embedder)

    def attachments(
        self, namespace: str = "default", *, embedders: Mapping[str, Embedder | MediaEmbedder] | None = None
    ) -> Attachments:
        """The images, sounds and other files of a namespace. ``embedders``: of captions ("text") and of each medium
        ("image", "audio", "video"); without, they are found by their captions (BM25). Raises InvalidValue,
        SchemaMismatch (there are vectors of another model).
        """
        from edge.agent.attachments import Attachments

        return Attachments(self._shelf, self.name, namespace, embedders=embedders)

    def vectors(
        self,
        space: str,
        *,
        dimension: int | None = None,
        metric: str | None = None,
        precision: str | None = None,
    ) -> Vectors:
        """A named space of vectors; declared, with a ``dimension``, by its first use on any device.

        ``metric``: cosine (the default), l2, dot. ``precision``, in which vectors are stored and sent: float32 (the
        default), float16, int8. What is left out of a space that is there is as it is. Raises NotFound (a new space
        without a dimension), InvalidValue, SchemaMismatch (declared otherwise), TooLarge, StorageError.
        """
        from edge.agent.vectors import Vectors

        return Vectors(self._shelf, self.name, space, dimension=dimension, metric=metric, precision=precision)

    def spaces(self) -> list[Vectors]:
        """All spaces that have a vector, by name. Raises NotAllowed."""
        from edge.agent.vectors import spaces_of

        self._shelf.check_allowed(self.name, "read", "agent.vectors")
        return [self.vectors(space) for space in spaces_of(self._shelf.log, self.name)]

    def export(self, path: str | os.PathLike[str], *, namespace: str | None = None) -> dict[str, int]:
        """All memories, documents, attachments, vectors and checkpoints as JSON lines in the new file ``path``; of a
        namespace all but checkpoints, and of vectors the space of that name. The bytes of attachments are beside it,
        in ``<path>.bodies`` (``edge.agent.export``). Returns how many of each. Raises InvalidValue, StorageError,
        BodyNotHere.
        """
        from edge.agent.export import export

        for store in STORES:
            self._shelf.check_allowed(self.name, "read", f"agent.{store}")
        return export(self._shelf, self.name, path, namespace=namespace)

    def erase(self, namespace: str | None = None) -> Receipt:
        """Make the agent, or one of its namespaces, gone from every byte of the store, and from the fleet's other
        devices with their next sync (ADR 19). What is written to it later is refused, by ``lift_erasure`` no more.
        Raises InvalidValue, StorageError: then it is carried out later, see ``edge.erasures``. NotAllowed.
        """
        self._check_writes()
        return self._shelf.erase(self.name, namespace)

    def lift_erasure(self, namespace: str | None = None) -> None:
        """Let in what is written from now on; what is older stays out. Raises NotFound, NotAllowed, StorageError."""
        from edge.agent.erase import lift

        self._check_writes()
        lift(self._shelf, self.name, namespace)

    def threads(self, *, type: str | None = None) -> list[Thread]:  # noqa: A002 - as in thread
        """All threads that have a checkpoint, by type and name. Raises NotAllowed."""
        self._shelf.check_allowed(self.name, "read", "agent.state")
        found = [thread for thread in threads(self._shelf, self.name) if type in (None, thread.type)]
        return sorted(found, key=lambda thread: (thread.type, thread.name))

    def _check_writes(self) -> None:
        for store in STORES:
            self._shelf.check_allowed(self.name, "write", f"agent.{store}")


class Snapshot(NamedTuple):
    """A name for where threads stood. ``agent`` is "" if it is of all agents; ``threads`` how many."""

    name: str
    agent: str
    at_ms: int
    threads: int


class Restored(NamedTuple):
    """``threads`` were put back; ``newer`` are not in the snapshot, and were left as they are; of ``missing`` the
    checkpoint is gone, because a device that did not know of the snapshot has pruned it.
    """

    threads: list[Thread]
    newer: list[Thread]
    missing: list[Thread]


class Snapshots:
    """Named snapshots of one agent's threads, or of all. They are records, and reach the rest of the fleet. It is the
    device's owner who takes them: what an agent may do is not asked.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._of_agents = shelf
        self._shelf = shelf.of_the_owner()

    def take(self, name: str, *, agent: str | None = None) -> Snapshot:
        """Note the newest checkpoint of each thread; they are kept by ``prune`` for as long as the snapshot is there.

        A snapshot of that name is replaced. Raises NotFound (no thread), TooLarge, InvalidValue, StorageError.
        """
        key = escape("a snapshot", name)
        heads: dict[str, str] = {}
        for thread in threads(self._shelf, agent):
            head = thread.head()
            if head is not None:
                heads[thread.prefix] = head.id
        if not heads:
            whose = "no agent" if agent is None else f"agent {agent!r}"
            raise NotFound(f"{whose} has a thread to take a snapshot of", hint="thread.put() makes one")
        if len(heads) > _THREADS_MAX:
            raise TooLarge(
                f"{len(heads):,} threads; a snapshot has at most {_THREADS_MAX:,}",
                hint="thread.delete() those that have ended" if agent is not None else "one for each agent: agent=",
            )
        at_ms = self._shelf.clock.wall_ms()
        fields = {"agent": agent or "", "at": at_ms, "heads": heads}
        self._shelf.submit((self._shelf.put_of(SNAPSHOTS, key, fields),))
        return Snapshot(name, agent or "", at_ms, len(heads))

    def agents(self) -> list[str]:
        """The names of all agents that have a checkpoint, sorted."""
        return sorted({thread.agent for thread in threads(self._shelf, None, one_each=True)})

    def all(self) -> list[Snapshot]:
        """By name."""
        return [
            Snapshot(unescaped(key), fields["agent"], fields["at"], len(fields["heads"]))
            for key, fields in self._shelf.records(SNAPSHOTS)
        ]

    def restore(self, name: str) -> Restored:
        """Put each thread of the snapshot back to its value there: as a new checkpoint, so that nothing is lost. All of
        them in one transaction. Raises NotFound, CorruptStore, StorageError.
        """
        self._shelf.check_alone("restore")
        fields = self._fields(name)
        back: list[Thread] = []
        missing: list[Thread] = []
        heads = fields["heads"]
        with self._shelf.batch():
            for prefix, checkpoint in heads.items():
                thread = thread_of(self._shelf, prefix)
                head = thread.head()
                try:
                    if head is None or head.id != checkpoint:
                        thread.put_again(checkpoint, {"restored": [name, checkpoint]})
                    back.append(thread_of(self._of_agents, prefix))
                except NotFound:
                    missing.append(thread_of(self._of_agents, prefix))
        newer = [one for one in threads(self._of_agents, fields["agent"] or None) if one.prefix not in heads]
        return Restored(back, newer, missing)

    def delete(self, name: str) -> None:
        """The name goes, and ``prune`` may take what only it kept. Raises NotFound, StorageError."""
        self._fields(name)
        self._shelf.submit((Write(Kind.DELETE, SNAPSHOTS, escape("a snapshot", name)),))

    def _fields(self, name: str) -> dict[str, Any]:
        fields = self._shelf.log.values(SNAPSHOTS, escape("a snapshot", name))
        if fields is None:
            raise NotFound(f"there is no snapshot {name!r}", hint="edge.snapshots.all() lists them")
        return fields


def threads(shelf: Shelf, agent: str | None, *, one_each: bool = False) -> Iterator[Thread]:
    """All threads, or one agent's: by one look at the index for each. ``one_each``: the first of an agent and type."""
    for kind in sorted(TYPES):
        prefix = f"{kind}/" if agent is None else f"{kind}/{escape('an agent', agent)}/"
        after = ""
        while found := shelf.log.scan(CHECKPOINTS, after=after, prefix=prefix, limit=1):
            thread = thread_of(shelf, found[0][0])
            after = (f"{kind}/{escape('an agent', thread.agent)}/" if one_each else thread.prefix) + _LAST
            yield thread


def agents(shelf: Shelf) -> list[str]:
    """The names of all agents that have something, sorted: by one look at the index for each of its collections."""
    found = {thread.agent for thread in threads(shelf, None, one_each=True)}
    for name in list(shelf.log.schemas):
        after = ""
        while name.startswith(PREFIX) and (page := shelf.log.scan(name, after=after, limit=1)):
            owner = page[0][0].partition("/")[0]
            found.add(unescaped(owner))
            after = f"{owner}/{_LAST}"
    return sorted(found)


def thread_of(shelf: Shelf, key: str) -> Thread:
    """The thread of a checkpoint's key, or of a thread's prefix."""
    kind, agent, name, _ = key.split("/")
    return Thread(shelf, unescaped(agent), unescaped(name), kind)
