"""Edge: a device's store, opened: the composition root of the package and its public face.

    with Edge.open("data") as edge:
        notes = edge.collection("notes", text=["body"])
        notes.put("n1", {"body": "the pump is loud"})

Here everything meets and nothing is decided: the delta log is the truth, the projections are searched, collections
are what the user holds. ``open`` to the first durable ``put`` imports no more than SQLite and msgpack; a test
watches that.

What always holds: one process writes to a store at a time (``store_lock``), any number may read it meanwhile
(``read_only``); what was acknowledged survives a crash at any moment; ``close`` loses nothing, nor does not closing.
"""

from __future__ import annotations

import os
from _contextvars import ContextVar
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from edge.steering import Steering
from edge.storage.batch import Batch, Open, open_batch
from edge.storage.collection import Collection
from edge.storage.delta_log import DeltaLog
from edge.storage.erasures import pending
from edge.storage.in_time import start_in_time
from edge.storage.once import once
from edge.storage.projections_of import projections_of
from edge.storage.store_opening import open_to_read, open_to_write
from edge.storage.transaction import Write
from sync.errors import InvalidValue, StorageError, UnknownCollection
from sync.ports import Clock, RandomSource
from sync.schema import SYSTEM_COLLECTIONS, check_collection_name, declare
from sync.stamps import device_of

if TYPE_CHECKING:
    from edge.agent.agents import Agent, Snapshots
    from edge.agent.erase import Erasure, Receipt
    from edge.agent.shelf import Shelf
    from edge.config import EdgeConfig
    from edge.link.live import LiveLink
    from edge.link.replicator import Progress
    from edge.link.runner import Link
    from edge.storage.cache import Cache
    from edge.storage.store_lock import StoreLock
    from sync.keys import DeviceKey
    from sync.schema import FieldRule, VectorSpec


