"""What the commands take: a store, a collection that is declared, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.node import Edge
from edge.storage.store_lock import WAIT_S_MAX
from sync.errors import InvalidValue, StoreLocked, TooLarge, UnknownCollection
from sync.schema import check_collection_name

if TYPE_CHECKING:
    from edge.storage.collection import Collection

FIELDS_BYTES_MAX = 1 << 20
WAIT_S = 2.0  # for another command to be done with the store
STORE = "agentdb.store"  # in the context's meta: the path as it was typed
_WAIT = "agentdb.wait"
Command = TypeVar("Command", bound=Callable[..., Any])


def _store(ctx: click.Context, _: click.Parameter, value: str) -> str:
    if not value:  # what a shell makes of a variable that is not set; as a path it would be the current directory
        raise click.BadParameter("the path is empty: is the variable set that should have it? Here is '.'")
    ctx.meta[STORE] = value
    return value


def _wait(ctx: click.Context, _: click.Parameter, value: float) -> None:
    ctx.meta[_WAIT] = value


store_argument = click.argument("store", type=click.Path(file_okay=False), callback=_store)
_wait_option = click.option(
    "--wait",
    type=click.FloatRange(0, WAIT_S_MAX),
    default=WAIT_S,
    show_default=True,
    expose_value=False,
    callback=_wait,
    help="Seconds to wait for another process that writes to the store.",
)
collection_argument = click.argument("collection")
mode_option = click.option("--mode", help="How to search: text, vector or hybrid; by default what is given says.")
key_argument = click.argument("key")


def store_to_write(command: Command) -> Command:
    """The argument STORE of a command that writes, and for how long it waits for whoever writes now."""
    return store_argument(_wait_option(command))


def wait_s() -> float:
    """What the command that runs was told."""
    told: float = click.get_current_context().meta.get(_WAIT, WAIT_S)
    return told


def existing(store: str) -> Edge:
    """To write, when nobody else does."""
    return Edge.open(store, create=False, wait_s=wait_s())


def reading(store: str) -> Edge:
    """To read, whoever writes meanwhile."""
    return Edge.open(store, read_only=True)


def searching(store: str) -> Edge:
    """To read; but if nobody writes, with the lock: then what is brought up to date for a search stays so."""
    if os.access(store, os.W_OK):
        try:
            return Edge.open(store, create=False)
        except StoreLocked:
            pass  # whoever has it brings it up to date
    return reading(store)


def declared(edge: Edge, name: str, hint: str = "") -> Collection:
    """A typing mistake must not declare a collection for the whole fleet; ``hint`` is how it would be declared."""
    check_collection_name(name)
    if name not in edge.collections():
        known = f"known are: {', '.join(edge.collections()) or 'none yet'}"
        raise UnknownCollection(f"there is no collection {name!r}", hint=f"{known}; {hint}" if hint else known)
    return edge.collection(name)


def read_text(text: str) -> str:
    """The argument, or standard input where it is -. Raises InvalidValue, TooLarge."""
    return _stdin() if text == "-" else text


def read_fields(text: str) -> dict[str, Any]:
    text = read_text(text)
    example = '\'{"body": "the pump is loud"}\''
    fields = read_json("FIELDS", text, example)
    if not isinstance(fields, dict):
        raise InvalidValue("FIELDS is a JSON object", hint=f"such as {example}")
    return fields


def _stdin() -> str:
    data = sys.stdin.buffer.read(FIELDS_BYTES_MAX + 1)
    if len(data) > FIELDS_BYTES_MAX:
        raise TooLarge(f"standard input is over {FIELDS_BYTES_MAX} bytes", hint="a record takes at most 256 KiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidValue(f"standard input is not UTF-8 text (byte {error.start})", hint="JSON is UTF-8") from error


def read_filter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    example = '\'{"importance": {"$gte": 0.5}}\''
    where = read_json("--where", text, example)
    if not isinstance(where, dict):
        raise InvalidValue("--where is a JSON object", hint=f"such as {example}")
    return where


def read_vector(text: str | None) -> list[float] | None:
    if text is None:
        return None
    vector = read_json("--vector", text, "'[0.1, 0.9]'")
    if not isinstance(vector, list) or any(type(number) not in (int, float) for number in vector):
        raise InvalidValue("--vector is a JSON list of numbers", hint="such as '[0.1, 0.9]'")
    return vector


def read_json(what: str, text: str, example: str) -> Any:
    """``example`` is quoted as a shell wants it. Raises InvalidValue."""
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{what} is not JSON: {error}", hint=f"quoted for the shell, such as {example}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise ValueError(f"the name {name!r:.80} is there twice in one object")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"there is no {name} in JSON; null is a missing number")
