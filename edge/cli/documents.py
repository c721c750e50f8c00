"""``documents``: files that are cut into chunks and searched."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.cli import namespaces
from edge.cli.embedder import embedder_of, embedder_options
from edge.cli.hints import hinting
from edge.cli.namespaces import namespace_to_read, namespace_to_write
from edge.cli.output import cell, counted, json_option, print_json, print_table
from edge.cli.state import when
from edge.cli.stores import (
    existing,
    mode_option,
    read_json,
    read_text,
    reading,
    searching,
)
from sync.errors import InputError, NotFound

if TYPE_CHECKING:
    from edge.agent.documents import Documents, Indexed
    from edge.node import Edge

_document = click.argument("name", metavar="ID")
_FILES_MAX = 100_000
_STORE_FILES = {"log.db", "lock"}


@click.group()
def documents() -> None:
    """Documents: text, Markdown, HTML, PDF and code, found by their passages."""


@documents.command()
@namespace_to_write
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--id", "name", help="Names the document; its path by default.")
@click.option("--metadata", help="A JSON object.")
@click.option("--size", type=click.IntRange(1), default=1_000, show_default=True, help="Characters of a chunk at most.")
@click.option("--overlap", type=click.IntRange(0), default=100, show_default=True)
@json_option
def add(
    store: str,
    agent: str,
    files: tuple[str, ...],
    namespace: str,
    name: str | None,
    metadata: str | None,
    size: int,
    overlap: int,
    as_json: bool,
) -> None:
    """Index files, and all files of folders but hidden ones and stores; - is standard input. Of what is indexed already
    only what has changed is written. A file that cannot be is named, and the others go on; the exit code is 2 then.
    """
    from edge.agent.loading import Splitter

    logging.getLogger("pypdf").addHandler(logging.NullHandler())  # what it finds odd is no line of ours, nor JSON
    given = None if metadata is None else read_json("--metadata", metadata, "'{\"floor\": 2}'")
    sources = [source for file in files for source in _sources(file)]
    if name is not None and len(sources) != 1:
        raise click.UsageError(f"--id names one document, and there are {len(sources):,}")
    done: list[Indexed] = []
    problems: list[tuple[str, InputError]] = []
    with (
        existing(store) as edge,
        click.progressbar(
            sources, label="documents", file=sys.stderr, hidden=not sys.stderr.isatty() or as_json
        ) as bar,
    ):
        found = _of(edge, agent, namespace)
        for source in bar:
            what: Any = read_text(source) if source == "-" else Path(source)
            try:
                done.append(found.add(what, id=name, metadata=given, chunker=Splitter(size, overlap)))
            except InputError as error:
                if len(sources) == 1:
                    raise
                problems.append((source, error))
    for source, problem in problems:
        click.echo(f"{source}: {problem.message}", err=True)
    if as_json:
        print_json([one._asdict() for one in done])
        sys.exit(2 if problems else 0)
    written, kept = sum(one.written for one in done), sum(one.kept for one in done)
    chunks = f"{counted(written, 'chunk')} written, {kept:,} kept, {sum(one.deleted for one in done):,} deleted"
    click.echo(f"{counted(len(done), 'document')}: {chunks}")
    if problems:
        click.echo(f"{counted(len(problems), 'file')} left out", err=True)
        sys.exit(2)


@documents.command()
@namespace_to_read
@click.argument("query")
@click.option("-k", type=click.IntRange(1), default=5, show_default=True)
@click.option("--where", help="A filter over the documents' metadata, as JSON.")
@mode_option
@embedder_options
@json_option
def search(
    store: str,
    agent: str,
    query: str,
    namespace: str,
    k: int,
    where: str | None,
    mode: str | None,
    as_json: bool,
    **embedder: Any,
) -> None:
    """The passages that answer QUERY best."""
    given = None if where is None else read_json("--where", where, "'{\"floor\": 2}'")
    with searching(store) as edge:
        named = edge.agent(agent).documents(namespace, embedder=embedder_of(embedder))
        found = named.search(query, k, mode=mode, filter=given)
    if as_json:
        print_json([{**one._asdict(), "document": one.document._asdict()} for one in found])
        return
    rows = [(f"{one.score:.3f}", one.document.id, f"{one.start:,}", one.text) for one in found]
    print_table(("score", "document", "at", "passage"), rows)


@documents.command("list")
@namespace_to_read
@json_option
def show(store: str, agent: str, namespace: str, as_json: bool) -> None:
    """The documents of a namespace."""
    with reading(store) as edge:
        found = list(_of(edge, agent, namespace).all())
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [
        (one.id, one.title, one.media_type, f"{one.characters:,}", f"{one.chunks:,}", when(one.updated_at))
        for one in found
    ]
    print_table(("document", "title", "type", "characters", "chunks", "updated"), rows)


@documents.command()
@namespace_to_read
@_document
@json_option
def get(store: str, agent: str, name: str, namespace: str, as_json: bool) -> None:
    """What there is to know of the document ID."""
    with reading(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        found = _of(edge, agent, namespace).get(name)
        if found is None:
            raise NotFound(f"namespace {namespace!r} of agent {agent!r} has no document {name!r:.100}")
    if as_json:
        print_json(found._asdict())
        return
    shown = {**found._asdict(), "updated_at": when(found.updated_at)}
    print_table(("", ""), [(word.removesuffix("_at").replace("_", " "), cell(value)) for word, value in shown.items()])


@documents.command()
@namespace_to_read
@_document
@json_option
def text(store: str, agent: str, name: str, namespace: str, as_json: bool) -> None:
    """The text of the document ID; space between its passages is kept as spaces."""
    with reading(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        said = _of(edge, agent, namespace).text(name)
    if as_json:
        print_json({"id": name, "text": said})
    else:
        click.echo(said)


@documents.command()
@namespace_to_write
@click.argument("names", metavar="ID…", nargs=-1, required=True)
@json_option
def delete(store: str, agent: str, names: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Delete documents with their chunks."""
    with existing(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        found = _of(edge, agent, namespace)
        for name in names:
            found.delete(name)
    if as_json:
        print_json({"deleted": list(names)})
    else:
        click.echo(f"{counted(len(names), 'document')} deleted")


@documents.command()
@namespace_to_write
@embedder_options
@json_option
def reembed(store: str, agent: str, namespace: str, as_json: bool, **embedder: Any) -> None:
    """Vectors for chunks that have none. By another model than the one until now: for the documents of all agents;
    until that is done the old vectors are searched, and an interrupted call goes on with the next.
    """
    namespaces.reembed(store, lambda edge: _of(edge, agent, namespace), embedder, as_json)


def _sources(file: str) -> list[str]:
    """A folder's files, but for hidden ones and those of stores, in order."""
    if file == "-" or not Path(file).is_dir():
        return [file]
    found: list[str] = []
    for folder, folders, files in os.walk(file):
        if {*files} >= _STORE_FILES:  # a store, with its keys
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [str(Path(folder) / name) for name in sorted(files) if not name.startswith(".")]
        if len(found) > _FILES_MAX:
            raise click.UsageError(f"{file} has more than {_FILES_MAX:,} files")
    return found


def _listed(store: str, agent: str, namespace: str) -> str:
    return namespaces.listed("documents", store, agent, namespace)


def _of(edge: Edge, agent: str, namespace: str) -> Documents:
    return edge.agent(agent).documents(namespace)
