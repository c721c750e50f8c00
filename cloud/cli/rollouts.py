"""``rollouts``: something new for a group of devices, in stages, and what became of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cloud.cli.output import count, directory_argument, json_option, show_json, show_table, when
from sync.errors import InvalidValue, NotFound

if TYPE_CHECKING:
    from cloud.fleet.rollout_desk import Listed, Shown
    from cloud.fleet.rollouts import ClassTally, Spec
    from cloud.twin_rows import RolloutRow

_FILE_BYTES_MAX = 256 << 10


@click.group()
def rollouts() -> None:
    """Policies, models and configuration to a group of devices in stages; halted and taken back when they fail."""


@rollouts.command()
@directory_argument
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def create(directory: Path, file: Path, as_json: bool) -> None:
    """Begin the rollout that FILE describes (TOML or JSON; configs/rollouts has some). Its first stage is open at once;
    devices get it when they next ask.
    """
    from cloud.server.home import Home

    spec = read_spec(file)
    with Home.open(directory) as home:
        row = home.plane.rollouts.create(home.fleet.fleet, spec)
        shown = home.plane.rollouts.show(home.fleet.fleet, row.id)
    if as_json:
        show_json(_as_dict(shown))
        return
    click.echo(f"{row.id} has begun: {_what(shown.spec)}, stage 1 of {len(spec.stages)}: {_stage(shown)}.")
    click.echo(f"Its group has {_group(shown)}. `agentdb-cloud rollouts show {directory} {row.id}`")
    if too_few := _too_few(shown):
        click.echo(f"warning: {too_few}", err=True)


@rollouts.command("list")
@directory_argument
@json_option
def list_rollouts(directory: Path, as_json: bool) -> None:
    """All rollouts, the oldest first."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = home.plane.rollouts.all(home.fleet.fleet)
    if as_json:
        show_json([_as_dict(shown) for shown in found])
        return
    show_table(
        ("ID", "WHAT", "STATE", "STAGE", "EXPOSED", "GOOD", "FAILED", "CREATED", "WHY"),
        [
            (
                shown.row.id,
                _what(shown.spec),
                shown.row.state,
                f"{shown.row.stage + 1}/{len(shown.spec.stages)}",
                *shown.tally.total,
                when(shown.row.created_ms),
                shown.row.why or shown.waits_for,
            )
            for shown in found
        ],
        "There has been no rollout yet.",
    )


@rollouts.command()
@directory_argument
@click.argument("rollout")
@json_option
def show(directory: Path, rollout: str, as_json: bool) -> None:
    """One rollout: how far it is, what it waits for, and who failed with it."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        names = {row.device: row.name for row in home.plane.devices(home.fleet.fleet)}
        shown = home.plane.rollouts.show(home.fleet.fleet, rollout)
    if as_json:
        show_json(_as_dict(shown))
        return
    row, total = shown.row, shown.tally.total
    click.echo(f"{row.id}: {_what(shown.spec)}, {row.state}, stage {row.stage + 1} of {len(shown.spec.stages)}")
    click.echo(f"group     {shown.spec.group or 'the fleet'}: {_group(shown)}")
    since = f"{row.state} " if row.state in ("reverted", "past") else ""
    click.echo(f"stage     {_stage(shown)}, {since}since {when(row.stage_ms)}")
    click.echo(f"exposed   {total.exposed}: {total.committed} good, {total.failed} failed, {_silent(total)} silent")
    for name, part in sorted(shown.tally.classes.items()):
        click.echo(
            f"  {name or '(none)'}: {part.exposed}: {part.committed} good, {part.failed} failed, {_silent(part)} silent"
        )
    if row.why:
        click.echo(f"why       {row.why}")
    if shown.waits_for:
        click.echo(f"waits     {shown.waits_for}")
    if too_few := _too_few(shown):
        click.echo(f"warning   {too_few}")
    if shown.blame:
        click.echo(f"failures  {shown.blame}")
        rows = [
            (names.get(one.device, one.device.hex()), one.kind, one.outcome, one.reason, when(one.outcome_ms))
            for one in shown.failures
        ]
        show_table(("DEVICE", "CLASS", "OUTCOME", "REASON", "WHEN"), rows, "")


@rollouts.command()
@directory_argument
@click.argument("rollout")
@click.option("--reason", default="by an operator", show_default=True)
@json_option
def pause(directory: Path, rollout: str, reason: str, as_json: bool) -> None:
    """Expose no more devices for now; those that have it keep it."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        row = home.plane.rollouts.pause(home.fleet.fleet, rollout, reason)
    _done(row, as_json=as_json)


