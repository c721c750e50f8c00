"""Cache: what of the store's bodies stays on this disk: a quota for the whole store, eviction, pins.

    edge.cache.status()            # what takes the space, and what of it could go
    edge.cache.pin(digest)         # stays here, whatever happens
    edge.cache.evict(to_bytes=0)   # everything that may go

What may go are bodies of attachments that the cloud, where it keeps them now, is known to hold: the least recently
used first. They come back when they are read. What always holds: the only copy never goes, nor what is pinned, nor what
somebody is reading in or writing. Records, large checkpoint values among them, never go: the log is the truth.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from edge.storage import kept_back
from edge.storage.bodies import ATTACHMENTS, Bodies, Held, Kept, check_size
from edge.storage.body_notes import BodyNotes, Note
from sync.errors import BodyNotHere, CorruptStore, InvalidValue, NotFound, QuotaExceeded, StorageError

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

DIGEST_HEX = 64
_KINDS = {"bodies": "bodies", "lance": "tables", "exact": "vectors", "keys": "keys", "models": "models"}
_FETCHES = 16  # bodies that are waited for at the same time, at most
_ASKING = 4  # of them, whose parts are asked for: the cloud takes 8 requests of a device, and syncing is some of them
_USES_S = 2.0
_log = logging.getLogger("agentdb.edge")


class Fetching(Protocol):
    """What brings bodies here."""

    def fetch_body(self, digest: bytes, size: int) -> None:
        """Bring a body of that digest and size. Raises BodyNotHere, QuotaExceeded, StorageError, DataError."""
        ...


class Share(NamedTuple):
    """A part of the bodies: how many, and their bytes."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which this has no use for
    bytes: int


class CacheStatus(NamedTuple):
    """``bytes`` of the whole store, ``by_kind`` log, tables, vectors, bodies, keys, models, other; ``quota_bytes`` 0 is
    none. Of the bodies here: ``evictable``, ``pinned``, and ``unconfirmed``: the cloud has not them yet. ``away``:
    bodies of this store's records that are not here. ``problem`` is why the last upload or eviction failed, or empty.
    """

    bytes: int
    quota_bytes: int
    by_kind: dict[str, int]
    bodies: Share
    evictable: Share
    pinned: Share
    unconfirmed: Share
    away: Share
    problem: str

    def shown(self) -> dict[str, Any]:
        """As plain values."""
        return {name: value._asdict() if isinstance(value, Share) else value for name, value in self._asdict().items()}


class Evicted(NamedTuple):
    """What an eviction did; ``left`` is what the store takes now, in bytes."""

    bodies: int
    bytes: int
    left: int


