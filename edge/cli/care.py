"""``status``, ``verify``, ``maintain`` and ``snapshot``: how a store is, and a copy of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.running import read_status
from edge.cli.state import when
from edge.cli.stores import existing, reading, searching, store_argument, store_to_write
from edge.storage.store_lock import Holder, holding
from edge.storage.store_opening import LOCK_FILE
from sync.activation import RETURNED

_KEPT_FOR = {
    "record-size": "larger than is sent",
    "stale": "nothing fresh was heard of the fleet for so long that writes stay",
    "future": "stamped by a clock that was ahead",
    "refused": "the cloud would not take it",
    "unread": "the policy in the store cannot be read",
}
_OF_THE_HOLDER = ("sync", "budget", "deferred", "projections", "age_ms")


@click.command()
@store_argument
@json_option
def status(store: str, as_json: bool) -> None:
    """What is in the store, what waits to be pushed, what was refused, how the link is. Exit 1 if its keys are lost.

    While another process has the store open, who; of `agentdb-edge run`, also how its link is, and when it said so.
    """
    said = _status(store)
    if as_json:
        print_json(said)
    else:
        if "held_by" in said:
            seconds = f"; of its link it said {said['age_ms'] / 1000:.0f} s ago" if "age_ms" in said else ""
            click.echo(f"Open in process {Holder(**said['held_by'])}{seconds}:")
        _print_status(store, said)
    if said.get("key_problems"):
        sys.exit(1)


def _status(store: str) -> dict[str, Any]:
    with reading(store) as edge:
        said = edge.status()
    held = holding(str(Path(store, LOCK_FILE)))
    if held is None:
        return said
    told = read_status(store) or {}  # of `run`, which alone knows whether it is connected
    return {**said, **{word: told[word] for word in _OF_THE_HOLDER if word in told}, "held_by": held._asdict()}


def _print_status(store: str, said: dict[str, Any]) -> None:
    fleet, log = said["fleet"], said["log"]
    joined = f"{fleet['id']} as {fleet['name']!r}, at {fleet['url']}" if fleet else ""
    rows = [
        ("store", said["store"]),
        ("device", said["device"]),
        *(("keys", problem) for problem in said.get("key_problems", ())),
        ("fleet", joined or f"none: agentdb-edge init {store} --join TOKEN"),
        ("log", f"{log['head_seq']} written, {log['pending']} to push, {log['bytes']:,} bytes"),
        ("feed", f"applied up to {said['cursor']}"),
        ("link", _link_state(said["sync"] or {})),
        *_refused(said.get("trust")),
    ]
    rows += [(f"collection {name}", counted(told["records"], "record")) for name, told in said["collections"].items()]
    rows += [("attachments", _cache(said["cache"]))] if said.get("cache") else []
    rows += [("schema problem", f"{name}: {why}") for name, why in said["schema_problems"].items()]
    if (policy := said.get("policy") or {}).get("problem"):
        rows.append(("policy", f"{policy['problem']}: what is written stays here; {policy['hint']}"))
    elif policy:
        rows.append(("policy", _policy(policy)))
    rows += [(f"model {told['name']}", _model(told)) for told in said.get("models", ())]
    if said["projections"]["problem"]:
        rows.append(("search tables", said["projections"]["problem"]))
    rows += [("budget", _budget(said["budget"]))] if said.get("budget") else []
    rows += [("waits", _waits(told)) for told in said.get("deferred", ())]
    if (kept := said.get("kept_back") or {}).get("records"):
        what = f"{counted(kept['records'], 'record')}, {kept['bytes']:,} bytes"
        rows.append(("kept back", f"{what}, with writes that no other device has"))
    print_table(("", ""), rows)
    if said["dead_letters"]:
        click.echo("\nRefused by the cloud, kept here:")
        columns = ("seq", "collection", "key", "code", "reason")
        print_table(columns, [tuple(str(letter[name]) for name in columns) for letter in said["dead_letters"]])


def _policy(policy: dict[str, Any]) -> str:
    since = f"{policy['name']} {policy['number']}, since {when(policy['since_ms'])}"
    stale = policy["stale"]
    return f"{since}; no fresh word of the fleet for so long that: {', '.join(stale)}" if stale else since


def _model(told: dict[str, Any]) -> str:
    used = f"{told['number']} ({told['version']}) in use; " if told["number"] else ""
    state, why = told["state"], told["problem"]
    if state == RETURNED:
        state, why = f"{told['returned']} was returned", why or told["why"]
    elif not told["number"] and not told["next"] and told["refused"]:
        state, why = f"{told['refused'][0]['number']} is refused", why or told["refused"][0]["reason"]
    return f"{used}{state}: {why}" if why else f"{used}{state}"


def _cache(cache: dict[str, Any]) -> str:
    quota = f", of {cache['quota_bytes']:,} the store may take" if cache["quota_bytes"] else ""
    told = f"{cache['bodies']['bytes']:,} bytes here{quota}, {cache['unconfirmed']['bytes']:,} not in the cloud yet"
    return f"{told}; {cache['problem']}" if cache["problem"] else told


def _budget(day: dict[str, Any]) -> str:
    used = f"{sum(day['used'].values()):,} of {day['bytes_per_day']:,} bytes"
    left = ", ".join(f"{size:,} for {lane}" for lane, size in day["left"].items())
    return f"{used} of the day's on {day['link_class']!r} are used; left are {left}; until {when(day['until_ms'])}"


def _waits(told: dict[str, Any]) -> str:
    until = f", until {when(told['until_ms'])}" if told["until_ms"] else ""
    if "rule" in told:
        rule = f", by [[sync]] {told['rule']} of the policy" if told["rule"] else ""
        what = f"{counted(told['records'], 'record')}, {told['bytes']:,} bytes"
        return f"{what}, kept here: {_KEPT_FOR[told['why']]}{rule}"
    what = f"{told['records']:,} in all" if told["lane"] == "bulk" else counted(told["records"], "write")  # bodies, too
    why = "fresh word of the fleet" if told["why"] == "stale" else f"the link's {told['why']}"
    return f"{told['lane']}: {what}, {told['bytes']:,} bytes, for {why}{until}"


def _refused(trust: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What was assigned to this device, and it does not take."""
    if trust is None or not trust["refused"]:
        return []
    return [("refused", f"{trust['refused']['reason']}: agentdb-edge trust status")]


