"""``policy publish`` and ``policy show``: the next number of a policy, to be signed; what devices run, as they say.

``publish`` decides nothing and signs nothing: that is ``agentdb-cloud trust``, ``publish`` and ``assign``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.models import TO_SIGN
from cloud.cli.output import count, directory_argument, json_option, show_json, show_table
from cloud.cli.policy import checked, policy, read
from sync.errors import StorageError

if TYPE_CHECKING:
    from cloud.server.home import Home

_NAMED_MAX = 5  # devices of a row, for people


@policy.command()
@directory_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help=f"Where the JSON goes. Default: DIR/{TO_SIGN}.")
@json_option
def publish(directory: Path, file: Path, out: Path | None, as_json: bool) -> None:
    """Check FILE against the fleet in DIR, and write it as the policy's next number, to be signed.

    Its canonical JSON goes to OUT/policies/NAME/NUMBER.json. Exit 1, with nothing written, if it would not do what it
    says; what is only likely a mistake is shown.
    """
    from cloud.server.home import Home
    from sync.policy_lint import ERROR

    found = read(file)
    findings = checked(found, directory)
    failed = any(finding.level == ERROR for finding in findings)
    target, written = None, False
    if not failed:
        with Home.open(directory) as home:
            target, written = _write(home, out or directory / TO_SIGN, found.name, found.to_json())
    if as_json:
        said = [finding._asdict() for finding in findings]
        show_json({"name": found.name, "path": target, "written": written, "findings": said})
    else:
        rows = [(finding.level, finding.where, finding.message, finding.hint) for finding in findings]
        if rows:
            show_table(("LEVEL", "WHERE", "WHAT", "HINT"), rows, "")
        if target is not None:
            number = target.stem
            click.echo(f"To be signed: {target}" if written else f"The same is there already: {target}")
            click.echo(f"  agentdb-cloud trust add-target TRUST {target} --as policies/{found.name}/{number}.json")
    if failed:
        sys.exit(1)


@policy.command()
@directory_argument
@json_option
def show(directory: Path, as_json: bool) -> None:
    """What each group of devices is to run, who decided it, and what the devices say became of it."""
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = _running(home)
    if as_json:
        show_json(found)
        return
    by = found["fleet"]
    click.echo(f"The cloud goes by {by}." if by else "The cloud goes by no policy.")
    rows = [
        (row["path"] or "none", row["by"], str(row["devices"]), str(row["active"]), str(row["refused"]), _named(row))
        for row in found["groups"]
    ]
    show_table(("POLICY", "BY", "DEVICES", "RUN IT", "REFUSED", "NOT YET"), rows, "no device has joined")


def _write(home: Home, out: Path, name: str, data: bytes) -> tuple[Path, bool]:
    """Where it is, and whether it was written: the last number is not written again. Raises StorageError."""
    folder = out / "policies" / name
    try:
        known = {int(path.stem): path for path in folder.glob("*.json") if path.stem.isdecimal()}
        last = known.get(max(known, default=0))
        if last is not None and last.read_bytes() == data:
            return last, False
        number = max([*known, *_listed(home, name)], default=0) + 1
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number}.json"
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}", hint="--out names another place") from error
    return path, True


def _listed(home: Home, name: str) -> Iterator[int]:
    """The numbers of this policy that are published."""
    from sync.targets import Kind

    fleet = home.fleet.fleet
    with home.store.reading() as view:
        if view.trust_versions(fleet):
            listed = home.plane.control.trusting.load(view, fleet).listed()
            yield from (one.number for one in listed if one.kind is Kind.POLICY and one.name == name)


def _running(home: Home) -> dict[str, Any]:
    from cloud.fleet import choices, twins
    from sync.groups import parse

    fleet = home.fleet.fleet
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    with home.store.reading() as view:
        held = home.plane.control.policies.of(view, fleet)
        for member in twins.members(view, fleet, parse("")):
            choice = choices.desired_places(view, member.device).get(choices.POLICY)
            path, by = (choice.path, choice.rollout or "assign") if choice is not None else ("", "")
            row = groups.setdefault(
                (path, by), {"path": path, "by": by, "devices": 0, "active": 0, "refused": 0, "others": []}
            )
            row["devices"] += 1
            said = _outcome(member.documents)
            outcome = said.get("outcome", "") if said.get("path") == path else ""
            if not path or outcome == "committed":
                row["active"] += 1
                continue
            row["refused"] += outcome == "refused"
            reason = str(said.get("reason", "")) if outcome == "refused" else ""
            row["others"].append({"device": member.device.name or member.device.device.hex(), "reason": reason})
    found = sorted(groups.values(), key=lambda row: (row["path"], row["by"]))
    return {"fleet": held.path if held is not None else "", "groups": found}


def _outcome(documents: Any) -> dict[str, Any]:
    """What a device reports of the place, which is the device's to say: anything else is nothing."""
    found: Any = documents["reported"]
    for name in ("agentdb", "outcomes", "policy"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _named(row: dict[str, Any]) -> str:
    others = row["others"]
    some = [f"{one['device']}: {one['reason']}" if one["reason"] else one["device"] for one in others[:_NAMED_MAX]]
    more = len(others) - len(some)
    return ", ".join(some) + (f" and {count(more, 'other')}" if more else "")
