"""What the control plane needs from outside: clock and randomness, and the protocols of its store, object
store and key service.

``Store`` has one contract suite (``tests/contracts/test_store_contract.py``) that every implementation
passes. What always holds, whoever implements it:

* everything is keyed by fleet, and nothing done for one fleet is visible in another;
* one ``writing()`` block is one transaction: all of it or nothing, durable when the block has ended;
  writers come one after the other (at least those of one fleet, from ``lock_head`` on), so feed positions
  are dense and their order is the order of the commits;
* a ``reading()`` block is one consistent snapshot that no writer disturbs and that disturbs no writer;
* keys and collections are ordered as UTF-8 bytes.

A store keeps rows (``cloud.rows``); it decides nothing. Merging is ``sync.records``, acceptance and
conflicts are ``cloud.stream``.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from cloud.control_rows import ControlReading, ControlWriting
from cloud.model_rows import ModelReading, ModelWriting
from cloud.rows import (
    AuditRow,
    Conflict,
    DeadLetter,
    DeviceRow,
    EpochRow,
    FeedRow,
    FleetRow,
    Head,
    Lease,
    ObjectInfo,
    RecordRow,
    ReplicaRow,
    TokenRow,
)
from cloud.twin_rows import ReadingTwins, WritingTwins
from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.limits import SEGMENT_OPERATIONS_MAX


class SystemClock:
    """This machine's clock."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class SystemRandom:
    """The operating system's randomness; ``uniform`` is for jitter only."""

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def uniform(self) -> float:
        return random.random()  # noqa: S311 - jitter, nothing secret


class Caller(NamedTuple):
    """Who sent a request, as its verified signature says."""

    fleet: bytes
    device: bytes
    identity: PublicIdentity


class KeyService(Protocol):
    """Holds the private keys of the cloud: its own, and the epoch keys of the managed fleets."""

    @property
    def service_key(self) -> DeviceKey:
        """Signs feed pages and archive segments; its device id is the device part of the cloud's replica
        ids.
        """
        ...

    def ring(self, fleet: bytes) -> KeyRing:
        """Every epoch key of the fleet; empty for a fleet without keys."""
        ...


