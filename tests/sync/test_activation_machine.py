"""A model's trial as a state machine: whatever happens in whatever order, one good model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sync.activation import (
    FETCHING,
    SOAKING,
    Action,
    Assigned,
    Begun,
    Damaged,
    Empty,
    Event,
    Fill,
    Filled,
    Note,
    Probe,
    Probed,
    Ran,
    Refuse,
    Spared,
    Started,
    Stopped,
    Try,
    check,
    from_document,
    step,
    to_document,
)
from tests.sync.test_activation import version


class Device(RuleBasedStateMachine):
    """A device with two slots. What is to be done is done in order, and lost with a crash; notes are not."""

    @initialize()
    def begin(self) -> None:
        self.note = Note()
        self.slots: dict[str, int] = {"a": 0, "b": 0}  # the number that is there whole, 0 for anything else
        self.refused: set[bytes] = set()
        self.todo: list[Action] = []
        self.wanted = version(0)
        self.used: set[bytes] = set()

    def happened(self, event: Event) -> None:
        if isinstance(event, Assigned):
            self.wanted = event.version
        self.note, actions = step(self.note, event)
        active = self.note.active
        if active is not None and active.digest not in self.used:
            assert active.digest == self.wanted.digest, "what comes into use for the first time is what is assigned"
            self.used.add(active.digest)
        for action in actions:
            if isinstance(action, Refuse):
                self.refused.add(action.version.digest)
        if not actions or any(isinstance(action, (Empty, Fill, Try, Probe)) for action in actions):
            self.todo = [action for action in self.todo if not isinstance(action, Fill)] if actions else self.todo
        self.todo += [action for action in actions if not isinstance(action, Refuse)]

    @rule(number=st.integers(1, 5))
    def assign(self, number: int) -> None:
        self.happened(Assigned(version(number), refused=version(number).digest in self.refused))

    @precondition(lambda self: self.todo)
    @rule(why=st.sampled_from(["", "", "slow"]))
    def act(self, why: str) -> None:
        action = self.todo.pop(0)
        if isinstance(action, Empty):
            self.write(action.slot, 0)
        elif isinstance(action, Fill):
            self.write(action.version.slot, action.version.number)
            self.happened(Filled(action.version.digest))
        elif isinstance(action, Try):
            self.happened(Begun())
        elif isinstance(action, Probe):
            self.happened(Probed(action.version.digest, why))

    def write(self, slot: str, number: int) -> None:
        note = self.note
        assert note.active is None or note.active.slot != slot, "the active slot is never written"
        if note.state == SOAKING and note.previous is not None:
            assert note.previous.slot != slot, "what a soak returns to is never written"
        self.slots[slot] = number

    @rule(torn=st.booleans())
    def crash(self, torn: bool) -> None:
        if torn and self.note.state == FETCHING and self.note.candidate is not None:
            self.slots[self.note.candidate.slot] = 0
        self.todo = []
        self.happened(Started())

    @rule()
    def restart(self) -> None:
        self.happened(Stopped())
        self.todo = []
        self.happened(Started())

    @rule(uses=st.integers(0, 80), bad=st.booleans(), steady=st.booleans())
    def run(self, uses: int, bad: bool, steady: bool) -> None:
        self.happened(Ran(1_000_000, uses, uses if bad else 0, steady=steady))

    @precondition(lambda self: self.note.active is not None)
    @rule()
    def damage(self) -> None:
        active, previous = self.note.active, self.note.previous
        assert active is not None
        self.slots[active.slot] = 0
        whole = previous is not None and self.slots[previous.slot] == previous.number
        self.happened(Damaged(spare=whole))

    @precondition(lambda self: not self.todo)
    @rule()
    def spare(self) -> None:
        self.happened(Spared())

    @rule()
    def forgive(self) -> None:
        if self.note.returned is not None:
            self.refused.discard(self.note.returned.digest)
            self.happened(Assigned(self.note.returned))

    @invariant()
    def one_good_model(self) -> None:
        check(self.note)
        active, candidate, previous = self.note.active, self.note.candidate, self.note.previous
        if active is not None:
            assert self.slots[active.slot] == active.number
            assert active.digest not in self.refused
        if previous is not None and self.note.state == SOAKING:
            assert self.slots[previous.slot] == previous.number
        assert candidate is None or candidate.digest not in self.refused
        assert from_document(to_document(self.note)) == self.note


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
