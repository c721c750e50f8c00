"""A fleet of real parts in one process, driven step by step: delta logs, sessions, control plane, SQLite; only the
wire is ours, and it loses, repeats and delays what it is told to.

The replicator's asyncio is left out: ``Device.sync`` steps the session, and the product's carrier carries effects out.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cloud.control_plane import ControlPlane
from cloud.identity.key_service import MemoryKeyService
from cloud.ports import Caller
from cloud.storage.sqlite_store import SqliteStore
from cloud.stream.scopes import Scopes
from edge.link.carrier import Carrier
from edge.node import Edge
from edge.storage import link_state
from sync.digest import StateDigest
from sync.effects import Send, SessionKeys, SessionLimits
from sync.errors import AgentDBError, Unreachable
from sync.fetching import FetchingSession
from sync.keys import KeyRing, unwrap
from sync.messages import PROTOCOL_VERSIONS, Answer, Enroll, Enrolled, Failure, Message, decode, encode, enroll_proof
from tests.cloud.identity_world import NOW_MS, SeededRandom, SetClock

LIMITS = SessionLimits(push_operations=7, pull_operations=5)
LEASE_MS = 3_600_000
NOTES: dict[str, Any] = {"fields": {"visits": "counter", "tags": "set", "best": "max", "ideas": "keep-all"}}


class Cloud:
    """A control plane over a store in a directory; ``lose_since`` is a disaster, ``copy`` a backup."""

    def __init__(self, directory: Path, seed: int, scopes: Scopes | None = None) -> None:
        self.directory = directory
        self.scopes = scopes
        self.clock = SetClock()
        self.random = SeededRandom(seed)
        self.keys = MemoryKeyService(self.random)
        self.open()
        self.fleet = self.plane.create_fleet("fleet").fleet

    def open(self) -> None:
        self.store = SqliteStore.open(self.directory / "cloud.db")
        self.plane = ControlPlane(self.store, self.keys, self.clock, self.random, scopes=self.scopes, lease_ms=LEASE_MS)

    def backup(self) -> Path:
        target = self.directory / "backup"
        shutil.rmtree(target, ignore_errors=True)
        self.store.close()
        target.mkdir()
        shutil.copy(self.directory / "cloud.db", target / "cloud.db")
        self.open()
        return target

    def restore(self, backup: Path) -> None:
        """What a restore does at the end: the old state, a new incarnation that begins at its head."""
        self.store.close()
        for file in self.directory.glob("cloud.db*"):
            file.unlink()
        shutil.copy(backup / "cloud.db", self.directory / "cloud.db")
        self.open()
        with self.store.writing() as tx:
            head = tx.lock_head(self.fleet)
            tx.set_head(
                self.fleet,
                head._replace(
                    incarnation=self.random.token(16),
                    generation=head.generation + 1,
                    restored_head=head.position,
                    previous=head.incarnation,
                ),
            )

    def enroll(self, edge: Edge, name: str) -> Enrolled:
        token = self.plane.create_token(self.fleet)
        key = edge.device_key()
        proof = key.sign(enroll_proof(token.id, key.public.signing, key.public.exchange, name))
        answer = self.plane.handle(
            Enroll(token.id, token.secret, key.public.signing, key.public.exchange, name, proof), None
        )
        assert isinstance(answer, Enrolled)
        return answer

    def digest(self) -> str:
        digest = StateDigest()
        with self.store.reading() as view:
            after = None
            while page := view.records(self.fleet, after):
                for row in page:
                    digest.add(row.collection, row.key, row.image)
                after = (page[-1].collection, page[-1].key)
        return digest.hexdigest()


class Device:
    """A store and its link. ``rng`` decides what the wire does; ``before`` has what happens elsewhere just before the
    next message of a type arrives.
    """

    def __init__(self, path: Path, cloud: Cloud, name: str, seed: int) -> None:
        self.path = path
        self.cloud = cloud
        self.name = name
        self.clock = SetClock(NOW_MS)
        self.random = SeededRandom(seed)
        self.rng = random.Random(seed)
        self.lose_next_answer_to = ""
        self.before: dict[str, Callable[[], object]] = {}
        self.delayed: list[Message] = []
        self.open()
        enrolled = cloud.enroll(self.edge, name)
        self.key = self.edge.device_key()
        self.ring = KeyRing(
            {item.epoch: unwrap(item.wrapped, self.key, cloud.fleet, item.epoch) for item in enrolled.keys}
        )
        self.notes = self.edge.collection("notes", **NOTES)

    def open(self) -> None:
        self.edge = Edge.open(self.path, clock=self.clock, random=self.random)
        if "notes" in self.edge.log.schemas:
            self.notes = self.edge.collection("notes")

    def crash(self) -> None:
        """What a killed process leaves: nothing is flushed or closed in order beyond what was acknowledged."""
        self.edge.log.close()
        self.edge.close()
        self.open()

    def sync(self, *, loss: float = 0.0, steps: int = 400, versions: Sequence[int] = PROTOCOL_VERSIONS) -> bool:
        """Up to ``steps`` rounds over a wire that loses requests and answers; whether both sides have everything."""
        log = self.edge.log
        keys = SessionKeys(self.cloud.fleet, self.key, self.cloud.keys.service_key.public, self.ring)
        session = FetchingSession(link_state.load_position(log), keys, self.random, limits=LIMITS, versions=versions)
        carrier = Carrier(log, str(self.path), session)
        sends: list[Send] = []
        now = 0
        for _ in range(steps):
            session.tick(now)
            session.written(log.head_seq)
            carrier.follow()
            for effect in session.ready():
                if isinstance(effect, Send):
                    sends.append(effect)
                else:
                    carrier.carry_out(effect)
            if sends:
                send = sends.pop(self.rng.randrange(len(sends)))
                self._exchange(session, send, loss)
            elif session.idle:
                return True
            else:
                now += session.wake_ms() or 0
        return False

    def _exchange(self, session: FetchingSession, send: Send, loss: float) -> None:
        request = decode(encode(send.message))
        caller = Caller(self.cloud.fleet, self.key.device_id, self.key.public)
        if self.delayed and self.rng.random() < loss:
            self._answer(self.delayed.pop(), caller)  # given up long ago, it arrives now; nobody hears the answer
        self.before.pop(type(send.message).__name__, lambda: None)()
        if self.rng.random() < loss:
            if self.rng.random() < 0.5:
                self.delayed.append(send.message)
            session.failed(send.number, Unreachable("the request was lost"))
            return
        answer = self._answer(request, caller)
        if self.rng.random() < loss:
            answer = self._answer(request, caller)  # delivered twice
        unlucky = type(send.message).__name__ == self.lose_next_answer_to
        if unlucky or self.rng.random() < loss:
            self.lose_next_answer_to = "" if unlucky else self.lose_next_answer_to
            session.failed(send.number, Unreachable("the answer was lost"))
            return
        received = decode(encode(answer))
        session.receive(send.number, received)  # type: ignore[arg-type]

    def _answer(self, request: object, caller: Caller) -> Answer:
        try:
            return self.cloud.plane.handle(request, caller)  # type: ignore[arg-type]
        except AgentDBError as error:
            return Failure.of(error)

    def write(self, keys: list[str]) -> None:
        """One random change of one random record."""
        rng, notes, key = self.rng, self.notes, None
        key = rng.choice(keys)
        self.clock.now_ms += rng.randrange(3)
        kind = rng.choice(["put", "patch", "patch", "increment", "add", "remove", "delete", "batch"])
        if kind != "put" and key not in notes:
            kind = "put"
        if kind == "put":
            notes.put(
                key, {"text": f"{self.name} {rng.random()}", "visits": 1, "tags": ["new"], "best": rng.randrange(9)}
            )
        elif kind == "patch":
            notes.patch(key, {rng.choice(["text", "mood", "ideas"]): f"{self.name} {rng.random()}"})
        elif kind == "increment":
            notes.increment(key, "visits", rng.randrange(1, 5))
        elif kind == "add":
            notes.add(key, "tags", rng.choice("abc"), rng.choice("def"))
        elif kind == "remove":
            notes.remove(key, "tags", rng.choice("abcdef"))
        elif kind == "delete":
            notes.delete(key)
        else:
            with self.edge.batch():
                notes.put(key, {"text": "batched"})
                notes.put(key + "-twin", {"text": f"twin of {self.name}"})
