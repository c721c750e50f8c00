"""``collection``: declare what a collection's fields are and how they are searched, or list what is declared."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.stores import declared, existing, reading, store_to_write
from edge.node import Edge
from sync.errors import InvalidValue
from sync.schema import METRICS, RULE_LETTERS, TYPES, CollectionSchema

_FIELD_HELP = f"A type ({', '.join(TYPES[:-1])}), a merge rule ({', '.join(RULE_LETTERS)}), or TYPE/RULE."


@click.command()
@store_to_write
@click.argument("name", required=False)
@click.option("--field", "fields", multiple=True, metavar="NAME=WHAT", help=_FIELD_HELP)
@click.option("--vector", metavar="FIELD:DIMENSIONS[:METRIC[:MODEL]]", help=f"METRIC is one of {', '.join(METRICS)}.")
@click.option("--text", "texts", multiple=True, metavar="FIELD", help="A field that text search covers.")
@click.option("--conflict", help="latest, priority, manual or resolver:NAME: what the cloud does with a conflict.")
@click.option("--new", is_flag=True, help="Declare it with no more than its name: any fields, the last writer wins.")
@click.option("--strict/--no-strict", default=None, help="Refuse fields that are not declared, or take them.")
@json_option
def collection(
    store: str,
    name: str | None,
    fields: tuple[str, ...],
    vector: str | None,
    texts: tuple[str, ...],
    conflict: str | None,
    new: bool,
    strict: bool | None,
    as_json: bool,
) -> None:
    """List the collections, show one, or declare one: what is given is added to what is declared of it.

    A declaration is for the whole fleet, travels with the next sync and cannot be taken back. How a field merges is for
    life.
    """
    given: dict[str, Any] = {}
    if fields:
        given["fields"] = dict(map(_field, fields))
    if vector is not None:
        given["vector"] = _vector(vector)
    if texts:
        given["text"] = texts
    given |= {word: value for word, value in (("conflict", conflict), ("strict", strict)) if value is not None}
    if name is None and (given or new):
        raise InvalidValue("a declaration needs the collection's NAME", hint=f"agentdb-edge collection {store} NAME …")
    with existing(store) if given or new else reading(store) as edge:
        if name is not None and (given or new):
            _declare(edge, name, given)
        elif name is not None:
            declared(
                edge, name, hint=f"to declare it: agentdb-edge collection {store} {name} --new, or with its fields"
            )
        names = edge.collections() if name is None else [name]
        found = [(edge.collection(each).schema, edge.collection(each).count()) for each in names]
    if as_json:
        print_json([{"name": schema.name, "records": records, **schema.to_document()} for schema, records in found])
        return
    print_table(("collection", "records", "declared"), [(s.name, counted(n, "record"), _shown(s)) for s, n in found])


def _declare(edge: Edge, name: str, given: dict[str, Any]) -> None:
    if not given or name not in edge.collections():
        edge.collection(name, **given)
        return
    old = edge.collection(name).schema
    edge.collection(
        name,
        fields={**old.fields, **given.get("fields", {})},
        vector=given.get("vector", old.vector),
        text=[*old.text, *(field for field in given.get("text", ()) if field not in old.text)],
        conflict=given.get("conflict", old.conflict),
        strict=given.get("strict", old.strict),
    )


def _field(text: str) -> tuple[str, Any]:
    name, equals, what = text.rpartition("=")
    if not equals or not name or not what:
        raise InvalidValue(f"--field is NAME=WHAT, not {text!r:.80}", hint="such as visits=counter, or age=int")
    kind, slash, merge = what.partition("/")
    return name, (kind, merge) if slash else what


def _vector(text: str) -> tuple[Any, ...]:
    field, _, rest = text.partition(":")
    dimensions, *more = rest.split(":", 2)
    if not field or not (dimensions.isascii() and dimensions.isdigit()) or len(dimensions) > 9:
        raise InvalidValue(
            f"--vector is FIELD:DIMENSIONS, not {text!r:.80}", hint="such as embedding:384, or embedding:384:dot"
        )
    return (field, int(dimensions), *more)


def _shown(schema: CollectionSchema) -> str:
    parts = []
    for name, rule in schema.fields.items():
        if name not in schema.text and rule.type != "vector":
            parts.append(f"{name}={rule.type if rule.merge == 'lww' else f'{rule.type}/{rule.merge}'}")
    if schema.vector:
        precision = "" if schema.vector.precision == "float32" else f", {schema.vector.precision}"
        parts.append(f"vector {schema.vector.field}:{schema.vector.dimensions}:{schema.vector.metric}{precision}")
    if schema.text:
        parts.append(f"text {', '.join(schema.text)}")
    if schema.conflict != "latest":
        parts.append(f"conflict {schema.conflict}")
    if schema.strict:
        parts.append("strict")
    return "; ".join(parts) or "plain"
