"""Copying a fleet's archive to another object store, up to the newest manifest that its control plane stands behind.

The copy is byte for byte, damage included: what it is worth says ``verify``. What always holds: manifests come last and
in order, so an interrupted copy is continued by the next; nothing at the target is replaced, and a target that holds
another archive of this fleet is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cloud.ports import ObjectStore
from cloud.storage.archive.errors import MissingObject
from cloud.storage.archive.names import Names
from cloud.storage.archive.putter import Putter
from sync.errors import InvalidValue, NotFound

Progress = Callable[[int, int], None]

_AT_ONCE = 6  # objects in memory


class Copied(NamedTuple):
    objects: int
    bytes: int


def check_free(target: ObjectStore, fleet: bytes, up_to: int = 0) -> None:
    """Raises InvalidValue if an archive of this fleet with more than ``up_to`` manifests is there."""
    names = Names(fleet)
    found = next(iter(target.list(names.manifests, names.manifest(up_to) if up_to else "")), None)
    if found is not None:
        raise InvalidValue(
            "there is another archive of this fleet at the new place", hint="choose an empty place; nothing was changed"
        )


def copy_archive(
    source: ObjectStore, target: ObjectStore, fleet: bytes, up_to: int, progress: Progress | None = None
) -> Copied:
    """Manifests 1 to ``up_to`` and everything else that is there. ``progress`` counts objects.

    Raises InvalidValue for a target that is in use, MissingObject if the source has a gap, and what the object stores
    raise.
    """
    check_free(target, fleet, up_to)
    names, putter = Names(fleet), Putter(target)
    others = [info.name for info in source.list(names.root) if names.number_of(info.name) is None]
    total = len(others) + up_to
    for start in range(0, len(others), _AT_ONCE):
        putter.put([(name, _get(source, name)) for name in others[start : start + _AT_ONCE]])
        if progress is not None:
            progress(putter.objects, total)
    for number in range(1, up_to + 1):
        name = names.manifest(number)
        if not putter.commit(name, _get(source, name)):
            raise InvalidValue(
                f"{name}: there is another one at the new place", hint="choose an empty place; nothing was changed"
            )
        if progress is not None:
            progress(putter.objects, total)
    return Copied(putter.objects, putter.bytes)


def _get(source: ObjectStore, name: str) -> bytes:
    try:
        return source.get(name)
    except NotFound as error:
        raise MissingObject(
            f"{name}: the object is missing",
            hint="what is left cannot be moved; --fresh begins a new archive with what the control plane holds",
        ) from error
