"""A control plane's directory made anew from the archive and the keys.

What always holds: the keys come first and the store last, whole and verified, under its name; so a directory in which a
restore was interrupted has no store, and the same command may be given again. Nothing that exists is overwritten. The
archive that was restored from is the one that the new directory continues, unless it has a configuration of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cloud import config as configuration
from cloud.identity.key_service import EPOCH_FILE, SERVICE_FILE, FileKeyService, copy_key_file
from cloud.ports import SystemRandom
from cloud.server.home import ANCHOR, config_text
from cloud.storage.archive.anchor import AnchorFile
from cloud.storage.archive.restore import Restored
from cloud.storage.archive.restore_file import restore_file
from cloud.storage.objects import open_objects
from sync.errors import InvalidConfig, InvalidValue


def restore_home(
    target: Path,
    url: str,
    keys: Path,
    *,
    options: Mapping[str, str] | None = None,
    position: int | None = None,
    at_ms: int | None = None,
    manifest: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Restored:
    """``keys`` may be the target's own. Raises InvalidConfig or InvalidValue for what is in the way, and what
    ``restore_file`` raises.
    """
    database = target / configuration.DATABASE
    if database.exists():
        raise InvalidValue(
            f"{database} exists already", hint="restore into a new directory, or move the old store away"
        )
    if "://" not in url:
        url = str(Path(url).resolve())
    objects = open_objects(url, create=False, options=options)
    fleets = FileKeyService(keys, SystemRandom()).fleets()
    if len(fleets) != 1:
        raise InvalidConfig(f"{keys} holds the keys of {len(fleets)} fleets, not of one")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = target / configuration.KEYS
    if own.resolve() != keys.resolve():
        own.mkdir(mode=0o700, exist_ok=True)
        for name in (SERVICE_FILE, EPOCH_FILE, ANCHOR):
            if (keys / name).exists():
                copy_key_file(keys / name, own / name)
    settings = target / configuration.FILE
    if not settings.exists():
        settings.write_text(config_text(url, options), encoding="utf-8")
    [restored] = restore_file(
        objects,
        FileKeyService(own, SystemRandom()),
        database,
        random=SystemRandom(),
        fleets=fleets,
        position=position,
        at_ms=at_ms,
        manifest=manifest,
        anchor=AnchorFile(own / ANCHOR),
        progress=progress,
    )
    return restored
