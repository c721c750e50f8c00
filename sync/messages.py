"""The messages of the protocol, one request and one answer each (docs/PROTOCOL.md is their specification).

Each is a msgpack array ``[tag, field, …]``: no keys, so no duplicate keys; strict types and sizes by msgspec. Later
versions append fields; a decoder of version 1 ignores what follows the fields it knows.

``encode``/``decode`` are the only way in and out. ``decode`` raises Malformed and has then changed nothing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from sync.errors import AgentDBError, Malformed, TooLarge, by_code
from sync.limits import (
    ASSIGNMENT_BYTES_MAX,
    ASSIGNMENT_SIGNATURE_BYTES_MAX,
    BODY_BYTES_MAX,
    BODY_NAMES_MAX,
    BODY_PART_BYTES,
    FETCHED_RECORDS_MAX,
    INT_MAX,
    LONG_POLL_MS_MAX,
    MESSAGE_BYTES_MAX,
    PAGE_OPERATIONS_MAX,
    REPORT_BYTES_MAX,
    ROLE_BYTES_MAX,
    ROLES_MAX,
    ROOT_BYTES_MAX,
    ROOTS_MAX,
    SEGMENT_SEALED_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)

PROTOCOL_VERSIONS = (1, 2, 3)
EPOCHS_MAX = 4096

U63 = Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
U32 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Id16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Key32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Hash32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
ScopeName = Annotated[bytes, msgspec.Meta(max_length=32)]
SegmentBytes = Annotated[bytes, msgspec.Meta(max_length=SEGMENT_SEALED_BYTES_MAX)]
RootBytes = Annotated[bytes, msgspec.Meta(max_length=ROOT_BYTES_MAX)]
PartNumbers = Annotated[list[U32], msgspec.Meta(max_length=BODY_BYTES_MAX // BODY_PART_BYTES)]
Text = Annotated[str, msgspec.Meta(max_length=1024)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Base of all; the tag is the class's name."""


class WrappedKey(msgspec.Struct, array_like=True, frozen=True):
    """An epoch key, HPKE-wrapped to the receiver."""

    epoch: U32
    wrapped: Annotated[bytes, msgspec.Meta(max_length=256)]


class Refusal(msgspec.Struct, array_like=True, frozen=True):
    """One operation that the cloud did not take, by its seq. It holds up nothing and lies in both dead-letter
    tables.
    """

    seq: U63
    code: Text
    reason: Text


class Enroll(Message, frozen=True):
    """Join a fleet. ``proof`` is the new device's Ed25519 signature over ``enroll_proof(...)``; the secret stays in TLS
    or on loopback. The same token with the same key gets the same answer again.
    """

    token_id: Id16
    secret: Key32
    signing: Key32
    exchange: Key32
    name: Name
    proof: Signature


class Enrolled(Message, frozen=True):
    """``cloud_signing``/``cloud_exchange`` identify the fleet's cloud; the join token's fingerprint vouches for
    them.
    """

    fleet: Id16
    device: Annotated[bytes, msgspec.Meta(min_length=12, max_length=12)]
    cloud_signing: Key32
    cloud_exchange: Key32
    keys: list[WrappedKey]
    time_ms: U63


class Hello(Message, frozen=True):
    """The device opens. ``log_head`` is its last seq, ``acked`` the last it knows to be acknowledged and
    ``acked_segment`` the id of the segment that ended there (empty at the start); ``cursor`` the feed position it has
    applied; ``incarnation`` the cloud's as it last knew it (empty if never). ``epochs`` (version 2): the epoch keys
    that it has and need not be sent. ``assignment`` (version 3): the number of the one that it held when the session
    began, 0 for none.
    """

    versions: list[U32]
    fleet: Id16
    replica: Id16
    log_head: U63
    acked: U63
    acked_segment: Annotated[bytes, msgspec.Meta(max_length=32)]
    cursor: U63
    incarnation: Annotated[bytes, msgspec.Meta(max_length=16)]
    epochs: Annotated[list[U32], msgspec.Meta(max_length=EPOCHS_MAX)] = []
    assignment: U63 = 0


