"""``memory``: what agents remember, found by its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edge.cli import namespaces
from edge.cli.embedder import embedder_of, embedder_options
from edge.cli.hints import hinting
from edge.cli.namespaces import namespace_to_read, namespace_to_write
from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.state import when
from edge.cli.stores import (
    existing,
    mode_option,
    read_json,
    read_text,
    reading,
    searching,
)
from sync.errors import InvalidValue, NotFound

if TYPE_CHECKING:
    from edge.agent.memory import Memory, Recall
    from edge.agent.memory_record import Remembered
    from edge.node import Edge

_memory = click.argument("memory_id", metavar="ID")
_metadata = click.option("--metadata", help="A JSON object.")


@click.group()
def memory() -> None:
    """Memories: added without a model, found by relevance, retention and importance."""


@memory.command()
@namespace_to_write
@click.argument("text")
@click.option("--kind", default="episodic", help="episodic (the default), semantic, procedural, working.")
@click.option("--importance", type=float, default=0.5, show_default=True, help="From 0 to 1.")
@click.option("--key", help="A name for a fact of which only the latest text holds.")
@click.option("--ttl", "ttl_s", type=float, help="Seconds after which it is not shown any more.")
@click.option("--valid-at", type=int, help="Since when it holds, in milliseconds since 1970; now by default.")
@_metadata
@click.option("--similar", "how_many", type=click.IntRange(1), help="Show so many that say nearly the same.")
@json_option
def add(
    store: str,
    agent: str,
    text: str,
    namespace: str,
    metadata: str | None,
    how_many: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Remember TEXT, or with - what standard input says."""
    options["metadata"] = None if metadata is None else read_json("--metadata", metadata, '\'{"from": "chat"}\'')
    with existing(store) as edge:
        named = _of(edge, agent, namespace)
        added = named.add(read_text(text), **options)
        near = named.similar(added, how_many) if how_many is not None else []
    if as_json:
        shown = {} if how_many is None else {"similar": [_scored(one) for one in near]}
        print_json({**added._asdict(), **shown})
        return
    click.echo(f"{added.id}{' was known' if added.merged else ''}")
    if near:
        _print_scored(near)


@memory.command()
@namespace_to_read
@click.argument("query")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; may be repeated.")
@click.option("--where", "where", help="A filter as JSON.")
@click.option("--as-of", type=int, help="What held at this moment, in milliseconds since 1970.")
@click.option("--archived", is_flag=True, help="What was forgotten, too.")
@click.option("--explain", is_flag=True, help="What each score is made of.")
@mode_option
@embedder_options
@json_option
def search(
    store: str,
    agent: str,
    query: str,
    namespace: str,
    k: int,
    kinds: tuple[str, ...],
    where: str | None,
    as_of: int | None,
    archived: bool,
    explain: bool,
    mode: str | None,
    as_json: bool,
    **embedder: Any,
) -> None:
    """The memories that answer QUERY best."""
    given = None if where is None else read_json("--where", where, '\'{"importance": {"$gt": 0.5}}\'')
    with searching(store) as edge:
        found = (
            edge.agent(agent)
            .memory(namespace, embedder=embedder_of(embedder))
            .search(
                query, k, filter=given, kinds=kinds or None, as_of=as_of, mode=mode, archived=archived, explain=True
            )
        )
    if as_json:
        print_json([
            {**one.memory._asdict(), "score": one.score, "terms": one.terms._asdict() if one.terms else None}
            for one in found
        ])  # fmt: skip
        return
    columns, rows = ["score", "kind", "text", "id"], []
    for one in found:
        terms = [f"{term:.3f}" for term in one.terms[:3]] if explain and one.terms else []
        rows.append([f"{one.score:.3f}", *terms, one.memory.kind, one.text, one.id])
    if explain:
        columns[1:1] = ["relevance", "retention", "importance"]
    print_table(columns, rows)


