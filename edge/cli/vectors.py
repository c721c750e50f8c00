"""``vectors``: spaces of vectors, and what is nearest in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edge.cli.output import cell, counted, json_option, print_json, print_table
from edge.cli.stores import (
    existing,
    read_filter,
    read_json,
    read_text,
    reading,
    searching,
    store_argument,
    store_to_write,
)
from sync.errors import InvalidValue

if TYPE_CHECKING:
    from edge.agent.vectors import Neighbour, Vectors
    from edge.node import Edge

_agent = click.argument("agent")
_space = click.argument("space")
_vector = click.argument("vector")
_where = click.option("--where", help="A filter over the metadata, as JSON.")
_EXAMPLE = "'[0.1, 0.9]'"
_LINE_CHARACTERS_MAX = 1 << 20


@click.group()
def vectors() -> None:
    """Spaces of vectors: stored by key, found by nearness."""


@vectors.command()
@store_to_write
@_agent
@_space
@click.argument("key")
@click.argument("vector", required=False)
@click.option("--metadata", help="A JSON object.")
@click.option("--dimension", type=click.IntRange(1), help="Of a new space; by default that of its first vector.")
@click.option("--metric", help="Of a new space: cosine (the default), l2, dot.")
@click.option("--precision", help="Of a new space: float32 (the default), float16, int8.")
@json_option
def upsert(
    store: str,
    agent: str,
    space: str,
    key: str,
    vector: str | None,
    metadata: str | None,
    dimension: int | None,
    metric: str | None,
    precision: str | None,
    as_json: bool,
) -> None:
    """Store VECTOR, a JSON list, under KEY. A KEY of - alone reads many from standard input, a JSON object on each
    line: {"key": …, "vector": […], "metadata": {…}}.
    """
    items: Iterator[tuple[str, list[float], Any]] = iter(())
    if key == "-" and vector is None:
        if metadata is not None:
            raise click.UsageError("--metadata is for one vector: of many it is in their lines")
        items = _lines()
        first = next(items, None)
        some = [] if first is None else [first]
    else:
        given = None if metadata is None else read_json("--metadata", metadata, "'{\"floor\": 2}'")
        some = [(key, _numbers(vector), given)]
    with existing(store) as edge:
        known = space in [one.space for one in edge.agent(agent).spaces()]
        if not known and dimension is None and some:
            dimension = len(some[0][1])
        found = edge.agent(agent).vectors(space, dimension=dimension, metric=metric, precision=precision)
        count = found.upsert_many(some) + found.upsert_many(items)
    if as_json:
        print_json({"stored": count})
    else:
        click.echo(f"{counted(count, 'vector')} stored")


@vectors.command()
@store_argument
@_agent
@_space
@_vector
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@_where
@click.option("--explain", is_flag=True, help="Say what answered, and why.")
@json_option
def knn(
    store: str, agent: str, space: str, vector: str, k: int, where: str | None, explain: bool, as_json: bool
) -> None:
    """The nearest to VECTOR, a JSON list, or with - what standard input says."""
    query, given = _numbers(vector), read_filter(where)
    with searching(store) as edge:
        found = _of(edge, agent, space).knn(query, k, given, explain=explain)
    _print(found, as_json)
    if explain and found and not as_json:
        click.echo(found[0].why)


@vectors.command("range")
@store_argument
@_agent
@_space
@_vector
@click.option("--radius", type=float, help="The greatest distance: 1 - cosine, or Euclidean.")
@click.option("--min-score", type=float, help="The least score.")
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True)
@_where
@json_option
def within(
    store: str,
    agent: str,
    space: str,
    vector: str,
    radius: float | None,
    min_score: float | None,
    limit: int,
    where: str | None,
    as_json: bool,
) -> None:
    """Everything within a distance of VECTOR, nearest first."""
    query, given = _numbers(vector), read_filter(where)
    with searching(store) as edge:
        found = _of(edge, agent, space).range(query, radius=radius, min_score=min_score, limit=limit, filter=given)
    _print(found, as_json)


@vectors.command()
@store_to_write
@_agent
@_space
@click.argument("keys", metavar="KEY…", nargs=-1, required=True)
@json_option
def delete(store: str, agent: str, space: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Delete vectors."""
    with existing(store) as edge:
        _of(edge, agent, space).delete(*keys)
    if as_json:
        print_json({"deleted": list(keys)})
    else:
        click.echo(f"{counted(len(keys), 'vector')} deleted")


