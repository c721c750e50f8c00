"""What a device should run: an assignment, signed online by the control plane, and agreed with what was signed offline.

It is canonical JSON (RFC 8785), stored and sent as the bytes that were signed, and verified under the keys of the TUF
role *timestamp*, with a context of its own: a signature of metadata is none of an assignment. What always holds: these
bytes have one reading, for whatever they parse to must encode to them again.

Neither side alone can make a device run anything. ``open_assignment`` says what the control plane wants, ``agreed``
what of it the fleet's offline keys have listed, by the same path, length and digest, and not below the floor.

A device that boots reads what was agreed before, and needs none of this: import it where it is used.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import msgspec

from sync import canonical
from sync.errors import Expired, Malformed, NotFound, Refused, TooLarge, UnsupportedVersion, Untrusted
from sync.limits import (
    ASSIGNED_MODELS_MAX,
    ASSIGNMENT_BYTES_MAX,
    ASSIGNMENT_SIGNATURE_BYTES_MAX,
    JSON_INT_MAX,
    TARGET_BYTES_MAX,
)
from sync.messages import UNDECODABLE
from sync.targets import Kind, TargetName, parse_path

if TYPE_CHECKING:
    from sync.manifests import TrustedSet

VERSION = 1
CONTEXT = b"agentdb.assignment.v1"
SIGNATURE_BYTES = 64
_ASK = "ask the operators of this fleet: someone may be sending devices old or forged assignments"

_Number = Annotated[int, msgspec.Meta(ge=0, le=JSON_INT_MAX)]
_Hex12 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{24}\Z")]
_Hex16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Assigned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One target. ``rollout`` is the id of the rollout that wants it and ``stage`` its stage, or "" and 0."""

    path: Annotated[str, msgspec.Meta(max_length=128)]
    length: Annotated[int, msgspec.Meta(ge=0, le=TARGET_BYTES_MAX)]
    sha256: _Hex32
    rollout: Annotated[str, msgspec.Meta(max_length=64)] = ""
    stage: _Number = 0


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The twin's desired state: settings, nothing that runs."""

    version: _Number
    state: dict[str, Any]


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``fleet`` and ``device`` are hex. ``number`` rises with each assignment of a device; ``snapshot`` is the version
    of the TUF snapshot beside which it was signed. Without a policy everything syncs; ``models`` by their names.
    """

    fleet: _Hex16
    device: _Hex12
    number: Annotated[int, msgspec.Meta(ge=1, le=JSON_INT_MAX)]
    time_ms: _Number
    expires_ms: _Number
    snapshot: _Number
    policy: Assigned | None = None
    models: Annotated[dict[str, Assigned], msgspec.Meta(max_length=ASSIGNED_MODELS_MAX)] = {}
    desired: Desired | None = None


# Two threads that make msgspec look at a type for the first time bring the process down (0.22): it is looked at here.
msgspec.json.Decoder(Assignment)


class Signed(NamedTuple):
    """An assignment's bytes, and 64 bytes of signature for each key that signed them: normally one."""

    data: bytes
    signature: bytes


class AssignmentKey(Protocol):
    """The control plane's online key: an Ed25519 key of the role *timestamp*."""

    def sign(self, message: bytes) -> bytes: ...


class Agreed(NamedTuple):
    """A target that both sides named. ``sha256`` is 32 bytes."""

    kind: Kind
    name: str
    number: int
    length: int
    sha256: bytes
    rollout: str
    stage: int

    @property
    def path(self) -> str:
        return TargetName(self.kind, self.name, self.number).path


def seal(assignment: Assignment, key: AssignmentKey) -> Signed:
    """Raises Malformed or TooLarge for what no device would take: too long, integers of 2^53 and more, NaN."""
    try:
        data = canonical.write({"v": VERSION, **msgspec.to_builtins(assignment, builtin_types=(bytes,))})
    except (ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"the assignment has no canonical form: {error}", hint="64-bit numbers go as hex") from error
    _read(data)
    return Signed(data, key.sign(CONTEXT + data))


