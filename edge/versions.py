"""What is installed, for ``status`` and reports of problems: asked for without importing any of it."""

from __future__ import annotations

import platform
from importlib import metadata

from edge.storage.log_schema import sqlite_version


def versions() -> dict[str, str]:
    """Name -> version, or "not installed"."""
    out = {"python": platform.python_version(), "sqlite": sqlite_version()}
    for name in ("agentdb-edge", "lancedb", "numpy"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out
