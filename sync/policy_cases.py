"""Cases: what a policy is expected to say of places and agents, written down beside it, so that an edit that changes
more than was meant is found before it is published.

    [[case]]                                   [[case]]
    collection = "sensors.pressure"            agent = "guide"
    key = "north/7"                            action = "write"
    fields = {importance = 9}                  collection = "notes"
    expect = {direction = "both",              expect = {allowed = true}
              lane = "urgent"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sync import policy_checks as checks
from sync.errors import InvalidPolicy
from sync.limits import JSON_INT_MAX
from sync.permissions import Permissions
from sync.policy import Policy
from sync.policy_tables import ACTIONS, DIRECTIONS, PRIORITIES, VECTOR_FORMS
from sync.scope import ScopeTable
from sync.values import brief, check_collection_name, check_key

CASES_MAX = 1_000


def _truth(where: str, value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidPolicy(f"{where} is {brief(value)}", hint="true or false")
    return value


_PLACE = {"collection", "key", "fields", "expect", "name"}
_AGENT = {"agent", "action", "collection", "expect", "name"}
_OF_PLACES: dict[str, checks.Check] = {
    "rule": checks.whole(0, 256),
    "in_scope": _truth,
    "direction": checks.choice(*DIRECTIONS),
    "priority": checks.choice(*PRIORITIES),
    "lane": checks.choice(*PRIORITIES),
    "interval_s": checks.whole(0, JSON_INT_MAX),
    "record_bytes_max": checks.whole(0, JSON_INT_MAX),
    "age_days_max": checks.whole(0, JSON_INT_MAX),
    "vectors": checks.choice("", *VECTOR_FORMS),
}
_OF_AGENTS: dict[str, checks.Check] = {"allowed": _truth}


class Case(NamedTuple):
    """``agent`` "": of a place."""

    name: str
    collection: str
    expect: Mapping[str, Any]
    key: str = ""
    fields: Mapping[str, Any] = {}
    agent: str = ""
    action: str = ""


class Outcome(NamedTuple):
    """``wrong`` maps what is not as expected to (expected, found)."""

    case: Case
    wrong: Mapping[str, tuple[Any, Any]]


def read_cases(document: Mapping[str, Any]) -> list[Case]:
    """Of a parsed document. Raises InvalidPolicy, InvalidValue, TooLarge."""
    cases = document.get("case")
    if set(document) != {"case"} or not isinstance(cases, list) or not cases:
        raise InvalidPolicy("cases are [[case]] tables and nothing else", hint="with collection, key and expect")
    if len(cases) > CASES_MAX:
        raise InvalidPolicy(f"there are {len(cases)} cases", hint=f"the most are {CASES_MAX:,}")
    return [_case(f"[[case]] {at}", one) for at, one in enumerate(cases, 1)]


def try_cases(policy: Policy, cases: list[Case]) -> list[Outcome]:
    """In their order. Cedar is not asked: it is on devices alone."""
    table, permissions = ScopeTable(policy.sync), Permissions(policy.agents)
    return [_tried(case, table, permissions) for case in cases]


def _tried(case: Case, table: ScopeTable, permissions: Permissions) -> Outcome:
    if case.agent:
        found: dict[str, Any] = {"allowed": permissions.may(case.agent, case.action, case.collection)}
    else:
        rule = table.rule(case.collection, case.key)
        found = {**rule._asdict(), "rule": rule.number, "in_scope": rule.in_scope, "lane": rule.lane(case.fields)}
    wrong = {what: (value, found[what]) for what, value in case.expect.items() if found[what] != value}
    return Outcome(case, wrong)


def _case(where: str, document: Any) -> Case:
    if not isinstance(document, dict):
        raise checks.wrong(where, document, "a table")
    known = _AGENT if "agent" in document else _PLACE
    for key in document:
        if key not in known:
            raise InvalidPolicy(f"{where} has no key {key!r:.80}", hint=f"known are {', '.join(sorted(known))}")
    needed = sorted(known - {"name", "fields"} - set(document))
    if needed:
        raise InvalidPolicy(f"{where} has no {needed[0]!r}", hint="it cannot be left out")
    expect, fields = document["expect"], document.get("fields", {})
    expectable = _OF_AGENTS if "agent" in document else _OF_PLACES
    if not isinstance(expect, dict) or not expect or not set(expect) <= set(expectable):
        raise checks.wrong(f"{where}: expect", expect, f"a table of {', '.join(expectable)}")
    if not isinstance(fields, dict):
        raise checks.wrong(f"{where}: fields", fields, "a table of the fields that are written")
    expect = {what: expectable[what](f"{where}: expect: {what}", value) for what, value in expect.items()}
    name = str(document.get("name", where))
    if "agent" in document:
        agent = checks.agents(f"{where}: agent", document["agent"])
        action = checks.choice(*ACTIONS)(f"{where}: action", document["action"])
        collection = checks.permitted(f"{where}: collection", document["collection"])
        return Case(name, collection, expect, agent=agent, action=action)
    collection = check_collection_name(document["collection"])
    return Case(name, collection, expect, check_key(document["key"]), fields)