def _link_state(link: dict[str, Any]) -> str:
    if not link:
        return "never synced"
    if link["error"]:
        return f"{link['error']}; {link['hint']}" if link["hint"] else str(link["error"])
    return "connected" if link["connected"] else "in order when it was last used"


@click.command()
@store_argument
@json_option
def verify(store: str, as_json: bool) -> None:
    """Check the store and its keys; search tables that fail are rebuilt, if nobody else has the store open. Exit 1 if
    there was anything.
    """
    with searching(store) as edge:
        problems = edge.verify()
        digest = edge.digest()
    if as_json:
        print_json({"problems": problems, "digest": digest})
    else:
        click.echo("\n".join(problems) or "No problem found.")
        click.echo(f"state digest {digest}")
    if problems:
        sys.exit(1)


@click.command()
@store_to_write
@json_option
def maintain(store: str, as_json: bool) -> None:
    """Compact the search tables, trim the log and give space back, now. `run` does so by itself."""
    with existing(store) as edge:
        before = edge.cache.used_bytes()
        edge.maintain()
        after = edge.cache.used_bytes()
    if as_json:
        print_json({"bytes_before": before, "bytes_after": after})
    else:
        click.echo(f"{before:,} bytes before, {after:,} after")


@click.command()
@store_argument
@click.argument("target", type=click.Path())
@json_option
def snapshot(store: str, target: str, as_json: bool) -> None:
    """Copy the store to the new directory TARGET, with its keys: keep the copy as safe as them.

    To go back to it, move the broken store away and the copy into its place.
    """
    with reading(store) as edge:
        edge.snapshot(target)
    if as_json:
        print_json({"snapshot": target})
    else:
        click.echo(f"Copied to {target}, keys included: whoever has it is this device.")
