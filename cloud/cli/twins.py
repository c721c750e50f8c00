"""``twins``, ``labels`` and ``groups``: what devices should be, what they say that they are, and which are meant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.fleet import find_device
from cloud.cli.output import count, directory_argument, group_option, json_option, show_json, show_table, when
from sync import twins as algebra
from sync.errors import InvalidValue
from sync.twins import Document

if TYPE_CHECKING:
    from cloud.fleet.twins import Label
    from cloud.rows import DeviceRow
    from cloud.server.home import Home
    from cloud.twin_rows import TwinRow

_EXAMPLE = '\'{"log_level": "debug"}\''
_PATCH_BYTES_MAX = 1 << 20
_CELL_CHARACTERS_MAX = 80


@click.group()
def twins() -> None:
    """Desired and reported configuration of devices, and of agents on them."""


@twins.command("list")
@directory_argument
@group_option
@json_option
def list_twins(directory: Path, query: str, as_json: bool) -> None:
    """All devices: the version that is desired and the one that they have, and what they have not taken over."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = home.plane.twins.look(home.fleet.fleet, query)
    if as_json:
        show_json([_as_dict(*one) for one in found])
        return
    show_table(
        ("DEVICE", "NAME", "LABELS", "DESIRED", "HAS", "REPORTED", "OPEN"),
        [
            (
                one.device.device.hex(),
                one.device.name,
                _labels(json.loads(one.twin.labels)),
                f"{one.twin.desired_version}{' (next: too large)' if one.too_large else ''}",
                one.twin.acked,
                when(one.twin.at_ms),
                _brief(_open(one.twin)),
            )
            for one in found
        ],
        _none(query),
    )


@twins.command()
@directory_argument
@click.argument("device")
@json_option
def show(directory: Path, device: str, as_json: bool) -> None:
    """One device: its documents. DEVICE as in `devices`: a name, an id, or the beginning of one."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = _find(home, device)
        _, twin, too_large = home.plane.twins.look_at(found)
    if as_json:
        show_json(_as_dict(found, twin, too_large))
        return
    click.echo(f"{found.name} ({found.device.hex()})")
    click.echo(f"labels    {_labels(json.loads(twin.labels)) or '-'}")
    click.echo(f"desired   version {twin.desired_version}, the device has {twin.acked or 'none yet'}")
    if too_large:
        click.echo(f"the next version cannot be told: {too_large}")
    click.echo(_indented(json.loads(twin.desired)))
    click.echo(f"reported  {when(twin.at_ms) or 'never'}")
    click.echo(_indented(json.loads(twin.reported)))
    if missing := _open(twin):
        click.echo("desired and not reported")
        click.echo(_indented(missing))


@twins.command("set")
@directory_argument
@click.argument("device")
@click.argument("patch")
@click.option("--agent", help="For one agent of the device.")
@click.option("--version", "expected", type=int, help="Only if this is still the version that is desired.")
@json_option
def set_desired(
    directory: Path, device: str, patch: str, agent: str | None, expected: int | None, as_json: bool
) -> None:
    """Merge PATCH, a JSON object, into what is desired of one device; null deletes. - reads it from standard input. For
    many devices: a rollout of {"desired": PATCH}.
    """
    from cloud.server.home import Home

    given = _read_patch(patch)
    with Home.open(directory) as home:
        found = _find(home, device)
        twin = home.plane.twins.set_desired(home.fleet.fleet, found.device, given, agent=agent, expected=expected)
    if as_json:
        show_json(_as_dict(found, twin))
        return
    click.echo(f"Version {twin.desired_version} is desired of {found.name}; it gets it with its next sync.")


@click.command()
@directory_argument
@click.argument("device")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]…")
@json_option
def labels(directory: Path, device: str, pairs: tuple[str, ...], as_json: bool) -> None:
    """Show a device's labels, or set some; NAME= takes one away. A VALUE is a number, true or false if it looks like
    one; "7" in JSON's quotes is text.
    """
    from cloud.server.home import Home

    changes = dict(_label(pair) for pair in pairs)
    with Home.open(directory) as home:
        found = _find(home, device)
        fleet = home.fleet.fleet
        desk = home.plane.twins
        twin = desk.set_labels(fleet, found.device, changes) if changes else desk.look_at(found).twin
    now = json.loads(twin.labels)
    if as_json:
        show_json(now)
        return
    show_table(("LABEL", "VALUE"), sorted((name, _plain(value)) for name, value in now.items()), "It has no label.")


@click.command()
@directory_argument
@click.argument("query", default="")
@json_option
def groups(directory: Path, query: str, as_json: bool) -> None:
    """The devices that QUERY names now: labels.site = "north" and not reported.battery.percent <= 20

    Compared is with =, !=, <, <= and in ("a", "b"); joined with and, or, not and parentheses.
    """
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = home.plane.twins.members(home.fleet.fleet, query)
    if as_json:
        show_json([{"device": member.device.device, "name": member.device.name} for member in found])
        return
    show_table(
        ("DEVICE", "NAME", "LABELS"),
        [(member.device.device.hex(), member.device.name, _labels(member.documents["labels"])) for member in found],
        _none(query),
    )
    if found:
        click.echo(count(len(found), "device"), err=True)


def _none(query: str) -> str:
    return "No device is named by that." if query else "No device has joined yet."


def _find(home: Home, wanted: str) -> DeviceRow:
    return find_device(home.directory, home.plane.devices(home.fleet.fleet), wanted)


def _as_dict(device: DeviceRow, twin: TwinRow, too_large: str = "") -> dict[str, Any]:
    return {
        "device": device.device,
        "name": device.name,
        "labels": json.loads(twin.labels),
        "desired": json.loads(twin.desired),
        "desired_version": twin.desired_version,
        "too_large": too_large,
        "acked_version": twin.acked,
        "reported": json.loads(twin.reported),
        "reported_version": twin.reported_version,
        "reported_ms": twin.at_ms,
        "delta": _open(twin),
    }


def _open(twin: TwinRow) -> Document:
    return algebra.delta(json.loads(twin.desired), json.loads(twin.reported))


def _labels(found: Any) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in sorted(found.items()))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _brief(document: Document) -> str:
    text = json.dumps(document, ensure_ascii=False) if document else ""
    return text if len(text) <= _CELL_CHARACTERS_MAX else text[: _CELL_CHARACTERS_MAX - 1] + "…"


def _indented(document: Document) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True)
    return "\n".join(f"  {line}" for line in text.splitlines())


def _label(pair: str) -> tuple[str, Label | None]:
    name, equals, text = pair.partition("=")
    if not equals:
        raise InvalidValue(f"{pair!r:.80} is not NAME=VALUE", hint="such as site=north; site= takes it away")
    if not text:
        return name, None
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return name, text
    if isinstance(value, bool | int | float | str):
        return name, value
    return name, text


def _read_patch(text: str) -> dict[str, Any]:
    if text == "-":
        text = sys.stdin.read(_PATCH_BYTES_MAX)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"PATCH is not JSON: {error}", hint=f"quoted for the shell, such as {_EXAMPLE}") from error
    if not isinstance(given, dict):
        raise InvalidValue("PATCH is a JSON object", hint=f"such as {_EXAMPLE}")
    return given
