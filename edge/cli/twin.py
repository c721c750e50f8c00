"""``twin``: what this device should be, and what it says that it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from edge.cli.output import cell, json_option, print_json, print_table
from edge.cli.stores import existing, read_json, read_text, reading, store_argument, store_to_write
from sync.errors import InvalidValue

_agent = click.option("--agent", help="The part of one agent.")
_EXAMPLE = '\'{"hardware": "rev2"}\''


@click.group()
def twin() -> None:
    """Desired and reported configuration: what the fleet wants of this device, and what it is."""


@twin.command()
@store_argument
@_agent
@json_option
def show(store: str, agent: str | None, as_json: bool) -> None:
    """Each setting as it is desired and as it was reported; STATE says whether they differ."""
    with reading(store) as edge:
        found = edge.twin
        desired, reported, status = found.desired(agent), found.reported(agent), found.status()
        missing = found.delta(agent)
    if as_json:
        print_json({**status, "desired": desired, "reported": reported, "delta": missing})
        return
    wanted, said, open_ = dict(_flat(desired)), dict(_flat(reported)), dict(_flat(missing))
    rows = [
        (name, _shown(wanted, name), _shown(said, name), "differs" if name in open_ else "")
        for name in sorted(wanted.keys() | said.keys())
    ]
    if rows:
        print_table(("SETTING", "DESIRED", "REPORTED", "STATE"), rows)
    else:
        click.echo("Nothing is desired of this device, and it has reported nothing.")
    if status["unsent"]:
        click.echo("What was reported last goes out with the next sync.")


@twin.command()
@store_to_write
@click.argument("patch")
@_agent
@json_option
def report(store: str, patch: str, agent: str | None, as_json: bool) -> None:
    """Merge PATCH, a JSON object, into what this device reports; null deletes. - reads it from standard input."""
    given = read_json("PATCH", read_text(patch), _EXAMPLE)
    if not isinstance(given, dict):
        raise InvalidValue("PATCH is a JSON object", hint=f"such as {_EXAMPLE}")
    with existing(store) as edge:
        edge.twin.report(given, agent)
        now = edge.twin.reported(agent)
    if as_json:
        print_json(now)
        return
    click.echo("Reported; it goes out with the next sync.")


def _flat(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    return cell(value) if isinstance(value, str) else cell(json.dumps(value, ensure_ascii=False))
