"""Paths that callers give. Apart from ``durable``, since opening a store imports as little as it can."""

from __future__ import annotations

import os
from typing import Any

from sync.errors import InvalidValue


def path_of(what: str, path: Any) -> str:
    """The absolute path that a caller gave. Raises InvalidValue for what is none: an empty one would be the directory
    that the process happens to be in.
    """
    found = os.fspath(path) if isinstance(path, os.PathLike) else path
    try:
        if type(found) is not str or not found or b"\0" in os.fsencode(found):
            raise InvalidValue(f"the path of {what} is a non-empty string or Path, not {path!r:.60}")
    except UnicodeEncodeError as error:
        raise InvalidValue(f"the path of {what} is not valid Unicode: {error.reason}") from error
    return os.path.abspath(found)  # noqa: PTH100 - it takes away "..", and follows no links


def has_models(store: str) -> bool:
    """Whether a store has files of models: without any, nothing is looked for, or imported."""
    return os.path.isdir(os.path.join(store, "models"))  # noqa: PTH112, PTH118 - as above
