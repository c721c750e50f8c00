"""Who signs offline: keys from numbers, so that a seed is a run, and the repository that they publish."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.fleet.publishing import Repository
from cloud.fleet.signing import (
    Delegate,
    Keys,
    SigningKey,
    make_root,
    make_targets,
    signed_with,
    with_target,
)
from sync.targets import parse_path

YEAR_MS = 365 * 86_400_000


class Operators:
    """Two of three sign roots. ``first`` is the number of their first key: other operators have others."""

    def __init__(self, fleet: bytes, now_ms: int, first: int = 1) -> None:
        keys = [
            SigningKey(Ed25519PrivateKey.from_private_bytes(number.to_bytes(32))) for number in range(first, first + 6)
        ]
        self._roots, self._targets, self._models, self.online = keys[:3], keys[3], keys[4], keys[5]
        self._now_ms = now_ms
        roles = {
            "root": Keys(tuple(key.public for key in self._roots), 2),
            "targets": Keys((self._targets.public,)),
            "online": Keys((self.online.public,)),
        }
        root = make_root(fleet, roles, 1, now_ms + YEAR_MS)
        for key in self._roots[:2]:
            root = signed_with(root, key)
        self.root = root

    def repository(self, documents: Mapping[str, bytes]) -> Repository:
        """All models that are listed, by their paths."""
        expires_ms = self._now_ms + YEAR_MS
        models = make_targets(1, expires_ms)
        for path, data in documents.items():
            models = with_target(models, parse_path(path), data, 1, 1, expires_ms)
        delegate = Delegate("models", ("models/*/*",), Keys((self._models.public,)))
        roles = {
            "targets": signed_with(make_targets(1, expires_ms, [delegate]), self._targets),
            "models": signed_with(models, self._models),
        }
        return Repository([self.root], roles, documents)
