"""Making and signing TUF metadata: with python-tuf, in memory, without files and without a clock.

Who holds which key is decided elsewhere: offline keys sign root, targets and the roles it delegates to, in a directory
of the operator's (``cloud.fleet.trust_files``); the control plane's online key signs snapshot and timestamp. What
always holds: a file that is changed loses its signatures, and its version rises unless it was a draft. Whether a device
will take the result is ``sync.manifests``' to say; who publishes asks it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from sync.errors import InvalidValue, NotFound, StaleWrite
from sync.metadata import FLEET_FIELD
from sync.ports import RandomSource
from sync.targets import TargetName, parse_path

ROOT, TARGETS, ONLINE = "root", "targets", "online"
_ONLINE_ROLES = ("timestamp", "snapshot")  # one key for both, and for assignments
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


class PublicKey(NamedTuple):
    """An Ed25519 key, as its 32 bytes."""

    raw: bytes

    @property
    def id(self) -> str:
        """As TUF names it: 64 hex characters."""
        return self.tuf().keyid

    def tuf(self) -> Key:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(self.raw))

    def to_pem(self) -> bytes:
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class SigningKey:
    """Its private half. Signs metadata, and (the online one) assignments."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @staticmethod
    def generate(random: RandomSource) -> SigningKey:
        return SigningKey(Ed25519PrivateKey.from_private_bytes(random.token(32)))

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def signer(self) -> CryptoSigner:
        return CryptoSigner(self._private)

    def to_pem(self) -> bytes:
        """PKCS #8, not encrypted: for a file that only its owner may read."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(data: bytes) -> SigningKey | PublicKey:
    """Of PEM. Raises InvalidValue for what is no Ed25519 key, or is encrypted."""
    try:
        if b"PRIVATE KEY" in data:
            private = load_pem_private_key(data, None)
            if isinstance(private, Ed25519PrivateKey):
                return SigningKey(private)
        public = load_pem_public_key(data)
        if isinstance(public, Ed25519PublicKey):
            return PublicKey(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidValue(f"not a key in PEM: {error}", hint="agentdb-cloud trust key FILE makes one") from error
    raise InvalidValue("not an Ed25519 key", hint="agentdb-cloud trust key FILE makes one")


class Keys(NamedTuple):
    """Who signs a role, and how many of them must."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1

    def checked(self, role: str) -> Keys:
        """Raises InvalidValue."""
        if len({key.raw for key in self.keys}) != len(self.keys):
            raise InvalidValue(f"{role}: the same key twice", hint="each key counts once")
        if not 0 < self.threshold <= len(self.keys):
            raise InvalidValue(
                f"{role}: {self.threshold} of {len(self.keys)} keys cannot sign", hint="fewer signatures, or more keys"
            )
        return self


class Delegate(NamedTuple):
    name: str
    paths: tuple[str, ...]
    keys: Keys


class Signing(NamedTuple):
    """How far a file is signed. ``missing``: ids of keys that may still sign it, if ``have`` is below ``need``."""

    role: str
    version: int
    expires_ms: int
    have: int
    need: int
    missing: tuple[str, ...]
    targets: int

    @property
    def complete(self) -> bool:
        return self.have >= self.need


# -- root --------------------------------------------------------------------------------------------------------------


def make_root(fleet: bytes, roles: Mapping[str, Keys], version: int, expires_ms: int) -> bytes:
    """``roles``: root, targets and online."""
    root = Root(version=version, expires=_at(expires_ms), consistent_snapshot=True)
    root.unrecognized_fields[FLEET_FIELD] = {"fleet": fleet.hex()}
    for role, keys in roles.items():
        keys.checked(role)
        for name in _ONLINE_ROLES if role == ONLINE else (role,):
            for key in keys.keys:
                root.add_key(key.tuf(), name)
            root.roles[name].threshold = keys.threshold
    return Metadata(root).to_bytes()


def root_keys(root: bytes) -> dict[str, Keys]:
    """Role → who signs it: root, targets, online."""
    signed = _signed(Root, root)
    return {name: _keys(signed, signed.roles["timestamp" if name == ONLINE else name].keyids,
                        signed.roles["timestamp" if name == ONLINE else name].threshold)
            for name in (ROOT, TARGETS, ONLINE)}  # fmt: skip


