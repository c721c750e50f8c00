"""``agentdb-edge``: a device's store from the command line.

Tables are for people; ``--json`` gives one JSON document on standard output (bytes as ``{"$base64": …}``).
A mistake of the user's is one line and a hint, exit 2; a failure of disk or network the same with exit 1; neither
shows a stack trace. One process has a store open at a time: while ``run`` is under way, other commands say so and stop.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from edge.node import Edge
from sync.errors import AgentDBError, InputError, InvalidValue, Malformed, NotFound, UnknownCollection

if TYPE_CHECKING:
    from edge.link.replicator import Progress
    from edge.storage.collection import Collection

JSON = "agentdb.json"
CELL_CHARACTERS_MAX = 60
FIELDS_BYTES_MAX = 1 << 20


class _Main(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentDBError as error:
            if ctx.meta.get(JSON):
                text = json.dumps({"error": error.code, "message": error.message, "hint": error.hint})
                click.echo(text, err=True)
            else:
                click.echo(f"error: {error.message}", err=True)
                if error.hint:
                    click.echo(f"hint: {error.hint}", err=True)
            ctx.exit(2 if isinstance(error, InputError | Malformed) else 1)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agentdb-edge")
def main() -> None:
    """Keep, search and sync an agent's state on this device."""


def _note_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON] = value
    return value


json_option = click.option("--json", "as_json", is_flag=True, callback=_note_json, is_eager=True, help="For machines.")
store_argument = click.argument("store", type=click.Path(file_okay=False))
url_option = click.option("--url", help="The control plane's URL, instead of the one that was joined.")
timeout_option = click.option("--timeout", "timeout_s", type=float, default=300.0, show_default=True, help="Seconds.")


@main.command()
@store_argument
@click.option("--join", "token", help="Join a fleet with this token (agentdb-cloud token DIR).")
@click.option("--name", default="", help="What people call this device; its host name by default.")
@url_option
@json_option
def init(store: str, token: str | None, name: str, url: str | None, as_json: bool) -> None:
    """Make a store with its own keys, and join a fleet if there is a token."""
    with Edge.open(store) as edge:
        if token:
            edge.join(token, name=name, url=url)
        made = {"store": edge.path, "device": edge.device.hex(), "joined": edge.log.meta_get("fleet") is not None}
    if as_json:
        _print_json(made)
        return
    click.echo(f"Store {made['store']}, device {made['device']}")
    click.echo("It has joined its fleet: agentdb-edge sync STORE" if made["joined"] else "Not in a fleet: use --join.")


@main.command()
@store_argument
@click.argument("collection")
@click.argument("key")
@click.argument("fields")
@json_option
def put(store: str, collection: str, key: str, fields: str, as_json: bool) -> None:
    """Store a record; FIELDS is a JSON object, or - for standard input. An unknown collection is declared plain."""
    values = _read_fields(fields)
    with _existing(store) as edge:
        edge.collection(collection).put(key, values)
        _say_written(edge, as_json)


@main.command()
@store_argument
@click.argument("collection")
@click.argument("key")
@click.argument("fields")
@json_option
def patch(store: str, collection: str, key: str, fields: str, as_json: bool) -> None:
    """Change the fields that the JSON object FIELDS names; null makes one absent."""
    values = _read_fields(fields)
    with _existing(store) as edge:
        _declared(edge, collection).patch(key, values)
        _say_written(edge, as_json)


@main.command()
@store_argument
@click.argument("collection")
@click.argument("key")
@json_option
def delete(store: str, collection: str, key: str, as_json: bool) -> None:
    """Delete a record."""
    with _existing(store) as edge:
        _declared(edge, collection).delete(key)
        _say_written(edge, as_json)


@main.command()
@store_argument
@click.argument("collection")
@click.argument("key")
@json_option
def get(store: str, collection: str, key: str, as_json: bool) -> None:
    """Print a record."""
    with _existing(store) as edge:
        fields = _declared(edge, collection).get(key)
    if fields is None:
        raise NotFound(f"there is no record {key!r} in {collection!r}")
    if as_json:
        _print_json(fields)
    else:
        _print_table(("field", "value"), [(name, _cell(value)) for name, value in fields.items()])


@main.command()
@store_argument
@click.argument("collection")
@click.option("--prefix", default="", help="Only keys that begin with this.")
@click.option("--where", help='A filter as JSON, such as \'{"agent": "a1"}\'.')
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
def scan(store: str, collection: str, prefix: str, where: str | None, limit: int, as_json: bool) -> None:
    """List records in order of key."""
    with _existing(store) as edge:
        rows = list(_declared(edge, collection).scan(prefix, _read_filter(where), limit))
    if as_json:
        _print_json([{"key": key, "fields": fields} for key, fields in rows])
    else:
        _print_table(("key", "fields"), [(key, _cell(fields)) for key, fields in rows])


@main.command()
@store_argument
@click.argument("collection")
@click.argument("text", required=False)
@click.option("--vector", help="A query vector as a JSON list.")
@click.option("--where", help="A filter as JSON.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--explain", is_flag=True, help="Say which tier answered, and why.")
@json_option
def search(
    store: str,
    collection: str,
    text: str | None,
    vector: str | None,
    where: str | None,
    k: int,
    explain: bool,
    as_json: bool,
) -> None:
    """Search by text, by vector, or by both."""
    query = None if vector is None else _read_json("--vector", vector)
    with _existing(store) as edge:
        found = _declared(edge, collection)
        hits = found.search(text, query, k=k, filter=_read_filter(where), explain=explain)
        hidden = found.schema.vector.field if found.schema.vector else None
    if as_json:
        _print_json([hit._asdict() for hit in hits])
        return
    rows = [
        (hit.key, f"{hit.score:.4f}", _cell({name: v for name, v in hit.fields.items() if name != hidden}))
        for hit in hits
    ]
    _print_table(("key", "score", "fields"), rows)
    if explain and hits:
        click.echo(f"{hits[0].tier}: {hits[0].why}")


