"""What the commands over one agent's namespaces share: their arguments, where to look, and vectors made again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.cli.embedder import embedder_of, embedding_bar
from edge.cli.output import counted, print_json
from edge.cli.stores import existing, store_argument, store_to_write

if TYPE_CHECKING:
    from edge.agent.documents import Documents
    from edge.agent.memory import Memory
    from edge.node import Edge

Command = TypeVar("Command", bound=Callable[..., Any])
_agent = click.argument("agent")
_namespace = click.option("--namespace", default="default", show_default=True)


def namespace_to_read(command: Command) -> Command:
    """STORE and AGENT, and ``--namespace``, of a command that reads."""
    return store_argument(_agent(_namespace(command)))


def namespace_to_write(command: Command) -> Command:
    """As ``namespace_to_read``, of one that writes."""
    return store_to_write(_agent(_namespace(command)))


def listed(group: str, store: str, agent: str, namespace: str, *options: str) -> str:
    """The hint of which command lists what there is."""
    where = [] if namespace == "default" else ["--namespace", namespace]
    return f"{shlex.join(['agentdb-edge', group, 'list', store, agent, *where, *options])} lists what there is"


def reembed(
    store: str, handle: Callable[[Edge], Documents | Memory], options: Mapping[str, Any], as_json: bool
) -> None:
    """Make the vectors that are missing, and say how many."""
    chosen = embedder_of(options, needed=True)
    with existing(store) as edge, embedding_bar(hidden=as_json) as on_progress:
        made = handle(edge).reembed(chosen, on_progress=on_progress)
    if as_json:
        print_json({"vectors": made})
    else:
        click.echo(f"{counted(made, 'vector')} made")
