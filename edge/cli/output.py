"""What commands print: JSON for machines, tables for people, errors for both."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

JSON = "agentdb.json"
CELL_CHARACTERS_MAX = 60
_NUMBERS_SHOWN = 4


def _note_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON] = value
    return value


json_option = click.option("--json", "as_json", is_flag=True, callback=_note_json, is_eager=True, help="For machines.")


def say_error(ctx: click.Context, code: str, message: str, hint: str) -> None:
    if ctx.meta.get(JSON):
        click.echo(json.dumps({"error": code, "message": message, "hint": hint}), err=True)
        return
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, array):
        return value.tolist()
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    raise TypeError(f"cannot show a {type(value).__name__}")


def cell(value: Any) -> str:
    """One line; on a terminal a short one. Of a vector the first numbers: all are in the JSON."""
    if isinstance(value, array):
        text = _vector(value)
    elif isinstance(value, Mapping):
        text = ", ".join(f"{name}: {cell(item)}" for name, item in value.items())
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=_plain, ensure_ascii=False)
    text = " ".join(text.split())
    if len(text) <= CELL_CHARACTERS_MAX or not sys.stdout.isatty():
        return text
    return text[: CELL_CHARACTERS_MAX - 1] + "…"


def _vector(value: array[float]) -> str:
    shown = ", ".join(f"{number:.4g}" for number in value[:_NUMBERS_SHOWN])
    return f"[{shown}]" if len(value) <= _NUMBERS_SHOWN else f"[{shown}, … {len(value)} numbers]"


def counted(number: int, what: str) -> str:
    """``1 record``, ``2 records``, ``2 memories``."""
    many = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number:,} {what if number == 1 else many}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """For a terminal it is laid out to its width; in a pipe every row is one line."""
    if not sys.stdout.isatty():
        _print_lines([tuple(columns), *rows] if any(columns) else list(rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, show_header=any(columns), pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what users stored is no markup
    Console().print(table)


def _print_lines(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
