"""The half of ``ModelStore`` that only reads: which directory is in use, held for as long as somebody uses it.

A process that reads beside the one that writes (ADR 18) has this half: it looks at the note whenever it is asked, and
holds a slot by a lock that the other one sees (``model_slots``). What always holds: a slot is given out only if it is
still the active one once it is held.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.control.model_slots import Hold, Slots
from edge.storage.model_tables import ModelTables, Notes
from sync.activation import RETURNED, Note, Version
from sync.errors import CorruptStore, InvalidValue, Malformed, NotFound, StorageError

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

_LOOKS_S = 0.5  # how often a process that only reads looks for another version
_TRIES = 100
_NAME_CHARACTERS_MAX = 64
_GIVE_UP = "agentdb-edge models remove gives the name up, the next assignment brings it again"


class ModelReader:
    """Safe to use from several threads."""

    def __init__(self, log: DeltaLog, store: str, clock: Clock) -> None:
        self.tables = ModelTables(log)
        self.changed = threading.Condition(threading.RLock())
        self._log = log
        self._store = store
        self._clock = clock
        self._stop = threading.Event()
        self._held: dict[str, tuple[Version, Hold, Path]] = {}
        self._notes = Notes({}, {})  # what the tables say, if this process is the one that writes them

    def path(self, name: str) -> Path:
        """The directory with the files of the version in use. It stays as it is until ``path`` gives another one of
        this name, or the store is closed. Raises NotFound (none is here, or none was good), StorageError.
        """
        held = self._held.get(name)
        if held is not None and held[0] == self.note(name).active and not self.closed:
            return held[2]
        try:
            version, hold = self.taken(name)
        except NotFound:
            self._let_go(name)
            raise
        with self.changed:
            self._let_go(name)
            path = self.slots(name).path(version.slot)
            self._held[name] = (version, hold, path)
        return path

    @contextmanager
    def use(self, name: str) -> Iterator[Path]:
        """As ``path``; the directory stays as it is until the block ends."""
        version, hold = self.taken(name)
        try:
            yield self.slots(name).path(version.slot)
        finally:
            hold.release()

    def watch(self, name: str, *, timeout_s: float | None = None) -> Iterator[Path | None]:
        """The directory in use, when there is one, then each new one; it stays as it is until the next is asked for.
        None if there is none any more. Ends when nothing has changed for ``timeout_s`` seconds, or the store is closed.
        """
        check_timeout(timeout_s)
        return self._watched(Watcher(self, name), timeout_s)

    def _watched(self, watcher: Watcher, timeout_s: float | None) -> Iterator[Path | None]:
        try:
            while watcher.moved(timeout_s):
                yield watcher.path
        finally:
            watcher.close()

    def await_another(self, name: str, seen: Version | None, timeout_s: float | None) -> bool:
        """Whether the active version became another one than ``seen``, before the time was over or the store closed."""
        started = self._clock.monotonic_ms()
        with self.changed:
            while not self.closed:
                if self.note(name).active != seen:
                    return True
                left = None
                if timeout_s is not None:
                    left = timeout_s - (self._clock.monotonic_ms() - started) / 1000
                    if left <= 0:
                        return False
                if self._log.read_only:  # nobody tells it
                    left = _LOOKS_S if left is None else min(left, _LOOKS_S)
                self.changed.wait(left)
        return False

    def note(self, name: str) -> Note:
        """What is known of a name: nothing, if its note is not understood. Raises StorageError."""
        if not self._log.read_only:
            return self._notes.read.get(name, Note())
        with suppress(Malformed):
            return self.tables.note(name)
        return Note()

    def notes(self) -> dict[str, Note]:
        """By name; without those that are not understood. Raises StorageError."""
        if self._log.read_only:
            return self.tables.notes().read
        with self.changed:
            return dict(self._notes.read)

    def unread(self) -> dict[str, str]:
        """The names whose notes are not understood: what is wrong, and what to do. Raises StorageError."""
        with self.changed:
            found = self.tables.notes().unread if self._log.read_only else dict(self._notes.unread)
        return {
            name: f"{error.message}: nothing of it is used; {error.hint or _GIVE_UP}" for name, error in found.items()
        }

    def slots(self, name: str) -> Slots:
        """Where a name's files are."""
        return Slots(self._store, name)

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def taken(self, name: str) -> tuple[Version, Hold]:
        """The active version, and the right to its files. Raises NotFound, StorageError."""
        if type(name) is not str:
            raise InvalidValue(f"a model's name is a text, not {name!r:.40}")
        if self.closed:
            raise StorageError("the store is closed", hint="open it again")
        for _ in range(_TRIES):  # each time another version became the active one in between
            note = self.note(name)
            if note.active is None:
                if (why := self.unread().get(name)) is not None:
                    raise CorruptStore(f"the model {name!r:.80}: {why}", hint=_GIVE_UP)
                raise none_of(name, note)
            hold = self.slots(name).hold(note.active.slot)
            if self.note(name).active == note.active:
                return note.active, hold
            hold.release()
        raise StorageError(f"the version of {name!r} in use changes again and again", hint="try again")

    def _let_go(self, name: str) -> None:
        """Of what ``path`` gave of this name."""
        with self.changed:
            held = self._held.pop(name, None)
        if held is not None:
            held[1].release()


class Watcher:
    """Of one name: ``path`` is what it saw last, and stays as it is until ``moved`` is asked again."""

    def __init__(self, reader: ModelReader, name: str) -> None:
        self.path: Path | None = None
        self._reader = reader
        self._name = name
        self._seen: Version | None = None
        self._hold: Hold | None = None

    def moved(self, timeout_s: float | None) -> bool:
        """Wait for another version. False if none came in time, or the store was closed. Raises StorageError."""
        if not self._reader.await_another(self._name, self._seen, timeout_s):
            return False
        self.close()
        try:
            self._seen, self._hold = self._reader.taken(self._name)
        except NotFound:
            self._seen, self.path = None, None
        else:
            self.path = self._reader.slots(self._name).path(self._seen.slot)
        return True

    def close(self) -> None:
        """Let go of what it saw. Idempotent."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None


def check_timeout(timeout_s: Any) -> None:
    """Raises InvalidValue."""
    if timeout_s is not None and (type(timeout_s) not in (int, float) or not timeout_s >= 0):
        raise InvalidValue(f"timeout_s is seconds, 0 or more, not {timeout_s!r:.40}", hint="None waits for ever")


def none_of(name: str, note: Note) -> NotFound:
    """There is no version of it to use."""
    shown = name[:_NAME_CHARACTERS_MAX]
    if note.state == RETURNED:
        return NotFound(
            f"no version of the model {shown!r} is in use: {note.why}",
            hint="agentdb-edge models list shows what was returned; models retry tries it again",
        )
    if note != Note():
        return NotFound(
            f"no version of the model {shown!r} is in use yet: it is {note.state}",
            hint="edge.models.watch(name) waits for it; agentdb-edge models list says how far it is",
        )
    return NotFound(
        f"there is no model {shown!r} here",
        hint="the fleet assigns models: agentdb-edge models list shows those of this device",
    )