def open_assignment(
    signed: Signed, trusted: TrustedSet, fleet: bytes, device: bytes, held: int, now_ms: int
) -> Assignment:
    """The assignment, if it is for this device and newer than the one of number ``held`` (0: none).

    Raises TooLarge before anything else; Untrusted if its signers are not those of *timestamp*, or it is of another
    fleet or device, not newer, or signed beside another snapshot than the one that is trusted; Malformed if its bytes
    are not canonical or not the schema's; UnsupportedVersion; Expired at ``now_ms``, of itself or of the metadata.
    """
    if len(signed.data) > ASSIGNMENT_BYTES_MAX:
        raise TooLarge(f"an assignment of {len(signed.data)} bytes, over {ASSIGNMENT_BYTES_MAX}")
    if not is_signed(signed, trusted):
        raise Untrusted("assignment: not signed by this fleet's online key", hint=_ASK)
    found = _read(signed.data)
    if found.fleet != fleet.hex():
        raise Untrusted("assignment: of another fleet", hint=_ASK)
    if found.device != device.hex():
        raise Untrusted("assignment: of another device", hint=_ASK)
    if found.number <= held:
        raise Untrusted(f"assignment: number {found.number} is not newer than {held}, which is held", hint=_ASK)
    if not trusted.whole or found.snapshot != trusted.snapshot_version:
        raise Untrusted(
            f"assignment: signed beside snapshot {found.snapshot}, trusted is {trusted.snapshot_version}",
            hint="fetch metadata and assignment together",
        )
    late = trusted.expired(now_ms)
    if late or found.expires_ms <= now_ms:
        raise Expired(
            f"assignment: {late[0] if late else 'it'} has expired", hint="check this device's clock, or sync again"
        )
    return found


def is_signed(signed: Signed, trusted: TrustedSet) -> bool:
    """Whether the online keys that are trusted now signed it. One that is held and no longer is, is no floor any more:
    neither its number nor its time (a stolen key may have set both far ahead; a new root ends that).
    """
    size = len(signed.signature)
    if size % SIGNATURE_BYTES or not 0 < size <= ASSIGNMENT_SIGNATURE_BYTES_MAX:
        return False
    signatures = [signed.signature[at : at + SIGNATURE_BYTES] for at in range(0, size, SIGNATURE_BYTES)]
    try:
        trusted.verify_online(CONTEXT + signed.data, signatures)
    except Untrusted:
        return False
    return True


def agreed(assignment: Assignment, trusted: TrustedSet, running: Container[bytes] = ()) -> list[Agreed]:
    """All that it names, the policy first, if each is listed as it is named. ``running``: digests of what this device
    runs already, for which no floor is asked: it is for what is newly assigned.

    Raises Refused if one is not listed, differs, is of another kind or name than its place says, or is below the
    floor; Malformed for what is no path.
    """
    named: list[tuple[Kind, str | None, Assigned]] = []
    if assignment.policy is not None:
        named.append((Kind.POLICY, None, assignment.policy))
    named += [(Kind.MODEL, name, model) for name, model in sorted(assignment.models.items())]
    return [_agreed(kind, name, assigned, trusted, running) for kind, name, assigned in named]


def check_target(target: Agreed, data: bytes) -> None:
    """Whether these are the bytes that both sides named. Raises Untrusted."""
    if len(data) != target.length or sha256(data).digest() != target.sha256:
        raise Untrusted(f"{target.path}: not the bytes that were signed", hint="fetch it again; then ask the operators")


def _agreed(kind: Kind, name: str | None, assigned: Assigned, trusted: TrustedSet, running: Container[bytes]) -> Agreed:
    path = parse_path(assigned.path)
    if path.kind != kind or (name is not None and path.name != name):
        raise Refused(f"{path.path} is assigned as {kind.value}/{name or '*'}", hint=_ASK)
    try:
        listed = trusted.target(assigned.path)
    except NotFound as error:
        raise Refused(f"{path.path} is assigned, and no offline key has signed it", hint=_ASK) from error
    digest = bytes.fromhex(assigned.sha256)
    if (listed.sha256, listed.length) != (digest, assigned.length):
        raise Refused(f"{path.path} is assigned with another length or digest than was signed offline", hint=_ASK)
    if path.number < listed.floor and digest not in running:
        raise Refused(f"{path.path} is below the floor of its name, {listed.floor}", hint="assign a newer number")
    return Agreed(path.kind, path.name, path.number, listed.length, digest, assigned.rollout, assigned.stage)


def _read(data: bytes) -> Assignment:
    """Raises TooLarge, Malformed, UnsupportedVersion."""
    if len(data) > ASSIGNMENT_BYTES_MAX:
        raise TooLarge(f"an assignment of {len(data)} bytes, over {ASSIGNMENT_BYTES_MAX}")
    try:
        document = canonical.read(data)
    except ValueError as error:
        raise Malformed(f"the assignment is not canonical JSON: {error!s:.200}", hint=_ASK) from error
    if not isinstance(document, Mapping):
        raise Malformed("the assignment is not an object of canonical JSON", hint=_ASK)
    version = document.get("v")
    if version != VERSION or isinstance(version, bool):
        raise UnsupportedVersion(f"an assignment of version {version!r:.32}", hint="update this device's software")
    fields = {name: value for name, value in document.items() if name != "v"}
    try:
        found = msgspec.convert(fields, Assignment)
    except UNDECODABLE as error:
        raise Malformed(f"the assignment is not as it should be: {error}", hint=_ASK) from error
    if found.time_ms >= found.expires_ms:
        raise Malformed("the assignment expires before it was made", hint=_ASK)
    return found
