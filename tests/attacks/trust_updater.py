"""The updater under attack, as one small interface: what a device takes of what a peer sends, and what it then runs.

``StoreUpdater`` is a device: ``TrustStore.accept`` of a real store, which ``restart`` closes and opens again.
``SetUpdater`` does the same order of acceptance (ADR 23) with the pure parts alone (``sync.manifests``,
``sync.assignments``) and a file. Both must pass every attack: the first shows that the device is safe, the second that
what it is safe by is in ``sync``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from edge.control.trust import MODELS
from edge.node import Edge
from edge.storage.control_tables import Document
from edge.storage.keystore import create_device_key
from sync.assignments import Agreed, Signed, agreed, check_target, is_signed, open_assignment
from sync.errors import AgentDBError, TooLarge
from sync.manifests import Offer, TrustedSet, pinned
from sync.messages import Control, RoleBytes
from tests.cloud.identity_world import SeededRandom, SetClock
from tests.trust_oracle import oracle
from tests.trust_world import DEVICE, DEVICE_KEY, FLEET, NOW_MS, World

OLD, NEW = "policies/kiosk/1.json", "policies/kiosk/2.json"
POLICIES = [b'{"log":{"level":"%s"},"name":"kiosk","schema":1}' % level for level in (b"info", b"debug", b"error")]
WORLD = World(documents={OLD: POLICIES[0], NEW: POLICIES[1], "models/embed/1.json": b"[]"})
THIRD = "policies/kiosk/3.json"
WIDER = WORLD.but(documents={**WORLD.documents, THIRD: POLICIES[2]})


class Updater(Protocol):
    def accept(self, offer: Offer, assignment: Signed | None, documents: Mapping[str, bytes], now_ms: int) -> None:
        """All of it, or raise one of ``sync.errors``: metadata that was right stays all the same."""
        ...

    def running(self) -> dict[str, bytes]:
        """Path → bytes of what is active."""
        ...

    def stored(self) -> dict[str, bytes]:
        """The metadata that is held."""
        ...

    def restart(self) -> None: ...

    def close(self) -> None: ...


class SetUpdater:
    def __init__(self, path: Path, root: bytes, digest: bytes) -> None:
        self._path = path
        self._trusted = pinned(root, digest, FLEET)
        self._held: Signed | None = None
        self._number = 0
        self._seen_ms = 0
        self._active: dict[str, bytes] = {}
        self._keep()

    def accept(self, offer: Offer, assignment: Signed | None, documents: Mapping[str, bytes], now_ms: int) -> None:
        rooted = self._trusted.update(Offer(offer.roots), now_ms) if offer.roots else self._trusted
        if self._held is not None and not is_signed(self._held, rooted):
            self._held, self._number, self._seen_ms = None, 0, 0  # set by a key that counts no more
        self._trusted = rooted
        self._keep()
        now_ms = max(now_ms, self._seen_ms)
        self._trusted = self._trusted.update(offer._replace(roots=()), now_ms)
        self._keep()
        if assignment is None:
            return
        opened = open_assignment(assignment, self._trusted, FLEET, DEVICE, self._number, now_ms)
        running = {sha256(data).digest() for data in self._active.values()}
        active = {}
        for target in agreed(opened, self._trusted, running):
            data = documents.get(target.path, b"")
            check_target(target, data)
            active[target.path] = data
        self._held, self._number, self._active = assignment, opened.number, active
        self._seen_ms = max(self._seen_ms, opened.time_ms)
        self._keep()

    def running(self) -> dict[str, bytes]:
        return dict(self._active)

    def stored(self) -> dict[str, bytes]:
        return self._trusted.stored()

    def restart(self) -> None:
        stored, held, self._number, self._seen_ms, self._active = msgspec.msgpack.decode(
            self._path.read_bytes(),
            type=tuple[dict[str, bytes], tuple[bytes, bytes] | None, int, int, dict[str, bytes]],
        )
        self._trusted = TrustedSet.load(stored, FLEET)
        self._held = None if held is None else Signed(*held)

    def close(self) -> None:
        self._path.unlink()

    def _keep(self) -> None:
        what = (self._trusted.stored(), self._held, self._number, self._seen_ms, self._active)
        self._path.write_bytes(msgspec.msgpack.encode(what))


class AnyModel:
    """What a manifest has to say is not what is attacked here."""

    def check(self, target: Agreed, data: bytes) -> None: ...

    def activated(self, documents: list[Document]) -> None: ...

    def wanted(self) -> Collection[bytes]:
        return ()


class StoreUpdater:
    """Without what the messages bound: ``accept`` has to hold by itself."""

    def __init__(self, path: Path, root: bytes, digest: bytes) -> None:
        self._path = path
        self._root = root
        self._clock = SetClock(NOW_MS)
        create_device_key(str(path), _DeviceKeyBytes())
        self._open()
        self._edge.log.meta_set("fleet", [FLEET, bytes(32), bytes(32), "http://127.0.0.1:9", "kiosk"])
        self._edge.trust.pin(digest.hex())

    def _open(self) -> None:
        self._edge = Edge.open(self._path, clock=self._clock, random=SeededRandom(7))
        assert self._edge.device == DEVICE
        self._edge.trust.on_activated(MODELS, AnyModel())

    def accept(self, offer: Offer, assignment: Signed | None, documents: Mapping[str, bytes], now_ms: int) -> None:
        self._clock.now_ms = now_ms
        first = [] if self.stored() else [self._root]
        roles = [RoleBytes(name, data) for name, data in offer.roles.items()]
        sealed = assignment or Signed(b"", b"")
        control = Control([*first, *offer.roots], offer.timestamp, offer.snapshot, roles, *sealed)
        self._edge.trust.accept(control, lambda target: documents.get(target.path, b""))

    def running(self) -> dict[str, bytes]:
        return {one.path: one.data for one in self._edge.trust.documents("")}

    def stored(self) -> dict[str, bytes]:
        return {name: data for name, data in self._edge.trust.tables.kept().items() if not name.startswith("=")}

    def restart(self) -> None:
        self._edge.close()
        self._open()
        assert self._edge.trust.verify() == []

    def close(self) -> None:
        self._edge.close()


class _DeviceKeyBytes(SeededRandom):
    """The key of the device DEVICE."""

    def token(self, size: int) -> bytes:
        data = DEVICE_KEY.to_bytes()
        assert len(data) == size
        return data


def start(updater: Updater) -> None:
    """A device that has taken two rounds, and runs the newer policy and a model."""
    models = {"embed": WORLD.assigned("models/embed/1.json")}
    for number, path in ((1, OLD), (2, NEW)):
        sealed = WORLD.sealed(number, snapshot=number, policy=WORLD.assigned(path), models=models)
        updater.accept(WORLD.offer(number), sealed, WORLD.documents, NOW_MS)
    assert updater.running() == {path: WORLD.documents[path] for path in (NEW, "models/embed/1.json")}


def refused(
    updater: Updater,
    error: type[AgentDBError],
    offer: Offer = Offer(),  # noqa: B008 - immutable
    assignment: Signed | None = None,
    *,
    documents: Mapping[str, bytes] = WORLD.documents,
    now_ms: int = NOW_MS,
    match: str | None = None,
    theirs: type[Exception] | None = None,
    tries: int = 2,
) -> None:
    """The attack fails with exactly this error, what runs goes on, byte for byte, and does so after a restart.

    ``theirs``: what python-tuf raises for the same metadata.
    """
    running, held = updater.running(), updater.stored()
    assert running
    for _ in range(tries):
        with pytest.raises(error, match=match) as raised:
            updater.accept(offer, assignment, documents, now_ms)
        assert type(raised.value) is error
        assert raised.value.hint or error is TooLarge
        assert updater.running() == running
        updater.restart()
        assert updater.running() == running
    if theirs is not None:
        with pytest.raises(theirs):
            oracle(held, offer, now_ms)
