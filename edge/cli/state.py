"""``state``: threads of checkpoints and named snapshots of where agents stand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from edge.cli.output import cell, counted, json_option, print_json, print_table
from edge.cli.stores import existing, read_json, read_text, reading, searching, store_argument, store_to_write
from sync.errors import NotFound

if TYPE_CHECKING:
    from edge.agent.thread import Checkpoint, Thread
    from edge.node import Edge

_agent = click.argument("agent")
_thread = click.argument("thread")
_type = click.option(
    "--type",
    "kind",
    default="context",
    help="context (the default), working, long-term, task, relationship, embedding.",
)


@click.group()
def state() -> None:
    """Threads of checkpoints: an agent's state, with its history."""


@state.command()
@store_to_write
@_agent
@_thread
@click.argument("value")
@click.option("--expected", help="The id that has to be the newest, or '' where there has to be none.")
@_type
@json_option
def put(store: str, agent: str, thread: str, value: str, expected: str | None, kind: str, as_json: bool) -> None:
    """Add a checkpoint; VALUE is JSON, or - for standard input."""
    given = read_json("VALUE", read_text(value), "'{\"step\": 1}'")
    with existing(store) as edge:
        conditions: dict[str, Any] = {} if expected is None else {"expected": expected or None}
        made = _threads(edge, agent, thread, kind).put(given, **conditions)
    if as_json:
        print_json(made._asdict())
    else:
        click.echo(f"checkpoint {made.id}, {made.size:,} bytes")


@state.command()
@store_argument
@_agent
@_thread
@click.option("--checkpoint", help="Its id; the newest by default.")
@_type
@json_option
def get(store: str, agent: str, thread: str, checkpoint: str | None, kind: str, as_json: bool) -> None:
    """Print a checkpoint's value as JSON, by default the newest's."""
    from edge.agent.values import plain

    with reading(store) as edge:
        found = _threads(edge, agent, thread, kind)
        at = checkpoint or (head.id if (head := found.head()) else None)
        if at is None:
            raise NotFound(f"thread {thread!r} of agent {agent!r} has no checkpoint yet", hint="state list shows all")
        value = found.get(at)
    print_json({"id": at, "value": plain(value)} if as_json else plain(value))


@state.command("list")
@store_argument
@click.argument("agent", required=False)
@json_option
def show(store: str, agent: str | None, as_json: bool) -> None:
    """The threads of all agents, or of one."""
    with reading(store) as edge:
        names = edge.agents() if agent is None else [agent]
        found = [(thread, thread.head()) for name in names for thread in edge.agent(name).threads()]
    rows = [(thread, head) for thread, head in found if head is not None]
    if as_json:
        print_json([{"agent": t.agent, "thread": t.name, "type": t.type, "newest": h._asdict()} for t, h in rows])
    else:
        print_table(
            ("agent", "thread", "type", "newest", "when", "bytes"),
            [(t.agent, t.name, t.type, h.id, when(h.at_ms), f"{h.size:,}") for t, h in rows],
        )


@state.command()
@store_argument
@_agent
@_thread
@click.option("--limit", type=click.IntRange(1), default=20)
@click.option("--before", help="Older than this checkpoint.")
@_type
@json_option
def history(store: str, agent: str, thread: str, limit: int, before: str | None, kind: str, as_json: bool) -> None:
    """Checkpoints, newest first."""
    with reading(store) as edge:
        found = list(_threads(edge, agent, thread, kind).history(limit, before=before))
    _print_checkpoints(found, as_json)


@state.command()
@store_to_write
@_agent
@_thread
@click.argument("new")
@click.option("--at", help="The checkpoint to begin with; the newest by default.")
@_type
@json_option
def fork(store: str, agent: str, thread: str, new: str, at: str | None, kind: str, as_json: bool) -> None:
    """Begin the thread NEW with the value of a checkpoint."""
    with existing(store) as edge:
        found = list(_threads(edge, agent, thread, kind).fork(new, at=at).history(1))
    _print_checkpoints(found, as_json)


@state.command()
@store_to_write
@_agent
@_thread
@click.option("--keep-latest", type=click.IntRange(1))
@click.option("--keep-days", type=click.FloatRange(0))
@_type
@json_option
def prune(
    store: str, agent: str, thread: str, keep_latest: int | None, keep_days: float | None, kind: str, as_json: bool
) -> None:
    """Delete old checkpoints but what is to be kept; the newest and what a snapshot names always stay."""
    with existing(store) as edge:
        gone = _threads(edge, agent, thread, kind).prune(keep_latest=keep_latest, keep_days=keep_days)
    if as_json:
        print_json({"deleted": gone})
    else:
        click.echo(f"{counted(gone, 'checkpoint')} deleted")


@state.command()
@store_to_write
@click.argument("name")
@click.option("--agent", help="One agent; all by default.")
@json_option
def snapshot(store: str, name: str, agent: str | None, as_json: bool) -> None:
    """Note under NAME where all threads stand."""
    with existing(store) as edge:
        taken = edge.snapshots.take(name, agent=agent)
    if as_json:
        print_json(taken._asdict())
    else:
        click.echo(f"snapshot {name}: {counted(taken.threads, 'thread')}")


@state.command()
@store_to_write
@click.argument("name")
@json_option
def restore(store: str, name: str, as_json: bool) -> None:
    """Put the threads of a snapshot back to where they stood, as new checkpoints."""
    with existing(store) as edge:
        done = edge.snapshots.restore(name)
    back, newer, missing = ([[t.agent, t.name, t.type] for t in threads] for threads in done)
    if as_json:
        print_json({"threads": back, "newer": newer, "missing": missing})
        return
    if missing:
        click.echo(f"pruned elsewhere, and not restored: {', '.join('/'.join(names[:2]) for names in missing)}")
    click.echo(f"{counted(len(back), 'thread')} as in {name}")
    if newer:
        click.echo(f"not in the snapshot, and left: {', '.join('/'.join(names[:2]) for names in newer)}")


@state.command()
@store_argument
@json_option
def snapshots(store: str, as_json: bool) -> None:
    """The named snapshots."""
    with reading(store) as edge:
        found = edge.snapshots.all()
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        rows = [(one.name, one.agent or "(all)", when(one.at_ms), str(one.threads)) for one in found]
        print_table(("snapshot", "agent", "when", "threads"), rows)


@click.command()
@store_argument
@_agent
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--namespace", help="All but checkpoints; of vectors the space of that name.")
@json_option
def export(store: str, agent: str, file: str, namespace: str | None, as_json: bool) -> None:
    """Everything of an agent as JSON lines in the new FILE; the bytes of attachments in FILE.bodies."""
    with searching(store) as edge:
        counts = edge.agent(agent).export(file, namespace=namespace)
    if as_json:
        print_json(counts)
    else:
        words = {name: name for name in ("memory", "document", "attachment", "vector")} | {"state": "checkpoint"}
        click.echo(f"{file}: " + ", ".join(counted(counts[store], word) for store, word in words.items()))


def when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _threads(edge: Edge, agent: str, thread: str, kind: str) -> Thread:
    return edge.agent(agent).thread(thread, type=kind)


def _print_checkpoints(found: list[Checkpoint], as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in found])
        return
    rows = [
        (one.id, when(one.at_ms), f"{one.size:,}", one.parent, cell(one.metadata) if one.metadata else "")
        for one in found
    ]
    print_table(("checkpoint", "when", "bytes", "parent", "metadata"), rows)
