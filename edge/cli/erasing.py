"""``erase`` and ``erasures``: an agent or a namespace, out of every byte of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.state import when
from edge.cli.stores import existing, reading, store_to_write

if TYPE_CHECKING:
    from edge.agent.erase import Receipt

_namespace = click.option("--namespace", help="Only what it has under this name.")


@click.command()
@store_to_write
@click.argument("agent")
@_namespace
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def erase(store: str, agent: str, namespace: str | None, yes: bool, as_json: bool) -> None:
    """Erase AGENT, or one of its namespaces, here and on the fleet's other devices; it stays shut. Prints a receipt."""
    what = f"agent {agent!r}" if namespace is None else f"namespace {namespace!r} of agent {agent!r}"
    if not yes:
        click.confirm(f"erase {what}, on every device of the fleet, for good?", abort=True, err=True)
    with existing(store) as edge:
        try:
            receipt = edge.agent(agent).erase(namespace)
        except KeyboardInterrupt:  # click says "Aborted!", which sounds as if nothing had happened
            if any(not one.here for one in edge.erasures()):
                click.echo(f"{what} is shut; the next command that writes to the store goes on erasing it", err=True)
            raise
        fleet = edge.status()["fleet"] is not None
    if as_json:
        print_json(receipt._asdict())
        return
    _print_receipt(receipt, what)
    if fleet:
        click.echo("the other devices erase it when they hear of it: agentdb-edge sync", err=True)


@click.command()
@store_to_write
@click.option("--lift", metavar="AGENT", help="Let in what is written to it from now on.")
@_namespace
@json_option
def erasures(store: str, lift: str | None, namespace: str | None, as_json: bool) -> None:
    """What was erased in this fleet, as digests; with --lift, open one again."""
    if lift is None and namespace is not None:
        raise click.UsageError("--namespace is of the agent that --lift names")
    with reading(store) if lift is None else existing(store) as edge:
        if lift is not None:
            edge.agent(lift).lift_erasure(namespace)
        found = edge.erasures()
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [(one.erasure, when(one.at_ms), "shut" if one.shut else "open", "yes" if one.here else "not yet")
            for one in found]  # fmt: skip
    print_table(("erasure", "when", "is", "carried out here"), rows)


def _print_receipt(receipt: Receipt, what: str) -> None:
    click.echo(f"erased: {what}")
    rows = [(name, counted(number, "record")) for name, number in sorted(receipt.deleted.items())]
    rows += [
        ("erasure", receipt.erasure),
        ("when", when(receipt.at_ms)),
        ("by device", receipt.device),
        ("directory", f"{receipt.bytes_before:,} bytes before, {receipt.bytes_after:,} after"),
        *(("not reached", place) for place in receipt.elsewhere),
    ]
    print_table(("", ""), rows)