class Cache:
    """Get it from ``edge.cache``. Safe to use from several threads."""

    def __init__(
        self, log: DeltaLog, store: str, clock: Clock, quota: Callable[[], int], link: Callable[[], Fetching]
    ) -> None:
        self.problem = ""
        self._quota = quota
        self.bodies = Bodies(log, store, clock)
        self.notes = BodyNotes(log)
        self.added = threading.Event()  # there may be something to upload
        self._log = log
        self._store = store
        self._link = link
        self._lock = threading.RLock()
        self._reserved = 0
        log.kept.released.append(self.added.set)
        self._collected = False  # what a process that was killed has left
        self._fetching = [threading.Lock() for _ in range(_FETCHES)]
        self._asking = threading.BoundedSemaphore(_ASKING)

    # -- what users ask -----------------------------------------------------------------------------------------------

    @property
    def quota_bytes(self) -> int:
        """What the whole store may take: the lesser of what ``edge.toml`` and the policy say; 0: no bound."""
        return self._quota()

    def status(self) -> CacheStatus:
        """Raises StorageError."""
        notes, here = self.notes.all(), self.bodies.all()
        known = {one.digest for one in here}
        place = self.notes.place()
        away = [size for digest, size in self.bodies.named().items() if digest not in known]
        by_kind = self._by_kind()
        return CacheStatus(
            sum(by_kind.values()),
            self.quota_bytes,
            by_kind,
            _share(here),
            _share([one for one in here if _may_go(notes.get(one.digest), place)]),
            _share([one for one in here if _note(notes, one.digest).pinned]),
            _share([one for one in here if not _is_confirmed(notes.get(one.digest), place)]),
            Share(len(away), sum(away)),
            self.problem,
        )

    def pin(self, digest: str) -> None:
        """The body stays on this device; if it is away, from when it is next read. Raises InvalidValue, NotFound (no
        attachment here has that digest), StorageError.
        """
        with self._lock:  # none is being evicted
            self.notes.pin(self._named(digest), pinned=True)

    def unpin(self, digest: str) -> None:
        """Raises InvalidValue, NotFound, StorageError."""
        self.notes.pin(self._named(digest), pinned=False)

    def evict(self, to_bytes: int | None = None) -> Evicted:
        """Give up bodies that may go, the least recently used first, until the store takes at most ``to_bytes`` (by
        default the quota; without one, nothing goes). Raises InvalidValue, StorageError.
        """
        if to_bytes is not None and (type(to_bytes) is not int or to_bytes < 0):
            raise InvalidValue(f"to_bytes is a number of bytes, 0 or more, not {to_bytes!r:.40}")
        target = self.quota_bytes or None if to_bytes is None else to_bytes
        self._log.check_writable()
        with self._lock:
            self.collect()
            used = self.used_bytes()
            count = freed = 0
            if target is not None:
                count, freed = self._evict(used - target)
        return Evicted(count, freed, used - freed)

    # -- what the stores of agents and the link ask -------------------------------------------------------------------

    @contextmanager
    def keeping(self, source: bytes | os.PathLike[str]) -> Iterator[Kept]:
        """``Bodies.keeping``, with room for it. Raises QuotaExceeded, ReadOnly, and as that does."""
        self._log.check_writable()
        if not self._collected:
            self.collect()
        try:
            with self.room(_size_of(source)), self.bodies.keeping(source) as kept:
                yield kept
        except BaseException:
            with suppress(StorageError):  # then the next one does it
                self.collect()
            raise
        self.added.set()

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """That many bytes may be written. Raises QuotaExceeded, StorageError."""
        if not self.quota_bytes:
            yield
            return
        with self._lock:
            self._make_room(size)
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def body(self, digest: bytes, size: int) -> BinaryIO:
        """The body, checked; fetched if it is not here. One that is damaged is fetched anew, if the cloud has it.
        Raises BodyNotHere, CorruptStore, QuotaExceeded, StorageError, DataError (the cloud has sent other bytes).
        """
        with self.bodies.using(digest):
            file, _ = self._opened(digest)
            if file is None:
                with self._fetching[digest[0] % _FETCHES], self._asking:
                    file, damage = self._opened(digest)  # another has waited for the same
                    if file is None:
                        self._fetch(digest, size, damage)
                        file = self.bodies.open(digest, reading=True)
        if file is None:
            raise BodyNotHere("the attachment's bytes have just been deleted", hint="read it again")
        return file

    def _opened(self, digest: bytes) -> tuple[BinaryIO | None, CorruptStore | None]:
        try:
            return self.bodies.open(digest, reading=True), None
        except CorruptStore as error:
            if self._log.read_only:
                raise
            return None, error

    def _fetch(self, digest: bytes, size: int, damage: CorruptStore | None) -> None:
        if self._log.read_only:
            raise BodyNotHere(
                "this process only reads the store, and fetches nothing",
                hint="whoever has the store open for writing can read it, and then it is here",
            )
        if damage is not None:
            _log.warning("attachments: %s; fetching it again", damage)
        try:
            self._link().fetch_body(digest, size)
        except BodyNotHere:
            if damage is not None:
                raise damage from None
            raise

    def pending(self) -> list[Held]:
        """Bodies here that a record names and that are not known to be where the cloud keeps them now. Not those that
        only records name that are kept back.
        """
        if ATTACHMENTS not in self._log.schemas:
            return []
        notes, place = self.notes.all(), self.notes.place()
        waiting = [one for one in self.bodies.all() if not _is_confirmed(notes.get(one.digest), place)]
        named = self.bodies.named(kept_back.bases(self._log, ATTACHMENTS)) if waiting else {}
        return [one for one in waiting if one.digest in named]

    def is_concerned(self) -> bool:
        """Whether there is anything to tell or to ask the cloud about bodies."""
        return bool(self.pending()) or any(note.confirmed for note in self.notes.all().values())

    def collect(self) -> int:
        """Remove bodies that no record names, and their notes. Returns how many. Raises StorageError."""
        self._log.check_writable()
        if ATTACHMENTS not in self._log.schemas:
            return 0
        done, self._collected = self.bodies.collect(), True
        with self._lock:  # nothing is pinned meanwhile
            noted, named = self.notes.all(), self.bodies.named()
            for digest in noted:
                if digest not in named:
                    self.notes.forget(digest)
        return done

    def replaced(self, digest: bytes) -> None:
        """A record that named this body names another: it goes if nothing else does, on a device of no fleet. In a
        fleet, whose version stands is known after the next sync, which collects. Raises StorageError.
        """
        log = self._log
        alone = log.meta_get("fleet") is None and not (log.cursor or log.acked_seq)  # and exchanged nothing
        if alone and digest not in self.bodies.named():
            self.collect()

    def collected(self) -> bool:
        """``collect``, and whether nothing is left: who uses a body has two seconds to end. Raises StorageError."""
        whole = self.bodies.collected(_USES_S)
        self.collect()  # their notes, too
        return whole

    def settle(self) -> None:
        """After a sync: what is not named goes, and what the quota asks for. A failure of the disk is noted."""
        try:
            self.evict()
        except StorageError as error:
            _log.warning("attachments: %s (%s)", error, error.hint)
            self.problem = str(error)

    def used_bytes(self) -> int:
        """What the store takes, of all kinds together."""
        return sum(self._by_kind().values())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        quota = self.quota_bytes
        over = self.used_bytes() + self._reserved + size - quota
        if not quota or over <= 0:
            return
        self.collect()
        over = self.used_bytes() + self._reserved + size - quota
        if over <= 0:
            return
        if sum(one.size for one in self._evictable()) >= over and self._evict(over)[1] >= over:
            return
        raise QuotaExceeded(
            f"{size:,} bytes more are {over:,} over the quota of {quota:,}, and too little may go: {self._shares()}",
            hint="sync, so that the cloud has what waits; unpin or delete attachments; or raise [store] quota_bytes, "
            "or quota_mib of the policy",
        )

    def _shares(self) -> str:
        told = self.status()
        kinds = ", ".join(f"{kind} {size:,}" for kind, size in told.by_kind.items() if size)
        return (
            f"{kinds}; of the bodies {told.unconfirmed.bytes:,} are not in the cloud yet, {told.pinned.bytes:,} pinned"
        )

    def _evictable(self) -> list[Held]:
        """The least recently used first."""
        notes, place = self.notes.all(), self.notes.place()
        found = [one for one in self.bodies.all() if _may_go(notes.get(one.digest), place)]
        return sorted(found, key=lambda one: (one.used_ms, one.digest))

    def _evict(self, over: int) -> tuple[int, int]:
        count = freed = 0
        for one in self._evictable() if over > 0 else []:
            if freed >= over:
                break
            if self.bodies.remove(one.digest):
                count, freed = count + 1, freed + one.size
        return count, freed

    def _by_kind(self) -> dict[str, int]:
        found = dict.fromkeys(("log", *_KINDS.values(), "other"), 0)
        for folder, _, names in os.walk(self._store):
            inside = Path(folder).relative_to(self._store).parts
            for name in names:
                try:
                    status = Path(folder, name).lstat()
                except FileNotFoundError:
                    continue  # it has just gone
                if S_ISREG(status.st_mode):
                    own = "log" if name.startswith("log.db") else "other"
                    found[_KINDS.get(inside[0], "other") if inside else own] += status.st_size
        return found

    def _named(self, digest: str) -> bytes:
        try:
            wanted = bytes.fromhex(digest) if type(digest) is str and len(digest) == DIGEST_HEX else None
        except ValueError:
            wanted = None
        if wanted is None:
            raise InvalidValue(f"not the digest of an attachment: {digest!r:.80}", hint="Attachment.digest")
        if wanted not in self.bodies.named():
            raise NotFound(f"no attachment here has the digest {digest}", hint="agent.attachments().all() lists them")
        return wanted


def _size_of(source: bytes | os.PathLike[str]) -> int:
    """As far as it can be told before it is read: what cannot be is refused when it is. Raises TooLarge."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            size = Path(source).stat().st_size
        except (OSError, ValueError):
            return 0
    check_size(size)
    return size


def _note(notes: dict[bytes, Note], digest: bytes) -> Note:
    return notes.get(digest) or Note()


def _is_confirmed(note: Note | None, place: bytes) -> bool:
    return note is not None and bool(note.confirmed) and note.confirmed == place


def _may_go(note: Note | None, place: bytes) -> bool:
    return note is not None and not note.pinned and _is_confirmed(note, place)


def _share(found: list[Held]) -> Share:
    return Share(len(found), sum(one.size for one in found))
