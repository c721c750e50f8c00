"""What the tests of identity and server share: a clock that is set, seeded randomness, a fleet, devices that join."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from cloud.identity.enrollment import Enrollment
from cloud.identity.key_service import MemoryKeyService
from cloud.storage.sqlite_store import SqliteStore
from sync.keys import DeviceKey
from sync.messages import Enroll, enroll_proof
from sync.tokens import JoinToken

NOW_MS = 1_700_000_000_000


@dataclass
class SetClock:
    now_ms: int = NOW_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms


@dataclass
class SeededRandom:
    seed: int = 1
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self) -> float:
        return self._random.random()


class World:
    """One fleet in a store of its own."""

    def __init__(self, directory: Path) -> None:
        self.clock = SetClock()
        self.random = SeededRandom()
        self.store = SqliteStore.open(directory / "cloud.db")
        self.keys = MemoryKeyService(self.random)
        self.enrollment = Enrollment(self.store, self.keys, self.clock, self.random)
        self.fleet = self.enrollment.create_fleet("test").fleet

    def new_key(self) -> DeviceKey:
        return DeviceKey.generate(self.random)

    def token(self, uses: int = 1, ttl_s: int = 3600) -> JoinToken:
        return self.enrollment.create_token(self.fleet, uses=uses, ttl_s=ttl_s)

    def joined(self, name: str = "device") -> DeviceKey:
        """The key of a new member."""
        key = self.new_key()
        self.enrollment.enroll(enroll_request(self.token(), key, name))
        return key

    def actions(self) -> list[str]:
        with self.store.reading() as view:
            return [row.action for row in view.audit(self.fleet)]


def enroll_request(token: JoinToken, key: DeviceKey, name: str = "device") -> Enroll:
    """What a correct device sends."""
    public = key.public
    proof = key.sign(enroll_proof(token.id, public.signing, public.exchange, name))
    return Enroll(token.id, token.secret, public.signing, public.exchange, name, proof)
