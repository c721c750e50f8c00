"""``attachments``: images, sounds and other files of an agent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli.namespaces import namespace_to_read, namespace_to_write
from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.state import when
from edge.cli.stores import existing, read_json, reading, searching
from sync.errors import InvalidValue

if TYPE_CHECKING:
    from edge.agent.attachments import Attachment, Attachments
    from edge.node import Edge

_name = click.argument("name", metavar="ID")
_names = click.argument("names", metavar="ID…", nargs=-1, required=True)


@click.group()
def attachments() -> None:
    """Attachments: files of any kind, kept by their digest; other devices fetch them when they are read."""


@attachments.command()
@namespace_to_write
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--id", "name", help="Names the attachment; its digest by default.")
@click.option("--media-type", help="Such as image/png; by default what the file's name or its first bytes say.")
@click.option("--text", default="", help="A caption, by which it is found.")
@click.option("--metadata", help="A JSON object.")
@json_option
def add(
    store: str,
    agent: str,
    files: tuple[Path, ...],
    namespace: str,
    name: str | None,
    metadata: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Attach files."""
    if name is not None and len(files) != 1:
        raise click.UsageError(f"--id names one attachment, and there are {len(files):,} files")
    options["metadata"] = None if metadata is None else read_json("--metadata", metadata, "'{\"floor\": 2}'")
    with existing(store) as edge:
        found = _of(edge, agent, namespace)
        added = [found.add(file, id=name, **options) for file in files]
    if as_json:
        print_json([one._asdict() for one in added])
        return
    for one in added:
        click.echo(one.id)


@attachments.command("list")
@namespace_to_read
@json_option
def show(store: str, agent: str, namespace: str, as_json: bool) -> None:
    """The attachments of a namespace."""
    with reading(store) as edge:
        found = list(_of(edge, agent, namespace).all())
    if as_json:
        print_json([one._asdict() for one in found])
        return
    columns = ("attachment", "type", "bytes", "caption", "added", "by", "here")
    print_table(columns, [(*_row(one), when(one.added_at), one.added_by, "yes" if one.here else "no") for one in found])


@attachments.command()
@namespace_to_read
@_name
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def get(store: str, agent: str, name: str, target: Path, namespace: str, as_json: bool) -> None:
    """Write its bytes to the new FILE, or with - to standard output; fetched from the cloud if they are not here."""
    with searching(store) as edge:
        found = _of(edge, agent, namespace)
        with found.open(name) as body:
            if str(target) == "-":
                shutil.copyfileobj(body, sys.stdout.buffer)
                return
            try:
                with target.open("xb") as file:
                    shutil.copyfileobj(body, file)
            except FileExistsError as error:
                raise InvalidValue(f"{target} is there already", hint="choose a new file") from error
        size = target.stat().st_size
    if as_json:
        print_json({"attachment": name, "file": str(target), "size": size})
    else:
        click.echo(f"{size:,} bytes written to {target}")


@attachments.command()
@namespace_to_read
@click.argument("query")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--where", help="A filter over metadata, id, media_type, size and added_at, as JSON.")
@json_option
def search(store: str, agent: str, query: str, namespace: str, k: int, where: str | None, as_json: bool) -> None:
    """The attachments whose captions answer QUERY best."""
    given = None if where is None else read_json("--where", where, "'{\"floor\": 2}'")
    with searching(store) as edge:
        found = _of(edge, agent, namespace).search(query, k, filter=given)
    if as_json:
        print_json([{**one.attachment._asdict(), "score": one.score, "by": list(one.by)} for one in found])
        return
    print_table(
        ("score", "attachment", "type", "bytes", "caption"),
        [(f"{one.score:.4f}", *_row(one.attachment)) for one in found],
    )


@attachments.command()
@namespace_to_write
@_names
@json_option
def delete(store: str, agent: str, names: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Delete attachments, on every device; the cloud keeps their sealed bytes."""
    _each(store, agent, namespace, names, "delete", "deleted", as_json)


@attachments.command()
@namespace_to_write
@_names
@json_option
def pin(store: str, agent: str, names: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Keep their bytes on this device, whatever the quota."""
    _each(store, agent, namespace, names, "pin", "pinned", as_json)


@attachments.command()
@namespace_to_write
@_names
@json_option
def unpin(store: str, agent: str, names: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Let their bytes go again once the cloud has them."""
    _each(store, agent, namespace, names, "unpin", "unpinned", as_json)


def _each(
    store: str, agent: str, namespace: str, names: tuple[str, ...], method: str, done: str, as_json: bool
) -> None:
    with existing(store) as edge:
        found = _of(edge, agent, namespace)
        for name in names:
            getattr(found, method)(name)
    if as_json:
        print_json({done: list(names)})
    else:
        click.echo(f"{counted(len(names), 'attachment')} {done}")


def _row(one: Attachment) -> tuple[str, str, str, str]:
    return one.id, one.media_type, f"{one.size:,}", one.text


def _of(edge: Edge, agent: str, namespace: str) -> Attachments:
    return edge.agent(agent).attachments(namespace)
