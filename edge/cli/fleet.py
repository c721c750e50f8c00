"""``init``, ``sync`` and ``run``: a store, the fleet it joins, and how it stays in touch."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import click

from edge.cli.output import counted, json_option, print_json, say_error
from edge.cli.running import StatusFile
from edge.cli.stores import existing, store_to_write, wait_s
from edge.cli.watch import Watch, clock_time
from edge.node import Edge
from edge.ports import SystemClock
from edge.storage.keystore import check_device_key
from sync.errors import AgentDBError, InvalidValue, Unauthenticated

if TYPE_CHECKING:
    from edge.link.replicator import Progress

url_option = click.option("--url", help="The control plane's URL, instead of the one that was joined.")
_INTERRUPTED = 130  # as a shell has it: 128 + SIGINT


def _token(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("the token is empty: did the command that should have made it fail?")
    return value


def _name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("the name is empty; leave it out to take the host name")
    return value


def _seconds(_: click.Context, __: click.Parameter, value: float) -> float:
    if not 0 < value < float("inf"):
        raise click.BadParameter("a number of seconds, more than 0")
    return value


@click.command()
@store_to_write
@click.option("--join", "token", callback=_token, help="Join a fleet with this token (agentdb-cloud token DIR).")
@click.option("--name", callback=_name, help="What people call this device; its host name by default. It stays.")
@url_option
@json_option
def init(store: str, token: str | None, name: str | None, url: str | None, as_json: bool) -> None:
    """Make a store with its own keys, and join a fleet if there is a token."""
    given = [option for option, value in (("--name", name), ("--url", url)) if value is not None]
    if given and not token:
        raise InvalidValue(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for joining a fleet, and there is no --join",
            hint=f"agentdb-edge init {store} --join TOKEN {given[0]} …",
        )
    if token:
        from sync.tokens import parse_token

        parse_token(token)  # a damaged one must not leave a store behind
    with Edge.open(store, wait_s=wait_s()) as edge:
        check_device_key(edge.path, edge.device)
        if token:
            _join(edge, store, token, name or "", url)
        made = {"store": edge.path, "device": edge.device.hex(), "joined": edge.log.meta_get("fleet") is not None}
    if as_json:
        print_json(made)
        return
    click.echo(f"Store {made['store']}, device {made['device']}")
    command = f"agentdb-edge sync {store}" if made["joined"] else f"agentdb-edge init {store} --join TOKEN"
    click.echo(f"{'It has joined its fleet' if made['joined'] else 'Not in a fleet'}: {command}")


def _join(edge: Edge, store: str, token: str, name: str, url: str | None) -> None:
    try:
        edge.join(token, name=name, url=url)
    except AgentDBError as error:
        stays = f"the store {store} is made and stays; to join: agentdb-edge init {store} --join TOKEN"
        raise type(error)(error.message, hint=f"{error.hint}; {stays}" if error.hint else stays) from error


@click.command()
@store_to_write
@url_option
@click.option(
    "--timeout", "timeout_s", type=float, callback=_seconds, default=300.0, show_default=True, help="Seconds."
)
@json_option
@click.pass_context
def sync(ctx: click.Context, store: str, url: str | None, timeout_s: float, as_json: bool) -> None:
    """Push and pull until this device and the cloud have everything of each other."""
    now_ms = SystemClock().wall_ms()
    until = clock_time(now_ms + int(min(timeout_s, 1e9) * 1000), now_ms)
    with existing(store) as edge:
        target = url or (edge.status()["fleet"] or {}).get("url") or "the control plane"
        watch = Watch(target, until, quiet=as_json)
        try:
            with watch:
                done = edge.sync(timeout_s=timeout_s, url=url, on_progress=watch.told)
        except Unauthenticated as error:
            raise _revoked(edge, error.message) or error from error
        except KeyboardInterrupt:
            last = watch.last
            say_error(
                ctx,
                "interrupted",
                f"stopped; {_operations(last.pushed if last else 0)} pushed, "
                f"{last.pulled if last else 0} pulled so far",
                f"what has arrived is kept, and {_waiting(edge)} here: the next sync goes on from there",
            )
            ctx.exit(_INTERRUPTED)
        dead = len(edge.log.dead_letters())
    if as_json:
        print_json({**done._asdict(), "dead_letters": dead})
        return
    click.echo(f"In sync: {_operations(done.pushed)} pushed, {done.pulled} pulled.")
    if dead:
        click.echo(
            f"{_operations(dead)} {'was' if dead == 1 else 'were'} refused; "
            f"`agentdb-edge status {store}` says which and why."
        )


@click.command()
@store_to_write
@url_option
@json_option
def run(store: str, url: str | None, as_json: bool) -> None:
    """Stay in sync, and keep the search tables up to date, until interrupted. `status` shows how it goes meanwhile.

    It ends by itself, with exit 1, when the device was revoked, or its log is damaged. A program that has the store
    open itself does without: edge.start_sync().
    """
    stopped = threading.Event()
    revoked: list[AgentDBError] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with existing(store) as edge, StatusFile(edge) as shared:

        def told(now: Progress) -> None:
            if (error := _revoked(edge, now.error)) is not None:
                revoked.append(error)
                stopped.set()

        edge.start_sync(url=url, on_progress=told)
        edge.projections.start(with_tables=True)
        said = ""
        while edge.is_syncing and not stopped.wait(0.5):  # what ended the link is raised when the store is closed
            status = edge.log.meta_get("sync") or {}
            error = status.get("error") or ""
            now = "connected" if status.get("connected") else error or "connecting"
            shared.write(now)
            if now != said:
                said = now
                if as_json:
                    print_json({"state": now})
                elif _revoked(edge, now) is None:
                    click.echo(f"{now}; trying again, Ctrl-C stops, nothing is lost" if now == error else now)
    if revoked:
        raise revoked[0]


def _revoked(edge: Edge, said: str) -> Unauthenticated | None:
    """What the control plane's words mean for this device: that it was revoked is for good, no key comes back."""
    if said != f"device {edge.device.hex()} was revoked":
        return None
    return Unauthenticated(
        "this device was revoked: its fleet takes nothing from it any more, and gives it nothing",
        hint=f"{_waiting(edge)} here and will not get there; the store itself stays readable; to go on in the fleet, "
        "make another store with a new token from its operator: agentdb-edge init STORE --join TOKEN",
    )


def _operations(number: int) -> str:
    return counted(number, "operation")


def _waiting(edge: Edge) -> str:
    number = edge.log.head_seq - edge.log.acked_seq
    return f"{_operations(number)} {'waits' if number == 1 else 'wait'}"