class Edge(Steering):
    """Build it with ``open``; close it, or use it as a context manager. Safe to use from several threads."""

    def __init__(
        self, path: str, config: EdgeConfig, log: DeltaLog, lock: StoreLock | None, clock: Clock, random: RandomSource
    ) -> None:
        self.path = path
        self.config = config
        self.log = log
        self.projections = projections_of(path, config, log, self._seldom)
        self._clock = clock
        self._random = random
        self.link_class: str | Callable[[], str] = config.sync_link_class
        self._live: LiveLink | None = None
        self._syncing = 0
        self._lock = lock
        self._collections: dict[str, Collection] = {}
        self._batch: Open = ContextVar("batch", default=None)
        self._waiting = None if log.read_only else start_in_time(log, self.projections.start)

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        *,
        config: EdgeConfig | str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
        random: RandomSource | None = None,
        create: bool = True,
        vfs: str | None = None,
        wait_s: float = 0.0,
        read_only: bool = False,
    ) -> Edge:
        """Open the store in the directory ``path``; make it, with new keys, if there is none (unless ``create`` is
        False).

        ``config`` is an EdgeConfig or the path of a TOML file; by default ``<path>/edge.toml``, if it exists. ``vfs``
        names a SQLite VFS to put under the log. ``wait_s`` is how long to wait for another process to close the store.
        ``read_only``: read beside whoever has it open; nothing is made, locked or written, and what would write raises
        ReadOnly (ADR 18). Raises NotFound, StoreLocked, InvalidConfig, CorruptStore (keys or search tables without
        their log among it), StorageError.
        """
        if read_only:
            return Edge(*open_to_read(path, config=config, clock=clock, random=random, vfs=vfs))
        edge = Edge(
            *open_to_write(path, config=config, clock=clock, random=random, create=create, vfs=vfs, wait_s=wait_s)
        )
        try:
            edge._begin_steering()
            if pending(edge.log):
                with suppress(StorageError):  # then it stays pending, as ``erasures`` says
                    edge.carry_out_erasures()
        except BaseException:
            edge.close()
            raise
        return edge

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading."""
        return self.log.read_only

    def close(self) -> None:
        """Stop the background work and release the store. Idempotent. Everything acknowledged is on disk already."""
        with ExitStack() as last:
            if self._lock is not None:
                last.callback(self._lock.release)
            last.callback(self.log.close)
            last.callback(self.projections.close)
            for name in ("_shelf", "models"):
                if name in vars(self):
                    last.callback(vars(self)[name].close)
            last.callback(self._end_policies)
            last.callback(self.stop_sync)
            last.callback(self._end_steering)
            if self._waiting is not None:
                last.callback(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Edge {self.path!r}, replica {self.log.replica.hex()}>"

    # -- collections --------------------------------------------------------------------------------------------------

    def collection(
        self,
        name: str,
        *,
        fields: Mapping[str, FieldRule | tuple[str, str] | str] | None = None,
        vector: VectorSpec | tuple[Any, ...] | None = None,
        text: Iterable[str] | None = None,
        conflict: str | None = None,
        strict: bool | None = None,
    ) -> Collection:
        """The collection of that name. A declaration is made known to the fleet if it is new or has changed; it is
        whole: what it leaves out has its default. With none, an unknown collection is declared plain.

        ``fields``: name -> a type, a merge rule, or (type, merge rule); ``vector``: (field, dimensions[, metric
        [, model]]); ``text``: the fields of full-text search; ``conflict``: latest, priority, manual, resolver:NAME;
        ``strict``: only declared fields (``sync.schema.declare``). Raises InvalidValue, SchemaMismatch (not compatible
        with what is declared), StorageError.
        """
        given = {"fields": fields, "vector": vector, "text": text, "conflict": conflict, "strict": strict}
        declaration: dict[str, Any] = {word: value for word, value in given.items() if value is not None}
        found = self._collections.get(name)
        if found is not None and not declaration and name in self.log.schemas:
            return found
        check_collection_name(name)
        if name in SYSTEM_COLLECTIONS:
            raise InvalidValue(f"{name!r} is the system's", hint="edge.collection(name, …) declares a collection")
        if declaration or name not in self.log.schemas:
            self.log.declare(declare(name, **declaration))
        return self._collections.setdefault(name, Collection(name, self.log, self._submit, self.projections))

    def collections(self) -> list[str]:
        """The names of all declared collections, sorted."""
        return sorted(self.log.schemas.keys() - SYSTEM_COLLECTIONS)

    def batch(self) -> Batch:
        """``with edge.batch():`` makes all writes of this thread (or asyncio task) inside it one durable transaction,
        at its end.

        Reads inside do not see them yet. An exception discards them all. A batch in a batch joins the outer one.
        """
        return Batch(self.log, self._batch)

    def _submit(self, writes: Sequence[Write]) -> None:
        if (batch := open_batch(self._batch)) is not None:
            batch.extend(writes)
        else:
            self.log.submit(writes)

    # -- agents -------------------------------------------------------------------------------------------------------

    def agent(self, name: str) -> Agent:
        """The stores of one agent: its threads of checkpoints. Raises InvalidValue, TooLarge."""
        from edge.agent.agents import Agent

        return Agent(self._shelf, name)

    def agents(self) -> list[str]:
        """The names of all agents that have something, sorted."""
        return self._shelf.agents()

    @property
    def snapshots(self) -> Snapshots:
        """Named snapshots of where agents stand (``snapshot(path)`` copies the whole store)."""
        from edge.agent.agents import Snapshots

        return Snapshots(self._shelf)

    @once
    def _shelf(self) -> Shelf:
        from edge.agent.shelf import Shelf

        batches = (self.batch, lambda: open_batch(self._batch))
        return Shelf(
            self.log,
            self._submit,
            *batches,
            self._clock,
            self._random,
            self.collection,
            self._erase,
            lambda: self.cache,
            self._check_allowed,
        )

    @once
    def cache(self) -> Cache:
        """What of the attachments stays on this disk: quota, pins, eviction."""
        from edge.storage.cache import Cache

        return Cache(self.log, self.path, self._clock, self._quota_bytes, lambda: self._link)

    def erasures(self) -> list[Erasure]:
        """What was erased in this fleet (``Agent.erase``), as digests, oldest first."""
        from edge.agent.erase import shown

        return shown(self._shelf)

    def _erase(self, agent: str, namespace: str | None) -> Receipt:
        from edge.agent.erase import erase

        return erase(self._shelf, agent, namespace, self._purge)

    def _purge(self, erasure: str, collections: Sequence[str]) -> None:
        from edge.storage.erasures import purge, vacuum

        whole = self.cache.collected()
        purge(self.log, erasure)
        self.projections.renew(collections)
        vacuum(self.log)
        if not whole:
            raise StorageError("bytes of attachments are being read, sent or fetched", hint="it is tried again")

    def carry_out_erasures(self) -> None:
        """Rid this store of what was erased elsewhere, or here and was interrupted: ``sync`` and the background work do
        it as well. Raises StorageError.
        """
        if self.log.erasures.at:
            from edge.agent.erase import carry_out_pending

            carry_out_pending(self._shelf, self._purge)

    # -- the fleet ----------------------------------------------------------------------------------------------------

    def join(self, token: str, *, name: str = "", url: str | None = None) -> None:
        """Join a fleet with a token from its operator (``agentdb-cloud token``); joining again changes nothing but the
        URL.

        ``name`` is what people call the device (its host name by default), for as long as it has these keys; ``url``
        overrides the token's. Raises InvalidValue, Refused, Unreachable, ProtocolError, StorageError.
        """
        import platform

        from edge.link.membership import known_name
        from sync.tokens import parse_token

        name = name or known_name(self.log, self.path, parse_token(token))
        self._link.join(token, name or platform.node()[:128] or self.device.hex(), url)

    def sync(
        self,
        *,
        timeout_s: float | None = 300.0,
        url: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Push and pull until this device and the cloud have everything of each other. Blocks; reads and writes of
        other threads go on. ``timeout_s`` is more than 0; None waits for as long as it takes. Raises InvalidValue,
        NotFound (no fleet joined), Refused, Unauthenticated, Deferred, then the last error, StorageError (erasures).
        """
        from edge.link.timeouts import milliseconds

        timeout_ms = milliseconds(timeout_s)
        if (live := self._live) is not None:  # another thread may stop it meanwhile
            done = live.wait_idle(timeout_ms, self._clock)
            self.carry_out_erasures()
            return done
        self._syncing += 1
        try:
            self._models_from(self._link, url, timeout_ms)
            done = self._link.sync_once(timeout_ms=timeout_ms, url=url, on_progress=on_progress)
            self._models_come(self._link, url)
        finally:
            self._end_models()
            self._syncing -= 1
        with ExitStack() as last:
            last.callback(self.projections.tidy)
            self.carry_out_erasures()
        return done

    def start_sync(self, *, url: str | None = None, on_progress: Callable[[Progress], None] | None = None) -> None:
        """Stay in sync in the background, through every loss of the network, until ``stop_sync`` or ``close``."""
        from edge.link.live import LiveLink

        if not self.is_syncing:
            if self._live is not None:
                self._live.end()  # what is left of it: its failure was logged
            self.projections.start()  # the log is trimmed as the cloud acknowledges it
            self._models_from(self._link, url)
            self._live = LiveLink(self._link, url=url, on_progress=on_progress)

    def stop_sync(self) -> None:
        """End the background sync. Raises what had ended it before, if something had."""
        self._end_models()
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    @property
    def is_syncing(self) -> bool:
        """Whether ``start_sync`` was called, and nothing has ended it since."""
        return self._live is not None and self._live.running

    @once
    def _link(self) -> Link:
        from edge.linking import link_of

        return link_of(self, self._clock, self._random)

    def maintain(self) -> None:
        """What background work does, now: bring search tables up to date and compact them, trim the log, give space
        back to the disk. Raises ReadOnly, StorageError.
        """
        self.log.check_writable()
        self.projections.maintain()

    # -- the store as a whole -----------------------------------------------------------------------------------------

    @property
    def device(self) -> bytes:
        """The device's id, 12 bytes."""
        return device_of(self.log.replica)

    def device_key(self) -> DeviceKey:
        """The private keys, read from disk. Raises CorruptStore, StorageError."""
        from edge.storage.keystore import load_device_key

        return load_device_key(self.path)

    def lance(self, name: str) -> Any:
        """The collection's LanceDB table, up to date as of now, for reading. Raises UnknownCollection, StorageError."""
        self._check_declared(name)
        return self.projections.lance(name)

    def digest(self) -> str:
        """The state digest: equal on all replicas that hold the same records."""
        return self.log.digest()

    def verify(self) -> list[str]:
        """Check the keys, the log and the projections; projections that fail are rebuilt. Returns what was found, in
        sentences.
        """
        from edge.storage.keystore import key_problems

        return (
            key_problems(self.path, self.device)
            + self.log.verify()
            + self.cache.bodies.verify()
            + self._problems_of_models()
            + self.projections.verify()
            + self.trust.verify()
        )

    def snapshot(self, path: str | os.PathLike[str]) -> None:
        """A consistent copy of the store in the new directory ``path``, with the device's keys: keep it as safe as
        them. The directory is there whole, or not at all. Opened, it is a replica of its own; its projections are
        rebuilt from its records. Raises InvalidValue, StorageError.
        """
        from edge.storage.paths import path_of
        from edge.storage.store_copy import copy_store

        copy_store(self.path, path_of("a snapshot", path), self.log, self.cache.bodies)

    def status(self) -> dict[str, Any]:
        """What there is to know, as plain values: the store, its log, its link to the cloud, its projections."""
        from edge.status import status_of

        return status_of(self, connected=self._live is not None or self._syncing > 0)

    def _check_declared(self, name: str) -> None:
        if name not in self.log.schemas:
            raise UnknownCollection(f"{name!r} has not been declared", hint="edge.collection(name) declares it")
