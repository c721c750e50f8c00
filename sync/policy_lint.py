"""What in a policy is valid and yet likely a mistake: rules that nothing meets, limits without effect, and, with the
fleet's schemas, names and precisions that do not go with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sync.budgets import BYTES_PER_DAY_MIN
from sync.errors import InvalidPolicy
from sync.patterns import Patterns, one_of
from sync.policy import Policy
from sync.policy_tables import SyncRule
from sync.precisions import PRECISIONS, stored_bytes
from sync.schema import CollectionSchema
from sync.scope import Region, ScopeTable

ERROR, WARNING = "error", "warning"
_NOT_SENT = ("interval_s", "record_bytes_max", "urgent_when", "priority")


class Finding(NamedTuple):
    """``level`` "error": the policy would not do what it says; "warning": it may be meant."""

    level: str
    where: str
    message: str
    hint: str


def lint(policy: Policy, schemas: Mapping[str, CollectionSchema] | None = None) -> list[Finding]:
    """``schemas`` None: what would need the fleet's declarations is not looked at."""
    found = [*_rules(policy), *_links(policy), *_retention(policy), *_agents(policy)]
    if schemas is not None:
        found += [*_names(policy, schemas), *_forms(policy, schemas), *_merges(policy, schemas)]
    return found


def program(policy: Policy) -> list[Finding]:
    """Whether Cedar takes the policy's text; that it was not asked, where cedarpy is not installed."""
    if policy.cedar is None:
        return []
    from sync import cedar  # noqa: PLC0415 - few policies have one

    if not cedar.is_here():
        hint = "the extra `cedar`; devices refuse the policy if Cedar does not take it"
        return [Finding(WARNING, "[cedar]", "was not checked: cedarpy is not installed here", hint)]
    try:
        cedar.Cedar(policy.cedar.text)
    except InvalidPolicy as error:
        return [Finding(ERROR, "[cedar]", error.message.removeprefix("[cedar]: "), error.hint)]
    return []


def differing(policy: Policy, fleets: Policy, path: str) -> list[Finding]:
    """Where it would have the cloud do something else than the policy at ``path``, by which the cloud goes now: for all
    devices alike, so a policy for some of them cannot.
    """
    found = []
    for table in ("merge", "retention"):
        if set(getattr(policy, table)) != set(getattr(fleets, table)):
            message = f"is not as in {path}, by which the cloud goes until this one is all devices'"
            hint = "of the policies of one fleet, have the same [[merge]] and [[retention]]"
            found.append(Finding(WARNING, f"[[{table}]]", message, hint))
    return found


def _rules(policy: Policy) -> Iterator[Finding]:
    reached = ScopeTable(policy.sync).reached()
    for at, rule in enumerate(policy.sync, 1):
        where = f"[[sync]] {at}"
        if at not in reached:
            yield Finding(
                WARNING, where, "no place has this rule: those before it decide all", "move it up, or drop it"
            )
        if rule.direction in ("down", "local", "absent"):
            for key in _NOT_SENT:
                if getattr(rule, key) != SyncRule._field_defaults[key]:
                    hint = "nothing written there is sent"
                    yield Finding(WARNING, f"{where}: {key}", f"has no effect under {rule.direction}", hint)
        if rule.direction in ("down", "absent") and rule.vectors:
            yield Finding(
                WARNING, f"{where}: vectors", f"nothing is written here under {rule.direction}", "leave it out"
            )
        if rule.direction == "absent" and rule.age_days_max:
            yield Finding(WARNING, f"{where}: age_days_max", "all is absent, whatever its age", "leave it out")
        if rule.direction == "local" and rule.age_days_max:
            hint = "what is local is on no other device: nothing of it may leave"
            yield Finding(WARNING, f"{where}: age_days_max", "has no effect under local", hint)
        if rule.agents and rule.age_days_max and rule.direction not in ("absent", "local"):
            hint = "memories, attachments and vectors do"
            message = "an agent's state and documents are of several records, and do not leave by their age"
            yield Finding(WARNING, f"{where}: age_days_max", message, hint)
        if rule.agents and rule.record_bytes_max:
            hint = "leave it out for agents whose state others read"
            message = "a checkpoint goes without those of its values that are larger: others cannot read it"
            yield Finding(WARNING, f"{where}: record_bytes_max", message, hint)
        if rule.priority == "urgent" and rule.interval_s:
            yield Finding(WARNING, f"{where}: interval_s", "urgent writes do not wait", "normal, or no interval")


