"""A control plane's directory made anew from the archive and the keys.

What always holds: the keys come first and the store last, whole and verified, under its name; so a directory in which a
restore was killed has no store, and the same command may be given again; one that failed takes away what it made.
Nothing that exists is overwritten; of two restores into one directory the second waits, and is refused.

The archive that was restored from is the one that the new directory continues, and there can be only one that does: the
control plane that wrote it before is told so at its next run (ForeignArchive). A *rehearsal* does not continue it:
``write = false`` in its configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cloud import config as configuration
from cloud.fleet import control_key
from cloud.identity.key_service import EPOCH_FILE, SERVICE_FILE, FileKeyService, copy_key_file
from cloud.ports import ObjectStore, SystemRandom
from cloud.server.creation import Made, check_free, check_no_device, entries, making
from cloud.server.home import ANCHOR, ARCHIVE_LOCK, SERVE_LOCK, Home
from cloud.server.settings import config_text
from cloud.storage.archive.anchor import AnchorFile
from cloud.storage.archive.names import Names
from cloud.storage.archive.restore import Restored
from cloud.storage.archive.restore_file import restore_file
from cloud.storage.files import alone, write_private
from cloud.storage.objects import open_objects
from sync.errors import AgentDBError, InvalidConfig, InvalidValue

logger = logging.getLogger(__name__)

# What a control plane that lost its store may still have.
_OWN = {configuration.KEYS, configuration.FILE, configuration.PORT, SERVE_LOCK, ARCHIVE_LOCK, "archive"}


def restore_home(
    target: Path,
    url: str,
    keys: Path,
    *,
    options: Mapping[str, str] | None = None,
    position: int | None = None,
    at_ms: int | None = None,
    manifest: int | None = None,
    rehearse: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Restored:
    """``keys`` may be the target's own. Raises InvalidConfig or InvalidValue for what is in the way, and what
    ``restore_file`` raises.
    """
    url = absolute(url)
    _check_target(target, url, rehearse=rehearse)
    objects = open_objects(url, create=False, options=options)
    fleets = FileKeyService(keys, SystemRandom()).fleets()
    if len(fleets) != 1:
        raise InvalidConfig(
            f"{keys} holds the keys of {len(fleets)} fleets, not of one", hint="give the keys directory of the fleet"
        )
    if manifest is not None:
        _check_manifest(objects, fleets[0], manifest)
    with making(target) as around:
        around.directory(target)
        with alone(target), making(target) as made:  # another restore into it waits, and finds what this one made
            _check_target(target, url, rehearse=rehearse)
            made.directory(target)
            own = _copy_keys(keys, target / configuration.KEYS, made)
            settings = target / configuration.FILE
            if not settings.exists():
                made.add(settings)
                write_private(settings, config_text(url, options, write=not rehearse).encode())
            restored = _restore(objects, own, target, fleets, position, at_ms, manifest, progress)
    if not rehearse:
        _go_past_what_was_lost(target)
    return restored


def _go_past_what_was_lost(target: Path) -> None:
    with Home.open(target) as home:
        try:
            home.plane.control.was_restored(home.fleet.fleet)
        except AgentDBError as error:  # whatever it is, the fleet is restored
            logger.warning(
                "what devices run cannot be signed anew: %s (%s). After that is mended, publish twice, or devices that"
                " hold what was lost refuse what comes",
                error.message,
                error.hint,
            )


def _check_manifest(objects: ObjectStore, fleet: bytes, number: int) -> None:
    """Raises InvalidValue for one beyond those that there are."""
    names = Names(fleet)
    found = (names.number_of(info.name) for info in objects.list(names.manifests))
    numbers = [held for held in found if held is not None]
    if numbers and not min(numbers) <= number <= max(numbers):
        raise InvalidValue(f"the archive has no manifest {number}", hint=f"it has {min(numbers)} to {max(numbers)}")


def absolute(url: str) -> str:
    """One way of writing a place: a directory as its path. Raises InvalidConfig for one that nothing outlives."""
    if url.startswith(configuration.FLEETING):
        raise InvalidConfig(f"{url!r} would be gone with the process that wrote it", hint=configuration.PLACES)
    if url.startswith("file://"):
        url = unquote(urlsplit(url).path)
    return url.rstrip("/") if "://" in url else str(Path(url).resolve())


def _restore(
    objects: ObjectStore,
    keys: Path,
    target: Path,
    fleets: list[bytes],
    position: int | None,
    at_ms: int | None,
    manifest: int | None,
    progress: Callable[[int, int], None] | None,
) -> Restored:
    [restored] = restore_file(
        objects,
        FileKeyService(keys, SystemRandom()),
        target / configuration.DATABASE,
        random=SystemRandom(),
        fleets=fleets,
        position=position,
        at_ms=at_ms,
        manifest=manifest,
        anchor=AnchorFile(keys / ANCHOR),
        progress=progress,
    )
    return restored


def _check_target(target: Path, url: str, *, rehearse: bool) -> None:
    found = entries(target)
    database = target / configuration.DATABASE
    if database.exists():
        raise InvalidValue(
            f"{database} exists already", hint="restore into a new directory, or move the old store away"
        )
    if rehearse:
        check_free(target)
    check_no_device(target)
    strange = [entry for entry in found if entry not in _OWN and not entry.startswith(configuration.DATABASE)]
    if strange and configuration.KEYS not in found and configuration.FILE not in found:
        raise InvalidConfig(f"{target} is not empty: it has {strange[0]}", hint="restore into a new directory")
    if configuration.FILE in found:
        named = configuration.load(target / configuration.FILE).archive
        if absolute(configuration.archive_url(named, target)) != url:
            raise InvalidConfig(
                f"{target / configuration.FILE} names another archive than {url}",
                hint="set [archive] url to the one that is restored from, or restore into a new directory",
            )


def _copy_keys(source: Path, own: Path, made: Made) -> Path:
    if own.resolve() == source.resolve():
        return own
    made.directory(own)
    for name in (SERVICE_FILE, EPOCH_FILE, control_key.FILE, ANCHOR):
        if (source / name).exists():
            if not (own / name).exists():
                made.add(own / name)
            copy_key_file(source / name, own / name)
    return own