class Welcome(Message, frozen=True):
    """What the cloud holds of this replica, and where the feed stands.

    ``restored_head``: the feed position at which this incarnation began (0 for the first): what a device had applied
    beyond it, in an earlier incarnation, is gone from the cloud. ``baseline``: start from a baseline, not from the
    cursor. ``refusals``: of operations after ``Hello.acked``, in case the ack that named them was lost. ``last_head``:
    where the feed's head was when ``last_segment`` came. ``stable`` (version 2): what every active device has read up
    to; a device that has read up to ``head`` may forget records that were deleted up to there.
    """

    version: U32
    time_ms: U63
    incarnation: Id16
    restored_head: U63
    last_seq: U63
    last_segment: Annotated[bytes, msgspec.Meta(max_length=32)]
    head: U63
    baseline: bool
    keys: list[WrappedKey]
    refusals: list[Refusal] = []
    last_head: U63 = 0
    stable: U63 = 0
    assignment: U63 = 0
    archived: U63 = 0


class Push(Message, frozen=True):
    """One sealed segment of the device's own stream."""

    segment: SegmentBytes


class PushAck(Message, frozen=True):
    """Sent after the commit. ``last_seq``/``last_segment`` are what the cloud now holds of the replica."""

    last_seq: U63
    last_segment: Annotated[bytes, msgspec.Meta(max_length=32)]
    refusals: list[Refusal]
    head: U63
    time_ms: U63


class Pull(Message, frozen=True):
    """A page of the feed after ``cursor``, waiting up to ``wait_ms`` if there is nothing yet (long poll).

    ``assignment`` (version 3): the number that it has heard of, if not held; a greater one is answered at once, too.
    ``scope`` (version 3): SHA-256 of the policy under which the device's data is complete; empty: it has everything.
    """

    replica: Id16
    cursor: U63
    max_operations: Annotated[int, msgspec.Meta(ge=1, le=PAGE_OPERATIONS_MAX)]
    max_bytes: U32
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=LONG_POLL_MS_MAX)]
    incarnation: Id16
    assignment: U63 = INT_MAX
    scope: ScopeName = b""


class PullPage(Message, frozen=True):
    """Sealed segments of the feed (possibly none: all was the device's own) and the cursor to store with them.
    ``assignment``: as of ``Welcome``. ``narrowed`` (version 3): it leaves out some of the scope that was named.
    """

    segments: list[SegmentBytes]
    cursor: U63
    head: U63
    time_ms: U63
    assignment: U63 = 0
    narrowed: bool = False


class PullBaseline(Message, frozen=True):
    """A page of the living records (``everything``: tombstones too) after ``after`` (empty at the start). ``scope``: as
    of ``Pull``.
    """

    replica: Id16
    after: Annotated[bytes, msgspec.Meta(max_length=1024)]
    everything: bool
    incarnation: Id16
    scope: ScopeName = b""


class BaselinePage(Message, frozen=True):
    """``cursor`` is the feed position to continue from once ``next`` comes back empty; it is that of the first page.
    ``narrowed``: as of ``PullPage``.
    """

    segments: list[SegmentBytes]
    next: Annotated[bytes, msgspec.Meta(max_length=1024)]
    cursor: U63
    head: U63
    time_ms: U63
    narrowed: bool = False


class RecordName(msgspec.Struct, array_like=True, frozen=True):
    """Which record."""

    collection: Text
    key: Text


class FetchRecords(Message, frozen=True):
    """The records of these places (collection, key), as they are now, tombstones too (version 3). ``scope``: as of
    ``Pull``.
    """

    replica: Id16
    places: Annotated[list[RecordName], msgspec.Meta(max_length=FETCHED_RECORDS_MAX)]
    incarnation: Id16
    scope: ScopeName = b""


class RecordsPage(Message, frozen=True):
    """Of the first ``answered`` places: those that the cloud has, as state; ``denied`` are the numbers, from 0, of
    those that are not in the device's scope.
    """

    segments: list[SegmentBytes]
    answered: U32
    denied: Annotated[list[U32], msgspec.Meta(max_length=FETCHED_RECORDS_MAX)]
    head: U63
    time_ms: U63


class FindBodies(Message, frozen=True):
    """Which parts of these bodies (``sync.bodies``) are there?"""

    names: Annotated[list[Hash32], msgspec.Meta(max_length=BODY_NAMES_MAX)]


class BodiesFound(Message, frozen=True):
    """For each name that was asked for, the numbers of its parts that are there, ascending. ``place``: the id of the
    place where bodies are kept now; in another one they have to be looked for again.
    """

    parts: Annotated[list[PartNumbers], msgspec.Meta(max_length=BODY_NAMES_MAX)]
    place: Id16