def _links(policy: Policy) -> Iterator[Finding]:
    if policy.link and all(link.link_class != "default" for link in policy.link):
        hint = 'a [[link]] with class = "default"'
        yield Finding(WARNING, "[[link]]", "a link of another class has no budget", hint)
    for at, link in enumerate(policy.link, 1):
        where = f"[[link]] {at}"
        if 0 < link.bytes_per_day < BYTES_PER_DAY_MIN:
            hint = f"{BYTES_PER_DAY_MIN} or more; a record of 256 KiB is the largest"
            yield Finding(WARNING, f"{where}: bytes_per_day", "a large record may wait for ever", hint)
        if link.bytes_per_day and link.burst_bytes > link.bytes_per_day:
            yield Finding(WARNING, f"{where}: burst_bytes", "is more than a day's budget", "a smaller one")
        if link.bytes_per_day and link.urgent_share >= 0.5 and "bulk" in link.lanes:
            hint = "below 0.5: bulk leaves as much again to normal"
            yield Finding(WARNING, f"{where}: urgent_share", "leaves bulk nothing", hint)
        elif link.bytes_per_day and link.urgent_share == 1 and "normal" in link.lanes:
            yield Finding(WARNING, f"{where}: urgent_share", "leaves normal nothing", "below 1")
        if link.urgent_share and not link.bytes_per_day:
            yield Finding(WARNING, f"{where}: urgent_share", "is a share of bytes_per_day, of which there is none", "")
        if "urgent" not in link.lanes:
            yield Finding(WARNING, f"{where}: lanes", "urgent writes wait for another link", "add urgent")


def _retention(policy: Policy) -> Iterator[Finding]:
    table = ScopeTable(policy.sync)
    for at, one in enumerate(policy.retention, 1):
        age = table.at(Region("collection", one.collection, "")).age_days_max  # of keys that no prefix has
        if age > one.delete_days:
            message = f"deletes before age_days_max = {age} lets records leave the device"
            yield Finding(WARNING, f"[[retention]] {at}: delete_days", message, "the smaller one decides")


def _agents(policy: Policy) -> Iterator[Finding]:
    agents = Patterns((rule.name, at, None) for at, rule in enumerate(policy.agents, 1))
    for at, rule in enumerate(policy.agents, 1):
        if agents.met(one_of(rule.name))[0][0] < at:
            message = "a table before it decides for all of these agents"
            yield Finding(WARNING, f"[[agent]] {at}", message, "the first that matches decides: move it up")
    if policy.cedar and not policy.agents:
        yield Finding(WARNING, "[cedar]", "is asked for every agent, as none is denied anything before", "")


def _names(policy: Policy, schemas: Mapping[str, CollectionSchema]) -> Iterator[Finding]:
    told = [(f"[[sync]] {at}: collections", name) for at, one in enumerate(policy.sync, 1) for name in one.collections]
    told += [(f"[[merge]] {at}: collection", one.collection) for at, one in enumerate(policy.merge, 1)]
    told += [(f"[[retention]] {at}: collection", one.collection) for at, one in enumerate(policy.retention, 1)]
    for where, name in told:
        met = Patterns([(name, 0, None)])
        if name != "*" and not any(met.met(known) for known in schemas):
            yield Finding(WARNING, where, f"no collection of the fleet is {name!r}", "is it spelled as declared?")


def _forms(policy: Policy, schemas: Mapping[str, CollectionSchema]) -> Iterator[Finding]:
    """A vector's form is told by its length, so two forms of one length cannot be told apart."""
    for at, rule in enumerate(policy.sync, 1):
        if rule.vectors not in PRECISIONS:
            continue
        met = Patterns((name, 0, None) for name in rule.collections)
        for name, schema in sorted(schemas.items()):
            vector = schema.vector
            if vector is None or not (met.met(name) if rule.collections else name.startswith("agent.")):
                continue
            where = f"[[sync]] {at}: vectors"
            size, declared = vector.dimensions, vector.precision
            alike = [form for form in PRECISIONS[PRECISIONS.index(declared) :] if form != rule.vectors]
            alike = [form for form in alike if stored_bytes(size, form) == stored_bytes(size, rule.vectors)]
            if rule.vectors != declared and alike:
                message = f"of {size} dimensions, {rule.vectors} and {alike[0]} are of one length in {name!r}"
                yield Finding(ERROR, where, message, "another form")
            elif PRECISIONS.index(rule.vectors) < PRECISIONS.index(declared):
                message = f"{name!r} is declared {declared}, which is coarser: that holds"
                yield Finding(WARNING, where, message, "a policy makes vectors coarser, never finer")


def _merges(policy: Policy, schemas: Mapping[str, CollectionSchema]) -> Iterator[Finding]:
    for at, one in enumerate(policy.merge, 1):
        schema = schemas.get(one.collection)
        if schema is None:
            continue
        ruled = sorted(field for field, rule in schema.fields.items() if rule.merge != "lww")
        if schema.fields and len(ruled) == len(schema.fields) and schema.strict:
            message = f"no field of {one.collection!r} has conflicts: all have merge rules of their own"
            yield Finding(WARNING, f"[[merge]] {at}", message, "a field's rule is declared and never changes")
