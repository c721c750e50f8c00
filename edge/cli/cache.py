"""``cache``: what of the attachments stays on this device."""

from __future__ import annotations

import click

from edge.cli.output import counted, json_option, print_json, print_table
from edge.cli.stores import existing, reading, store_argument, store_to_write


@click.group()
def cache() -> None:
    """The cache: what takes the store's space, and which attachments may leave this device."""


@cache.command()
@store_argument
@json_option
def status(store: str, as_json: bool) -> None:
    """What takes the space, and what of the attachments' bytes may go, is pinned, or is not in the cloud yet."""
    with reading(store) as edge:
        told = edge.cache.status()
    if as_json:
        print_json(told.shown())
        return
    quota = f" of {told.quota_bytes:,}" if told.quota_bytes else ", no quota"
    rows = [("store", f"{told.bytes:,} bytes{quota}")]
    rows += [(f"  {kind}", f"{size:,} bytes") for kind, size in told.by_kind.items() if size]
    shares = {"here": told.bodies, "evictable": told.evictable, "pinned": told.pinned}
    shares |= {"not in the cloud yet": told.unconfirmed, "elsewhere": told.away}
    rows += [(name, f"{counted(one.count, 'attachment')}, {one.bytes:,} bytes") for name, one in shares.items()]
    if told.problem:
        rows.append(("problem", told.problem))
    print_table(("", ""), rows)


@cache.command()
@store_to_write
@click.option("--to-bytes", type=click.IntRange(0), help="What the store may take then; by default the quota.")
@json_option
def evict(store: str, to_bytes: int | None, as_json: bool) -> None:
    """Give up attachments that the cloud has, the least recently used first. They come back when they are read."""
    with existing(store) as edge:
        done = edge.cache.evict(to_bytes)
    if as_json:
        print_json(done._asdict())
    else:
        click.echo(f"{counted(done.bodies, 'attachment')} evicted, {done.bytes:,} bytes; {done.left:,} are left")