def fleet_of(root: bytes) -> bytes:
    """The fleet's id."""
    return bytes.fromhex(_signed(Root, root).unrecognized_fields[FLEET_FIELD]["fleet"])


# -- targets -----------------------------------------------------------------------------------------------------------


def make_targets(version: int, expires_ms: int, delegates: Sequence[Delegate] = ()) -> bytes:
    """Lists nothing yet. Delegations end a search: the first whose paths match answers."""
    targets = Targets(version=version, expires=_at(expires_ms))
    if delegates:
        targets.delegations = Delegations({}, {})
        for delegate in delegates:
            _delegate(targets, delegate, len(targets.delegations.roles or {}))
    return Metadata(targets).to_bytes()


def delegates(targets: bytes) -> list[Delegate]:
    """In the order in which they are asked."""
    signed = _signed(Targets, targets)
    if signed.delegations is None or signed.delegations.roles is None:
        return []
    return [Delegate(role.name, tuple(role.paths or ()), _keys(signed, role.keyids, role.threshold))
            for role in signed.delegations.roles.values()]  # fmt: skip


def with_delegate(targets: bytes, delegate: Delegate, version: int, expires_ms: int) -> bytes:
    """Replaced where it is, or put before all others: what is narrower has to be asked first."""
    signed = _revised(Targets, targets, version, expires_ms)
    names = [existing.name for existing in delegates(targets)]
    _delegate(signed, delegate, names.index(delegate.name) if delegate.name in names else 0)
    return Metadata(signed).to_bytes()


def answering_role(targets: bytes, path: str) -> str:
    """Raises NotFound if nobody is delegated the path."""
    signed = _signed(Targets, targets)
    if signed.delegations is not None:
        for name, _ in signed.delegations.get_roles_for_target(path):
            return name
    raise NotFound(f"no role lists {path}", hint="agentdb-cloud trust delegate")


class Listed(NamedTuple):
    number: int
    floor: int
    length: int
    sha256: str


def listed(role: bytes) -> dict[str, Listed]:
    """Path → what is signed of it."""
    return {path: Listed(file.custom["agentdb"]["number"], file.custom["agentdb"]["floor"], file.length,
                         file.hashes["sha256"])
            for path, file in _signed(Targets, role).targets.items()}  # fmt: skip


def with_target(role: bytes, wanted: TargetName, data: bytes, floor: int, version: int, expires_ms: int) -> bytes:
    signed = _revised(Targets, role, version, expires_ms)
    file = TargetFile(len(data), {"sha256": sha256(data).hexdigest()}, wanted.path)
    entry = {"name": wanted.name, "number": wanted.number, "floor": floor}
    file.unrecognized_fields["custom"] = {"agentdb": entry}
    signed.targets[wanted.path] = file
    return Metadata(signed).to_bytes()


def without_targets(role: bytes, paths: Iterable[str], version: int, expires_ms: int) -> bytes:
    """The floors of what is taken out stay, with the newest number of each name."""
    signed = _revised(Targets, role, version, expires_ms)
    gone = set(paths)
    for path in sorted(gone):
        wanted, floor = parse_path(path), signed.targets[path].custom["agentdb"]["floor"]
        left = [other for other in signed.targets if other not in gone and parse_path(other)[:2] == wanted[:2]]
        newest = max(left, key=lambda other: parse_path(other).number, default=None)
        if newest is None:
            raise InvalidValue(f"{path} is the last of its name, and keeps its floor", hint="keep at least 1")
        entry = signed.targets[newest].custom["agentdb"]
        entry["floor"] = max(floor, entry["floor"])
        del signed.targets[path]
    return Metadata(signed).to_bytes()


# -- any file ----------------------------------------------------------------------------------------------------------


def renewed(data: bytes, version: int, expires_ms: int) -> bytes:
    """The same again, for longer."""
    metadata = _metadata(data)
    metadata.signed.version = version
    metadata.signed.expires = _at(expires_ms)
    metadata.signatures.clear()
    return metadata.to_bytes()


def role_of(data: bytes) -> str:
    """The type of a file: root, timestamp, snapshot or targets (of delegated roles, too). Raises InvalidValue."""
    return str(_metadata(data).signed.type)


def version_of(data: bytes) -> int:
    return int(_metadata(data).signed.version)


