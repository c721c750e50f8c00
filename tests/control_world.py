"""A control plane whose fleet has operators with offline keys: what it publishes and assigns, a device may run."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from cloud.control_plane import ControlPlane
from cloud.fleet.publishing import Published, Repository
from cloud.fleet.signing import SigningKey
from cloud.ports import Caller
from sync.chunks import ChunkList, file_digest
from sync.keys import DeviceKey
from sync.messages import Control, FetchControl, HeldRole
from sync.models import FileRef, ListRef, Manifest
from tests.cloud.identity_world import World
from tests.trust_world import NOW_MS, PrivateKey
from tests.trust_world import World as Operators

POLICY, POLICY_2 = "policies/kiosk/1.json", "policies/kiosk/2.json"
MODEL = "models/embed/3.json"


def model_document(name: str, number: int) -> bytes:
    """The manifest of a model without a byte in it."""
    nothing = ChunkList(())
    file = FileRef("weights.bin", 0, (0, 0), file_digest([]).hex())
    listed = ListRef(sha256(nothing.encode()).hexdigest(), 0)
    return Manifest(1, name, number, str(number), 0, listed, [], [file]).encode()


DOCUMENTS = {
    POLICY: b'{"name":"kiosk","schema":1}',
    POLICY_2: b'{"log":{"level":"debug"},"name":"kiosk","schema":1}',
    MODEL: model_document("embed", 3),
}


class ControlWorld(World):
    """``operators`` sign offline; ``publish`` hands what they signed to the plane."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.clock.now_ms = NOW_MS
        self.online: SigningKey | None = SigningKey(PrivateKey(40).private)
        self.operators = Operators(fleet=self.fleet, documents=DOCUMENTS)
        self.plane = self.new_plane()
        self.device = self.joined("kiosk-1")

    def new_plane(self) -> ControlPlane:
        return ControlPlane(self.store, self.keys, self.clock, self.random, online_key=lambda: self.online)

    def repository(self, version: int = 1, **changed: Any) -> Repository:
        operators = self.operators.but(**changed) if changed else self.operators
        return Repository([self.operators.root()], operators.offer(version).roles, operators.documents)

    def publish(self, version: int = 1, **changed: Any) -> Published:
        return self.plane.publish(self.fleet, self.repository(version, **changed))

    def caller(self, key: DeviceKey | None = None) -> Caller:
        key = key or self.device
        return Caller(self.fleet, key.device_id, key.public)

    def fetch(self, held: int = 0, root: int = 0, key: DeviceKey | None = None, **have: int) -> Control:
        message = FetchControl(held, root, [HeldRole(name, version) for name, version in have.items()])
        answer = self.plane.handle(message, self.caller(key))
        assert isinstance(answer, Control)
        return answer
