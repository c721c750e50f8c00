"""The tables of a policy's schema, version 1: what each has, and from a document and back (ADR 24, docs/FLEET.md).

What always holds: an unknown key, a missing one or a value out of bounds raises InvalidPolicy; what is as by default is
not in the document, so that policies that mean the same are the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sync import policy_checks as checks
from sync.errors import InvalidPolicy
from sync.limits import JSON_INT_MAX
from sync.policy_checks import Check, choice, number, texts, whole
from sync.precisions import PRECISIONS

DIRECTIONS = ("both", "up", "down", "local", "absent")
PRIORITIES = ("urgent", "normal", "bulk")
VECTOR_FORMS = (*PRECISIONS, "none")
ACTIONS = ("read", "write")
KINDS = ("semantic", "episodic", "procedural", "working")  # of memories
_DAYS_MAX = 36_500
_BYTES_MAX = 1 << 50


class Urgent(NamedTuple):
    """A write whose ``field`` is a number ``at_least`` so great is urgent."""

    field: str
    at_least: float


class SyncRule(NamedTuple):
    """For which places, and how they sync. Either ``collections`` (perhaps of some ``prefixes`` of keys only) or
    ``agents`` (perhaps of some ``namespaces`` only). 0 is no bound; ``vectors`` is "" for the form that was declared.
    """

    collections: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    direction: str = "both"
    priority: str = "normal"
    urgent_when: Urgent | None = None
    interval_s: int = 0
    record_bytes_max: int = 0
    age_days_max: int = 0
    vectors: str = ""


class MergeRule(NamedTuple):
    collection: str
    conflict: str


class Retention(NamedTuple):
    """The cloud's own replica deletes what has not been written to for so long."""

    collection: str
    delete_days: int


class Forget(NamedTuple):
    """``edge.Forgetting`` of memories, every so often."""

    agent: str
    namespaces: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("episodic", "working")
    min_retention: float = 0.0
    keep: int | None = None
    older_than_days: float = 0.0
    every_hours: int = 24


class StoreRule(NamedTuple):
    quota_mib: int = 0


class LinkRule(NamedTuple):
    """A budget of a class of links; 0 is no bound. ``urgent_share`` of a day is kept for control and urgent."""

    link_class: str
    bytes_per_day: int = 0
    bytes_per_s: int = 0
    burst_bytes: int = 262_144
    urgent_share: float = 0.0
    lanes: tuple[str, ...] = PRIORITIES


class LogRule(NamedTuple):
    """``level`` "": as the device's program has it."""

    level: str = ""


