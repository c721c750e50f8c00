"""A store that is written and read at the same time, and what is asked of it again and again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge import Edge, Hit

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def both(store: Path) -> Iterator[tuple[Edge, Edge]]:
    """The writer, and a reader."""
    with Edge.open(store) as writer, Edge.open(store, read_only=True) as reader:
        yield writer, reader


def child(script: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done


def keys(hits: Sequence[Hit]) -> set[str]:
    return {hit.key for hit in hits}


def contents(store: Path) -> dict[str, str]:
    """Of every file but what SQLite's readers share."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }
