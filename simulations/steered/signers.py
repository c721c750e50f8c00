"""The people of a fleet who hold its offline keys, and what they have ever signed: by that devices are judged.

Keys are made from numbers, so that a seed is a run.
"""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.fleet.publishing import Repository
from cloud.fleet.signing import Delegate, Keys, SigningKey, make_root, make_targets, signed_with, with_target
from sync.targets import parse_path

YEAR_MS = 365 * 86_400_000
POLICIES, MODELS = "policies", "models"


class Signers:
    """``signed``: path → SHA-256 of all that was ever signed. ``first`` is the number of their first key."""

    def __init__(self, fleet: bytes, now_ms: int, first: int = 1) -> None:
        self.fleet = fleet
        self.signed: dict[str, bytes] = {}
        self.documents: dict[str, bytes] = {}
        self.floors: dict[str, int] = {}  # "policies/north" -> the least number that may be assigned
        self._expires_ms = now_ms + YEAR_MS
        self._next = first
        self._owners = [self._key() for _ in range(3)]
        self._targets, *delegates = (self._key() for _ in range(3))
        self._delegates = dict(zip((POLICIES, MODELS), delegates, strict=True))
        self.online = self._key()
        self.roots: list[bytes] = []
        self._sign_root()
        self.pin = sha256(self.roots[0]).digest()
        self._versions = {POLICIES: 0, MODELS: 0}
        self._roles: dict[str, bytes] = {}
        self._floors_of: dict[tuple[str, int], dict[str, int]] = {}
        for role in self._versions:
            self._sign(role)

    @staticmethod
    def digest_of(data: bytes) -> bytes:
        return sha256(data).digest()

    def add(self, path: str, data: bytes) -> None:
        """List one more."""
        self.documents[path] = data
        self.signed[path] = sha256(data).digest()
        self._sign(path.partition("/")[0])

    def set_floor(self, name: str, number: int) -> None:
        """``name`` such as policies/north."""
        self.floors[name] = number
        self._sign(name.partition("/")[0])

    def rotate_online(self) -> SigningKey:
        """A root that gives what is signed online to another key."""
        self.online = self._key()
        self._sign_root()
        return self.online

    def repository(self) -> Repository:
        """All of it, as it is published."""
        delegates = [
            Delegate(role, (f"{role}/*/*",), Keys((key.public,))) for role, key in sorted(self._delegates.items())
        ]
        targets = signed_with(make_targets(1, self._expires_ms, delegates), self._targets)
        return Repository(list(self.roots), {"targets": targets, **self._roles}, dict(self.documents))

    def floor(self, path: str, version: int) -> int:
        """Of the target's name, by that version of its role."""
        role = path.partition("/")[0]
        return self._floors_of.get((role, version), {}).get(path.rpartition("/")[0], 0)

    def listed(self, name: str) -> list[str]:
        """Paths of that name (policies/north) that may be assigned, the oldest first."""
        least = self.floors.get(name, 0)
        found = [(parse_path(path).number, path) for path in self.documents if path.rpartition("/")[0] == name]
        return [path for number, path in sorted(found) if number >= least]

    def _key(self) -> SigningKey:
        self._next += 1
        return SigningKey(Ed25519PrivateKey.from_private_bytes(self._next.to_bytes(32)))

    def _sign_root(self) -> None:
        roles = {
            "root": Keys(tuple(key.public for key in self._owners), 2),
            "targets": Keys((self._targets.public,)),
            "online": Keys((self.online.public,)),
        }
        root = make_root(self.fleet, roles, len(self.roots) + 1, self._expires_ms)
        for key in self._owners[:2]:
            root = signed_with(root, key)
        self.roots.append(root)

    def _sign(self, role: str) -> None:
        self._versions[role] += 1
        version = self._versions[role]
        data = make_targets(version, self._expires_ms)
        for path, document in self.documents.items():
            if path.startswith(f"{role}/"):
                floor = self.floors.get(path.rpartition("/")[0], 0)
                data = with_target(data, parse_path(path), document, floor, version, self._expires_ms)
        self._roles[role] = signed_with(data, self._delegates[role])
        self._floors_of[role, version] = dict(self.floors)