@memory.command()
@namespace_to_read
@_memory
@click.option("-k", type=click.IntRange(1), default=5, show_default=True)
@mode_option
@embedder_options
@json_option
def similar(
    store: str, agent: str, memory_id: str, namespace: str, k: int, mode: str | None, as_json: bool, **embedder: Any
) -> None:
    """What says nearly the same as the memory ID."""
    with searching(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        named = edge.agent(agent).memory(namespace, embedder=embedder_of(embedder))
        found = named.similar(memory_id, k, mode=mode)
    if as_json:
        print_json([_scored(one) for one in found])
    else:
        _print_scored(found)


@memory.command("list")
@namespace_to_read
@click.option("--ended", is_flag=True, help="Also what is superseded, expired or forgotten.")
@json_option
def show(store: str, agent: str, namespace: str, ended: bool, as_json: bool) -> None:
    """All memories of a namespace."""
    with reading(store) as edge:
        _print(list(_of(edge, agent, namespace).all(ended=ended)), as_json)


@memory.command()
@namespace_to_write
@_memory
@click.argument("text")
@json_option
def supersede(store: str, agent: str, memory_id: str, text: str, namespace: str, as_json: bool) -> None:
    """TEXT holds from now on, in the place of the memory ID."""
    with existing(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        added = _of(edge, agent, namespace).supersede(memory_id, read_text(text))
    if as_json:
        print_json(added._asdict())
    else:
        click.echo(added.id)


@memory.command()
@namespace_to_write
@_memory
@click.argument("text", required=False)
@click.option("--importance", type=float, help="From 0 to 1.")
@click.option("--valid-at", type=int, help="Since when it holds, in milliseconds since 1970.")
@_metadata
@json_option
def update(
    store: str,
    agent: str,
    memory_id: str,
    text: str | None,
    namespace: str,
    metadata: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Correct the memory ID, which goes on being the same one: its TEXT (- is standard input) or what an option says.
    Its vectors go with an old text; `reembed` makes new ones.
    """
    changes = {name: value for name, value in options.items() if value is not None}
    if metadata is not None:
        changes["metadata"] = read_json("--metadata", metadata, '\'{"from": "chat"}\'')
    if text is not None:
        changes["text"] = read_text(text)
    if not changes:
        raise InvalidValue("there is nothing to change", hint="give a TEXT, --importance, --metadata or --valid-at")
    with existing(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        _of(edge, agent, namespace).update(memory_id, **changes)
    if as_json:
        print_json({"updated": memory_id})


@memory.command()
@namespace_to_write
@click.argument("memory_ids", metavar="ID…", nargs=-1, required=True)
@json_option
def touch(store: str, agent: str, memory_ids: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Count an access to each memory: what is accessed is retained."""
    with existing(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        _of(edge, agent, namespace).touch(*memory_ids)
    if as_json:
        print_json({"touched": list(memory_ids)})


@memory.command()
@namespace_to_write
@_memory
@json_option
def retract(store: str, agent: str, memory_id: str, namespace: str, as_json: bool) -> None:
    """The memory ID does not hold any more."""
    with existing(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        _of(edge, agent, namespace).retract(memory_id)
    if as_json:
        print_json({"retracted": memory_id})


@memory.command()
@namespace_to_read
@_memory
@json_option
def history(store: str, agent: str, memory_id: str, namespace: str, as_json: bool) -> None:
    """What a memory superseded, and what superseded it, oldest first."""
    with reading(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        _print(_of(edge, agent, namespace).history(memory_id), as_json)


@memory.command()
@namespace_to_write
@click.option("--min-retention", type=float, default=0.0, help="Archive what is retained less, from 0 to 1.")
@click.option("--keep", type=click.IntRange(0), help="Archive the least retained beyond this number.")
@click.option("--older-than-days", type=float, default=0.0, help="Only what is older, by --min-retention.")
@click.option("--kind", "kinds", multiple=True, default=("episodic", "working"), show_default=True)
@click.option("--dry-run", is_flag=True, help="Say it, and change nothing.")
@json_option
def forget(
    store: str, agent: str, namespace: str, kinds: tuple[str, ...], dry_run: bool, as_json: bool, **policy: Any
) -> None:
    """Archive what is least retained; delete what has expired. `restore` brings back what is archived."""
    from edge.agent.memory_care import Forgetting

    with reading(store) if dry_run else existing(store) as edge:
        done = _of(edge, agent, namespace).forget(Forgetting(kinds=kinds, **policy), dry_run=dry_run)
    if as_json:
        print_json(done._asdict())
        return
    would = "would be " if dry_run else ""
    click.echo(f"{counted(len(done.archived), 'memory')} {would}archived, {len(done.expired):,} {would}deleted")


@memory.command()
@namespace_to_write
@click.argument("memory_ids", metavar="ID…", nargs=-1, required=True)
@json_option
def restore(store: str, agent: str, memory_ids: tuple[str, ...], namespace: str, as_json: bool) -> None:
    """Bring archived memories back."""
    with existing(store) as edge, hinting(NotFound, _listed(store, agent, namespace)):
        back = _of(edge, agent, namespace).restore(*memory_ids)
    if as_json:
        print_json({"restored": back})
    else:
        click.echo(f"{back:,} restored")


@memory.command()
@namespace_to_write
@embedder_options
@json_option
def reembed(store: str, agent: str, namespace: str, as_json: bool, **embedder: Any) -> None:
    """Vectors for what has none. By another model than the one until now: for the memories of all agents; until that is
    done the old vectors are searched, and an interrupted call goes on with the next.
    """
    namespaces.reembed(store, lambda edge: _of(edge, agent, namespace), embedder, as_json)


def _of(edge: Edge, agent: str, namespace: str) -> Memory:
    return edge.agent(agent).memory(namespace)


def _listed(store: str, agent: str, namespace: str) -> str:
    return namespaces.listed("memory", store, agent, namespace, "--ended")


def _scored(one: Recall) -> dict[str, Any]:
    return {**one.memory._asdict(), "score": one.score}


def _print_scored(found: list[Recall]) -> None:
    rows = [(f"{one.score:.3f}", one.memory.kind, one.text, one.id) for one in found]
    print_table(("score", "kind", "text", "id"), rows)


def _print(found: list[Remembered], as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [
        (one.kind, when(one.valid_at), when(one.invalid_at) if one.invalid_at else "", one.text, one.id)
        for one in found
    ]
    print_table(("kind", "since", "until", "text", "id"), rows)