class Reading(ReadingTwins, ControlReading, ModelReading, Protocol):
    """A consistent view. Lists come in the order of their key; ``after`` is exclusive."""

    def fleets(self) -> list[FleetRow]: ...
    def fleet(self, fleet: bytes) -> FleetRow | None: ...
    def head(self, fleet: bytes) -> Head:
        """Raises NotFound for a fleet that does not exist."""
        ...

    # identity
    def device(self, device: bytes) -> DeviceRow | None: ...
    def devices(self, fleet: bytes) -> list[DeviceRow]: ...
    def revocation(self, fleet: bytes, replica: bytes) -> int | None:
        """The last seq that is still taken from this replica; None if its device is in good standing."""
        ...

    def token(self, token_id: bytes) -> TokenRow | None: ...
    def tokens(self, fleet: bytes) -> list[TokenRow]: ...
    def nonce(self, device: bytes) -> int:
        """The device's nonce state, a number that only grows (``cloud.identity.auth``); 0 if none was used."""
        ...

    def epochs(self, fleet: bytes) -> list[EpochRow]: ...
    def audit(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[AuditRow]: ...
    def last_audit(self, fleet: bytes) -> AuditRow | None: ...

    # stream
    def replica(self, fleet: bytes, replica: bytes) -> ReplicaRow | None: ...
    def replicas(self, fleet: bytes) -> list[ReplicaRow]: ...
    def lease(self, fleet: bytes, replica: bytes) -> Lease | None: ...
    def leases(self, fleet: bytes) -> list[Lease]: ...
    def lookup(self, fleet: bytes, collection: str, keys: Sequence[str]) -> dict[str, RecordRow]:
        """The rows of those keys that exist, tombstones included."""
        ...

    def records(
        self, fleet: bytes, after: tuple[str, str] | None = None, limit: int = 1000, max_bytes: int = 4 << 20
    ) -> list[RecordRow]:
        """All records, tombstones included, in order of (collection, key), after that pair: at least one if there is
        any; else as many as are within ``limit`` rows and ``max_bytes`` of images and graves.
        """
        ...

    def count_living(self, fleet: bytes) -> int:
        """Counted anew by reading all records: for restore and verification; ``Head.living`` is the
        running figure.
        """
        ...

    def feed(self, fleet: bytes, after: int, limit: int = 1000, max_bytes: int = 4 << 20) -> list[FeedRow]:
        """The rows with an operation after this position (the first may begin before it), at least one if
        there is any; else as many as are within ``limit`` rows and ``max_bytes`` packed.
        """
        ...

    def conflict(self, fleet: bytes, number: int) -> Conflict | None: ...
    def conflicts(self, fleet: bytes, after: int = 0, limit: int = 1000, *, state: str = "") -> list[Conflict]: ...
    def resolved_at(self, fleet: bytes, position: int) -> Conflict | None:
        """The conflict that the cloud's operation at this position resolved."""
        ...

    def dead_letters(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[DeadLetter]: ...
    def refused(
        self, fleet: bytes, replica: bytes, first_seq: int, last_seq: int, limit: int = SEGMENT_OPERATIONS_MAX
    ) -> list[DeadLetter]:
        """The first dead letters of one replica in this range of seqs, without the operations themselves."""
        ...

    def counts(self, fleet: bytes) -> dict[str, int]:
        """For ``status``: devices, replicas, conflicts, open_conflicts, dead_letters."""
        ...

    # archive
    def archive_state(self, fleet: bytes, name: str) -> bytes | None: ...


class Transaction(Reading, WritingTwins, ControlWriting, ModelWriting, Protocol):
    """The same view with writing. What it wrote it also reads. ``put_`` inserts or replaces by the row's
    key; the bulk methods take any iterable and are how a restore fills an empty store.
    """

    def create_fleet(self, row: FleetRow, head: Head) -> None:
        """Raises InvalidValue if the fleet exists."""
        ...

    def lock_head(self, fleet: bytes) -> Head:
        """The head, held against every other writer of this fleet until the transaction ends. Raises
        NotFound.
        """
        ...

    def set_head(self, fleet: bytes, head: Head) -> None: ...

    # identity
    def put_devices(self, rows: Iterable[DeviceRow]) -> None:
        """Raises InvalidValue for a device that belongs to another fleet."""
        ...

    def revoke(self, fleet: bytes, device: bytes, at_ms: int, bounds: Mapping[bytes, int]) -> None:
        """``bounds``: replica → the last seq still taken; a replica of that device that is not named:
        none.
        """
        ...

    def put_token(self, row: TokenRow) -> None: ...
    def use_token(self, token_id: bytes) -> bool:
        """Take one use; False if none is left. Whether it has expired is the caller's to check."""
        ...

    def advance_nonce(self, device: bytes, nonce: int) -> bool:
        """Note the nonce if it is larger than every one before; False (and no change) otherwise."""
        ...

    def put_epoch(self, fleet: bytes, row: EpochRow) -> None: ...
    def append_audit(self, fleet: bytes, row: AuditRow) -> None: ...

    # stream
    def put_replicas(self, fleet: bytes, rows: Iterable[ReplicaRow]) -> None: ...
    def put_lease(self, fleet: bytes, lease: Lease) -> None: ...
    def put_records(self, fleet: bytes, rows: Iterable[RecordRow]) -> None: ...
    def append_feed(self, fleet: bytes, rows: Iterable[FeedRow]) -> None:
        """The caller moves the head. Raises CorruptStore if a position is taken."""
        ...

    def trim_feed(self, fleet: bytes, position: int) -> int:
        """Drop the rows that end at or before this position and note it in ``Head.trimmed``; how many
        went.
        """
        ...

    def add_conflict(self, fleet: bytes, conflict: Conflict) -> int:
        """The number it got (the next; ``conflict.number`` is not looked at)."""
        ...

    def put_conflicts(self, fleet: bytes, rows: Iterable[Conflict]) -> None: ...
    def add_dead_letters(self, fleet: bytes, rows: Iterable[DeadLetter]) -> None:
        """Each gets the next number (its own is not looked at), unless the same (replica, seq, collection,
        key) is there already: then nothing happens.
        """
        ...

    # archive
    def set_archive_state(self, fleet: bytes, name: str, value: bytes) -> None: ...


class Store(Protocol):
    """Safe to use from several threads; each block stays on the thread that opened it, and blocks do not
    nest.
    """

    def reading(self) -> AbstractContextManager[Reading]:
        """One moment of the store, in a view of its own for each block."""
        ...

    def writing(self, *, durable: bool = True) -> AbstractContextManager[Transaction]:
        """One transaction: committed when the block ends, rolled back if it raises. ``durable=False`` may
        lose (never tear) this commit to a power cut, though not to a crash of the process: for nonces.
        Raises DiskFull, StoreLocked, StorageError or CorruptStore.
        """
        ...

    def is_empty(self) -> bool:
        """No fleet has ever been created here."""
        ...

    def verify(self) -> list[str]:
        """Problems found; an empty list is a clean store."""
        ...

    def close(self) -> None: ...


class ObjectStore(Protocol):
    """Whole immutable objects by name. Raises NotFound, DiskFull, Unreachable, Unauthenticated or
    StorageError.
    """

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        """Durable on return. With ``create_only``, False (and no change) if the name is taken."""
        ...

    def get(self, name: str) -> bytes:
        """Raises NotFound."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """So many bytes of it, at least one. Raises NotFound, and InvalidValue if it has not got all of them."""
        ...

    def head(self, name: str) -> ObjectInfo:
        """Raises NotFound."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Names with this prefix, larger than ``after``, in ascending order of their bytes."""
        ...

    def delete(self, name: str) -> None:
        """No error if there is none."""
        ...
