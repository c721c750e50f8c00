"""A fleet's metadata as its operators would sign it, and as others would like to: for tests of what is trusted.

Keys come from numbers, so that runs are the same. Nothing here verifies anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from sync.assignments import Assigned, Assignment, Desired, seal
from sync.assignments import Signed as SignedAssignment
from sync.keys import DeviceKey
from sync.manifests import Offer, TrustedSet, pinned
from sync.targets import parse_path

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
FLEET = bytes(range(16))
DEVICE_KEY = DeviceKey.from_bytes(bytes(range(64)))
DEVICE = DEVICE_KEY.device_id


class PrivateKey:
    """From a number: the same number, the same key."""

    def __init__(self, number: int) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
        self.signer = CryptoSigner(self.private)

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC)


def signed(what: Signed, keys: Sequence[PrivateKey]) -> bytes:
    metadata: Metadata[Any] = Metadata(what)
    for key in keys:
        metadata.sign(key.signer, append=True)
    return metadata.to_bytes()


def named(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": sha256(data).hexdigest()})


@dataclass(frozen=True)
class World:
    """Who signs. ``documents``: path → bytes of what is published; ``floors``: path → floor, if not 1."""

    fleet: bytes = FLEET
    roots: tuple[PrivateKey, ...] = tuple(PrivateKey(number) for number in (1, 2, 3))
    root_threshold: int = 2
    targets: tuple[PrivateKey, ...] = (PrivateKey(10),)
    policies: tuple[PrivateKey, ...] = (PrivateKey(20), PrivateKey(21))
    policies_threshold: int = 2
    models: tuple[PrivateKey, ...] = (PrivateKey(30),)
    online: PrivateKey = field(default_factory=lambda: PrivateKey(40))
    documents: Mapping[str, bytes] = field(default_factory=lambda: {"policies/kiosk/1.json": b"{}"})
    floors: Mapping[str, int] = field(default_factory=dict)
    change: Callable[[str, Signed], None] = lambda _name, _signed: None  # before it is signed

    def but(self, **changed: Any) -> World:
        return replace(self, **changed)

    def root(
        self, version: int = 1, *, by: Sequence[PrivateKey] | None = None, expires_ms: int = NOW_MS + 365 * DAY_MS
    ) -> bytes:
        root = Root(version=version, expires=at(expires_ms), consistent_snapshot=True)
        root.unrecognized_fields["x-agentdb"] = {"fleet": self.fleet.hex()}
        for role, keys in (("root", self.roots), ("targets", self.targets)):
            for key in keys:
                root.add_key(key.signer.public_key, role)
        root.roles["root"].threshold = self.root_threshold
        for role in ("timestamp", "snapshot"):
            root.add_key(self.online.signer.public_key, role)
        self.change("root", root)
        return signed(root, self.roots if by is None else by)

    def role(self, name: str, version: int, expires_ms: int) -> bytes:
        role = Targets(version=version, expires=at(expires_ms))
        for path, data in self.documents.items():
            if path.startswith(f"{name}/"):
                role.targets[path] = TargetFile.from_data(path, data, ["sha256"])
                wanted = parse_path(path)
                entry = {"name": wanted.name, "number": wanted.number, "floor": self.floors.get(path, 1)}
                role.targets[path].unrecognized_fields["custom"] = {"agentdb": entry}
        self.change(name, role)
        return signed(role, {"policies": self.policies, "models": self.models}[name])

    def top(self, version: int, expires_ms: int) -> bytes:
        delegated = {
            "policies": DelegatedRole("policies", [], self.policies_threshold, True, paths=["policies/*/*"]),
            "models": DelegatedRole("models", [], 1, True, paths=["models/*/*"]),
        }
        targets = Targets(version=version, expires=at(expires_ms), delegations=Delegations({}, delegated))
        for name, keys in (("policies", self.policies), ("models", self.models)):
            for key in keys:
                targets.add_key(key.signer.public_key, name)
        self.change("targets", targets)
        return signed(targets, self.targets)

    def offer(
        self,
        version: int = 1,
        *,
        expires_ms: int = NOW_MS + 30 * DAY_MS,
        role_expires_ms: int = NOW_MS + 300 * DAY_MS,
        roots: Sequence[bytes] = (),
    ) -> Offer:
        """Everything of one version, each file naming the next."""
        roles = {
            "targets": self.top(version, role_expires_ms),
            "policies": self.role("policies", version, role_expires_ms),
            "models": self.role("models", version, role_expires_ms),
        }
        snapshot = Snapshot(version=version, expires=at(expires_ms + DAY_MS))
        snapshot.meta = {f"{name}.json": named(version, data) for name, data in roles.items()}
        self.change("snapshot", snapshot)
        snapshot_bytes = signed(snapshot, [self.online])
        return Offer(tuple(roots), self.timestamp(version, snapshot_bytes, expires_ms), snapshot_bytes, roles)

    def timestamp(
        self, version: int, snapshot: bytes, expires_ms: int = NOW_MS + 30 * DAY_MS, snapshot_version: int = 0
    ) -> bytes:
        timestamp = Timestamp(version=version, expires=at(expires_ms))
        timestamp.snapshot_meta = named(snapshot_version or version, snapshot)
        self.change("timestamp", timestamp)
        return signed(timestamp, [self.online])

    def pinned(self) -> TrustedSet:
        root = self.root()
        return pinned(root, sha256(root).digest(), self.fleet)

    def trusted(self, version: int = 1) -> TrustedSet:
        return self.pinned().update(self.offer(version), NOW_MS)

    def assigned(self, path: str, **changed: Any) -> Assigned:
        data = self.documents[path]
        fields = {"path": path, "length": len(data), "sha256": sha256(data).hexdigest(), **changed}
        return Assigned(**fields)

    def assignment(self, number: int = 1, **changed: Any) -> Assignment:
        """Of the device DEVICE, beside snapshot 1: the first policy."""
        paths = [path for path in self.documents if path.startswith("policies/")]
        fields: dict[str, Any] = {
            "fleet": self.fleet.hex(),
            "device": DEVICE.hex(),
            "number": number,
            "time_ms": NOW_MS,
            "expires_ms": NOW_MS + DAY_MS,
            "snapshot": 1,
            "policy": self.assigned(paths[0]) if paths else None,
            "desired": Desired(version=1, state={"log": {"level": "info"}}),
            **changed,
        }
        return Assignment(**fields)

    def sealed(self, number: int = 1, **changed: Any) -> SignedAssignment:
        return seal(self.assignment(number, **changed), self.online)


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8 % len(out)] ^= 1 << bit % 8
    return bytes(out)


def signatures_of(data: bytes) -> list[str]:
    """Key ids, in the order in which they signed."""
    return [entry["keyid"] for entry in json.loads(data)["signatures"]]


def with_signatures(data: bytes, keep: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> bytes:
    """The same metadata with other signatures: some left out, or one twice."""
    document = json.loads(data)
    document["signatures"] = keep(document["signatures"])
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
