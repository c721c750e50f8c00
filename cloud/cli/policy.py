"""``policy``: what a policy says before it is published: its mistakes, its cases, and what differs from another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.output import count, json_option, show_json, show_table
from sync.errors import InvalidPolicy, StorageError

if TYPE_CHECKING:
    from cloud.fleet.policies import FleetPolicy
    from sync.policy import Policy
    from sync.policy_lint import Finding
    from sync.schema import CollectionSchema

_path = click.Path(path_type=Path)
_VALUE_CHARACTERS_MAX = 80


@click.group()
def policy() -> None:
    """Policies: what devices sync, keep, spend and allow. A FILE is TOML, or the JSON that is published."""


@policy.command()
@click.argument("file", type=_path)
@click.option("--fleet", "directory", metavar="DIR", type=_path, help="Also against what this fleet has declared.")
@click.option("--write", "target", metavar="PATH", type=_path, help="Write its canonical JSON: what is signed.")
@json_option
def lint(file: Path, directory: Path | None, target: Path | None, as_json: bool) -> None:
    """Check a policy. Exit 2 if it is none, 1 if it would not do what it says, 0 with warnings or without."""
    from hashlib import sha256

    from sync.policy_lint import ERROR

    told = read(file)
    found = checked(told, directory)
    data = told.to_json()
    if target is not None:
        try:
            target.write_bytes(data)
        except OSError as error:
            raise StorageError(f"{target}: {error.strerror}", hint="--write another place") from error
    digest = sha256(data).hexdigest()
    if as_json:
        show_json(
            {
                "name": told.name,
                "bytes": len(data),
                "sha256": digest,
                "findings": [finding._asdict() for finding in found],
            }
        )
    else:
        click.echo(f"policy {told.name}: {count(len(told.sync), 'sync rule')}, {len(data):,} bytes, sha256 {digest}")
        rows = [(finding.level, finding.where, finding.message, finding.hint) for finding in found]
        show_table(("LEVEL", "WHERE", "WHAT", "HINT"), rows, "Nothing was found.")
    if any(finding.level == ERROR for finding in found):
        sys.exit(1)


@policy.command()
@click.argument("file", type=_path)
@click.argument("cases", type=_path)
@json_option
def test(file: Path, cases: Path, as_json: bool) -> None:
    """Try CASES, a TOML file of [[case]] tables, on a policy. Exit 1 if one is not as expected.

    A case has a collection and a key, or an agent, an action and a collection; and expect, a table of what the policy
    says there: rule, in_scope, direction, priority, lane (of the write of its fields), interval_s, record_bytes_max,
    age_days_max, vectors; of agents: allowed. Cedar is not asked: it is on devices alone.
    """
    from sync.policy_cases import read_cases, try_cases
    from sync.policy_source import read_toml

    told = read(file)
    try:
        outcomes = try_cases(told, read_cases(read_toml(_bytes_of(cases))))
    except InvalidPolicy as error:
        raise InvalidPolicy(f"{cases}: {error.message}", hint=error.hint) from error
    failed = [outcome for outcome in outcomes if outcome.wrong]
    if as_json:
        said = [
            {
                "case": outcome.case.name,
                "ok": not outcome.wrong,
                "wrong": {what: {"expected": was, "found": now} for what, (was, now) in outcome.wrong.items()},
            }
            for outcome in outcomes
        ]
        show_json({"cases": len(outcomes), "failed": len(failed), "outcomes": said})
    else:
        rows = [
            (outcome.case.name, what, _shown(was), _shown(now))
            for outcome in failed
            for what, (was, now) in outcome.wrong.items()
        ]
        show_table(("CASE", "WHAT", "EXPECTED", "FOUND"), rows, "All as expected.")
        click.echo(f"{count(len(outcomes), 'case')}, {len(failed)} not as expected")
        if told.cedar is not None:
            click.echo("The policy has a [cedar] text, which may deny more on devices.")
    if failed:
        sys.exit(1)


@policy.command()
@click.argument("old", type=_path)
@click.argument("new", type=_path)
@json_option
def diff(old: Path, new: Path, as_json: bool) -> None:
    """What differs between two policies, and what comes into devices' scope or goes out of it."""
    from sync.policy_diff import diff as compare

    changes = compare(read(old), read(new))
    if as_json:
        show_json([change._asdict() for change in changes])
        return
    rows = [
        (change.what, " ".join(filter(None, (change.where, change.key))), _shown(change.before), _shown(change.after))
        for change in changes
    ]
    show_table(("", "WHERE", "BEFORE", "AFTER"), rows, "They mean the same.")


def checked(policy: Policy, directory: Path | None) -> list[Finding]:
    """What lint finds, also against what the fleet in this directory has declared and runs."""
    from sync.policy_lint import differing, program
    from sync.policy_lint import lint as find

    found = find(policy, _schemas(directory) if directory else None) + program(policy)
    held = _of_the_fleet(directory) if directory else None
    return found if held is None else found + differing(policy, held.document, held.path)


def read(path: Path) -> Policy:
    from sync.policy_source import read_policy

    try:
        return read_policy(_bytes_of(path))
    except InvalidPolicy as error:
        raise InvalidPolicy(f"{path}: {error.message}", hint=error.hint) from error


def _bytes_of(path: Path) -> bytes:
    from sync.policy import POLICY_BYTES_MAX

    try:
        with path.open("rb") as file:
            return file.read(POLICY_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidPolicy(f"it cannot be read: {error.strerror}", hint="check the path") from error


def _schemas(directory: Path) -> dict[str, CollectionSchema]:
    """What the fleet in this directory has declared."""
    from cloud.server.home import Home
    from cloud.stream.schemas import SchemaBook

    with Home.open(directory) as home, home.store.reading() as view:
        fleet = home.fleet.fleet
        book = SchemaBook.load(view, fleet, view.head(fleet).position)
        return {name: book.get(name) for name in book.names()}


def _of_the_fleet(directory: Path) -> FleetPolicy | None:
    """The one that all devices of this fleet are assigned."""
    from cloud.server.home import Home

    with Home.open(directory) as home, home.store.reading() as view:
        return home.plane.control.policies.of(view, home.fleet.fleet)


def _shown(value: Any) -> str:
    text = "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"
