"""One file of TUF metadata: read, verified by who delegates to it, and what is asked of it beyond that.

What always holds: sizes are looked at before anything is parsed; whatever the bytes are, what is raised is TooLarge,
Untrusted, Expired or Refused. Metadata is read by python-tuf alone, which verifies what it re-encodes: nobody else may
parse these bytes, where duplicate keys would let them mean something else.

Which files make a set, and in what order they are taken, is ``sync.manifests``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from sync.errors import Expired, Refused, TooLarge, Untrusted
from sync.limits import ROLE_BYTES_MAX, ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TIMESTAMP_BYTES_MAX, TRUST_KEYS_MAX
from sync.targets import NUMBER_MAX, TargetInfo, TargetName, parse_path

ROOT, TIMESTAMP, SNAPSHOT, TARGETS = "root", "timestamp", "snapshot", "targets"
FLEET_FIELD = "x-agentdb"
"""Of a root: ``{"fleet": hex}``. TUF signs fields that it does not know."""

ASK = "ask the operators of this fleet: someone may be sending devices old or forged metadata"
_RENEW = "check this device's clock; if it is right, the fleet's metadata has to be signed again"
_BYTES_MAX = {ROOT: ROOT_BYTES_MAX, TIMESTAMP: TIMESTAMP_BYTES_MAX, SNAPSHOT: SNAPSHOT_BYTES_MAX}
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What python-tuf raises for bytes of the wrong shape somewhere, signed or not.
_BAD = (RepositoryError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


def check_size(name: str, data: bytes) -> None:
    bound = _BYTES_MAX.get(name, ROLE_BYTES_MAX)
    if len(data) > bound:
        raise TooLarge(f"{name[:64]}: metadata of {len(data)} bytes, over {bound}", hint="agentdb-cloud trust prune")


def _parse(kind: type[_T], data: bytes, name: str) -> Metadata[_T]:
    check_size(name, data)
    try:
        metadata = Metadata[_T].from_bytes(data)
    except _BAD as error:
        raise Untrusted(f"{name}: not TUF metadata", hint=ASK) from error
    if not isinstance(metadata.signed, kind):
        raise Untrusted(f"{name}: metadata of the type {metadata.signed.type}", hint=ASK)
    return metadata


def read_signed(kind: type[_T], data: bytes, name: str, by: Root | Targets) -> _T:
    """The file of the role ``name``, if enough of the keys signed it that ``by`` gives that role."""
    metadata = _parse(kind, data, name)
    _verify(by, name, metadata)
    return metadata.signed


def _verify(by: Root | Targets, name: str, metadata: Metadata[_T]) -> None:
    try:
        by.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
    except _BAD as error:
        raise Untrusted(f"{name}: {error}", hint=ASK) from error


def is_signed(kind: type[_T], data: bytes, name: str, by: Root) -> bool:
    try:
        read_signed(kind, data, name, by)
    except Untrusted:
        return False
    return True


def read_root(data: bytes, fleet: bytes, before: Root | None) -> Root:
    """Signed by the one before and by itself, of this fleet."""
    metadata = _parse(Root, data, ROOT)
    root = metadata.signed
    if before is not None:
        _verify(before, ROOT, metadata)
        if root.version != before.version + 1:
            raise Untrusted(f"root: version {root.version} does not follow {before.version}", hint=ASK)
    _verify(root, ROOT, metadata)
    if root.unrecognized_fields.get(FLEET_FIELD) != {"fleet": fleet.hex()}:
        raise Untrusted("root: of another fleet", hint=ASK)
    check_keys(ROOT, root.keys)
    return root


def check_named(name: str, named: MetaFile, data: bytes) -> None:
    check_size(name, data)
    if not named.hashes or "sha256" not in named.hashes:  # versions alone would let old and new be mixed
        raise Untrusted(f"{name}: named without its SHA-256", hint=ASK)
    try:
        named.verify_length_and_hashes(data)
    except _BAD as error:
        raise Untrusted(f"{name}: not the bytes that are named: {error}", hint=ASK) from error


def check_version(name: str, signed: Signed, named: MetaFile) -> None:
    if signed.version != named.version:
        raise Untrusted(f"{name}: version {signed.version}, named is {named.version}", hint=ASK)


def check_rise(name: str, new: int, held: int) -> None:
    if new < held:
        raise Untrusted(f"{name}: version {new} is older than {held}, which is held", hint=ASK)


def check_time(name: str, signed: Signed, now_ms: int) -> None:
    if expires_ms(signed) <= now_ms:
        raise Expired(f"{name}: version {signed.version} has expired", hint=_RENEW)


def check_keys(name: str, keys: Mapping[str, Key]) -> None:
    if len(keys) > TRUST_KEYS_MAX:
        raise Untrusted(f"{name}: more than {TRUST_KEYS_MAX} keys", hint=ASK)
    publics = set()
    for key in keys.values():
        if key.keytype != "ed25519" or key.scheme != "ed25519":
            raise Untrusted(f"{name}: a key that is not Ed25519", hint=ASK)
        publics.add(str(key.keyval.get("public")).lower())
    if len(publics) != len(keys):  # a threshold counts ids
        raise Untrusted(f"{name}: one key under two ids", hint=ASK)


def is_by(key: Key, message: bytes, signature: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), message)
    except (UnverifiedSignatureError, *_BAD):
        return False
    return True


def floor_of(wanted: TargetName, listed: Mapping[str, TargetFile]) -> int:
    """The highest that any number of this name asks for. Raises Refused, Malformed."""
    numbers = f"{wanted.kind.value}/{wanted.name}/"
    return max(_floor(parse_path(path), file) for path, file in listed.items() if path.startswith(numbers))


def target_info(wanted: TargetName, role: str, listed: Mapping[str, TargetFile], floor: int) -> TargetInfo:
    """Raises Refused."""
    file = listed[wanted.path]
    digest = file.hashes.get("sha256", "")
    if not _SHA256.fullmatch(digest) or not isinstance(file.length, int):
        raise Refused(f"{wanted.path}: listed by {role} without its length and SHA-256", hint=ASK)
    return TargetInfo(wanted.kind, wanted.name, wanted.number, floor, file.length, bytes.fromhex(digest), role)


def _floor(wanted: TargetName, file: TargetFile) -> int:
    custom = file.custom.get("agentdb") if isinstance(file.custom, dict) else None
    floor = custom.get("floor") if isinstance(custom, dict) else None
    if custom != {"name": wanted.name, "number": wanted.number, "floor": floor} or type(floor) is not int:
        raise Refused(f"{wanted.path}: listed without its name, number and floor", hint=ASK)
    if not 0 <= floor <= NUMBER_MAX:
        raise Refused(f"{wanted.path}: a floor of {floor}", hint=ASK)
    return floor


def expires_ms(signed: Signed) -> int:
    return int(signed.expires.timestamp()) * 1000
