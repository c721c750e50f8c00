"""The archive at another place: moved with its history, or begun anew where the old one is lost.

For a control plane that moves house, for one whose archive was continued by a restored copy, and for a rehearsal that
is to stay. What always holds: the old place is only read; the configuration is changed when the new place has
everything; interrupted at any point, the control plane archives where it did, or the same command finishes the move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cloud import config as configuration
from cloud.server.home import Home
from cloud.server.recovery import absolute
from cloud.server.settings import with_archive
from cloud.storage.archive.errors import ForeignArchive
from cloud.storage.archive.state import begin_anew
from cloud.storage.archive.transfer import check_free, copy_archive
from cloud.storage.files import replace_private
from cloud.storage.objects import open_objects
from sync.errors import InvalidValue, StorageError, StoreLocked

Progress = Callable[[int, int], None]


class Moved(NamedTuple):
    """How much was copied, and where the archive now stands."""

    url: str
    objects: int
    bytes: int
    position: int
    manifest: int


def move_archive(
    directory: Path,
    url: str,
    options: Mapping[str, str],
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """``fresh`` leaves the history where it is. Raises StoreLocked while a server runs here, InvalidValue for a place
    that is in use, InvalidConfig for a cloud.toml that cannot be edited, and what reading and writing archives raise.
    """
    url = absolute(url)
    with Home.open(directory) as home, _not_served(home), home.holding_archive():
        settings = directory / configuration.FILE
        edited = with_archive(settings.read_text(encoding="utf-8"), url, options)
        same = absolute(home.archive_url) == url
        if same and not fresh:
            raise InvalidValue(f"the archive is at {url} already", hint="choose another place")
        target = open_objects(url, options=options)
        fleet = home.fleet.fleet
        objects = size = 0
        if fresh:
            check_free(target, fleet)
        else:
            with suppress(ForeignArchive):  # then only what is ours is moved
                home.archive.adopt()
            objects, size = copy_archive(home.objects, target, fleet, home.archive.state.number, progress)
        _replace(settings, edited)
        if fresh:
            home.anchor.forget(fleet)
            with home.store.writing() as tx:
                begin_anew(tx, fleet)
    with Home.open(directory) as home, home.archiving() as archive:
        done = archive.snapshot() if fresh else archive.run_once()
        home.note_works("archive", "snapshot")
    return Moved(url, objects + done.objects, size + done.bytes, done.position, done.number)


@contextmanager
def _not_served(home: Home) -> Iterator[None]:
    """Raises StoreLocked."""
    if home.is_served:
        raise StoreLocked(
            f"the server of {home.directory} runs: it archives to the old place",
            hint="stop it first, and start it again when the archive has moved",
        )
    with home.serving():
        yield


def _replace(path: Path, text: str) -> None:
    try:
        replace_private(path, text.encode(), mode=path.stat().st_mode & 0o777)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", hint="make room on that disk, and move it again") from error
