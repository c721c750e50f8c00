"""What differs between two policies: tables by what they are about, and what comes into scope or goes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sync.policy import Policy
from sync.policy_tables import TABLES
from sync.scope import ScopeTable, changed

# What a table is about: two tables of both policies that are equal in this are one that was changed.
_ABOUT = {
    "sync": ("collections", "agents", "namespaces", "prefixes"),
    "merge": ("collection",),
    "retention": ("collection",),
    "forget": ("agent", "namespaces", "kinds"),
    "link": ("class",),
    "agent": ("name",),
    "staleness": ("do",),
}


class Change(NamedTuple):
    """``what``: added, removed, changed, moved (of [[sync]] and [[agent]], whose order decides), gained, lost (of the
    scope). ``before`` and ``after`` are values of the documents, None where there is none.
    """

    what: str
    where: str
    key: str
    before: Any
    after: Any


def diff(old: Policy, new: Policy) -> list[Change]:
    """In the order of the schema; the scope comes last. Empty: they mean the same."""
    was, becomes = old.to_document(), new.to_document()
    found: list[Change] = []
    for key in [key for key in ("name", *TABLES) if key in was or key in becomes]:
        if key in _ABOUT:
            found += _lists(key, was.get(key, []), becomes.get(key, []))
        elif isinstance(was.get(key, {}), dict):
            found += _tables(f"[{key}]", was.get(key, {}), becomes.get(key, {}))
        elif was[key] != becomes[key]:
            found.append(Change("changed", "", key, was[key], becomes[key]))
    scope = changed(ScopeTable(old.sync), ScopeTable(new.sync))
    for what, regions in (("gained", scope.gains), ("lost", scope.loses)):
        found += [Change(what, "scope", str(region), None, None) for region in map(_shown, sorted(regions))]
    return found


def _shown(region: tuple[str, str, str]) -> str:
    of, name, part = region
    return f"{of} {name}, {'prefix' if of == 'collection' else 'namespace'} {part}" if part else f"{of} {name}"


def _lists(name: str, was: list[dict[str, Any]], becomes: list[dict[str, Any]]) -> Iterator[Change]:
    before, after = _by_subject(name, was), _by_subject(name, becomes)
    for about, table in before.items():
        if about not in after:
            yield Change("removed", f"[[{name}]] {about}", "", table, None)
    for about, table in after.items():
        if about not in before:
            yield Change("added", f"[[{name}]] {about}", "", None, table)
        else:
            yield from _tables(f"[[{name}]] {about}", before[about], table)
    if name in ("sync", "agent"):
        kept = [about for about in before if about in after]
        order = [about for about in after if about in before]
        for place, (one, other) in enumerate(zip(kept, order, strict=True), 1):
            if one != other:
                yield Change("moved", f"[[{name}]] {other}", "", kept.index(other) + 1, place)


def _by_subject(name: str, tables: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those that are about the same are numbered."""
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        words = [f"{key} {_text(table[key])}" for key in _ABOUT[name] if key in table]
        about, number = ", ".join(words), 1
        while (at := about if number == 1 else f"{about} ({number})") in found:
            number += 1
        found[at] = table
    return found


def _tables(where: str, was: dict[str, Any], becomes: dict[str, Any]) -> Iterator[Change]:
    for key in dict.fromkeys([*was, *becomes]):
        if was.get(key) != becomes.get(key):
            yield Change("changed", where, key, was.get(key), becomes.get(key))


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
