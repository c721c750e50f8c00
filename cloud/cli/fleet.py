"""``init``, ``token``, ``devices`` and ``audit``: a fleet and who is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from cloud.cli.output import (
    AFTER,
    NUMBER,
    directory_argument,
    json_option,
    parse_duration_s,
    parse_options,
    parse_url,
    show_json,
    show_table,
    when,
)
from sync.errors import InvalidConfig, InvalidValue, NotFound
from sync.stamps import device_of

if TYPE_CHECKING:
    from cloud.ports import Reading
    from cloud.rows import AuditRow, DeviceRow, Lease, ReplicaRow


_PREFIX_MIN = 4
_CANDIDATES_MAX = 5


@click.command()
@directory_argument
@click.option("--name", default="fleet", show_default=True, help="The fleet's name, for people.")
@click.option("--archive", default="", help="A directory, or s3://bucket/prefix, gs://, az://. Default: DIR/archive.")
@click.option(
    "--archive-option", "options", multiple=True, metavar="KEY=VALUE", help="For the driver of the object store."
)
@click.option("--create-bucket", is_flag=True, help="Create the S3 bucket, with versions, if it is not there.")
@json_option
def init(
    directory: Path, name: str, archive: str, options: tuple[str, ...], create_bucket: bool, as_json: bool
) -> None:
    """Create a fleet: its keys, its store, its configuration."""
    from cloud.server.creation import check_free, create_home
    from cloud.server.home import Home
    from cloud.server.settings import config_text

    given = parse_options(options)
    check_free(directory)
    if archive and "://" not in archive:
        archive = str(Path(archive).resolve())
    if create_bucket:
        from cloud.storage.bucket_setup import ensure_bucket

        ensure_bucket(archive, options=given)
    create_home(directory, name, config_text(archive, given))
    with Home.open(directory) as home:
        fleet = home.fleet
        url = home.archive_url
    if as_json:
        show_json({"fleet": fleet.fleet, "name": fleet.name, "directory": directory, "archive": url})
        return
    click.echo(f"Created fleet {fleet.name!r} ({fleet.fleet.hex()}) in {directory}")
    click.echo(f"Archive: {url}")
    click.echo("Next:")
    click.echo(f"  agentdb-cloud serve {directory}          start the control plane")
    click.echo(f"  agentdb-cloud token {directory}          print a join token for a device")
    click.echo(f"Keep a copy of {directory / 'keys'} apart from the archive: a restore needs both, a thief too.")


@click.command()
@directory_argument
@click.option("--name", default="", help="What it is for; kept in the audit trail.")
@click.option(
    "--ttl", default="24h", show_default=True, help="How long it is valid: 30m, 24h, 7d; a number alone is seconds."
)
@click.option("--uses", default=1, show_default=True, help="How many devices may join with it.")
@click.option("--url", default="", help="Where devices reach the server, if not as configured.")
@json_option
def token(directory: Path, name: str, ttl: str, uses: int, url: str, as_json: bool) -> None:
    """Print a join token. Whoever has it can join: treat it as a password."""
    from cloud.server.home import Home
    from cloud.server.rehearsal import HINT

    ttl_s = parse_duration_s(ttl)
    if url:
        url = parse_url(url)
    with Home.open(directory) as home:
        if home.is_rehearsal:
            raise InvalidConfig(f"{directory} is a rehearsal: it lets no device in", hint=HINT.format(directory))
        url = url or home.url
        if not url:
            raise InvalidValue("the server's address is not known", hint="start it first, or give --url")
        warning = _plain_http_warning(url)
        made = home.plane.create_token(home.fleet.fleet, ttl_s=ttl_s, uses=uses, name=name, url=url)
        expires_ms = home.clock.wall_ms() + ttl_s * 1000
    if as_json:
        show_json({"token": made.encode(), "id": made.id, "url": url, "uses": uses, "expires_ms": expires_ms})
        return
    click.echo(made.encode())
    if warning:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"Valid until {when(expires_ms)} for {uses} device{'s' if uses > 1 else ''}, at {url}.", err=True)


@click.command()
@directory_argument
@click.option("--set-priority", type=(str, int), metavar="DEVICE N", help="In conflicts by priority the higher wins.")
@click.option("--revoke", metavar="DEVICE", help="Accept nothing more from it, and give the fleet a new key.")
@click.option("--reason", default="", help="Why it is revoked; kept in the audit trail.")
@json_option
def devices(
    directory: Path, set_priority: tuple[str, int] | None, revoke: str | None, reason: str, as_json: bool
) -> None:
    """List the fleet's devices, or change one.

    DEVICE is a name, an id, or the beginning of an id: 4 characters or more that no other begins with. Of several
    devices of one name the only active one is meant.

    REPLICAS: under how many names a device's store has written; it takes a new one when it was put back or copied. The
    last push as another than the newest is in PUSH BEFORE: if both times go on moving, there are two copies of the
    device; revoke it if you did not make them.

    A device is silent when it has not shaken hands for longer than its lease ([fleet] lease_days): other devices forget
    deletes without waiting for it. It can come back at any time.
    """
    from cloud.server.home import Home

    if reason and revoke is None:
        raise InvalidValue("--reason says why a device is revoked: which one?", hint="--revoke DEVICE --reason …")
    with Home.open(directory) as home:
        fleet, enrollment = home.fleet.fleet, home.plane.enrollment
        if set_priority is not None:
            enrollment.set_priority(
                fleet, find_device(directory, enrollment.devices(fleet), set_priority[0]).device, set_priority[1]
            )
        if revoke is not None:
            found = find_device(directory, enrollment.devices(fleet), revoke)
            if found.revoked_ms:
                already = f"{found.name!r} ({found.device.hex()}) was revoked already, {when(found.revoked_ms)}"
                click.echo(f"{already}: nothing changed", err=True)
            enrollment.revoke(fleet, found.device, reason=reason)
        rows = enrollment.devices(fleet)
        with home.store.reading() as view:
            replicas = view.replicas(fleet)
            heard = {device_of(lease.replica): lease.at_ms for lease in sorted(view.leases(fleet), key=_at_ms)}
        silent_ms = home.clock.wall_ms() - home.config.fleet.lease_ms
    states = {row.device: _state(row, heard.get(row.device, 0), silent_ms) for row in rows}
    written: dict[bytes, list[ReplicaRow]] = {row.device: [] for row in rows}
    for held in sorted(replicas, key=lambda held: held.at_ms, reverse=True):
        written.setdefault(device_of(held.replica), []).append(held)
    if as_json:
        show_json([_as_dict(row, written[row.device], states[row.device], heard.get(row.device, 0)) for row in rows])
        return
    show_table(
        ("DEVICE", "NAME", "STATE", "PRIORITY", "ENROLLED", "LAST PUSH", "REPLICAS", "PUSH BEFORE"),
        [
            (
                row.device.hex(),
                row.name,
                states[row.device],
                row.priority,
                when(row.enrolled_ms),
                _pushed(written[row.device], 0),
                len(written[row.device]),
                _pushed(written[row.device], 1),
            )
            for row in rows
        ],
        "No device has joined yet.",
    )


@click.command()
@directory_argument
@click.option("--after", type=AFTER, default=0, help="Only rows with a larger number.")
@click.option("--limit", type=NUMBER, default=1000, show_default=True)
@json_option
def audit(directory: Path, after: int, limit: int, as_json: bool) -> None:
    """The audit trail: who was let in or refused, and what operators changed. Verified before it is shown."""
    from cloud.identity.audit import broken
    from cloud.server.home import Home

    with Home.open(directory) as home, home.store.reading() as view:
        fleet = home.fleet.fleet
        bad = broken(fleet, _whole_trail(view, fleet))
        rows = view.audit(fleet, after, limit)
    if as_json:
        show_json({"rows": [row._asdict() for row in rows], "broken_at": bad})
    else:
        show_table(
            ("NUMBER", "WHEN", "WHO", "WHAT", "ON", "DETAILS"),
            [
                (row.number, when(row.at_ms), row.actor, row.action, row.subject,
                 " ".join(f"{name}={value}" for name, value in row.details.items() if value != ""))
                for row in rows
            ],
            "Nothing has happened yet.",
        )  # fmt: skip
    if bad is not None:
        click.echo(f"error: the trail was altered at number {bad}", err=True)
        raise SystemExit(1)


def _whole_trail(view: Reading, fleet: bytes) -> Iterator[AuditRow]:
    after = 0
    while rows := view.audit(fleet, after):
        yield from rows
        after = rows[-1].number


def _pushed(written: Sequence[ReplicaRow], at: int) -> str:
    return when(written[at].at_ms) if at < len(written) else ""


def _plain_http_warning(url: str) -> str:
    """What devices will say to the token; "" if they take it."""
    from cloud.config import ServerConfig

    parts = urlsplit(url)
    if parts.scheme != "http" or ServerConfig(host=parts.hostname or "").loopback:
        return ""
    return f"devices refuse plain HTTP to {parts.hostname}, unless their edge.toml has [sync] allow_plain_http = true"


def find_device(directory: Path, rows: Sequence[DeviceRow], wanted: str) -> DeviceRow:
    """By a name, an id, or its beginning. Raises NotFound or InvalidValue."""
    named = [row for row in rows if row.name == wanted]
    begun = [row for row in rows if wanted and row.device.hex().startswith(wanted.lower())]
    active = [row for row in named if not row.revoked_ms]
    found = (active if len(active) == 1 else named) or begun
    if not found:
        raise NotFound(f"no device {wanted!r}", hint=f"agentdb-cloud devices {directory} lists them")
    if len(found) > 1 or (not named and len(wanted) < _PREFIX_MIN):
        what = f"the beginning of {len(found)} ids" if found is begun else f"the name of {len(found)} devices"
        if len(found) == 1:
            what = f"too short for the beginning of an id: {_PREFIX_MIN} characters or more"
        meant = ", ".join(f"{row.device.hex()} {row.name!r}" for row in found[:_CANDIDATES_MAX])
        raise InvalidValue(
            f"{wanted!r} is {what}", hint=f"meant is perhaps {meant}{' …' * (len(found) > _CANDIDATES_MAX)}"
        )
    return found[0]


def _at_ms(lease: Lease) -> int:
    return lease.at_ms


def _state(row: DeviceRow, heard_ms: int, silent_ms: int) -> str:
    """A device that has shaken hands before is silent once its lease has run out."""
    if row.revoked_ms:
        return "revoked"
    return "silent" if 0 < heard_ms <= silent_ms else "active"


def _as_dict(row: DeviceRow, written: Sequence[ReplicaRow], state: str, heard_ms: int) -> dict[str, object]:
    return {
        "device": row.device,
        "name": row.name,
        "state": state,
        "heard_ms": heard_ms,
        "priority": row.priority,
        "enrolled_ms": row.enrolled_ms,
        "revoked_ms": row.revoked_ms,
        "last_push_ms": max((held.at_ms for held in written), default=0),
        "replicas": [
            {"replica": held.replica, "operations": held.last_seq, "last_push_ms": held.at_ms} for held in written
        ],
    }
