"""``policy``: the policy that holds on this device, and what it says of one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.output import cell, counted, json_option, print_json, print_table
from edge.cli.stores import collection_argument, key_argument, read_fields, reading, store_argument
from sync.errors import InvalidPolicy, InvalidValue
from sync.schema import check_collection_name, check_key

if TYPE_CHECKING:
    from edge.control.policy import ActivePolicy
    from sync.scope import Rule

_KEPT_BACK = {
    "": "it goes with the next sync",
    "local": "no other device has what was written here",
    "not-sent": "no other device has what was written here, and nothing is sent",
    "record-size": "it is larger than is sent",
    "stale": "nothing fresh was heard of the fleet for so long that what is written stays here",
    "future": "it was stamped by a clock that was ahead",
    "refused": "the cloud would not take it",
    "unread": "the policy that holds cannot be read here",
}
_file_option = click.option(
    "--file", type=click.Path(path_type=Path), help="Another policy (TOML or JSON): as if it held here."
)


@click.group()
def policy() -> None:
    """The policy: what of this device syncs, how, and what agents may do. It is the fleet's operator's."""


@policy.command()
@store_argument
@_file_option
@json_option
def show(store: str, file: Path | None, as_json: bool) -> None:
    """What holds, since when; by default what was activated here."""
    held = _held(store, file)
    said = held.describe()
    if as_json:
        print_json(said)
        return
    if not said:
        click.echo("No policy: everything syncs both ways, and agents may do everything.")
        return
    number = f" {said['number']}, of assignment {said['assignment']}" if "number" in said else ", from a file"
    click.echo(f"policy {said['name']}{number}; {counted(len(said['document'].get('sync', [])), 'sync rule')}")
    rows = []
    for name, content in said["document"].items():
        for at, table in enumerate(content if isinstance(content, list) else [content], 1):
            if isinstance(table, dict):
                where = f"[[{name}]] {at}" if isinstance(content, list) else f"[{name}]"
                rows += [(where, key, cell(value)) for key, value in table.items()]
    if rows:
        print_table(("WHERE", "KEY", "VALUE"), rows)


@policy.command()
@store_argument
@collection_argument
@key_argument
@click.option("--fields", help="JSON object of fields: the lane of a write of them.")
@click.option("--agent", help="Also what this agent may do with the collection.")
@_file_option
@json_option
def explain(
    store: str, collection: str, key: str, fields: str | None, agent: str | None, file: Path | None, as_json: bool
) -> None:
    """Which rule a place has, and what follows from it. The record need not be there."""
    check_collection_name(collection)
    check_key(key)
    written = read_fields(fields) if fields is not None else {}
    if agent == "":
        raise InvalidValue("the name of an agent is not empty", hint="leave --agent out")
    held = _held(store, file)
    rule = held.rule(collection, key)
    said: dict[str, Any] = {
        "policy": held.name,
        "rule": rule.number,
        "direction": rule.direction,
        "received": rule.in_scope,
        "sent": rule.is_sent,
        "lane": rule.lane(written),
        "interval_s": rule.interval_s,
        "record_bytes_max": rule.record_bytes_max,
        "age_days_max": rule.age_days_max,
        "vectors": rule.vectors,
    }
    if agent is not None:
        said["may"] = {action: held.may(agent, action, collection) for action in ("read", "write")}
    if file is None:
        said |= _here(store, held, collection, key)
    if as_json:
        print_json(said)
        return
    decided = f"[[sync]] {rule.number} of policy {held.name}" if rule.number else "no rule: the default"
    rows = [
        ("decided by", decided),
        ("direction", f"{rule.direction}: {_meaning(rule.direction)}"),
        ("lane", said["lane"]),
        ("sent", _when(rule)),
    ]
    rows += [("stays for now", said["stays"])] if said.get("stays") else []
    rows += [("kept back", _KEPT_BACK[said["kept_back"]])] if "kept_back" in said else []
    rows += [("has left", said["left"])] if said.get("left") else []
    rows += [("largest record", f"{rule.record_bytes_max:,} bytes")] if rule.record_bytes_max else []
    rows += [("oldest record", counted(rule.age_days_max, "day"))] if rule.age_days_max else []
    rows += [("vectors", rule.vectors)] if rule.vectors else []
    if agent is not None:
        rows += [
            (f"agent {agent}", ", ".join(f"{'may' if yes else 'may not'} {one}" for one, yes in said["may"].items()))
        ]
    print_table(("", ""), rows)


def _here(store: str, held: ActivePolicy, collection: str, key: str) -> dict[str, str]:
    """``kept_back``: why what was written of its record has not left this device, "" if it goes with the next sync; not
    there if it is not kept back. ``left``: whether its record has left this device, and what of it is waited for, "" if
    not. ``stays``: why one that should not be here is, "" if none is; not there if it may be.
    """
    from edge.control.keeping import keeper_of
    from edge.storage import kept_back
    from edge.storage.evicted import QUIET, SAID, state_of
    from edge.storage.leaving import why_not

    said: dict[str, str] = {}
    rule = held.rule(collection, key)
    with reading(store) as edge:
        log = edge.log
        kept = kept_back.of_place(log, collection, key, keeper_of(log, held))
        if kept is not None:
            said["kept_back"] = kept.why
        state = state_of(log, collection, key)
        said["left"] = "" if state is None else SAID[state]
        if state == QUIET and rule.direction == "absent":
            said["left"] = "until a policy wants it here"
        if rule.direction == "absent" or rule.age_days_max:
            said["stays"] = why_not(log, collection, key, rule)
    return said


def _when(rule: Rule) -> str:
    if not rule.is_sent:
        return "never"
    return f"within {rule.interval_s} s" if rule.interval_s else "at once"


def _meaning(direction: str) -> str:
    return {
        "both": "sent, and received from others",
        "up": "sent; what others write is not received",
        "down": "received; not written here",
        "local": "kept here, never sent",
        "absent": "must not be here",
    }[direction]


def _held(store: str, file: Path | None) -> ActivePolicy:
    from edge.control.policy import ActivePolicy

    with reading(store) as edge:
        if file is None:
            return ActivePolicy.of(edge.log)
    from sync.policy import POLICY_BYTES_MAX
    from sync.policy_source import read_policy

    try:
        with file.open("rb") as source:
            return ActivePolicy(read_policy(source.read(POLICY_BYTES_MAX + 1)))
    except OSError as error:
        raise InvalidPolicy(f"{file} cannot be read: {error.strerror}", hint="check the path") from error
    except InvalidPolicy as error:
        raise InvalidPolicy(f"{file}: {error.message}", hint=error.hint) from error