@rollouts.command()
@directory_argument
@click.argument("rollout")
@json_option
def resume(directory: Path, rollout: str, as_json: bool) -> None:
    """Let a paused one go on in the stage where it was."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        row = home.plane.rollouts.resume(home.fleet.fleet, rollout)
    _done(row, as_json=as_json)


@rollouts.command()
@directory_argument
@click.argument("rollout")
@click.option("--keep", is_flag=True, help="Those who have it keep it.")
@click.option("--revert", is_flag=True, help="They go back to what they would have without it.")
@click.option("--reason", default="by an operator", show_default=True)
@json_option
def abort(directory: Path, rollout: str, keep: bool, revert: bool, reason: str, as_json: bool) -> None:
    """End one for good. A device that is offline hears of it when it comes back."""
    from cloud.server.home import Home

    if keep == revert:
        raise InvalidValue("what becomes of the devices that have it?", hint="one of --keep and --revert")
    with Home.open(directory) as home:
        row = home.plane.rollouts.abort(home.fleet.fleet, rollout, "keep" if keep else "revert", reason)
    _done(row, as_json=as_json)


def read_spec(file: Path) -> Spec:
    """Of a TOML or JSON file. Raises NotFound, InvalidValue, InvalidFilter, TooLarge."""
    from cloud.fleet.rollouts import parse_spec

    try:
        with file.open("rb") as opened:
            data = opened.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NotFound(f"{file}: {error.strerror}", hint="a TOML or JSON file; configs/rollouts has some") from error
    if len(data) > _FILE_BYTES_MAX:
        raise InvalidValue(f"{file} is over {_FILE_BYTES_MAX} bytes")
    if file.suffix != ".toml":
        return parse_spec(data)
    try:
        # Not msgspec's: it makes null of nan, which deletes.
        return parse_spec(json.dumps(tomllib.loads(data.decode()), allow_nan=False, default=str).encode())
    except ValueError as error:
        raise InvalidValue(f"{file} is not TOML: {error}", hint="configs/rollouts has some to copy from") from error


def _done(row: RolloutRow, *, as_json: bool) -> None:
    if as_json:
        show_json({"id": row.id, "state": row.state, "stage": row.stage, "why": row.why})
    else:
        click.echo(f"{row.id} is {row.state}.")


def _what(spec: Spec) -> str:
    return spec.path or "desired " + ", ".join(sorted(spec.patch))


def _stage(shown: Shown) -> str:
    stage = shown.spec.stages[shown.row.stage]
    ring = f" and the ring {stage.ring}" if stage.ring else ""
    return f"{stage.percent:g}%{ring}"


def _group(shown: Shown) -> str:
    return f"{count(shown.members, 'device')} now, {shown.drawn} of them in this stage"


def _too_few(shown: Shown) -> str:
    """Why a running one waits for ever, unless devices join or get labels; "" if it need not."""
    from cloud.fleet.rollouts import RUNNING

    needed, spread = shown.spec.gate.reporting_min, shown.spec.spread
    there = max(shown.drawn, shown.tally.total.exposed)
    if shown.row.state != RUNNING or spread or there >= needed:
        return ""
    return (
        f"this stage holds {count(there, 'device')}, and {needed} must report: `rollouts abort` it, and begin one with "
        "a larger percent, a ring, or a smaller reporting_min"
    )


def _silent(part: ClassTally) -> int:
    return part.exposed - part.reporting


def _as_dict(shown: Listed | Shown) -> dict[str, Any]:
    """Of a list, without what is not looked up there: members and failures."""
    from cloud.fleet.rollout_desk import Shown

    row = shown.row
    found = {
        "id": row.id,
        "place": row.place,
        "spec": msgspec.to_builtins(shown.spec),
        "goal": row.goal,
        "state": row.state,
        "stage": row.stage,
        "stages": len(shown.spec.stages),
        "stage_ms": row.stage_ms,
        "created_ms": row.created_ms,
        "why": row.why,
        "waits_for": shown.waits_for,
        "blame": shown.blame,
        **shown.tally.total._asdict(),
        "classes": {name: part._asdict() for name, part in shown.tally.classes.items()},
    }
    if isinstance(shown, Shown):
        found |= {"members": shown.members, "drawn": shown.drawn, "failures": [one._asdict() for one in shown.failures]}
    return found
