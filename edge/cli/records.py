"""``put``, ``patch``, ``increment``, ``add``, ``remove``, ``delete``, ``get``, ``scan`` and ``search``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from edge.cli.hints import hinting
from edge.cli.output import cell, json_option, print_json, print_table
from edge.cli.stores import (
    collection_argument,
    declared,
    existing,
    key_argument,
    mode_option,
    read_fields,
    read_filter,
    read_vector,
    reading,
    searching,
    store_argument,
    store_to_write,
)
from sync.errors import InvalidValue, NotFound, SchemaMismatch

if TYPE_CHECKING:
    from edge.node import Edge

_LIMIT_MAX = 1_000_000
_MADE_BY = "`agentdb-edge put` makes a record; so does --upsert here"
where_option = click.option(
    "--where", "--filter", "where", help='A filter as JSON, such as \'{"agent": "a1"}\'; filter= in Python.'
)
upsert_option = click.option("--upsert", is_flag=True, help="Make the record if there is none.")


@click.command()
@store_to_write
@collection_argument
@key_argument
@click.argument("fields")
@click.option("--new", is_flag=True, help="Declare the collection plain, for the whole fleet, if there is none.")
@json_option
def put(store: str, collection: str, key: str, fields: str, new: bool, as_json: bool) -> None:
    """Store a record; FIELDS is a JSON object, or - for standard input."""
    values = read_fields(fields)
    hint = f"`agentdb-edge collection {store} {collection} …` declares it; `put --new` declares it plain, for the fleet"
    with existing(store) as edge:
        (edge.collection(collection) if new else declared(edge, collection, hint)).put(key, values)
        _say_written(edge, as_json)


@click.command()
@store_to_write
@collection_argument
@key_argument
@click.argument("fields")
@upsert_option
@json_option
def patch(store: str, collection: str, key: str, fields: str, upsert: bool, as_json: bool) -> None:
    """Change the fields that the JSON object FIELDS names; null makes one absent."""
    values = read_fields(fields)
    with existing(store) as edge, hinting(NotFound, _MADE_BY):
        declared(edge, collection).patch(key, values, upsert=upsert)
        _say_written(edge, as_json)


@click.command(context_settings={"ignore_unknown_options": True})  # BY may be negative
@store_to_write
@collection_argument
@key_argument
@click.argument("field")
@click.argument("by", default="1")
@upsert_option
@json_option
def increment(store: str, collection: str, key: str, field: str, by: str, upsert: bool, as_json: bool) -> None:
    """Add BY (1, if it is left out; it may be negative) to a counter field."""
    amount = _number(by)
    hint = f"agentdb-edge collection {store} {collection} --field {field}=counter"
    with existing(store) as edge, hinting(NotFound, _MADE_BY), hinting(SchemaMismatch, hint):
        declared(edge, collection).increment(key, field, amount, upsert=upsert)
        _say_written(edge, as_json)


@click.command()
@store_to_write
@collection_argument
@key_argument
@click.argument("field")
@click.argument("elements", nargs=-1, required=True)
@upsert_option
@json_option
def add(
    store: str, collection: str, key: str, field: str, elements: tuple[str, ...], upsert: bool, as_json: bool
) -> None:
    """Add strings to a set field."""
    hint = f"agentdb-edge collection {store} {collection} --field {field}=set"
    with existing(store) as edge, hinting(NotFound, _MADE_BY), hinting(SchemaMismatch, hint):
        declared(edge, collection).add(key, field, *elements, upsert=upsert)
        _say_written(edge, as_json)


@click.command()
@store_to_write
@collection_argument
@key_argument
@click.argument("field")
@click.argument("elements", nargs=-1, required=True)
@json_option
def remove(store: str, collection: str, key: str, field: str, elements: tuple[str, ...], as_json: bool) -> None:
    """Remove strings from a set field."""
    hint = f"agentdb-edge collection {store} {collection} --field {field}=set"
    with existing(store) as edge, hinting(NotFound, _listed(store, collection)), hinting(SchemaMismatch, hint):
        declared(edge, collection).remove(key, field, *elements)
        _say_written(edge, as_json)


@click.command()
@store_to_write
@collection_argument
@key_argument
@json_option
def delete(store: str, collection: str, key: str, as_json: bool) -> None:
    """Delete a record."""
    with existing(store) as edge, hinting(NotFound, _listed(store, collection)):
        declared(edge, collection).delete(key)
        _say_written(edge, as_json)


@click.command()
@store_argument
@collection_argument
@key_argument
@json_option
def get(store: str, collection: str, key: str, as_json: bool) -> None:
    """Print a record."""
    with reading(store) as edge:
        fields = declared(edge, collection).get(key)
    if fields is None:
        raise NotFound(f"there is no record {key!r} in {collection!r}", hint=_listed(store, collection))
    if as_json:
        print_json(fields)
    else:
        print_table(("field", "value"), [(name, cell(value)) for name, value in fields.items()])


@click.command()
@store_argument
@collection_argument
@click.option("--prefix", default="", help="Only keys that begin with this.")
@where_option
@click.option("--limit", type=click.IntRange(1, _LIMIT_MAX), default=20, show_default=True)
@click.option("--after", default="", metavar="KEY", help="Go on after this key.")
@json_option
def scan(store: str, collection: str, prefix: str, where: str | None, limit: int, after: str, as_json: bool) -> None:
    """List records in order of key. That there are more is said on standard error."""
    with reading(store) as edge:
        rows = list(declared(edge, collection).scan(prefix, read_filter(where), limit + 1, after=after))
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        print_json([{"key": key, "fields": fields} for key, fields in rows])
    else:
        print_table(("key", "fields"), [(key, cell(fields)) for key, fields in rows])
    if more and not as_json:
        click.echo(f"There are more: --after {shlex.quote(rows[-1][0])}, or --limit", err=True)


@click.command()
@store_argument
@collection_argument
@click.argument("text", required=False)
@click.option("--vector", help="A query vector as a JSON list.")
@where_option
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--explain", is_flag=True, help="Say which tier answered, and why.")
@mode_option
@json_option
def search(
    store: str,
    collection: str,
    text: str | None,
    vector: str | None,
    where: str | None,
    k: int,
    explain: bool,
    mode: str | None,
    as_json: bool,
) -> None:
    """Search by text, by vector, or by both. What can be searched is declared: agentdb-edge collection."""
    query, allowed = read_vector(vector), read_filter(where)
    if text is None and query is None:
        raise InvalidValue(
            "a search needs TEXT, --vector, or both", hint="such as 'loud pump', or --vector '[0.1, 0.9]'"
        )
    hint = f"agentdb-edge collection {store} {collection} --text FIELD, or --vector FIELD:DIMENSIONS"
    with searching(store) as edge:
        found = declared(edge, collection)
        spec = found.schema.vector
        if (text is not None and not found.schema.text) or (query is not None and spec is None):
            what = "text fields" if text is not None and not found.schema.text else "vector field"
            raise SchemaMismatch(f"collection {collection!r} declares no {what}", hint=hint)
        hits = found.search(text, query, k=k, filter=allowed, mode=mode, explain=explain)
    if as_json:
        print_json([hit._asdict() for hit in hits])
        return
    print_table(("key", "score", "fields"), [(hit.key, f"{hit.score:.4f}", cell(hit.fields)) for hit in hits])
    if explain and hits:
        click.echo(f"{hits[0].tier}: {hits[0].why}")


def _say_written(edge: Edge, as_json: bool) -> None:
    if as_json:
        print_json({"seq": edge.log.head_seq, "pending": edge.log.head_seq - edge.log.acked_seq})


def _listed(store: str, collection: str) -> str:
    return f"agentdb-edge scan {store} {collection} lists what there is"


def _number(text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InvalidValue(f"BY is a number, not {text!r:.80}", hint="such as 1, -2 or 0.5")
