"""Any history of puts, forks, prunings and restarts: every checkpoint that was ever returned reads back equal until it
is pruned.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from edge import Checkpoint, Edge, NotFound, Thread
from tests.edge.agent.test_thread import large
from tests.edge.stores import TickingClock


class Histories(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._edge = Edge.open(Path(self._folder.name) / "s", clock=TickingClock())
        self._held: dict[str, dict[str, Any]] = {"t0": {}, "t1": {}, "t2": {}}
        self._forks = 0

    def _thread(self, name: str) -> Thread:
        return self._edge.agent("a").thread(name)

    @rule(
        target=ids,
        name=st.sampled_from(["t0", "t1", "t2"]),
        value=st.one_of(st.integers(), st.text(max_size=5), st.integers(1, 5).map(lambda seed: large(seed, 20_000))),
    )
    def put(self, name: str, value: Any) -> tuple[str, str]:
        if type(value) is int:
            value = str(value)
        made = self._thread(name).put(value)
        self._held[name][made.id] = value
        return name, made.id

    @rule(target=ids, made=ids)
    def fork(self, made: tuple[str, str]) -> Any:
        name, checkpoint = made
        if checkpoint not in self._held[name]:
            return multiple()
        self._forks += 1
        new = f"fork{self._forks}"
        head = self._thread(name).fork(new, at=checkpoint).head()
        assert isinstance(head, Checkpoint)
        self._held[new] = {head.id: self._held[name][checkpoint]}
        return new, head.id

    @rule(made=ids, keep=st.integers(1, 4))
    def prune(self, made: tuple[str, str], keep: int) -> None:
        name = made[0]
        self._thread(name).prune(keep_latest=keep)
        for old in sorted(self._held[name])[:-keep]:
            del self._held[name][old]

    @rule(made=consumes(ids))
    def get(self, made: tuple[str, str]) -> None:
        name, checkpoint = made
        if checkpoint in self._held[name]:
            assert self._thread(name).get(checkpoint) == self._held[name][checkpoint]
        else:
            with pytest.raises(NotFound):
                self._thread(name).get(checkpoint)

    @rule()
    def restart(self) -> None:
        self._edge.close()
        self._edge = Edge.open(Path(self._folder.name) / "s", clock=TickingClock())

    @invariant()
    def newest_and_histories(self) -> None:
        for name, held in self._held.items():
            thread = self._thread(name)
            assert [one.id for one in thread.history()] == sorted(held, reverse=True)
            assert thread.get() == (held[max(held)] if held else None)

    def teardown(self) -> None:
        for name, held in self._held.items():
            assert {one: self._thread(name).get(one) for one in held} == held
        self._edge.close()
        self._folder.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
