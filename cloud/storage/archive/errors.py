"""What can be wrong with an archive, beyond the plain ``DataError``s of a damaged object.

::

    BrokenChain
    ├── MissingObject       a manifest names an object that is not there, or a manifest itself is gone
    └── RolledBack          the newest manifest is older than the one that this key holder has committed or demands
    StorageError
    └── ForeignArchive      somebody else continued this archive: this server must not write to it

Every error that an object causes begins with the name of that object (``naming``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sync.errors import BrokenChain, DataError, StorageError, TooLarge


class MissingObject(BrokenChain):
    code = "missing-object"


class RolledBack(BrokenChain):
    code = "archive-rolled-back"


class ForeignArchive(StorageError):
    code = "foreign-archive"


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors of the data inside become errors of the same type that say which object it was."""
    try:
        yield
    except (DataError, TooLarge) as error:
        if error.message.startswith(name):
            raise
        raise type(error)(f"{name}: {error.message}", hint=error.hint or DAMAGED_HINT) from error


DAMAGED_HINT = "look for an older version of the object, or restore an earlier state: restore --manifest N"
