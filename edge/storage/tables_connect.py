"""LanceDB, opened with bounds: its own caches are 7 GiB, and too few threads hang it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lancedb.db import DBConnection

INDEX_CACHE_BYTES = 32 << 20
METADATA_CACHE_BYTES = 16 << 20


def connect(folder: Path) -> DBConnection:
    """A connection with empty caches to the tables in ``folder``, which is made if need be."""
    _bound_threads()
    import lancedb

    folder.mkdir(parents=True, exist_ok=True)
    session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES)
    return lancedb.connect(folder, session=session)


def _bound_threads() -> None:
    """Lance hangs on its first write with one I/O thread and can deadlock in text search with one CPU thread."""
    for name in ("LANCE_IO_THREADS", "LANCE_CPU_THREADS"):
        wanted = os.environ.get(name, "")
        threads = int(wanted) if wanted.isdecimal() else (os.cpu_count() or 1)
        if threads < 2:
            os.environ[name] = "2"
