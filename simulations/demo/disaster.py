"""Chapters 8 to 10: the control plane is lost with all its data, restored from the archive, and the fleet goes on."""

from __future__ import annotations

import shutil
from typing import Any

from simulations.demo.cast import Cast, expect
from simulations.demo.offline import A, B, C
from simulations.demo.screen import size

NEW_EACH = 10


def lose_the_cloud(cast: Cast, digest: str) -> list[str]:
    """Returns the keys of what was written around the loss."""
    screen = cast.screen
    screen.chapter(
        "The control plane is destroyed",
        "First the archive is brought up to date and checked. Then come writes that it does not hold: some the server "
        "acknowledges, then it is killed and its directory deleted; some are written while it is gone.",
    )
    run = cast.cloud.command("archive", "run", str(cast.cloud.directory))
    report = cast.cloud.command("archive", "verify", str(cast.cloud.directory))
    expect(not report["problems"], f"the archive has problems: {report['problems']}")
    screen.say(f"archive: {report['objects']} objects, {size(report['bytes'])}, {report['operations']:,} operations")
    expect(run["position"] == report["position"], "the archive run and its verification differ about the position")
    safe = cast.keep_keys()
    acknowledged = _write(cast, A, "acknowledged, never archived")
    cast.sync(A)
    cast.sync(B)
    expect(all(cast.devices[B].call("get", keys=acknowledged)), f"{B} did not get what {A} had synced")
    cast.cloud.kill()
    shutil.rmtree(cast.cloud.directory)
    expect(not cast.cloud.directory.exists(), "the server's directory is still there")
    offline = _write(cast, A, "while the cloud was gone") + _write(cast, B, "while the cloud was gone")
    screen.proved(f"the server and its directory are gone; what is left: the archive and the keys in {safe.name}/")
    expect(cast.cloud.server is not None and cast.cloud.server.process.poll() is not None, "the server still runs")
    expect(digest, "there is no state to come back to")
    return acknowledged + offline


def restore(cast: Cast, digest: str) -> None:
    screen = cast.screen
    screen.chapter(
        "Restored from the archive and the keys",
        "Every object is checked by hash, signature and tag before it counts; the digest tells if it is the same.",
    )
    before = screen.seconds
    options = [part for option in cast.options for part in ("--archive-option", option)]
    target = cast.folder / "cloud-restored"
    made: dict[str, Any] = cast.cloud.command(
        "restore", str(target), "--archive", cast.archive, "--keys", str(cast.folder / "safe"), *options
    )
    cast.tally.times["restoring the control plane"] = screen.seconds - before
    cast.cloud.directory = target
    screen.say(f"{made['records']:,} records up to position {made['position']:,} in {screen.seconds - before:.1f} s")
    expect(made["digest"] == digest, f"the restored state is {made['digest'][:16]}…, not {digest[:16]}…")
    expect(cast.cloud.digest() == digest, "the restored store does not hold what the restore says")
    cast.tally.digests["restored from the archive"] = made["digest"]
    screen.proved(f"control plane: {made['digest']}")


def go_on(cast: Cast, written: list[str]) -> None:
    screen = cast.screen
    screen.chapter(
        "The fleet goes on",
        "The devices meet a server that knows less than it had acknowledged. They notice, give back what it lacks, and "
        "go on writing.",
    )
    port = cast.cloud.serve()
    cast.connect(port)
    before = screen.seconds
    cast.sync_until_equal("syncing")
    cast.tally.times["syncing with the restored server"] = screen.seconds - before
    written = [*written, *_write(cast, A, "after the restore"), *_write(cast, B, "after the restore")]
    cast.sync_until_equal()
    for name in (A, B, C):
        records = cast.devices[name].call("get", keys=written)
        lost = [key for key, record in zip(written, records, strict=True) if record is None]
        expect(not lost, f"{name} has lost {', '.join(lost)}")
    digests = cast.digests()
    screen.table(("who", "state digest"), list(digests.items()))
    cast.tally.digests["at the end"] = digests["control plane"]
    screen.proved(
        f"all {len(written)} records written before, during and after the loss are on all three devices and the server"
    )
    for name in cast.devices:
        problems = cast.devices[name].call("verify")
        expect(not problems, f"{name}'s store does not check out: {problems}")
        letters = cast.devices[name].call("status")["dead_letters"]
        expect(not letters, f"{name} has refused operations: {letters}")
    screen.proved("every store checks out, and nothing was refused")


def _write(cast: Cast, name: str, when: str) -> list[str]:
    """New records on one device; their keys."""
    prefix = f"{name}: {when}"
    keys = [f"{prefix} {number}" for number in range(NEW_EACH)]
    fields = [
        {"title": key, "source": "the demo", "body": f"Number {n}, written by {prefix}."} for n, key in enumerate(keys)
    ]
    cast.write(name, [{"do": "put", "key": key, "fields": one} for key, one in zip(keys, fields, strict=True)])
    return keys
