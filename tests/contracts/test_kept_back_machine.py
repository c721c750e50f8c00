"""Policies come and go while devices write, crash, lose messages and are restored from: what was written under one that
keeps it is known to nobody before another lets it go, and in the end everybody has everything.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge.storage import kept_back
from sync.images import is_alive
from tests.contracts.scope_world import COLLECTIONS, PLACES, ScopeWorld

NAMES = ("office", "kiosk")
POLICIES = ("", "local", "local south", "small", "local up", "north", "notes")


class Keeping(RuleBasedStateMachine):
    @initialize(seed=st.integers(1, 1_000))
    def begin(self, seed: int) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.world = ScopeWorld(self.path / "world", NAMES, seed)
        self.secrets: dict[tuple[str, tuple[str, str]], set[str]] = {}  # (device, place) -> what it wrote and kept

    @rule(name=st.sampled_from(NAMES), place=st.sampled_from(PLACES), kind=st.sampled_from(["put", "patch", "delete"]))
    def write(self, name: str, place: tuple[str, str], kind: str) -> None:
        before = self.world.devices[name].edge.log.head_seq
        if self.world.write(name, place, kind) and self.world.devices[name].edge.log.head_seq == before:
            self.secrets.setdefault((name, place), set()).add(f"{name} {self.world.count}")

    @rule(name=st.sampled_from(NAMES), place=st.sampled_from(PLACES), by=st.integers(1, 5))
    def count(self, name: str, place: tuple[str, str], by: int) -> None:
        device = self.world.devices[name]
        values = device.edge.log.values("notes", place[1])
        if values is not None and self.may_write(name, ("notes", place[1])):
            device.clock.now_ms += 1
            device.notes.increment(place[1], "visits", by)

    @rule(name=st.sampled_from(NAMES), place=st.sampled_from(PLACES), size=st.sampled_from([300, 600]))
    def grow(self, name: str, place: tuple[str, str], size: int) -> None:
        device = self.world.devices[name]
        if self.may_write(name, place):
            device.clock.now_ms += 1
            device.edge.collection(place[0]).patch(place[1], {"mood": "x" * size}, upsert=True)
            self.world.wrote.add(place)

    @rule(name=st.sampled_from(NAMES), wanted=st.sampled_from(POLICIES))
    def give(self, name: str, wanted: str) -> None:
        self.world.give(name, wanted)
        for (whose, place), _ in list(self.secrets.items()):
            if whose == name and self.world.tables[wanted].rule(*place).is_sent:
                self.secrets.pop((whose, place))

    @rule(name=st.sampled_from(NAMES), loss=st.sampled_from([0.0, 0.3]), steps=st.sampled_from([5, 15, 60]))
    def sync(self, name: str, loss: float, steps: int) -> None:
        self.world.devices[name].sync(loss=loss, steps=steps)

    @rule(name=st.sampled_from(NAMES))
    def crash(self, name: str) -> None:
        self.world.devices[name].crash()

    @rule(restore=st.booleans())
    def archive(self, restore: bool) -> None:
        self.world.restore() if restore else self.world.archive()

    @invariant()
    def nothing_leaks(self) -> None:
        images = self.world.images()
        for (name, place), texts in self.secrets.items():
            image = images.get(place, b"")
            assert not [text for text in texts if b"\xa4text" + _packed(text) in image], (name, place)

    def may_write(self, name: str, place: tuple[str, str]) -> bool:
        return self.world.tables[self.world.assigned[name]].rule(*place).direction in ("both", "up", "local")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            world = self.world
            for name in NAMES:
                world.give(name, "")
            world.heal()
            world.check()
            digests = {device.edge.digest() for device in world.devices.values()}
            assert digests == {world.cloud.digest()}
            for device in world.devices.values():
                assert list(kept_back.waiting(device.edge.log, None)) == []
            images = world.images()
            for device in world.devices.values():
                for collection in COLLECTIONS:
                    for key, image in device.edge.log.scan(collection):
                        assert is_alive(images[collection, key]) == is_alive(image)
        finally:
            self.world.close()
            shutil.rmtree(self.path, ignore_errors=True)


def _packed(text: str) -> bytes:
    return bytes([0xA0 | len(text)]) + text.encode()


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