class BodyKept(Message, frozen=True):
    """A part is durable. ``created`` is False if one was there already: that one stays."""

    created: bool


class HeldRole(msgspec.Struct, array_like=True, frozen=True):
    """Signed metadata that the device has: "timestamp", "snapshot", or a role of targets."""

    name: Name
    version: U63


class RoleBytes(msgspec.Struct, array_like=True, frozen=True):
    """The metadata of a role of targets, as it was signed."""

    name: Name
    data: Annotated[bytes, msgspec.Meta(max_length=ROLE_BYTES_MAX)]


class FetchControl(Message, frozen=True):
    """What is signed for this device, as far as it has not got it (ADR 23). ``assignment``: the number of the one that
    it holds; ``root_version`` of its newest root.
    """

    assignment: U63
    root_version: U63
    have: Annotated[list[HeldRole], msgspec.Meta(max_length=ROLES_MAX + 3)]


class Control(Message, frozen=True):
    """Bytes as they were signed; empty, or not there, is what the device has. ``roots`` follow its own, in order; if
    there are more, nothing else is sent, and it asks again. ``signature`` is of the assignment: 64 bytes a key.
    """

    roots: Annotated[list[RootBytes], msgspec.Meta(max_length=ROOTS_MAX)]
    timestamp: Annotated[bytes, msgspec.Meta(max_length=TIMESTAMP_BYTES_MAX)]
    snapshot: Annotated[bytes, msgspec.Meta(max_length=SNAPSHOT_BYTES_MAX)]
    roles: Annotated[list[RoleBytes], msgspec.Meta(max_length=ROLES_MAX + 1)]
    assignment: Annotated[bytes, msgspec.Meta(max_length=ASSIGNMENT_BYTES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(max_length=ASSIGNMENT_SIGNATURE_BYTES_MAX)]


class Report(Message, frozen=True):
    """What the device is like: a change of its reported state (JSON, merged as ADR 23 says) that makes it ``version``.
    ``acks``: the version of the desired state that it has.
    """

    version: U63
    patch: Annotated[bytes, msgspec.Meta(max_length=REPORT_BYTES_MAX)]
    acks: U63


class Reported(Message, frozen=True):
    """``version`` of the reported state as the cloud now has it. ``delta`` (JSON): what is desired and not reported."""

    version: U63
    delta: Annotated[bytes, msgspec.Meta(max_length=REPORT_BYTES_MAX)]


class Failure(Message, frozen=True):
    """The request was not carried out. ``code`` is that of the error tree; ``retry_after_ms`` 0 leaves it to the
    device.
    """

    code: Text
    reason: Text
    hint: Text
    retryable: bool
    retry_after_ms: U63 = 0

    @staticmethod
    def of(error: AgentDBError, retry_after_ms: int = 0) -> Failure:
        return Failure(error.code, error.message[:1024], error.hint[:1024], error.retryable, retry_after_ms)

    def error(self) -> AgentDBError:
        """The error that the other side raised, as ours."""
        return by_code(self.code)(self.reason, hint=self.hint)


Request = Enroll | Hello | Push | Pull | PullBaseline | FetchRecords | FindBodies | FetchControl | Report
Feed = PullPage | BaselinePage | RecordsPage
Answer = Enrolled | Welcome | PushAck | Feed | BodiesFound | BodyKept | Control | Reported | Failure
AnyMessage = Request | Answer

#: What decoding bytes from outside may raise.
UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """Raises TooLarge if the message is over the bound of one message."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_BYTES_MAX:
        raise TooLarge(f"a message of {len(data)} bytes; the bound is {MESSAGE_BYTES_MAX}")
    return data


def decode(data: bytes) -> AnyMessage:
    """Raises Malformed or TooLarge."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise TooLarge(f"a message of {len(data)} bytes; the bound is {MESSAGE_BYTES_MAX}")
    try:
        return _decoder.decode(data)
    except UNDECODABLE as error:
        raise Malformed(f"not a message: {error}") from error


def enroll_proof(token_id: bytes, signing: bytes, exchange: bytes, name: str) -> bytes:
    """The bytes that a joining device signs: it holds the private key, and means this name and this token."""
    return b"agentdb.enroll.v1" + token_id + signing + exchange + name.encode()
