"""The level of this software's log, as the active policies of the stores want it that a process writes.

What always holds: of several the most talkative one holds; after the last of them the level is what the program had
set, unless the program has changed it meanwhile.
"""

from __future__ import annotations

import logging
from threading import Lock

_log = logging.getLogger("agentdb.edge")
_lock = Lock()
_wanted: dict[str, int] = {}  # by the log's path
_before = logging.NOTSET
_set = logging.NOTSET


def want(store: str, level: str) -> None:
    """``level`` is debug, info, warning or error; "": the store wants none any more."""
    global _before, _set  # noqa: PLW0603 - loggers are the process's, too
    with _lock:
        if not level and store not in _wanted:
            return
        if not _wanted:
            _before = _set = _log.level
        _wanted.pop(store, None)
        if level:
            _wanted[store] = getattr(logging, level.upper())
        if _log.level == _set:
            _set = min(_wanted.values(), default=_before)
            _log.setLevel(_set)