def signed_with(data: bytes, key: SigningKey) -> bytes:
    """With one signature more; that of the same key is replaced. Raises InvalidValue if it is no metadata."""
    metadata = _metadata(data)
    metadata.sign(key.signer(), append=True)
    return metadata.to_bytes()


def signing(role: str, data: bytes, by: Sequence[bytes]) -> Signing:
    """``by``: the files that say who signs it, each of which must be content: of a root the one before and itself."""
    metadata = _metadata(data)
    found = []
    for delegator in by:
        says = _metadata(delegator).signed
        if not isinstance(says, (Root, Targets)):
            raise InvalidValue(f"a {says.type} delegates nothing", hint="root.json or targets.json")
        try:
            found.append(says.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
        except ValueError as error:
            raise NotFound(f"nobody is delegated the role {role!r}", hint="agentdb-cloud trust delegate") from error
    worst = max(found, key=lambda result: result.threshold - len(result.signed))
    missing = sorted({keyid for result in found if not result for keyid in result.unsigned})
    targets = metadata.signed.targets if isinstance(metadata.signed, Targets) else {}
    return Signing(
        role,
        metadata.signed.version,
        int(metadata.signed.expires.timestamp()) * 1000,
        len(worst.signed),
        worst.threshold,
        tuple(missing),
        len(targets),
    )


# -- online ------------------------------------------------------------------------------------------------------------


def make_snapshot(
    roles: Mapping[str, bytes], version: int, expires_ms: int, key: SigningKey, before: bytes = b""
) -> bytes:
    """Names ``targets`` and the roles, by version, length and SHA-256. ``before``: the snapshot that it follows; what
    is named there and not given is named as it was, for devices refuse a snapshot that forgets.

    Raises StaleWrite for a role that is older than the one named before, or is other bytes under its version: devices
    that have this version would never ask for them.
    """
    meta = dict(_signed(Snapshot, before).meta) if before else {}
    for name, data in roles.items():
        found = version_of(data)
        held = meta.get(f"{name}.json")
        if held is not None and found < held.version:
            raise StaleWrite(f"{name}: version {found}, published is {held.version}", hint="publish what is newest")
        file = MetaFile(found, len(data), {"sha256": sha256(data).hexdigest()})
        if held is not None and found == held.version and file != held:
            raise StaleWrite(f"{name}: other bytes than those published as version {found}", hint="trust renew")
        meta[f"{name}.json"] = file
    return _online(Snapshot(version=version, expires=_at(expires_ms), meta=meta), key)


def make_timestamp(snapshot: bytes, version: int, expires_ms: int, key: SigningKey) -> bytes:
    named = MetaFile(version_of(snapshot), len(snapshot), {"sha256": sha256(snapshot).hexdigest()})
    return _online(Timestamp(version=version, expires=_at(expires_ms), snapshot_meta=named), key)


def _online(signed: Any, key: SigningKey) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(key.signer())
    return metadata.to_bytes()


def _metadata(data: bytes) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(data)
    except RepositoryError as error:
        raise InvalidValue("not TUF metadata", hint="give a file of the directory metadata/") from error


def _signed(kind: type[_T], data: bytes) -> _T:
    signed = _metadata(data).signed
    if not isinstance(signed, kind):
        raise InvalidValue(f"metadata of the type {signed.type}, not {kind.type}", hint="give another file")
    return signed


def _revised(kind: type[_T], data: bytes, version: int, expires_ms: int) -> _T:
    return _signed(kind, renewed(data, version, expires_ms))


def _keys(by: Root | Targets, keyids: Sequence[str], threshold: int) -> Keys:
    return Keys(tuple(PublicKey(bytes.fromhex(by.get_key(keyid).keyval["public"])) for keyid in keyids), threshold)


def _delegate(targets: Targets, delegate: Delegate, place: int) -> None:
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    roles = [role for role in (targets.delegations.roles or {}).values() if role.name != delegate.name]
    keys = delegate.keys.checked(delegate.name)
    roles.insert(
        place, DelegatedRole(delegate.name, [], keys.threshold, terminating=True, paths=list(delegate.paths))
    )  # fmt: skip
    targets.delegations.roles = {role.name: role for role in roles}
    for key in keys.keys:
        targets.add_key(key.tuf(), delegate.name)
    used = {keyid for role in roles for keyid in role.keyids}
    targets.delegations.keys = {keyid: key for keyid, key in targets.delegations.keys.items() if keyid in used}


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)
