"""``serve`` and ``status``."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.output import count, directory_argument, json_option, show_json, when

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud.server.home import Home
    from cloud.server.jobs import Job

JOBS = ("archive", "retention", "rollouts", "snapshot", "timestamp")
_TIMESTAMP_S = 60.0
_WATCH_S = 2.0
_ROLLOUTS_S = 5.0
_RETENTION_S = 900.0


@click.command()
@directory_argument
@click.option("--host", help="Instead of [server] host.")
@click.option("--port", type=int, help="Instead of [server] port; 0 for any free one.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path, exists=True), help="Instead of DIR/cloud.toml."
)
@click.option("--verbose", is_flag=True, help="Log what happens, not only what goes wrong.")
def serve(directory: Path, host: str | None, port: int | None, config_file: Path | None, verbose: bool) -> None:
    """Run the control plane until SIGTERM or Ctrl-C.

    Prints "listening on http://HOST:PORT" once devices can connect, and writes the port to DIR/port; then the fleet and
    where it is archived.

    A rehearsal (restore --rehearse) listens on any free port unless --port is given, and takes nothing from devices.
    """
    import msgspec

    from cloud.config import PORT
    from cloud.fleet.model_access import AssignedPacks
    from cloud.ports import SystemRandom
    from cloud.server.app import Service
    from cloud.server.home import Home
    from cloud.server.jobs import Jobs
    from cloud.server.models import Packs
    from cloud.server.rehearsal import RehearsalPlane
    from cloud.server.serve import serve as run
    from cloud.storage.bodies import Bodies

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    with Home.open(directory, config_file) as home, home.serving():
        if home.is_rehearsal and port is None:
            port = 0  # its control plane may be running on the configured one
        given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        server = msgspec.structs.replace(home.config.server, **given)
        config = msgspec.structs.replace(home.config, server=server).validate(str(config_file or directory))
        before = {name: home.noted_job(name) for name in JOBS}
        plane = RehearsalPlane() if home.is_rehearsal else home.plane
        jobs = Jobs(_jobs(home), home.clock, home.note_job, before)
        bodies = None if home.is_rehearsal else Bodies(lambda: home.objects, SystemRandom())
        packs = None if home.is_rehearsal else Packs(lambda: home.objects, AssignedPacks(home.store))
        service = Service(plane, home.store, jobs, config.server, home.clock, bodies, packs)
        about = (f"fleet {home.fleet.name!r} ({home.fleet.fleet.hex()})", f"archive {_where(home)}")

        def announce(line: str) -> None:
            click.echo("\n".join((line, *about)))
            sys.stdout.flush()

        asyncio.run(run(service, jobs, config.server, port_file=directory / PORT, announce=announce))


@click.command()
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """What the fleet, its archive and its server are doing. Exit 1 if a job of the server has been failing."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = _status(home)
    if as_json:
        show_json(found)
    else:
        _show(found, directory)
    if found["server"]["failing"]:
        raise SystemExit(1)


def _show(found: dict[str, Any], directory: Path) -> None:
    server, archive = found["server"], found["archive"]
    running = f"runs at {server['url']}" if server["running"] else "does not run"
    if not archive["written"]:
        running += ", takes nothing from devices: this is a rehearsal"
    failing = f", failing: {', '.join(server['failing'])}" if server["failing"] else ""
    last_push = when(found["last_push_ms"]) or "never"
    lines = {
        "server": running + failing,
        "feed": f"position {found['head']}, {found['records']} records, last push {last_push}",
        "collections": ", ".join(found["collections"]) or "none",
        "devices": f"{found['devices'] - found['revoked']} active, {found['revoked']} revoked;"
        f" their stores have written under {count(found['replicas'], 'name')} (replicas)",
        "conflicts": f"{found['conflicts']}, open {found['open_conflicts']}",
        "dead letters": found["dead_letters"],
        "archive": f"{archive['url']}: position {archive['position']} ({archive['behind']} behind),"
        f" manifest {archive['manifest']}, snapshot at {archive['snapshot']}",
    }
    if not archive["written"]:
        lines["archive"] = f"not written: a rehearsal, restored from {archive['url']} at position {archive['position']}"
    click.echo(f"fleet {found['name']!r} ({found['fleet']})")
    for name, line in lines.items():
        click.echo(f"  {name:12} {line}")
    if (waiting := found["undecided"])["conflicts"]:
        click.echo(
            f"  {count(waiting['conflicts'], 'conflict')} left open by a resolver,"
            f" the newest is {waiting['newest']}: {waiting['reason']}"
        )
        click.echo(f"  hint: mend the resolver, restart the server, then: agentdb-cloud conflicts {directory} --retry")
    for name, job in found["jobs"].items():
        if job["error"]:
            click.echo(f"  {name} has been failing, last {when(job['failed_ms'])}: {job['error']}")
            if job["hint"]:
                click.echo(f"  hint: {job['hint']}")


def _status(home: Home) -> dict[str, Any]:
    from cloud.server.resolvers import undecided
    from cloud.storage.archive.state import load_state

    fleet = home.fleet.fleet
    found = home.plane.status(fleet)
    with home.store.reading() as view:
        state = load_state(view, fleet)
        waiting = undecided(view, fleet)
    found["revoked"] = sum(1 for row in home.plane.devices(fleet) if row.revoked_ms)
    found["undecided"] = waiting._asdict()
    found["archive"] = {
        "url": home.archive_url,
        "written": not home.is_rehearsal,
        "position": state.position,
        "behind": found["head"] - state.position,
        "manifest": state.number,
        "snapshot": state.snapshot,
    }
    jobs = {name: home.noted_job(name) for name in JOBS}
    found["server"] = {
        "running": home.is_served,
        "url": home.url,
        "failing": [name for name, job in jobs.items() if job.error and not home.is_rehearsal],
    }
    found["jobs"] = {
        name: {"error": job.error, "hint": job.hint, "failed_ms": job.failed_ms} for name, job in jobs.items()
    }
    return found


def _jobs(home: Home) -> list[Job]:
    from cloud.server.jobs import Job

    def archive() -> None:
        with home.archiving() as writer:
            writer.run_once()

    def snapshot() -> None:
        with home.archiving() as writer:
            writer.snapshot()

    if home.is_rehearsal:
        return []
    settings = home.config.archive
    return [
        Job("resolvers", _WATCH_S, _resolvers(home)),
        Job("rollouts", _ROLLOUTS_S, lambda: home.plane.rollouts.run(home.fleet.fleet)),
        Job("archive", settings.interval_s, archive, at_shutdown=True),
        Job("snapshot", settings.snapshot_interval_s, snapshot),
        Job("retention", _RETENTION_S, lambda: home.plane.retention.run(home.fleet.fleet)),
        Job("timestamp", _TIMESTAMP_S, lambda: home.plane.control.timestamp_again(home.fleet.fleet)),
    ]


def _resolvers(home: Home) -> Callable[[], None]:
    """Puts them to use; what says in the log that one cannot decide. Raises InvalidConfig."""
    from cloud.server.resolvers import missing_resolvers, watcher

    known = home.use_resolvers()
    with home.store.reading() as view:
        missing = missing_resolvers(view, home.fleet.fleet, known)
    for name, collections in missing.items():
        logging.getLogger(__name__).warning(
            "no resolver %r in cloud.toml: conflicts in %s stay open", name, ", ".join(collections)
        )
    return watcher(home.store, home.fleet.fleet)


def _where(home: Home) -> str:
    rehearsal = " is not written, and nothing is taken from devices: this is a rehearsal"
    return home.archive_url + (rehearsal if home.is_rehearsal else "")