@vectors.command("list")
@store_argument
@_agent
@click.argument("space", required=False)
@click.option("--prefix", default="", help="Only keys that begin with it.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
def show(store: str, agent: str, space: str | None, prefix: str, limit: int, as_json: bool) -> None:
    """The vectors of a space, or without SPACE the agent's spaces."""
    with reading(store) as edge:
        if space is None:
            _print_spaces(edge.agent(agent).spaces(), as_json)
            return
        found = [one for one, _ in zip(_of(edge, agent, space).all(prefix), range(limit), strict=False)]
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        rows = [(one.key, cell(one.vector), cell(one.metadata)) for one in found]
        print_table(("key", "vector", "metadata"), rows)


@vectors.command()
@store_argument
@_agent
@_space
@json_option
def status(store: str, agent: str, space: str, as_json: bool) -> None:
    """A space's declaration, its size, and whether its searches are exact."""
    with reading(store) as edge:
        said = _of(edge, agent, space).status()
    if as_json:
        print_json(said)
        return
    index = said.pop("index", {})
    said["search"] = "approximate" if said.pop("approximate") else "exact"
    said.update({f"index {word}": value for word, value in index.items() if value not in ("", False)})
    print_table(("", ""), [(word, cell(value)) for word, value in said.items()])


def _of(edge: Edge, agent: str, space: str) -> Vectors:
    return edge.agent(agent).vectors(space)


def _numbers(text: str | None) -> list[float]:
    """Raises InvalidValue."""
    if text is None:
        raise InvalidValue("a VECTOR is missing", hint=f"a JSON list such as {_EXAMPLE}")
    return _checked(read_json("VECTOR", read_text(text), _EXAMPLE), "VECTOR")


def _checked(vector: Any, what: str) -> list[float]:
    if not isinstance(vector, list) or any(type(number) not in (int, float) for number in vector):
        raise InvalidValue(f"{what} is a JSON list of numbers", hint=f"such as {_EXAMPLE}")
    return vector


def _lines() -> Iterator[tuple[str, list[float], Any]]:
    """Of standard input. Raises InvalidValue."""
    for number, line in enumerate(iter(lambda: sys.stdin.readline(_LINE_CHARACTERS_MAX), ""), 1):
        if line.isspace():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidValue(f"line {number} is not JSON: {error}", hint="an object on each line") from error
        if not isinstance(item, dict) or not {"key", "vector"} <= item.keys() <= {"key", "vector", "metadata"}:
            raise InvalidValue(f"line {number} is no object with key, vector and perhaps metadata")
        yield item["key"], _checked(item["vector"], f"the vector of line {number}"), item.get("metadata")


def _print(found: list[Neighbour], as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [(one.key, f"{one.distance:.4f}", f"{one.score:.4f}", cell(one.metadata)) for one in found]
    print_table(("key", "distance", "score", "metadata"), rows)


def _print_spaces(found: list[Vectors], as_json: bool) -> None:
    known = [(one.space, one.dimension, one.metric, one.precision, one.count()) for one in found]
    if as_json:
        print_json(
            [dict(zip(("space", "dimension", "metric", "precision", "count"), one, strict=True)) for one in known]
        )
    else:
        rows = [(space, str(size), metric, how, f"{count:,}") for space, size, metric, how, count in known]
        print_table(("space", "dimension", "metric", "precision", "vectors"), rows)
