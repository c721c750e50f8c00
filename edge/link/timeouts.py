"""Spans of time that callers give."""

from __future__ import annotations

from math import inf
from typing import Any

from sync.errors import InvalidValue

TIMEOUT_S_MAX = 1e9


def milliseconds(timeout_s: Any) -> int | None:
    """Raises InvalidValue for what is not a span of time; years are as good as for ever."""
    if timeout_s is None:
        return None
    if type(timeout_s) not in (int, float) or not timeout_s > 0 or timeout_s == inf:
        raise InvalidValue(
            f"timeout_s is a number of seconds, more than 0, not {timeout_s!r:.40}",
            hint="None waits for as long as it takes",
        )
    return max(1, int(min(timeout_s, TIMEOUT_S_MAX) * 1000))
