"""``publish``, ``assign`` and ``assignments``: what was signed offline is handed over, and what devices are to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.output import count, directory_argument, json_option, show_json, show_table, when

if TYPE_CHECKING:
    from cloud.server.home import Home

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@directory_argument
@click.argument("trust", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--online-key",
    type=_FILE,
    metavar="KEY.pem",
    help="TRUST/keys/online.pem: it is kept in DIR/keys from now on.",
)
@click.option(
    "--assign",
    "assigned",
    multiple=True,
    metavar="PATH",
    help="What all devices run from now on, with it: for a floor that is raised above what runs.",
)
@json_option
def publish(directory: Path, trust: Path, online_key: Path | None, assigned: tuple[str, ...], as_json: bool) -> None:
    """Hand what was signed in TRUST (agentdb-cloud trust) to the control plane in DIR.

    All of it is verified first, as a device would; a snapshot and a timestamp are signed beside it. Nothing runs
    anywhere by that alone: that is `assign`, afterwards or by --assign in the same step.
    """
    from cloud.fleet.publishing import Repository
    from cloud.fleet.signing import SigningKey
    from cloud.fleet.trust_files import TrustFiles, read_key_file
    from cloud.server.home import Home
    from sync.errors import InvalidValue

    given = read_key_file(online_key) if online_key is not None else None
    if given is not None and not isinstance(given, SigningKey):
        raise InvalidValue(f"{online_key} is a public key", hint="the private one is needed to sign online")
    files = TrustFiles(trust)
    whole = files.complete()
    with Home.open(directory) as home:
        if files.fleet != home.fleet.fleet:
            raise InvalidValue(
                f"{trust} is the trust of fleet {files.fleet.hex()}; in {directory} is {home.fleet.fleet.hex()}",
                hint="give the two directories of one fleet",
            )
        done = home.publish(Repository(whole.roots, whole.roles, whole.documents, assigned), given)
        pin = _pin(home)
    if as_json:
        show_json({**done._asdict(), "pin": pin, "assigned": list(assigned)})
        return
    click.echo(f"Published: root {done.root}, snapshot {done.snapshot}, {count(done.targets, 'new document')}")
    for path in assigned:
        click.echo(f"assigned: {path}")
    if done.roots and done.root == 1:
        click.echo(
            f"Join tokens carry its digest from now on; on devices that have joined: agentdb-edge trust pin STORE {pin}"
        )
    if online_key is not None:
        click.echo(
            f"The online key is in {home.online_key.path}: delete {online_key}, and keep a copy where no server is."
        )


@click.command()
@directory_argument
@click.argument("place")
@click.argument("path", required=False)
@click.option("--nothing", is_flag=True, help="Take away what runs there, instead of PATH.")
@json_option
def assign(directory: Path, place: str, path: str | None, nothing: bool, as_json: bool) -> None:
    """What all devices run in PLACE from now on: PATH, as it is listed.

    PLACE is "policy", or "models/NAME": for example `assign DIR policy policies/kiosk/7.json`. Connected devices learn
    of it at once, others when they come.
    """
    from cloud.server.home import Home
    from sync.errors import InvalidValue

    if nothing == (path is not None):
        raise InvalidValue("give PATH, or --nothing", hint="agentdb-cloud trust status lists the paths")
    with Home.open(directory) as home:
        home.plane.assign(home.fleet.fleet, place, path or "")
        devices = sum(1 for row in home.plane.devices(home.fleet.fleet) if not row.revoked_ms)
        key = home.online_key()
    if key is None:
        click.echo(f"warning: {home.online_key.path} is missing: no device is told before it is back", err=True)
    if as_json:
        show_json({"place": place, "path": path or "", "devices": devices})
    else:
        click.echo(f"{place}: {path or 'nothing'}, for {count(devices, 'device')}")


@click.command()
@directory_argument
@json_option
def assignments(directory: Path, as_json: bool) -> None:
    """What the fleet is to run, the newest assignment of each device, and what it says that it has or refused."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = _assignments(home)
    if as_json:
        show_json(found)
        return
    if not found["pin"]:
        click.echo("nothing was published: devices run what they are configured to")
        return
    click.echo(f"first root {found['pin']}")
    decided = [(row["place"], row["path"], " ".join(row["rollouts"])) for row in found["channels"]]
    show_table(("place", "path", "rollouts"), decided, "nothing is assigned")
    columns = ("device", "name", "number", "given", "has", "valid until", "refused")
    rows = [
        (row["device"], row["name"], str(row["number"]), when(row["served_ms"]) or "never", str(row["has"] or ""),
         when(row["expires_ms"]), row["refused"])
        for row in found["devices"]
    ]  # fmt: skip
    show_table(columns, rows, "no device has joined")


def _assignments(home: Home) -> dict[str, Any]:
    from cloud.fleet.rollouts import DESIRED, OPEN
    from cloud.fleet.twins import members
    from sync.groups import parse

    fleet = home.fleet.fleet
    with home.store.reading() as view:
        signed = {row.device: row for row in view.assignments(fleet)}
        told = {one.device.device: _told(one.documents) for one in members(view, fleet, parse(""))}
        open_rollouts = view.rollouts(fleet, OPEN)
        given: dict[str, dict[str, Any]] = {row.place: row._asdict() for row in view.channels(fleet)}
        devices = [row for row in view.devices(fleet) if not row.revoked_ms]
    rows = []
    for device in devices:
        row = signed.get(device.device)
        rows.append(
            {
                "device": device.device.hex(),
                "name": device.name,
                "number": row.number if row else 0,
                "snapshot": row.snapshot if row else 0,
                "expires_ms": row.expires_ms if row else 0,
                "served_ms": row.served_ms if row else 0,
                **told.get(device.device, _told({})),
            }
        )
    for one in open_rollouts:
        if one.place != DESIRED:
            given.setdefault(one.place, {"place": one.place, "path": ""}).setdefault("rollouts", []).append(one.id)
    channels = [{"rollouts": [], **given[place]} for place in sorted(given)]
    return {"pin": _pin(home), "channels": channels, "devices": rows}


def _told(documents: Mapping[str, Any]) -> dict[str, Any]:
    """What a device has reported of it, as far as it has: the number that it holds, and what it does not take."""
    told = documents.get("reported", {}).get("agentdb", {})
    trust = told.get("trust", {}) if isinstance(told, dict) else {}
    held, refused = (trust.get("assignment"), trust.get("refused")) if isinstance(trust, dict) else (None, None)
    reason = refused.get("reason") if isinstance(refused, dict) else None
    return {"has": held if type(held) is int else 0, "refused": str(reason or "")[:200]}


def _pin(home: Home) -> str:
    from hashlib import sha256

    with home.store.reading() as view:
        root = view.trust(home.fleet.fleet, "root", 1)
    return sha256(root.data).hexdigest() if root is not None else ""
