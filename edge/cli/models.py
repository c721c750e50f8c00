"""``models``: the models that the fleet assigns to this device: in use, on trial, returned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.stores import existing, reading, store_argument, store_to_write
from edge.control.model_status import ModelStatus
from sync.activation import FETCHING, SOAKING, STAGED, TRYING

_DIGEST_SHOWN = 12
name_argument = click.argument("name")


@click.group()
def models() -> None:
    """The models of this device. Which ones it runs, the fleet assigns; that they are good, it finds out itself."""


@models.command("list")
@store_argument
@json_option
def list_models(store: str, as_json: bool) -> None:
    """Every model: what is in use, what is on its way, what came back."""
    with reading(store) as edge:
        told = edge.models.status()
    if as_json:
        print_json([one.shown() for one in told])
        return
    columns = ("model", "state", "in use", "next", "returned", "bytes", "")
    rows = [
        (
            one.name,
            one.state,
            f"{one.number} ({one.version})" if one.number else "-",
            str(one.next or "-"),
            str(_returned(one) or "-"),
            f"{one.bytes:,}",
            _remark(one),
        )
        for one in told
    ]
    if rows:
        print_table(columns, rows)
    else:
        click.echo("No models: the fleet has assigned none to this device.")


def _remark(one: ModelStatus) -> str:
    if one.problem:
        return one.problem
    if one.state == FETCHING and one.fetched:
        return f"{one.fetched['bytes']:,} of {one.fetched['of']:,} bytes"
    if one.state in (STAGED, TRYING):
        return f"tried {counted(one.tries, 'time')}"
    if one.state == SOAKING:
        return _soak(one.soak)
    if _returned(one):
        return one.why
    return "{number} refused: {reason}".format_map(one.refused[0]) if one.refused else ""


def _returned(one: ModelStatus) -> int:
    """0 for none, also where it was tried again and is in use."""
    return one.returned if one.returned != one.number else 0


def _soak(soak: dict[str, Any]) -> str:
    minutes = f"{soak['uptime_ms'] // 60_000} of {-(-soak['needs_uptime_ms'] // 60_000)} minutes"
    uses = f"{soak['uses']} of {soak['needs_uses']} uses"
    return f"{minutes}, {uses}, {counted(soak['errors'], 'error')}"


@models.command()
@store_argument
@name_argument
@json_option
def show(store: str, name: str, as_json: bool) -> None:
    """One model: its trial, its soak, what was refused and why."""
    with reading(store) as edge:
        (one,) = edge.models.status(name)
    if as_json:
        print_json(one.shown())
        return
    rows = [("model", one.name), ("state", one.state)]
    rows.append(("in use", f"{one.number} ({one.version}), {one.bytes:,} bytes" if one.number else "none"))
    rows += [("manifest", one.digest[:_DIGEST_SHOWN])] if one.digest else []
    rows += [("next", str(one.next))] if one.next else []
    rows += [("previous", f"{one.previous}, whole")] if one.previous else []
    rows += [("soak", _soak(one.soak))] if one.soak else []
    rows += [("returned", f"{one.returned}: {one.why}" if one.why else str(one.returned))] if _returned(one) else []
    rows += [("runner", one.runner)] if one.runner else []
    rows += [("problem", one.problem)] if one.problem else []
    print_table(("", ""), rows)
    if one.refused:
        click.echo("\nRefused here (`models retry` tries the last one that was returned):")
        columns = ("number", "manifest", "reason")
        print_table(columns, [(str(it["number"]), it["digest"][:_DIGEST_SHOWN], it["reason"]) for it in one.refused])


@models.command()
@store_argument
@name_argument
@json_option
def path(store: str, name: str, as_json: bool) -> None:
    """Where the files of the version in use are. For scripts that read them at once: only a program that has the store
    open holds them (`edge.models.use`).
    """
    with reading(store) as edge:
        found = str(edge.models.path(name))
    if as_json:
        print_json({"path": found})
    else:
        click.echo(found)


@models.command()
@store_to_write
@name_argument
@json_option
def retry(store: str, name: str, as_json: bool) -> None:
    """Try the version again that was returned last: here and now, if its files are still here."""
    with existing(store) as edge:
        edge.models.retry(name)
        with _moving(f"trying {name}", quiet=as_json):
            edge.models.fetch()
            edge.models.advance()
        (one,) = edge.models.status(name)
    if as_json:
        print_json(one.shown())
        return
    click.echo(f"{name}: {one.state}" + (f", {one.why}" if one.why else f", {one.problem}" if one.problem else ""))


@contextmanager
def _moving(what: str, *, quiet: bool) -> Iterator[None]:
    """Probes may take a minute: on a terminal something moves meanwhile."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(what, total=None)
        yield


@models.command()
@store_to_write
@name_argument
@json_option
def remove(store: str, name: str, as_json: bool) -> None:
    """Give a model's files up. What was refused stays refused; the fleet's next assignment brings the model back."""
    with existing(store) as edge:
        size = edge.models.status(name)[0].bytes
        edge.models.remove(name)
    if as_json:
        print_json({"removed": name, "bytes": size})
    else:
        click.echo(f"{name} removed, {size:,} bytes")
