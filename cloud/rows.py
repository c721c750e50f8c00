"""The rows of the cloud's store, as plain tuples: what ``cloud.ports.Store`` takes and gives.

They carry no behaviour and no storage format; a store may keep them as it likes, as long as they come back
equal. Everything is held per fleet, so a row only names its fleet where it can be asked for without one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from sync.keys import PublicIdentity


class FleetRow(NamedTuple):
    fleet: bytes
    name: str
    created_ms: int


class Head(NamedTuple):
    """Where a fleet's feed stands.

    ``incarnation`` is random, new with every restore: devices tell by it that the cloud may have
    forgotten. ``generation`` counts incarnations from 1; the cloud's own replica is ``replica_id(service
    device, generation)``. ``restored_head`` is the position at which this incarnation began, 0 for the
    first; it means nothing to a device that knows another incarnation than ``previous``, the one that was
    restored: what that device has applied may have been lost by a restore in between. ``trimmed``: feed rows at or
    below it are no longer held. ``clock`` is the largest timestamp ever issued or observed. ``living`` counts the
    records that are alive.
    """

    position: int
    incarnation: bytes
    generation: int
    restored_head: int
    trimmed: int
    clock: int
    living: int
    previous: bytes = b""

    def restored_for(self, known: bytes) -> int:
        """``restored_head`` as a device may use it that knew the incarnation ``known``."""
        return self.restored_head if known in (self.incarnation, self.previous) else 0


class DeviceRow(NamedTuple):
    """One entry of the roster. ``priority``: the higher wins where a collection says so. ``revoked_ms`` is
    0 while the device is in good standing. A device id belongs to one fleet only.
    """

    fleet: bytes
    device: bytes
    signing: bytes
    exchange: bytes
    name: str
    priority: int
    enrolled_ms: int
    token_id: bytes
    revoked_ms: int

    @property
    def identity(self) -> PublicIdentity:
        return PublicIdentity(self.signing, self.exchange)


class TokenRow(NamedTuple):
    """A join token; the secret is only held as its hash. ``uses`` is what is left of it."""

    token_id: bytes
    fleet: bytes
    secret_hash: bytes
    uses: int
    expires_ms: int
    created_ms: int


class EpochRow(NamedTuple):
    """When an epoch key was made, and why. Never the key."""

    epoch: int
    created_ms: int
    reason: str


class AuditRow(NamedTuple):
    """``number`` is dense from 1 in a fleet; ``digest`` chains the rows (its meaning is
    ``cloud.identity.audit``'s).
    """

    number: int
    at_ms: int
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]
    digest: bytes


class ReplicaRow(NamedTuple):
    """What the cloud holds of a replica: all operations up to ``last_seq``, ended by the segment
    ``last_segment`` (``GENESIS`` if there was none), which came when the feed's head was ``head``. ``cursor`` is
    the feed position it had applied when it last pushed.
    """

    replica: bytes
    last_seq: int
    last_segment: bytes
    cursor: int
    at_ms: int
    head: int = 0


class RecordRow(NamedTuple):
    """A record as the cloud keeps it; ``cloud.storage.fold`` makes it from operations.

    ``position`` is the feed position of the last operation that touched it. ``field_positions``: msgpack
    ``{field: position}`` of the fields whose last write is older than that ("" for the floor), b"" if
    there is none. ``grave``: the last living image before a delete, b"" without one.
    """

    collection: str
    key: str
    image: bytes
    position: int
    field_positions: bytes = b""
    grave: bytes = b""


# As RecordRow(*row), without the Python function that a named tuple's constructor is: a tenth of a restore's time.
record_row: Callable[[tuple[Any, ...]], RecordRow] = partial(tuple.__new__, RecordRow)


class FeedRow(NamedTuple):
    """A run of operations at the positions ``first``…``last``, in order. ``packed`` is ``sync.columns``'
    (zstd).

    ``replica`` is the one that pushed them (which does not get them back), ``state`` says that they are a
    repair by images (seq 0, of any replica). ``segment`` is the id of the device's segment that they came
    in, b"" for the cloud's own. ``collections``: those that they write to, sorted, so that a page is filtered without
    unpacking what is wholly in a scope, or out of it; none if they are not known, or too many.
    """

    first: int
    last: int
    replica: bytes
    state: bool
    packed: bytes
    plain_length: int
    min_ts: int
    max_ts: int
    at_ms: int
    segment: bytes
    collections: tuple[str, ...] = ()


COLLECTIONS_KEPT_MAX = 64  # of a row of the feed


def collections_of(names: Collection[str]) -> tuple[str, ...]:
    """As a row of the feed keeps them."""
    return tuple(sorted(names)) if len(names) <= COLLECTIONS_KEPT_MAX else ()


class Claim(NamedTuple):
    """One side of a conflict. ``value`` is the field's; for delete against update, the fields that the
    update wrote (a dict), None for the delete. ``seq`` is 0 where the image no longer tells it.
    """

    replica: bytes
    seq: int
    ts: int
    device: str
    value: Any
    delete: bool = False


class Lease(NamedTuple):
    """When a replica last shook hands, and the feed position that all it writes from now on will have seen."""

    replica: bytes
    settled: int
    at_ms: int


class Conflict(NamedTuple):
    """Two writes, neither of whose writers had seen the other. ``number`` is dense from 1 in a fleet.

    ``position`` is that of the operation that brought it to light. ``held`` was there, ``came`` arrived.
    ``field`` is "" for delete against update. ``winner`` is "held", "came", or "resolved" when a resolver
    or a person gave another value. ``state`` is "resolved" or "open". ``resolution`` is the position of
    the cloud's own operation, 0 if none was needed. ``note`` says why a rule fell back to another.
    """

    number: int
    position: int
    at_ms: int
    collection: str
    key: str
    field: str
    held: Claim
    came: Claim
    winner: str
    rule: str
    state: str
    resolution: int
    note: str


class Ruled(NamedTuple):
    """What a policy says of a collection's conflicts, instead of its declaration. ``by`` is the policy's path."""

    rule: str
    by: str


class DeadLetter(NamedTuple):
    """An operation that was refused. ``number`` is dense from 1 in a fleet. ``seq`` is 0 for state (a
    repair).

    ``operation`` is its msgpack form, b"" if that would be over the bound of one operation.
    """

    number: int
    replica: bytes
    seq: int
    at_ms: int
    collection: str
    key: str
    code: str
    reason: str
    operation: bytes


class ObjectInfo(NamedTuple):
    name: str
    size: int
    modified_ms: int
