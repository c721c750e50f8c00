"""``archive verify|run|snapshot`` and ``restore``: the fleet's history, and the way back from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud.cli.output import (
    AFTER,
    NUMBER,
    count,
    directory_argument,
    json_option,
    parse_options,
    parse_time_ms,
    progress_bar,
    show_json,
    show_table,
)
from sync.errors import InvalidValue

if TYPE_CHECKING:
    from cloud.storage.archive.writer import ArchiveRun


@click.group()
def archive() -> None:
    """Write, check and move the archive."""


@archive.command()
@directory_argument
@json_option
def run(directory: Path, as_json: bool) -> None:
    """Archive everything up to now. A running server does so by itself; this waits for its turn."""
    from cloud.server.home import Home

    with Home.open(directory) as home, home.archiving() as writer, progress_bar("operations", quiet=as_json) as bar:
        done = writer.run_once(bar)
        home.note_works("archive")
    _show_run(done, as_json=as_json)


@archive.command()
@directory_argument
@json_option
def snapshot(directory: Path, as_json: bool) -> None:
    """Archive a baseline of all records, so that a restore need not replay the whole history."""
    from cloud.server.home import Home

    with Home.open(directory) as home, home.archiving() as writer, progress_bar("records", quiet=as_json) as bar:
        done = writer.snapshot(bar)
        home.note_works("archive", "snapshot")
    _show_run(done, as_json=as_json)


@archive.command()
@directory_argument
@click.argument("url")
@click.option(
    "--archive-option", "options", multiple=True, metavar="KEY=VALUE", help="For the driver of the new object store."
)
@click.option("--fresh", is_flag=True, help="Begin a new archive instead of copying the old: for one that is lost.")
@json_option
def move(directory: Path, url: str, options: tuple[str, ...], fresh: bool, as_json: bool) -> None:
    """Archive to URL from now on: copy the archive there, and write its place into DIR/cloud.toml.

    The server must not run. The old place is left as it is. For a new disk or bucket; for a control plane whose archive
    another one has continued (what that one wrote is left behind); for a rehearsal that is to stay.
    """
    from cloud.server.relocation import move_archive

    with progress_bar("objects", quiet=as_json) as bar:
        moved = move_archive(directory, url, parse_options(options), fresh=fresh, progress=bar)
    if as_json:
        show_json(moved._asdict())
        return
    click.echo(f"The archive is at {moved.url}: position {moved.position}, manifest {moved.manifest}")
    click.echo(f"Written there: {count(moved.objects, 'object')}, {moved.bytes} bytes")


@archive.command()
@directory_argument
@json_option
def verify(directory: Path, as_json: bool) -> None:
    """Read the whole archive and check every hash, signature and tag. Exit 1 if something is wrong."""
    from cloud.server.home import Home
    from cloud.storage.archive.verify import verify as check

    with Home.open(directory) as home, progress_bar("manifests", quiet=as_json) as bar:
        report = check(home.objects, home.keys, home.fleet.fleet, anchor=home.anchor, progress=bar)
    if as_json:
        show_json({**report._asdict(), "problems": [problem._asdict() for problem in report.problems]})
    else:
        click.echo(
            f"{count(report.objects, 'object')}, {report.bytes} bytes, {count(report.manifests, 'manifest')},"
            f" {count(report.operations, 'operation')} up to position {report.position};"
            f" {count(report.unreferenced, 'unreferenced object')}"
        )
        well = "Everything checks out." if report.manifests else "Nothing is archived yet: `archive run` does it."
        show_table(("OBJECT", "PROBLEM"), report.problems, well)
    if report.problems:
        raise SystemExit(1)


@click.command()
@click.argument("target", metavar="TARGET_DIR", type=click.Path(path_type=Path))
@click.option("--archive", "url", required=True, help="Where the archive is: a directory, s3://bucket/prefix …")
@click.option(
    "--archive-option", "options", multiple=True, metavar="KEY=VALUE", help="For the driver of the object store."
)
@click.option("--keys", required=True, type=click.Path(path_type=Path), help="The keys directory of the fleet.")
@click.option("--cursor", type=AFTER, help="Restore up to this feed position.")
@click.option("--time", "moment", help="Restore what was accepted by this time: ISO 8601, UTC without an offset.")
@click.option("--manifest", type=NUMBER, help="Restore what this manifest describes, whatever came after it.")
@click.option("--rehearse", is_flag=True, help="A copy to look at: it never writes to the archive.")
@json_option
def restore(
    target: Path,
    url: str,
    options: tuple[str, ...],
    keys: Path,
    cursor: int | None,
    moment: str | None,
    manifest: int | None,
    rehearse: bool,
    as_json: bool,
) -> None:
    """Make a new control plane directory from the archive and the keys alone. The newest state by default.

    The new control plane takes over the archive: the one that wrote it before must be stopped, its archiving fails from
    then on. To try out a restore while that one goes on, use --rehearse.
    """
    from cloud.ports import SystemClock
    from cloud.server.recovery import restore_home

    if cursor is not None and moment is not None:
        raise InvalidValue("--cursor and --time exclude each other", hint="give one of them, or neither")
    at_ms = None if moment is None else parse_time_ms(moment)
    if at_ms is not None and at_ms > SystemClock().wall_ms():
        raise InvalidValue(f"--time {moment} is in the future", hint="leave it out for the newest state")
    with progress_bar("records and operations", quiet=as_json) as bar:
        restored = restore_home(
            target,
            url,
            keys,
            options=parse_options(options),
            position=cursor,
            at_ms=at_ms,
            manifest=manifest,
            rehearse=rehearse,
            progress=bar,
        )
    if as_json:
        show_json({**restored._asdict(), "directory": target, "rehearsal": rehearse})
        return
    click.echo(f"Restored {count(restored.records, 'record')} up to position {restored.position} into {target}")
    compared = "as the archive noted" if restored.compared else "the archive notes none for this position"
    click.echo(f"State digest {restored.digest} ({compared})")
    if rehearse:
        click.echo(f"A rehearsal: serve {target} does not write to {url}, and takes nothing from devices.")
        click.echo(f"To keep it, give it an archive of its own: agentdb-cloud archive move {target} URL")
        return
    click.echo(f"It takes over the archive at {url}: stop the control plane that wrote it before, for good.")
    click.echo(f"Next: agentdb-cloud serve {target}")


def _show_run(done: ArchiveRun, *, as_json: bool) -> None:
    if as_json:
        show_json(done._asdict())
    elif done.manifests:
        click.echo(
            f"Archived {count(done.operations, 'operation')} up to position {done.position}:"
            f" {count(done.objects, 'object')}, {done.bytes} bytes, manifest {done.number}"
        )
    else:
        click.echo(f"Nothing new since position {done.position}.")