class Grant(NamedTuple):
    """Collections, or what an agent has of its own, by action."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


class AgentRule(NamedTuple):
    """``allow`` None: all that is not denied; else that alone."""

    name: str
    allow: Grant | None = None
    deny: Grant = Grant()


class CedarRule(NamedTuple):
    text: str


class Staleness(NamedTuple):
    after_hours: int
    do: str


Keys = Mapping[str, Check]


class Table(NamedTuple):
    """``make`` of the values of ``keys``; of a list of them there are ``most``, all different by ``by``."""

    make: type[Any]
    keys: Keys
    most: int = 0
    by: tuple[str, ...] = ()


_FIELDS = {"class": "link_class"}  # where a key is a word of Python's
_KEYS = {field: key for key, field in _FIELDS.items()}


def _nested(make: type[Any], keys: Keys) -> Check:
    return lambda where, value: read_table(where, value, Table(make, keys))


_GRANT = _nested(Grant, {action: texts(checks.permitted) for action in ACTIONS})

TABLES: dict[str, Table] = {
    "sync": Table(
        SyncRule,
        {
            "collections": texts(checks.collections),
            "agents": texts(checks.agents),
            "namespaces": texts(checks.namespace),
            "prefixes": texts(checks.prefix),
            "direction": choice(*DIRECTIONS),
            "priority": choice(*PRIORITIES),
            "urgent_when": _nested(
                Urgent, {"field": checks.field_name, "at_least": number(-JSON_INT_MAX, JSON_INT_MAX)}
            ),
            "interval_s": whole(0, 7 * 86_400),
            "record_bytes_max": whole(0, 1 << 30),
            "age_days_max": whole(0, _DAYS_MAX),
            "vectors": choice(*VECTOR_FORMS),
        },
        256,
    ),
    "merge": Table(MergeRule, {"collection": checks.collection, "conflict": checks.conflict}, 256, ("collection",)),
    "retention": Table(
        Retention, {"collection": checks.collection, "delete_days": whole(1, _DAYS_MAX)}, 256, ("collection",)
    ),
    "forget": Table(
        Forget,
        {
            "agent": checks.agents,
            "namespaces": texts(checks.namespace),
            "kinds": texts(choice(*KINDS)),
            "min_retention": number(0, 1),
            "keep": whole(0, 1_000_000_000),
            "older_than_days": number(0, _DAYS_MAX),
            "every_hours": whole(1, 8_760),
        },
        64,
    ),
    "store": Table(StoreRule, {"quota_mib": whole(0, 1 << 40)}),
    "link": Table(
        LinkRule,
        {
            "class": checks.link_class,
            "bytes_per_day": whole(0, _BYTES_MAX),
            "bytes_per_s": whole(0, _BYTES_MAX),
            "burst_bytes": whole(16_384, 1 << 30),
            "urgent_share": number(0, 1),
            "lanes": texts(choice(*PRIORITIES)),
        },
        16,
        ("link_class",),
    ),
    "log": Table(LogRule, {"level": choice("debug", "info", "warning", "error")}),
    "agent": Table(AgentRule, {"name": checks.agents, "allow": _GRANT, "deny": _GRANT}, 64, ("name",)),
    "cedar": Table(CedarRule, {"text": checks.program(65_536)}),
    "staleness": Table(
        Staleness,
        {"after_hours": whole(1, 87_600), "do": choice("report", "bulk-off", "writes-local")},
        8,
        ("do",),
    ),
}


def read_table(where: str, document: Any, table: Table) -> Any:
    """Raises InvalidPolicy."""
    if type(document) is not dict:
        raise checks.wrong(where, document, f"a table of {', '.join(table.keys)}")
    values: dict[str, Any] = {}
    key: str
    for key, value in document.items():
        check = table.keys.get(key)
        if check is None:
            raise InvalidPolicy(f"{where} has no key {key!r:.80}", hint=f"known are {', '.join(table.keys)}")
        values[_FIELDS.get(key, key)] = check(f"{where}: {key}", value)
    for field in table.make._fields:
        if field not in values and field not in table.make._field_defaults:
            raise InvalidPolicy(f"{where} has no {_KEYS.get(field, field)!r}", hint="it cannot be left out")
    return table.make(**values)


def read_list(name: str, document: Any, table: Table) -> tuple[Any, ...]:
    """Raises InvalidPolicy."""
    if type(document) is not list:
        raise checks.wrong(name, document, f"each is a table of its own, under [[{name}]]")
    if len(document) > table.most:
        raise InvalidPolicy(f"there are {len(document)} of [[{name}]]", hint=f"the most are {table.most}")
    found = tuple(read_table(f"[[{name}]] {at}", one, table) for at, one in enumerate(document, 1))
    for field in table.by:
        values = [getattr(one, field) for one in found]
        for at, value in enumerate(values, 1):
            if value in values[: at - 1]:
                key = _KEYS.get(field, field)
                raise InvalidPolicy(f"[[{name}]] {at}: {key} {value!r:.80} is there twice", hint="say all of it once")
    return found


def written(table: Any) -> dict[str, Any]:
    """The document of a table, without what is as by default."""
    out: dict[str, Any] = {}
    for field in table._fields:
        value = getattr(table, field)
        if field in table._field_defaults and value == table._field_defaults[field]:
            continue
        key = _KEYS.get(field, field)
        if isinstance(value, tuple):
            out[key] = written(value) if hasattr(value, "_fields") else list(value)
        else:
            out[key] = value
    return out
