"""How the command line says things: tables for people, JSON for machines, times, progress; and how it reads names."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from sync.errors import InvalidValue
from sync.limits import INT_MAX

directory_argument = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
AFTER = click.IntRange(0, INT_MAX)
NUMBER = click.IntRange(1, INT_MAX)
JSON = "agentdb.json"
"""In the click context's ``meta`` if the command was asked for JSON: then its error is JSON, too."""


def _note_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON] = value
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, is_eager=True, callback=_note_json, help="One JSON document instead of text."
)

group_option = click.option("--group", "query", default="", help="Only devices that this query names.")
_PIPED_COLUMNS = 400
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, default=_plain))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Values are text and never markup, nor what a terminal would obey: some come from devices."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_printable(str(value))) for value in row))
    if table.row_count:
        width = None if sys.stdout.isatty() else _PIPED_COLUMNS  # what is piped is not folded
        Console(highlight=False, width=width).print(table)
    else:
        click.echo(empty)


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for (done, total), drawn on standard error if that is a terminal; else None."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _printable(text: str) -> str:
    """What was not said by us, without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def when(at_ms: int) -> str:
    """UTC to the second; "" for 0."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at_ms else ""


def parse_duration_s(text: str) -> int:
    """Of 90, 90s, 30m, 24h or 7d. Raises InvalidValue."""
    found = re.fullmatch(r"([0-9]{1,12})([smhd]?)", text)
    if found is None:
        raise InvalidValue(f"{text!r} is not a duration", hint="such as 30m, 24h or 7d")
    return int(found[1]) * _UNITS_S[found[2] or "s"]


def parse_time_ms(text: str) -> int:
    """ISO 8601; without an offset it is UTC. Raises InvalidValue."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidValue(f"{text!r} is not a time", hint="ISO 8601, such as 2026-01-31T12:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def parse_url(text: str) -> str:
    """Of a server: http:// or https://, a host, perhaps a port. Raises InvalidValue."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and not (parts.query or parts.fragment or any(sign.isspace() for sign in text))
    except ValueError:
        good = False
    if not good:
        raise InvalidValue(f"{text!r} is not the address of a server", hint="https://host, or http://host:port")
    return text.rstrip("/")


def parse_options(pairs: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE each. Raises InvalidValue."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_]+", key):
            raise InvalidValue(f"{pair!r} is not KEY=VALUE", hint="such as endpoint=https://storage.example")
        options[key] = value
    return options


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
