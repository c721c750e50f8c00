"""``trust``: what this device trusts, and what both sides named for it to run."""

from __future__ import annotations

import sys
from typing import Any

import click

from edge.cli.output import json_option, print_json, print_table
from edge.cli.state import when
from edge.cli.stores import existing, reading, store_argument, store_to_write


@click.group()
def trust() -> None:
    """What this device trusts: the fleet's root, what is signed by it, and what of that is to run here."""


@trust.command()
@store_argument
@json_option
def status(store: str, as_json: bool) -> None:
    """What is to run here, how fresh that is, and why nothing new was taken, if so: then exit 1."""
    with reading(store) as edge:
        found = edge.trust.status()
    said = None if found is None else found._asdict()
    if as_json:
        print_json(said)
    elif said is None:
        click.echo("This device's fleet signs nothing: everything syncs, and nothing is distributed.")
    else:
        print_table(("", ""), _rows(said))
    if said is not None and said["refused"]:
        sys.exit(1)


def _rows(said: dict[str, Any]) -> list[tuple[str, str]]:
    refused, stale = said["refused"], said["staleness_ms"]
    rows = [
        ("first root", said["pin"] or "not known: agentdb-edge trust pin"),
        ("assignment", str(said["assignment"]) if said["assignment"] else "none yet"),
        ("accepted", _when(said["accepted_ms"])),
        ("fresh", "never" if stale is None else f"{stale / 3_600_000:.1f} hours ago"),
        ("versions", ", ".join(f"{role} {version}" for role, version in said["versions"].items())),
    ]
    rows += [("expired", ", ".join(said["expired"]))] if said["expired"] else []
    rows += [(place, path) for place, path in said["places"].items()]
    if refused:
        rows.append(("refused", f"{_when(refused['at_ms'])}: {refused['reason']} ({refused['code']})"))
        rows += [("hint", refused["hint"])] if refused["hint"] else []
    return rows


def _when(at_ms: int) -> str:
    return when(at_ms) if at_ms else "never"


@trust.command()
@store_to_write
@click.argument("digest")
@json_option
def pin(store: str, digest: str, as_json: bool) -> None:
    """Trust the fleet's first root by its SHA-256: DIGEST, 64 hex digits, as `agentdb-cloud assignments` shows it.

    For devices that joined before the fleet signed anything; join tokens carry it since. What is to run comes with the
    next sync. Another DIGEST forgets what was trusted by the one before; what runs goes on.
    """
    with existing(store) as edge:
        edge.trust.pin(digest)
    if as_json:
        print_json({"pin": digest})
    else:
        click.echo(f"Pinned. What is to run here comes with the next sync: agentdb-edge sync {store}")


@trust.command()
@store_argument
@json_option
def verify(store: str, as_json: bool) -> None:
    """Check every signature and digest that is kept. Exit 1 if something is wrong: the next sync fetches it again."""
    with reading(store) as edge:
        problems = edge.trust.verify()
    if as_json:
        print_json({"problems": problems})
    else:
        click.echo("\n".join(problems) or "No problem found.")
    if problems:
        sys.exit(1)
