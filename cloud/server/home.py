"""A control plane's directory, opened: configuration, keys, store, archive, and the parts that are built of them.

::

    DIR/cloud.toml    configuration; the archive's place is in it
    DIR/cloud.db      the store
    DIR/keys/         service.key, epoch.keys, control.key, archive.anchor: with the archive, all that a restore needs
    DIR/archive/      the archive, unless the configuration names another place
    DIR/port          the bound port while a server runs
    DIR/serve.lock    held by a running server; DIR/archive.lock by whoever is writing the archive, DIR/models.lock by
                      whoever publishes or collects models

What always holds: one directory, one fleet, one server; one process at a time writes the archive. The command line may
use a directory while its server runs: the store and the key files are safe for several processes.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from cloud import config as configuration
from cloud.config import CloudConfig
from cloud.control_plane import ControlPlane
from cloud.fleet.choosing import Choosing
from cloud.fleet.control_key import ControlKeyFile
from cloud.fleet.policies import PolicyScopes
from cloud.identity import audit
from cloud.identity.key_service import FileKeyService
from cloud.ports import ObjectStore, SystemClock, SystemRandom
from cloud.rows import FleetRow
from cloud.server.jobs import JobState
from cloud.server.resolvers import load_resolvers
from cloud.storage.archive.anchor import AnchorFile
from cloud.storage.archive.writer import Archive
from cloud.storage.sqlite_store import SqliteStore
from cloud.stream.rules import Resolver
from sync.errors import InvalidConfig, StorageError, StoreLocked

if TYPE_CHECKING:
    from cloud.fleet.model_registry import ModelRegistry
    from cloud.fleet.publishing import Published, Repository
    from cloud.fleet.signing import SigningKey

ANCHOR = "archive.anchor"
DRAFT = ".init-"  # the beginning of a directory in which a control plane is being made
SERVE_LOCK, ARCHIVE_LOCK, MODELS_LOCK = "serve.lock", "archive.lock", "models.lock"
_LOCK_ATTEMPTS = 5


class Home:
    """Use it as a context manager; it closes the store."""

    def __init__(self, directory: Path, config: CloudConfig, keys: FileKeyService, store: SqliteStore) -> None:
        self.directory = directory
        self.config = config
        self.keys = keys
        self.store = store
        self.clock = SystemClock()

    @staticmethod
    def open(directory: Path, config_file: Path | None = None) -> Home:
        """Raises InvalidConfig if this is not a control plane's directory, or is configured wrongly."""
        if not _is_there(directory / configuration.DATABASE):
            hint = f"make it one: agentdb-cloud init {directory}"
            if any(directory.glob(f"{DRAFT}*")):
                hint = "an init is making it one: wait for it (if none runs any more, start over in another directory)"
            raise InvalidConfig(f"{directory} is not a control plane's directory", hint=hint)
        config = configuration.load(config_file or directory / configuration.FILE)
        keys = FileKeyService(directory / configuration.KEYS, SystemRandom())
        return Home(directory, config, keys, SqliteStore.open(directory / configuration.DATABASE))

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def fleet(self) -> FleetRow:
        """The directory's fleet. Raises InvalidConfig."""
        with self.store.reading() as view:
            fleets = view.fleets()
        if len(fleets) != 1:
            raise InvalidConfig(
                f"{self.directory} holds {len(fleets)} fleets, not one",
                hint="something else has written into its cloud.db; keep the keys, and restore it from the archive",
            )
        return fleets[0]

    @cached_property
    def plane(self) -> ControlPlane:
        """Without the operator's resolvers: only what judges conflicts imports their code (``use_resolvers``)."""
        choosing = Choosing()
        return ControlPlane(
            self.store,
            self.keys,
            self.clock,
            SystemRandom(),
            scopes=PolicyScopes(choosing.policy),
            lease_ms=self.config.fleet.lease_ms,
            online_key=self.online_key,
            choosing=choosing,
        )

    @cached_property
    def online_key(self) -> ControlKeyFile:
        return ControlKeyFile(self.directory / configuration.KEYS)

    def publish(self, repository: Repository, key: SigningKey | None = None) -> Published:
        """``ControlPlane.publish``; with another online ``key``, if the repository's root names it: it is kept then.
        Raises as that.
        """
        fleet = self.fleet.fleet
        if key is None:
            return self.plane.publish(fleet, repository)
        plane = ControlPlane(self.store, self.keys, self.clock, SystemRandom(), online_key=lambda: key)
        done = plane.publish(fleet, repository)
        self.online_key.put(key)
        return done

    def use_resolvers(self) -> dict[str, Resolver]:
        """Have the plane decide by them from now on. Raises InvalidConfig for one that cannot be used."""
        found = load_resolvers(self.config.conflicts.resolvers)
        for name, resolver in found.items():
            self.plane.register_resolver(name, resolver)
        return found

    # -- the archive ------------------------------------------------------------------------------------------------

    @property
    def archive_url(self) -> str:
        return configuration.archive_url(self.config.archive, self.directory)

    @property
    def is_rehearsal(self) -> bool:
        """A copy to look at: it writes no archive and takes nothing from devices."""
        return not self.config.archive.write

    @cached_property
    def objects(self) -> ObjectStore:
        """Raises InvalidConfig."""
        from cloud.storage.objects import open_objects

        archive = self.config.archive
        return open_objects(self.archive_url, create=archive.write, options=archive.options)

    @cached_property
    def anchor(self) -> AnchorFile:
        return AnchorFile(self.directory / configuration.KEYS / ANCHOR)

    @cached_property
    def archive(self) -> Archive:
        """Use it inside ``archiving``."""
        return Archive(self.store, self.objects, self.keys, self.fleet.fleet, clock=self.clock, anchor=self.anchor)

    @contextmanager
    def archiving(self) -> Iterator[Archive]:
        """The archive, while no other process writes it; waits for one that does. InvalidConfig in a rehearsal."""
        self._check_writes()
        with self.holding_archive():
            yield self.archive

    @contextmanager
    def holding_archive(self) -> Iterator[None]:
        """While no other process writes the archive; waits for one that does."""
        with _locked(self.directory / ARCHIVE_LOCK, attempts=None):
            yield

    def _check_writes(self) -> None:
        if self.is_rehearsal:
            raise InvalidConfig(
                f"{self.directory} is a rehearsal: it does not write to the archive that it was restored from",
                hint=f"to keep it, give it an archive of its own: agentdb-cloud archive move {self.directory} URL",
            )

    # -- models -----------------------------------------------------------------------------------------------------

    @cached_property
    def models(self) -> ModelRegistry:
        """Publish and collect inside ``holding_models``."""
        from cloud.fleet.model_registry import ModelRegistry

        fleet = self.fleet.fleet
        return ModelRegistry(
            self.store, lambda: self.objects, lambda: self.keys.ring(fleet), fleet, self.clock, audit.record
        )

    @contextmanager
    def holding_models(self) -> Iterator[ModelRegistry]:
        """While no other process publishes or collects models; waits for one that does. InvalidConfig in a
        rehearsal.
        """
        self._check_writes()
        with _locked(self.directory / MODELS_LOCK, attempts=None):
            yield self.models

    # -- the server -------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Raises StoreLocked if another server runs in this directory."""
        with _locked(self.directory / SERVE_LOCK, attempts=_LOCK_ATTEMPTS):  # somebody may just be asking `is_served`
            yield

    @property
    def is_served(self) -> bool:
        try:
            with _locked(self.directory / SERVE_LOCK, attempts=1):
                return False
        except StoreLocked:
            return True

    @property
    def url(self) -> str:
        """Where devices reach the server: as configured, or as it is bound now; "" if that is not known."""
        server = self.config.server
        if server.url:
            return server.url.rstrip("/")
        port = self.bound_port or server.port
        host = f"[{server.host}]" if ":" in server.host else server.host
        return f"{'https' if server.tls else 'http'}://{host}:{port}" if port else ""

    @property
    def bound_port(self) -> int:
        """Of the running server; 0 if none runs."""
        try:
            text = (self.directory / configuration.PORT).read_text()
        except FileNotFoundError:
            return 0
        return int(text) if text.strip().isdigit() else 0

    def note_job(self, name: str, state: JobState) -> None:
        """For ``status``, which is another process."""
        with self.store.writing() as tx:
            tx.set_archive_state(self.fleet.fleet, f"job:{name}", msgspec.msgpack.encode(tuple(state)))

    def note_works(self, *names: str) -> None:
        """These jobs' work has just been done by hand: they fail no more."""
        for name in names:
            if (state := self.noted_job(name)).error:
                self.note_job(name, JobState(self.clock.wall_ms(), state.failed_ms))

    def noted_job(self, name: str) -> JobState:
        with self.store.reading() as view:
            data = view.archive_state(self.fleet.fleet, f"job:{name}")
        return JobState(*msgspec.msgpack.decode(data)) if data else JobState()  # of an older release: shorter


def _is_there(path: Path) -> bool:
    """Raises InvalidConfig if that cannot be told."""
    try:
        return path.is_file()
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}", hint="run this as the user whose directory it is") from error


@contextmanager
def _locked(path: Path, *, attempts: int | None) -> Iterator[None]:
    """``attempts`` a tenth of a second apart, or (None) as long as it takes. Raises StoreLocked."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror}", hint="run this as the user whose directory it is, with room on its disk"
        ) from error
    try:
        if attempts is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _try_lock(handle, path, attempts)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _try_lock(handle: int, path: Path, attempts: int) -> None:
    for left in reversed(range(attempts)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(0.1)
        else:
            return
    raise StoreLocked(f"another server runs in {path.parent}", hint="stop it first, or use another directory")
