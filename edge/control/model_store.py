"""ModelStore: the models of this device: which version is in use, which is on trial, and the way there (ADR 25).

    path = edge.models.path("embed")                 # a directory that stays as it is while it is in use
    with edge.models.use("embed") as path: ...       # for as long as the block
    for path in edge.models.watch("embed"): ...      # each new one

``assigned`` is told of what both sides have signed; ``fetch`` fills the slot that is not in use, ``advance`` tries,
soaks, keeps or returns it. What always holds: a note is committed before what it announces is begun
(``sync.activation`` decides, this carries out); what ``path`` gives hashed right when it was put there, and is not
written to. It leaves to
others: where bytes come from (``connect``), what a probe is (``probing``), when it is done (``model_care``).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any

from edge.control.model_filling import Fill, Filling, Installed, Target
from edge.control.model_keeper import ModelKeeper, versions_of
from edge.control.model_needs import Unfit, unfit
from edge.control.model_reader import none_of
from edge.control.model_status import ModelStatus, shown
from edge.control.probing import Outcome, run_probes
from edge.storage.durable import remove_tree, storage_error
from edge.storage.model_tables import Refused
from sync import activation as trial
from sync.activation import FETCHING, SLOTS, SOAKING, STAGED, TRYING, Note, Rules, Version
from sync.errors import (
    CorruptStore,
    DiskFull,
    InvalidValue,
    Malformed,
    NotFound,
    QuotaExceeded,
    StorageError,
    UnsupportedVersion,
)
from sync.models import Errors, Manifest

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

COUNTED_EVERY_MS = 60_000
_TIMES = 200  # uses whose times are kept


Room = Callable[[int], AbstractContextManager[None]]


class ModelStore(ModelKeeper):
    """Get it from ``edge.models``. Safe to use from several threads."""

    def __init__(
        self,
        log: DeltaLog,
        store: str,
        clock: Clock,
        *,
        runners: Mapping[str, str],
        code_runs: bool = False,
        reported: Callable[[], Mapping[str, Any]] = dict,
        room: Room | None = None,
        probe: Callable[..., Outcome | None] = run_probes,
    ) -> None:
        super().__init__(log, store, clock)
        self.runners = runners
        self._code_runs = code_runs
        self._reported = reported
        self._begun: set[str] = set()  # of which this process runs the probes
        self._room = room
        self._probe = probe
        self._fill: Fill | None = None
        self._target: Target | None = None
        self._trying = Lock()  # one trial at a time
        self._fetching = Lock()
        self._took_ms: dict[str, deque[float]] = {}

    # -- what agents and people ask (``model_reader`` has the rest) ----------------------------------------------------

    def report_use(self, name: str, ok: bool = True, ms: float | None = None) -> None:
        """The agent has used what ``path`` gave, and it did well or not: by this it is judged in its soak.
        ``ms`` is how long it took, of which ``status`` shows the p95. Raises InvalidValue, NotFound, ReadOnly,
        StorageError.
        """
        self._log.check_writable()
        if type(ok) is not bool or not (ms is None or (type(ms) in (int, float) and 0 <= ms < 1e12)):
            raise InvalidValue(f"a use went well or not, and took milliseconds: not {ok!r:.20}, {ms!r:.20}")
        with self.changed:
            note = self.note(name)
            if note.active is None:
                raise none_of(name, note)
            if ms is not None:
                self._took_ms.setdefault(name, deque(maxlen=_TIMES)).append(ms)
            if note.state == SOAKING:
                since_ms, uses, errors = self._counted[name]
                self._counted[name] = (since_ms, uses + 1, errors + (not ok))
                if trial.step(note, self.ran(name))[0].state != SOAKING:
                    self._count(name)

    def status(self, name: str | None = None) -> list[ModelStatus]:
        """Of every model, or of one. Raises NotFound, StorageError."""
        notes = self.notes()
        known = {*notes, *self.declined, *self.unread()}
        if name is not None and name not in known:
            raise none_of(name, Note())
        names = sorted(known) if name is None else [name]
        return [shown(self, one, notes.get(one, Note())) for one in names]

    def remove(self, name: str) -> None:
        """Give a model up, files and trial; what was refused stays so. The next assignment brings it back. Raises
        NotFound, StoreLocked (somebody uses it), ReadOnly, StorageError.
        """
        self._log.check_writable()
        if self.note(name) == Note() and name not in self.unread():
            raise none_of(name, Note())
        self._let_go(name)
        for slot in SLOTS:
            with self.slots(name).alone(slot):
                pass
        self._give_up_unread(name)
        self._happened(name, trial.Removed())
        with self._trying, self._fetching, self.changed:  # what was under way has seen it, and ends
            if self.note(name) == Note():  # else it was assigned again
                remove_tree(self.slots(name).folder)

    def retry(self, name: str) -> None:
        """Try the version again that was returned last. Raises NotFound, CorruptStore, UnsupportedVersion, ReadOnly,
        StorageError.
        """
        self._log.check_writable()
        returned = self.note(name).returned
        if returned is None:
            raise NotFound(f"no version of {name!r} was returned", hint="agentdb-edge models list shows what is here")
        self.slots(name).documents(returned.digest)
        self.tables.forgive(name, returned.digest)
        with self.changed:
            if (declined := self.declined.get(name)) is not None and declined.digest == returned.digest:
                del self.declined[name]
            self._happened(name, trial.Assigned(returned))

    def verify(self) -> list[str]:
        """Hash all files of versions in use, and of those beside them. What is damaged is given out no more, and is
        fetched again. Returns what was found, or could not be checked, in sentences. Raises StorageError.
        """
        return [problem for name in self.notes() for problem in self._checked(name)]

    # -- what the control plane's side tells --------------------------------------------------------------------------

    def assigned(self, name: str, number: int, manifest: bytes, chunks: bytes | None = None) -> None:
        """Both sides have signed that this version is to run: its manifest, a target, and its chunk list (None: it is
        fetched with the chunks). The same again changes nothing. What may not run here (refused before; it runs code,
        which edge.toml does not allow; it needs what this device has not; what there was of the name is not understood)
        is not begun, and ``status`` says so. Raises Malformed, TooLarge, UnsupportedVersion, ReadOnly, StorageError.
        """
        self._log.check_writable()
        read = self._read(name, number, manifest)
        if chunks is not None:
            read.chunk_list(chunks)
        if name in self.unread():
            return
        digest = sha256(manifest).digest()
        found, refused = self._judge(read, digest)
        with self.changed:
            self.unfit.pop(name, None)
            if found is not None:
                self.unfit[name] = found
            if refused is None:
                self.declined.pop(name, None)
                self._keep(name, digest, manifest, chunks)
            else:
                self.declined[name] = refused
            version = Version("", number, digest, _rules(read))
            self._happened(name, trial.Assigned(version, refused=refused is not None))
            self._tell_outcome(name)

    def look_at(self, name: str, number: int, manifest: bytes) -> None:
        """The same, of a process that only reads: ``status`` says why it may not run here. Raises Malformed, TooLarge,
        UnsupportedVersion, StorageError.
        """
        _, refused = self._judge(self._read(name, number, manifest), sha256(manifest).digest())
        if refused is not None:
            self.declined[name] = refused

    def problem(self, name: str) -> str:
        """What stands in the way of what is fetched or tried; "" if nothing does. Raises StorageError."""
        candidate = self.note(name).candidate
        if not self._log.read_only or candidate is None:
            return self.problems.get(name, "")
        return self.tables.problem(name, candidate.number)

    def _read(self, name: str, number: int, manifest: bytes) -> Manifest:
        read = Manifest.parse(manifest)
        if (read.name, read.number) != (name, number):
            raise Malformed(f"the manifest of {read.name!r} {read.number} as that of {name!r} {number}")
        return read

    def _judge(self, read: Manifest, digest: bytes) -> tuple[Unfit | None, Refused | None]:
        """What this device lacks for it; and why it may not run here: for that reason, or it was refused before."""
        found = unfit(read, self._reported(), code_runs=self._code_runs)
        if found is not None:
            return found, Refused(read.number, digest, found.why, self._clock.wall_ms())
        return None, next((one for one in self.tables.refused(read.name) if one.digest == digest), None)

    def connect(self, fill: Fill | None, target: Target | None = None) -> None:
        """From now on versions can be fetched; None: not any more. ``target`` brings a chunk list by its SHA-256."""
        self._fill, self._target = fill, target
        self.wake()

    # -- what is due --------------------------------------------------------------------------------------------------

    def fetch(self) -> int:
        """Fill the slots of all versions that are to be fetched. Returns how many were; what fails is in ``status``,
        and tried again by the next call. Raises ReadOnly.
        """
        self._log.check_writable()
        with self._fetching:
            return sum(
                self._attempt(name, partial(self._stage, name, note.candidate))
                for name, note in self.notes().items()
                if note.state == FETCHING and note.candidate is not None
            )

    def advance(self) -> int:
        """Try what is staged, note what soaks, look at what an unclean end may have left. Returns how many versions
        were tried. Raises ReadOnly, StorageError.
        """
        self._log.check_writable()
        tried = 0
        with self._trying:
            while self._unchecked and not self.closed:
                self._checked(self._unchecked[-1])
                self._unchecked.pop()
            for name, note in self.notes().items():
                if note.state in (STAGED, TRYING) and note.candidate is not None:
                    tried += self._attempt(name, partial(self._tried, name, note.candidate))
                elif note.state == SOAKING and self._since_counted_ms(name) >= COUNTED_EVERY_MS:
                    self._count(name)
        return tried

    def due_ms(self) -> int | None:
        """In how many milliseconds ``advance`` has something to do; None: not before something happens."""
        notes = self.notes()
        if self._unchecked or any(note.state in (STAGED, TRYING) for note in notes.values()):
            return 0
        waits = [COUNTED_EVERY_MS - self._since_counted_ms(name) for name in notes if notes[name].state == SOAKING]
        return max(0, min(waits)) if waits else None

    def is_fetching(self) -> bool:
        """Whether ``fetch`` has something to do."""
        return self._fill is not None and any(note.state == FETCHING for note in self.notes().values())

    def close(self) -> None:
        """Stop what is under way, and note the soaks. Idempotent."""
        if self.closed:
            return
        self._stop.set()
        self.wake()
        with self.changed:
            self.changed.notify_all()
        if not self._log.read_only:
            with self._trying, self._fetching, self.changed:
                for name, note in list(self._notes.read.items()):
                    with suppress(StorageError):  # then this counts as a start that did not end well
                        if note.state == SOAKING or name in self._begun:
                            self._count(name)
                            self._stopped(name)
                with suppress(OSError):  # then files are looked at once more
                    self._running.unlink(missing_ok=True)
        for name in list(self._held):
            self._let_go(name)
        self.ended()

    def p95_ms(self, name: str) -> float | None:
        """Of the uses that were reported last."""
        took = sorted(self._took_ms.get(name, ()))
        return took[-(-len(took) * 95 // 100) - 1] if took else None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _stage(self, name: str, version: Version) -> str:
        """Fill the candidate's slot, hash it, make it durable. Returns why it was not, or "". Raises AgentDBError."""
        slots = self.slots(name)
        documents = slots.documents_with(version.digest, self._target)
        with slots.alone(version.slot):
            folder = slots.make(version.slot, documents.manifest)
        if slots.problems(version.slot, documents):
            if self._fill is None:
                return "waits for a connection to its fleet"
            with ExitStack() as room:
                needed = max(0, documents.manifest.disk_bytes - slots.size(version.slot))
                room.enter_context(self._made_room(name, needed))
                stopped = partial(self._is_cut_off, name, version)
                told = partial(self._told, name, version, room)
                try:
                    self._fill(Filling(folder, documents, tuple(self._installed(name)), stopped, told))
                except OSError as error:  # such as of a slot that was emptied meanwhile
                    raise storage_error(f"fetching {name}", error) from error
            if self._is_cut_off(name, version):
                return "interrupted"
        slots.seal(version.slot, documents)
        self._happened(name, trial.Filled(version.digest))
        return ""

    def _is_stopped(self, name: str, version: Version) -> bool:
        return self.closed or self.note(name).candidate != version

    def _is_cut_off(self, name: str, version: Version) -> bool:
        return self._fill is None or self._is_stopped(name, version)

    def _told(self, name: str, version: Version, room: ExitStack, done: int, total: int) -> None:
        room.close()  # the files have their whole size from the beginning: from now on they are counted themselves
        with self.changed:
            if self.note(name).candidate == version:
                self.fetched[name] = (done, total)

    def _installed(self, name: str) -> Iterator[Installed]:
        """Versions to take chunks from, those of the same name first."""
        for other, note in sorted(self.notes().items(), key=lambda item: item[0] != name):
            for version in (note.active, note.previous):
                if version is not None:
                    with suppress(CorruptStore, UnsupportedVersion):
                        slots = self.slots(other)
                        yield Installed(slots.path(version.slot), slots.documents(version.digest))

    @contextmanager
    def _made_room(self, name: str, size: int) -> Iterator[None]:
        """That many bytes may be written; what others have spare goes first. Raises QuotaExceeded, DiskFull."""
        with ExitStack() as stack:
            while True:
                try:
                    disk = os.statvfs(self._store)
                    free = disk.f_bavail * disk.f_frsize
                    if free < size:
                        said = f"the model {name!r} needs {size:,} bytes of the disk, which has {free:,}"
                        raise DiskFull(said, hint="free some")
                    if self._room is not None:
                        stack.enter_context(self._room(size))
                    break
                except (QuotaExceeded, DiskFull):
                    if not any(self._spared(other) for other in self.notes() if other != name):
                        raise
            yield

    def _spared(self, name: str) -> bool:
        """Whether a slot was given up."""
        before = sum(map(self.slots(name).size, SLOTS))
        self._happened(name, trial.Spared())
        return sum(map(self.slots(name).size, SLOTS)) < before

    def _tried(self, name: str, version: Version) -> str:
        """Run the candidate's probes. Returns why they were not, or "". Raises AgentDBError."""
        slots = self.slots(name)
        manifest = slots.documents(version.digest).manifest
        self._happened(name, trial.Begun())
        self._begun.add(name)
        runner = self.runners.get(manifest.needs.runner or name)
        stopped = partial(self._is_stopped, name, version)
        try:
            outcome = self._probe(slots.path(version.slot), manifest, runner, stopped)
        except BaseException:
            self._stopped(name)  # it is no fault of the model's
            raise
        if outcome is None:
            return "interrupted"
        self._begun.discard(name)
        self.measured[name] = outcome
        self._happened(name, trial.Probed(version.digest, outcome.why))
        return ""

    def _stopped(self, name: str) -> None:
        """A try or a start of this process is not held against the model: once, and none of another process."""
        self._begun.discard(name)
        self._happened(name, trial.Stopped())

    def _keep(self, name: str, digest: bytes, manifest: bytes, chunks: bytes | None) -> None:
        slots = self.slots(name)
        if digest in [version.digest for version in versions_of(self.note(name))]:
            with suppress(CorruptStore):
                if chunks is None:
                    slots.manifest(digest)
                else:
                    slots.documents(digest)
                return
        slots.keep(digest, manifest, chunks)


def _rules(manifest: Manifest) -> Rules:
    soak, errors = manifest.soak, next((probe for probe in manifest.probes if isinstance(probe, Errors)), None)
    share, at_least = (errors.share_max, errors.of_at_least) if errors is not None else (1.0, 0)
    return Rules(soak.uptime_s * 1000, soak.uses, share, at_least)
