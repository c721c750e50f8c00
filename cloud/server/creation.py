"""A control plane's directory made new, and what stands in the way of it.

What always holds: a directory is a control plane's from the moment its ``cloud.db`` is there, and that comes last and
whole; so nobody sees half of one. What fails takes away what it made, and nothing else. Nothing that exists is
replaced: a directory with anything in it is refused.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloud import config as configuration
from cloud.control_plane import ControlPlane
from cloud.identity.key_service import FileKeyService
from cloud.ports import SystemClock, SystemRandom
from cloud.server.home import DRAFT
from cloud.storage.files import sync_path, write_private
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import InvalidConfig, StorageError

_HARMLESS = {"lost+found"}
# A device's store (edge/), which is not to become part of the cloud nor the cloud of it.
_DEVICE_FILES = ("log.db", f"{configuration.KEYS}/device.key")


class Made:
    """What was made so far, to be taken away again if the rest fails."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def directory(self, path: Path) -> None:
        """Make it, and those above it that are missing; they stay, even if the power goes."""
        missing = [above for above in (path, *path.parents) if not above.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._paths += reversed(missing)
        for made in missing:
            sync_path(made.absolute().parent)

    def add(self, path: Path) -> None:
        self._paths.append(path)

    def undo(self) -> None:
        for path in reversed(self._paths):
            with suppress(OSError):  # not empty: somebody else's things are in it
                path.rmdir() if path.is_dir() else path.unlink()


@contextmanager
def making(directory: Path) -> Iterator[Made]:
    """Raises InvalidConfig for what the file system refuses."""
    made = Made()
    try:
        yield made
    except OSError as error:
        made.undo()
        raise InvalidConfig(
            f"cannot make {error.filename or directory}: {error.strerror or error}",
            hint="choose a directory that you may write to, with room on its disk",
        ) from error
    except BaseException:
        made.undo()
        raise


def create_home(directory: Path, name: str, config_text: str) -> None:
    """A new fleet with new keys in a directory that is not there or empty. Raises InvalidConfig, StorageError."""
    config = configuration.parse(config_text, configuration.FILE)
    check_free(directory)
    with making(directory) as made:
        made.directory(directory)
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=directory))
        try:
            write_private(draft / configuration.FILE, config_text.encode())
            _build(draft, directory, name, config, made)
            _publish(draft, directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        sync_path(directory)


def check_free(directory: Path) -> None:
    """Raises InvalidConfig unless it is an empty directory, or none at all."""
    found = entries(directory)
    if configuration.DATABASE in found:
        raise InvalidConfig(f"{directory} has a control plane already", hint="choose another directory")
    check_no_device(directory)
    if any(entry.startswith(DRAFT) for entry in found):
        raise InvalidConfig(
            f"another init is at work in {directory}, or was killed there",
            hint="wait for it, or choose another directory",
        )
    if found:
        raise InvalidConfig(f"{directory} is not empty: it has {found[0]}", hint="choose a new or an empty directory")


def check_no_device(directory: Path) -> None:
    """Raises InvalidConfig."""
    if any((directory / name).exists() for name in _DEVICE_FILES):
        raise InvalidConfig(
            f"{directory} is a device's store", hint="choose another directory: a control plane has one of its own"
        )


def entries(directory: Path) -> list[str]:
    """What is in it; nothing if it is not there. Raises InvalidConfig if it is no directory, or a closed one."""
    try:
        return sorted({path.name for path in directory.iterdir()} - _HARMLESS)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidConfig(
            f"{directory}: {error.strerror}", hint="choose a directory that you may write to, or a new one"
        ) from error


def _build(draft: Path, directory: Path, name: str, config: configuration.CloudConfig, made: Made) -> None:
    """Everything that may fail, where nobody looks yet."""
    from cloud.storage.objects import open_objects

    url = configuration.archive_url(config.archive, directory)
    if "://" not in url:
        made.directory(Path(url))
    objects = open_objects(url, options=config.archive.options)
    next(iter(objects.list("v1/")), None)  # a wrong address should not wait for the first run
    random = SystemRandom()
    keys = FileKeyService.create(draft / configuration.KEYS, random)
    database = draft / configuration.DATABASE
    store = SqliteStore.open(database)
    try:
        ControlPlane(store, keys, SystemClock(), random).create_fleet(name)
    finally:
        store.close()
    # Closing moves the write-ahead log into the file. If the disk is too full for that, SQLite says nothing and leaves
    # both; the file alone, which is what will be moved, is then half of a database.
    if database.with_name(f"{database.name}-wal").exists():
        raise StorageError(f"{database} could not be written", hint="free some space on that disk and begin again")


def _publish(draft: Path, directory: Path) -> None:
    """The keys first: of two inits at once only one can put its own there. The store last, also on the disk."""
    moved: list[str] = []
    try:
        for part in (configuration.KEYS, configuration.FILE, configuration.DATABASE):
            if (directory / part).exists():
                raise InvalidConfig(f"{directory / part} exists already", hint="choose another directory")
            if part == configuration.DATABASE:
                sync_path(directory)
            (draft / part).rename(directory / part)
            moved.append(part)
    except BaseException:
        for part in moved:
            (directory / part).rename(draft / part)
        raise
