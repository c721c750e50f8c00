"""Twins: two JSON documents of a device, what it should be (*desired*) and what it says that it is (*reported*).

They merge as AWS IoT's device shadows do, which is RFC 7396 (JSON Merge Patch): objects merge, null deletes, arrays and
scalars replace. RFC 7396 alone cannot say "this object instead of what was there", so two patches of it cannot always
be made one ({"a": 1}, then {"a": {"b": 2}}: what else was in a must go). Here an object whose empty name is null says
it: ``{"a": {"": null, "b": 2}}``. The empty name is therefore no name in a document.

What always holds: documents are values, and nothing that was passed in is changed; a document has no null and no empty
name; ``merge(merge(d, p), q) == merge(d, compact([p, q]))`` and ``delta(d, merge(r, delta(d, r))) == {}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final

import msgspec

from sync.errors import InvalidValue, Malformed, TooLarge
from sync.limits import JSON_INT_MAX
from sync.values import brief

STATE_BYTES_MAX: Final = 63 << 10
PATCH_BYTES_MAX: Final = 64 << 10  # so that it can be a whole state, and say so
DEPTH_MAX: Final = 16
NAME_BYTES_MAX: Final = 128
AGENTS: Final = "agents"
"""``state["agents"][name]`` is an agent's own."""
SYSTEM: Final = "agentdb"
"""``reported["agentdb"]`` is what the device says of itself: its number of the configuration, outcomes of targets."""

_REPLACE: Final = ""

Document = dict[str, Any]
Patch = dict[str, Any]


def merge(document: Mapping[str, Any], patch: Mapping[str, Any]) -> Document:
    """The document after the patch."""
    merged: Document = {} if _REPLACE in patch else dict(document)
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, Mapping):
            before = merged.get(name)
            merged[name] = merge(before if isinstance(before, Mapping) else {}, change)
        else:
            merged[name] = change
    return merged


def compact(patches: Iterable[Mapping[str, Any]]) -> Patch:
    """One patch that does what these do one after the other; no larger than all that they say of a name last."""
    done: Patch = {}
    for patch in patches:
        done = _then(done, patch)
    return done


def delta(desired: Mapping[str, Any], reported: Mapping[str, Any]) -> Document:
    """What desired has and reported has not, or has otherwise; what only reported has is its own affair."""
    missing: Document = {}
    for name, wanted in desired.items():
        if name not in reported:
            missing[name] = wanted
        elif isinstance(wanted, Mapping) and isinstance(reported[name], Mapping):
            if below := delta(wanted, reported[name]):
                missing[name] = below
        elif not same(wanted, reported[name]):
            missing[name] = wanted
    return missing


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, but true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def whole(document: Mapping[str, Any]) -> Patch:
    """The patch that makes any document this one."""
    return {_REPLACE: None, **document}


def check_document(document: Any, bytes_max: int = STATE_BYTES_MAX) -> bytes:
    """Its bytes, the same for equal documents. Raises InvalidValue, TooLarge."""
    return _encode(document, bytes_max, nulls=False)


def check_patch(patch: Any, bytes_max: int = PATCH_BYTES_MAX) -> bytes:
    """As ``check_document``, where null deletes and an empty name with null replaces. Raises InvalidValue, TooLarge."""
    return _encode(patch, bytes_max, nulls=True)


def read_document(data: bytes) -> Document:
    """What ``check_document`` made. Raises Malformed."""
    return _read(data, check_document)


def read_patch(data: bytes) -> Patch:
    """What ``check_patch`` made. Raises Malformed."""
    return _read(data, check_patch)


def _then(first: Mapping[str, Any], second: Mapping[str, Any]) -> Patch:
    if _REPLACE in second:
        return dict(second)
    done = dict(first)
    for name, change in second.items():
        before = done.get(name)
        if isinstance(change, Mapping) and isinstance(before, Mapping):
            done[name] = _then(before, change)
        elif isinstance(change, Mapping) and name in done:  # it was deleted or made a scalar: nothing of it is left
            done[name] = {_REPLACE: None, **change}
        else:
            done[name] = change
    return done


def _encode(value: Any, bytes_max: int, *, nulls: bool) -> bytes:
    if not isinstance(value, dict):
        raise InvalidValue("a twin's state is a JSON object", hint='such as {"log_level": "info"}')
    _check(value, 1, nulls=nulls)
    try:
        data = msgspec.json.encode(value, order="deterministic")
    except UnicodeEncodeError as error:
        raise InvalidValue("a twin has text that is not Unicode") from error
    if len(data) > bytes_max:
        raise TooLarge(f"a twin of {len(data)} bytes; {bytes_max} are the most", hint="data belongs in records")
    return data


def _check(value: Any, depth: int, *, nulls: bool) -> None:
    if depth > DEPTH_MAX:
        raise InvalidValue(f"a twin is nested deeper than {DEPTH_MAX}")
    if isinstance(value, dict):
        for name, below in value.items():
            _check_name(name, below, nulls=nulls)
            if below is None and nulls:
                continue
            _check(below, depth + 1, nulls=nulls)
    elif isinstance(value, list):
        for below in value:
            _check(below, depth + 1, nulls=False)
    elif isinstance(value, float):
        if not isfinite(value):
            raise InvalidValue(f"{value} is no number of JSON")
    elif isinstance(value, int):
        if abs(value) > JSON_INT_MAX:
            raise InvalidValue(f"{brief(value)} is over 2^53 - 1, what JSON carries", hint="as a string")
    elif not isinstance(value, str):
        what = "null" if value is None else type(value).__name__
        raise InvalidValue(f"a twin holds no {what}", hint="JSON values; null only deletes, in a patch")


def _check_name(name: Any, below: Any, *, nulls: bool) -> None:
    if not isinstance(name, str):
        raise InvalidValue(f"a name in a twin is a string, not {name!r:.40}")
    if name == _REPLACE:
        if not nulls or below is not None:
            raise InvalidValue("the empty name is no name", hint='in a patch {"": null, …} replaces what was there')
    elif len(name.encode(errors="replace")) > NAME_BYTES_MAX:
        raise TooLarge(f"a name in a twin is over {NAME_BYTES_MAX} bytes: {name[:20]!r}…")


def _read(data: bytes, check: Any) -> Document:
    try:
        read = msgspec.json.decode(data)
        check(read)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidValue, TooLarge) as error:
        raise Malformed(f"not a twin's state: {error}") from error
    assert isinstance(read, dict)
    return read
