"""The record of a memory: its fields, and what may be in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from edge.agent.scoring import KINDS
from edge.storage.filters import DEPTH_MAX
from sync.errors import InvalidValue
from sync.values import python_scalar

MEMORIES = "agent.memories"
_LAST_MS = 253_402_300_799_999  # of the year 9999
FIELDS: dict[str, str] = {
    "agent": "str",
    "archived_at": "int",
    "consolidated_at": "int",
    "created_at": "int",
    "expires_at": "int",
    "importance": "float",
    "invalid_at": "int",
    "kind": "str",
    "metadata": "json",
    "name": "str",
    "namespace": "str",
    "superseded_by": "str",
    "supersedes": "str",
    "text": "str",
    "valid_at": "int",
}
_RENAMED = {"key": "name"}


class Remembered(NamedTuple):
    """A memory as it is stored. Times are milliseconds since 1970, or None."""

    id: str
    text: str
    kind: str
    importance: float
    created_at: int
    valid_at: int
    invalid_at: int | None
    expires_at: int | None
    archived_at: int | None
    key: str | None
    supersedes: str | None
    superseded_by: str | None
    metadata: Mapping[str, Any]


_ASKED = {name: _RENAMED.get(name, name) for name in Remembered._fields if name != "id"}


def shown(memory: str, fields: Mapping[str, Any]) -> Remembered:
    get = fields.get
    return Remembered(
        memory,
        get("text", ""),
        get("kind", "episodic"),
        get("importance", 0.5),
        get("created_at", 0),
        get("valid_at", 0),
        get("invalid_at"),
        get("expires_at"),
        get("archived_at"),
        get("name"),
        get("supersedes"),
        get("superseded_by"),
        get("metadata") or {},
    )


def fields_asked(given: Any, depth: int = 0) -> Any:
    """A filter over what ``Remembered`` shows and over metadata, as one over the record's fields. What is not a filter
    is left to who reads it.
    """
    if not isinstance(given, Mapping) or depth >= DEPTH_MAX:
        return given
    asked: dict[Any, Any] = {}
    for name, value in given.items():
        if name in ("$and", "$or") and isinstance(value, (list, tuple)):
            asked[name] = [fields_asked(one, depth + 1) for one in value]
        elif name == "$not":
            asked[name] = fields_asked(value, depth + 1)
        elif type(name) is not str or not name or name.startswith(("$", "metadata.")) or name in _ASKED:
            asked[_ASKED.get(name, name)] = value
        else:
            asked[f"metadata.{name}"] = value
    return asked


def has_ended(fields: Mapping[str, Any], now: int) -> bool:
    """Whether it is superseded, retracted, expired or archived by now."""
    return fields.get("archived_at") is not None or any(
        fields.get(name) is not None and fields[name] <= now for name in ("invalid_at", "expires_at")
    )


def check_kinds(kinds: Any) -> list[str]:
    if isinstance(kinds, str) or not isinstance(kinds, Iterable) or not (found := list(kinds)):
        raise InvalidValue(f"kinds are a list of kinds of memory, not {kinds!r:.60}", hint=f"of {', '.join(KINDS)}")
    for kind in found:
        if kind not in KINDS:
            raise InvalidValue(f"not a kind of memory: {kind!r:.60}", hint=f"one of {', '.join(KINDS)}")
    return found


def unit(what: str, value: Any) -> float:
    value = python_scalar(value)
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise InvalidValue(f"{what} is a number from 0 to 1, not {value!r:.40}")
    return float(value)


def moment(what: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if type(value) is not int or not 0 <= value <= _LAST_MS:
        raise InvalidValue(
            f"{what} is a whole number of milliseconds since 1970, up to 9999, not {value!r:.40}",
            hint="int(moment.timestamp() * 1000) of a datetime",
        )
    return value
