"""Policies that keep writes here and policies that let records go take turns in mid-life, over cuts, losses, copies,
damage and restores of the cloud: the last that was written wins, and what only adds up comes to what was added.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from edge.storage import kept_back, policy_row
from sync.errors import NotAllowed, NotFound, NotHere
from sync.images import image_values
from tests.contracts.scope_world import ALL, DAY_MS, PLACES, TALLIES, Rules, ScopeWorld

NAMES = ("office", "kiosk")
KINDS = ["put", "patch", "delete", "add", "remove", "count"]
BOTH: Rules = {
    "small young": [{"collections": ["*"], "age_days_max": 1, "record_bytes_max": 300}],
    "local young": [{"collections": ["logs"], "direction": "local"}, {"collections": ["*"], "age_days_max": 1}],
    "south absent": [
        {"collections": ["*"], "prefixes": ["south/"], "direction": "absent"},
        {"collections": ["*"], "direction": "local"},
    ],
}
RULES = {name: ALL[name] for name in ("", "local", "small", "local up", "young", "south", "north only")} | BOTH
HERE = [place for place in PLACES if place[1].endswith(("0", "1"))]


class KeptAndEvicted(RuleBasedStateMachine):
    @initialize(first=st.sampled_from(sorted(RULES)), seed=st.integers(1, 1_000))
    def begin(self, first: str, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.world = ScopeWorld(self.folder / "world", NAMES, seed, RULES)
        self.texts: dict[tuple[str, str], str | None] = {}  # what was written last
        for place in [*HERE, *TALLIES]:
            self._write("kiosk", [(place, "put")]) if place in HERE else self.tally("kiosk", place)
        self.world.heal()
        self.world.give("kiosk", first)

    names = st.sampled_from(["office", "kiosk", "kiosk", "kiosk"])
    writes = st.tuples(st.sampled_from(HERE), st.sampled_from(KINDS))

    @rule(name=names, write=writes)
    def write(self, name: str, write: tuple[tuple[str, str], str]) -> None:
        self._write(name, [write])

    @rule(name=names, writes=st.lists(writes, min_size=2, max_size=3))
    def batch(self, name: str, writes: list[tuple[tuple[str, str], str]]) -> None:
        self._write(name, writes)

    @rule(name=names, place=st.sampled_from(TALLIES))
    def tally(self, name: str, place: tuple[str, str]) -> None:
        self._tick()
        self.world.tally(name, place)

    @rule(name=names, place=st.sampled_from([*HERE, *TALLIES]), size=st.sampled_from([0, 300]))
    def grow(self, name: str, place: tuple[str, str], size: int) -> None:
        self._tick()
        if self.world.grow(name, place, size):
            _edited(self.texts, place)

    @rule(name=names, wanted=st.sampled_from(sorted(RULES)))
    def give(self, name: str, wanted: str) -> None:
        self.world.give(name, wanted)

    @rule(name=names, wanted=st.sampled_from(sorted(RULES)))
    def assign(self, name: str, wanted: str) -> None:
        self.world.assigned[name] = wanted

    @rule(name=names, loss=st.sampled_from([0.0, 0.0, 0.3]), steps=st.sampled_from([8, 20, 60]))
    def sync(self, name: str, loss: float, steps: int) -> None:
        self.world.devices[name].sync(loss=loss, steps=steps)

    @rule(days=st.sampled_from([0, 2]))
    def in_touch(self, days: int) -> None:
        """As all goes well: what is due leaves."""
        for _ in range(2):
            for device in self.world.devices.values():
                device.sync(steps=120)
            self.world.archive()
            self.world.pass_by(days * DAY_MS)

    @rule(name=names)
    def cut(self, name: str) -> None:
        self.world.devices[name].crash()

    @rule(name=names)
    def damage(self, name: str) -> None:
        """The policy cannot be read until another is told."""
        device = self.world.devices[name]
        if policy_row.load(device.edge.log) is not None:
            with device.edge.log.writer.lock, device.edge.log.transact() as db:
                db.execute("UPDATE policy SET data = CAST(data || X'20' AS BLOB)")
        device.crash()

    @rule(name=names)
    def rename(self, name: str) -> None:
        self.world.devices[name].edge.log.new_incarnation()

    @rule()
    def restore(self) -> None:
        self.world.restore()

    def _tick(self) -> None:
        clocks = [self.world.cloud.clock, *(device.clock for device in self.world.devices.values())]
        now_ms = max(clock.now_ms for clock in clocks) + 1
        for clock in clocks:
            clock.now_ms = now_ms

    def _write(self, name: str, writes: list[tuple[tuple[str, str], str]]) -> None:
        """All or none, as one batch."""
        self._tick()
        edge, texts = self.world.devices[name].edge, dict(self.texts)
        try:
            with edge.batch():
                for (collection, key), kind in writes:
                    held = edge.collection(collection)
                    self.world.count += 1
                    text = f"{name} {self.world.count}"
                    if kind == "delete":
                        held.delete(key)
                        texts[collection, key] = None
                    elif kind in ("put", "patch"):
                        held.put(key, {"text": text}) if kind == "put" else held.patch(key, {"text": text})
                        texts[collection, key] = text
                    elif collection == "notes":
                        if kind == "count":
                            held.increment(key, "visits", 2)
                        else:
                            (held.add if kind == "add" else held.remove)(key, "tags", str(self.world.count % 3))
                        _edited(texts, (collection, key))
        except (NotAllowed, NotFound, NotHere):
            return
        self.texts = texts

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            world = self.world
            world.heal()
            for name in NAMES:
                if world.assigned[name] != "young":
                    world.give(name, "")
            world.heal()
            world.check()
            for device in world.devices.values():
                assert list(kept_back.waiting(device.edge.log, None)) == []
            images = world.images()
            told = {place: (image_values(images[place]) or {}).get("text") for place in self.texts if place in images}
            assert told == self.texts
        finally:
            self.world.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def _edited(texts: dict[tuple[str, str], str | None], place: tuple[str, str]) -> None:
    """Besides its text. Who has not heard of a delete brings all of it back."""
    if texts.get(place, "") is None:
        del texts[place]


TestKeptAndEvicted = KeptAndEvicted.TestCase
TestKeptAndEvicted.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
