"""A directory that is there whole or not at all, whatever interrupts its making.

Not imported at the start of a process: ``tempfile`` alone would cost some of the milliseconds that a cold put may take.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from edge.storage.log_schema import sync_directory, translate
from edge.storage.store_making import make_directory


@contextmanager
def appearing(target: str) -> Iterator[str]:
    """A new directory beside ``target`` that becomes it if the block ends well, and is gone otherwise. Raises
    InvalidValue, StorageError.
    """
    above, name = os.path.split(target)
    make_directory(above)
    try:
        draft = tempfile.mkdtemp(prefix=f".{name}-", dir=above)  # 0700
    except OSError as error:
        raise translate(error, target) from error
    try:
        yield draft
        os.rename(draft, target)
        sync_directory(above)
    except OSError as error:
        raise translate(error, target) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # it is not there any more, if all went well
