"""The half of ``ModelStore`` that changes what is noted: the only writer of models' notes.

What always holds: a note is in the tables before it is in memory, and before what it announces is begun; whoever waits
for another version is told after that. A process that carries out what is due leaves a mark beside the models, so that
the next one looks at the files if it did not end in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edge.control.model_reader import ModelReader
from edge.control.model_slots import MODELS_DIRECTORY
from edge.storage.durable import fsync_path
from edge.storage.model_tables import Refused
from sync import activation as trial
from sync.activation import COMMITTED, RETURNED, SOAKING, Note, Refuse, Version
from sync.errors import AgentDBError, CorruptStore, StorageError, StoreLocked, TooLarge, UnsupportedVersion

if TYPE_CHECKING:
    from edge.control.model_needs import Unfit
    from edge.control.probing import Outcome
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

_RUNNING = ".running"  # no model has such a name
_log = logging.getLogger("agentdb.edge")
Told = Callable[[str, int, bytes, str, str], None]
"""What the fleet is told of a version: name, number, digest, ``committed``, ``returned`` or ``refused``, why."""


class ModelKeeper(ModelReader):
    """``wake`` is called when there may be something to do; ``problems`` is what stands in the way, by name."""

    def __init__(self, log: DeltaLog, store: str, clock: Clock) -> None:
        super().__init__(log, store, clock)
        self.problems: dict[str, str] = {}
        self.measured: dict[str, Outcome] = {}
        self.fetched: dict[str, tuple[int, int]] = {}  # bytes of the candidate, of how many
        self.wake: Callable[[], None] = _nothing
        self.ended: Callable[[], None] = _nothing  # waits for whoever was woken
        self.outcome: Told | None = None
        self.declined: dict[str, Refused] = {}
        self.unfit: dict[str, Unfit] = {}  # by name: why this device cannot take what is assigned
        self._began_ms = clock.monotonic_ms()
        self._counted: dict[str, tuple[int, int, int]] = {}  # name -> when last noted; uses and errors since
        self._unchecked: list[str] = []
        self._running = Path(store, MODELS_DIRECTORY, _RUNNING)
        if not log.read_only:
            self._start()

    def _start(self) -> None:
        """Take up what the process before has left."""
        self._notes = self.tables.notes()
        for name, why in self.unread().items():
            _log.error("model %s: %s", name, why)
        if not self._notes.read:
            return
        now = self._clock.monotonic_ms()
        self._counted = {name: (now, 0, 0) for name, note in self._notes.read.items() if note.state == SOAKING}
        unclean = self._running.exists()
        for name in list(self._notes.read):
            try:
                if self.note(name).active is not None and self._checked(name, hashed=False) == [] and unclean:
                    self._unchecked.append(name)
                self._happened(name, trial.Started())
            except StorageError as error:  # a full disk keeps nobody from the model that is there
                self.problems[name] = error.message
        self._mark()

    def _mark(self) -> None:
        with suppress(OSError):  # then files are looked at once less
            if not self._running.exists():
                self._running.parent.mkdir(mode=0o700, exist_ok=True)
                self._running.touch(mode=0o600)
                fsync_path(self._running.parent)

    def _happened(self, name: str, event: trial.Event) -> None:
        """The one way in which a note changes. Raises ReadOnly, StorageError; then nothing has changed."""
        with self.changed:
            before = self.note(name)
            note, actions = trial.step(before, event)
            refusals = [action for action in actions if isinstance(action, Refuse)]
            if note != before:
                self.tables.commit(name, note, refusals, self._clock.wall_ms())
                self._follow(name, before, note)
            for action in actions:
                if isinstance(action, trial.Empty):
                    self._empty(name, action.slot)
        if note != before:
            for version, why in refusals:
                if note.state != RETURNED:  # another one is on its way already
                    self._tell(name, version.number, version.digest, "returned", why)
            self._tell_outcome(name)
            self.wake()

    def _give_up_unread(self, name: str) -> None:
        """A note that is not understood, if it is one. Raises StorageError."""
        with self.changed:
            if name in self._notes.unread:
                self.tables.commit(name, Note())
                del self._notes.unread[name]

    def _empty(self, name: str, slot: str) -> None:
        """What stays, goes when the slot is filled with something else."""
        try:
            self.slots(name).empty(slot)
        except StoreLocked:
            return
        except StorageError as error:
            _log.warning("model %s: %s (%s)", name, error, error.hint)

    def tell_outcomes(self, outcome: Told) -> None:
        """From now on, ``outcome`` is told how it went with what was assigned; and of what it may not have been."""
        self.outcome = outcome
        for name in self.notes():
            self._tell_outcome(name)

    def _tell_outcome(self, name: str) -> None:
        note, declined, unfit = self.note(name), self.declined.get(name), self.unfit.get(name)
        if unfit is not None and unfit.unreported:
            return  # nobody knows yet
        if declined is not None:
            self._tell(name, declined.number, declined.digest, "refused", declined.reason)
        elif note.state == COMMITTED and note.active is not None:
            self._tell(name, note.active.number, note.active.digest, "committed", "")
        elif note.state == RETURNED and note.returned is not None:
            self._tell(name, note.returned.number, note.returned.digest, "returned", note.why)

    def _tell(self, name: str, number: int, digest: bytes, outcome: str, why: str) -> None:
        if self.outcome is None:
            return
        try:
            self.outcome(name, number, digest, outcome, why)
        except (StorageError, TooLarge) as error:  # the next start tells it
            _log.warning("model %s: its outcome cannot be reported: %s", name, error)

    def _follow(self, name: str, before: Note, note: Note) -> None:
        """In memory, and on the disk what nobody needs any more: a note was committed."""
        if not self._notes.read:
            self._mark()
        self._notes.read[name] = note
        if note == Note():
            del self._notes.read[name]
        if note.state != SOAKING:
            self._counted.pop(name, None)
        elif (before.state, before.active) != (SOAKING, note.active):
            self._counted[name] = (self._clock.monotonic_ms(), 0, 0)
        if note.candidate != before.candidate:  # what is known is of the one before
            self.fetched.pop(name, None)
            self.problems.pop(name, None)
            if note.candidate is not None or note == Note():
                self.measured.pop(name, None)
        if note.active != before.active:
            self.changed.notify_all()
        digests = [one.digest.hex() for one in versions_of(note)]
        if digests != [one.digest.hex() for one in versions_of(before)]:
            with suppress(StorageError):
                self.slots(name).forget_but(digests)

    def _attempt(self, name: str, work: Callable[[], str]) -> int:
        """1 if it was done; else what it said is the model's problem, if it still is about the same candidate."""
        if self.closed:
            return 0
        candidate = self.note(name).candidate
        try:
            problem = work()
        except AgentDBError as error:
            problem = error.message
            _log.warning("model %s: %s (%s)", name, error, error.hint)
        with self.changed:
            if self.note(name).candidate in (candidate, None):
                self.problems[name] = problem
        if candidate is not None:
            try:
                self.tables.note_problem(name, candidate.number, problem)
            except StorageError as error:  # of a full disk, say, other processes then do not hear
                _log.warning("model %s: what is in the way cannot be noted: %s", name, error)
        return not problem

    def _checked(self, name: str, *, hashed: bool = True) -> list[str]:
        """What is wrong with the files of a name. Of what is in use, if it is damaged, no more is given out; what it
        should be that nobody here understands is not damaged.
        """
        note, slots = self.note(name), self.slots(name)
        found: dict[Version, list[str]] = {}
        unchecked: list[str] = []
        for version in (note.active, note.previous):
            if version is not None:
                try:
                    found[version] = slots.problems(version.slot, slots.documents(version.digest), hashed=hashed)
                except CorruptStore as error:
                    found[version] = [error.message]
                except UnsupportedVersion as error:
                    found[version] = []
                    unchecked.append(f"model {name} {version.number} cannot be checked: {error.message}")
        with self.changed:
            now = self.note(name)
            is_so = (now.active, now.previous) == (note.active, note.previous)  # files take seconds to hash
            if self._log.read_only or not is_so:
                pass
            elif note.active is not None and found[note.active]:
                spare = note.previous is not None and not found[note.previous]
                _log.warning("model %s %d: %s", name, note.active.number, found[note.active][0])
                self._happened(name, trial.Damaged(spare=spare))
            elif note.previous is not None and found[note.previous]:
                self._happened(name, trial.Spared())
        if not is_so:
            return self._checked(name, hashed=hashed)
        return unchecked + [
            f"model {name} {version.number}: {problem}" for version, problems in found.items() for problem in problems
        ]

    def _since_counted_ms(self, name: str) -> int:
        """0 if it does not soak any more."""
        now = self._clock.monotonic_ms()
        return now - self._counted.get(name, (now, 0, 0))[0]

    def ran(self, name: str) -> trial.Ran:
        """What is not noted yet of its soak."""
        now = self._clock.monotonic_ms()
        since_ms, uses, errors = self._counted.get(name, (now, 0, 0))
        return trial.Ran(now - since_ms, uses, errors, steady=now - self._began_ms >= trial.STEADY_MS)

    def _count(self, name: str) -> None:
        """Note the uptime and the uses of a soak. Raises StorageError."""
        with self.changed:
            self._happened(name, self.ran(name))
            if name in self._counted:
                self._counted[name] = (self._clock.monotonic_ms(), 0, 0)


def versions_of(note: Note) -> list[Version]:
    """All that a note speaks of."""
    parts = (note.active, note.candidate, note.previous, note.wanted, note.returned)
    return [part for part in parts if part is not None]


def _nothing() -> None:
    """Nobody waits for something to do."""