@main.command()
@store_argument
@url_option
@timeout_option
@json_option
def sync(store: str, url: str | None, timeout_s: float, as_json: bool) -> None:
    """Push and pull until this device and the cloud have everything of each other."""
    with _existing(store) as edge, _progress_bar(as_json) as show:
        done = edge.sync(timeout_s=timeout_s, url=url, on_progress=show)
        dead = len(edge.log.dead_letters())
    if as_json:
        _print_json({**done._asdict(), "dead_letters": dead})
        return
    click.echo(f"In sync: {done.pushed} operations pushed, {done.pulled} pulled.")
    if dead:
        click.echo(f"{dead} operations were refused; `agentdb-edge status {store}` says which and why.")


@main.command()
@store_argument
@url_option
@json_option
def run(store: str, url: str | None, as_json: bool) -> None:
    """Stay in sync, and keep the search tables up to date, until interrupted."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with _existing(store) as edge:
        edge.start_sync(url=url)
        edge.projections.start(with_tables=True)
        said = ""
        while not stopped.wait(0.5):
            status = edge.log.meta_get("sync") or {}
            now = "connected" if status.get("connected") else status.get("error") or "connecting"
            if now != said:
                said = now
                if as_json:
                    _print_json({"state": now})
                else:
                    click.echo(now)


@main.command()
@store_argument
@json_option
def status(store: str, as_json: bool) -> None:
    """What is in the store, what waits to be pushed, what was refused, how the link is."""
    with _existing(store) as edge:
        said = edge.status()
    if as_json:
        _print_json(said)
        return
    link = said["sync"] or {}
    state = "never synced" if not link else "in order" if not link.get("error") else f"{link['error']}; {link['hint']}"
    rows = [
        ("store", said["store"]),
        ("device", said["device"]),
        ("log", f"{said['log']['head_seq']} written, {said['log']['pending']} to push, {said['log']['bytes']:,} bytes"),
        ("feed", f"applied up to {said['cursor']}"),
        ("link", state),
    ]
    rows += [(f"collection {name}", f"{told['records']:,} records") for name, told in said["collections"].items()]
    rows += [("schema problem", f"{name}: {why}") for name, why in said["schema_problems"].items()]
    _print_table(("", ""), rows)
    if said["dead_letters"]:
        click.echo("\nRefused by the cloud, kept here:")
        columns = ("seq", "collection", "key", "code", "reason")
        _print_table(columns, [tuple(str(letter[name]) for name in columns) for letter in said["dead_letters"]])


@main.command()
@store_argument
@json_option
def verify(store: str, as_json: bool) -> None:
    """Check the store; search tables that fail are rebuilt. Exit 1 if there was anything."""
    with _existing(store) as edge:
        problems = edge.verify()
        digest = edge.digest()
    if as_json:
        _print_json({"problems": problems, "digest": digest})
    else:
        click.echo("\n".join(problems) or "No problem found.")
        click.echo(f"state digest {digest}")
    if problems:
        sys.exit(1)


# -- helpers ----------------------------------------------------------------------------------------------------------


def _existing(store: str) -> Edge:
    return Edge.open(store, create=False)


def _declared(edge: Edge, name: str) -> Collection:
    """Reading from a collection must not declare it for the whole fleet."""
    if name not in edge.collections():
        known = ", ".join(edge.collections()) or "none yet"
        raise UnknownCollection(f"there is no collection {name!r}", hint=f"known are: {known}")
    return edge.collection(name)


def _say_written(edge: Edge, as_json: bool) -> None:
    if as_json:
        _print_json({"seq": edge.log.head_seq, "pending": edge.log.head_seq - edge.log.acked_seq})


def _read_fields(text: str) -> dict[str, Any]:
    if text == "-":
        text = sys.stdin.read(FIELDS_BYTES_MAX + 1)
    fields = _read_json("FIELDS", text)
    if not isinstance(fields, dict):
        raise InvalidValue("FIELDS is a JSON object", hint='such as \'{"body": "the pump is loud"}\'')
    return fields


def _read_filter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    where = _read_json("--where", text)
    if not isinstance(where, dict):
        raise InvalidValue("--where is a JSON object", hint='such as \'{"importance": {"$gte": 0.5}}\'')
    return where


def _read_json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{what} is not JSON: {error}", hint="quote it for the shell: '{\"name\": 1}'") from error


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, array):
        return value.tolist()
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    raise TypeError(f"cannot show a {type(value).__name__}")


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=_plain, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= CELL_CHARACTERS_MAX else text[: CELL_CHARACTERS_MAX - 1] + "…"


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, show_header=any(columns), pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what users stored is no markup
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


@contextmanager
def _progress_bar(as_json: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on a terminal; nothing for machines and pipes."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        push, pull = bars.add_task("push", total=None), bars.add_task("pull", total=None)

        def show(now: Any) -> None:
            bars.update(push, completed=now.pushed, total=now.pushed + now.pending)
            bars.update(pull, completed=now.pulled, total=now.pulled + now.behind)

        yield show
