"""``conflicts``: what two devices wrote without knowing of each other, who won, by which rule; deciding open ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud.cli.output import AFTER, NUMBER, directory_argument, json_option, show_json, show_table, when
from sync.errors import InvalidValue, NotFound
from sync.stamps import device_of, wall_ms_of

if TYPE_CHECKING:
    from cloud.rows import Claim, Conflict
    from cloud.server.home import Home

_VALUE_CHARACTERS_MAX = 60
_BY_DELETE = "(delete or edit)"


@click.command()
@directory_argument
@click.option("--open", "only_open", is_flag=True, help="Only those that wait for a decision.")
@click.option("--after", type=AFTER, default=0, help="Only those with a larger number.")
@click.option("--limit", type=NUMBER, default=100, show_default=True)
@click.option("--show", type=NUMBER, metavar="NUMBER", help="One conflict with both values.")
@click.option("--resolve", type=NUMBER, metavar="NUMBER", help="Decide an open conflict; needs --take.")
@click.option("--take", type=click.Choice(["winner", "loser", "value"]), help="What to keep.")
@click.option(
    "--value", help="With --take value: the field's new value as JSON; of a delete conflict all fields, or null."
)
@click.option("--retry", "again", is_flag=True, help="Have open ones decided by their resolvers as they are now.")
@json_option
def conflicts(
    directory: Path,
    only_open: bool,
    after: int,
    limit: int,
    show: int | None,
    resolve: int | None,
    take: str | None,
    value: str | None,
    again: bool,
    as_json: bool,
) -> None:
    """List the fleet's conflicts, show one, or decide one.

    As JSON, "held" was there first and "came" later; "won" and "lost" are the same two by the outcome, null if another
    value was given. "field" is "" for a delete against an edit. "resolution" is the feed position of what the cloud
    wrote to decide it, 0 if nothing was needed. "ts" is a stamp: milliseconds since 1970 times 65,536, plus a count.
    """
    from cloud.server.home import Home

    if sum((resolve is not None, show is not None, again)) > 1:
        raise InvalidValue("--show, --resolve and --retry exclude each other", hint="give one of them")
    if resolve is None and (take is not None or value is not None):
        raise InvalidValue("--take and --value decide a conflict: which one?", hint="--resolve NUMBER --take …")
    with Home.open(directory) as home:
        fleet = home.fleet.fleet
        if again:
            return _retry(home, as_json=as_json)
        if resolve is not None:
            if take is None:
                raise InvalidValue("what shall be kept?", hint="--take winner, loser or value (with --value JSON)")
            given = _parse_value(take, value)
            with home.store.reading() as view:
                found = view.conflict(fleet, resolve)
            if found is not None and not found.field and take == "value" and not isinstance(given, dict | None):
                raise InvalidValue(
                    f"conflict {resolve} is about a whole record, deleted or edited: {value} is no record",
                    hint='all its fields: --value \'{"text": "new"}\', or --value null to delete it',
                )
            one = home.plane.resolve(fleet, resolve, take=take, value=given)
            return _show(one, as_json=as_json)
        if show is not None:
            with home.store.reading() as view:
                found = view.conflict(fleet, show)
            if found is None:
                raise NotFound(f"no conflict {show}", hint=f"agentdb-cloud conflicts {directory} lists them")
            return _show(found, as_json=as_json)
        rows = home.plane.conflicts(fleet, after, limit, state="open" if only_open else "")
    if as_json:
        return show_json([_as_dict(row) for row in rows])
    show_table(
        ("NUMBER", "WHEN", "RECORD", "FIELD", "WINNER", "LOSER", "RULE", "STATE", "NOTE"),
        [
            (
                row.number,
                when(row.at_ms),
                f"{row.collection}/{row.key}",
                row.field or _BY_DELETE,
                _side(*_sides(row)[0]),
                _side(*_sides(row)[1]),
                row.rule,
                row.state,
                _shortened(row.note),
            )
            for row in rows
        ],
        "No conflicts.",
    )
    return None


def _parse_value(take: str, text: str | None) -> object:
    if text is None:
        if take == "value":
            raise InvalidValue("--take value needs a --value", hint="--take value --value '\"text\"'")
        return None
    if take != "value":
        raise InvalidValue(f"--value and --take {take} exclude each other", hint="--take value --value '\"text\"'")
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidValue(f"--value is not JSON: {error}", hint="text in quotes: --value '\"text\"'") from error


def _sides(row: Conflict) -> tuple[tuple[str, Claim], tuple[str, Claim]]:
    """The winner, then the loser; in the order of arrival if another value was given."""
    held, came = ("held", row.held), ("came", row.came)
    return (came, held) if row.winner == "came" else (held, came)


def _side(_: str, claim: Claim) -> str:
    shown = "deleted" if claim.delete else json.dumps(claim.value, ensure_ascii=False, default=_hex)
    return f"{claim.device or device_of(claim.replica).hex()}: {_shortened(shown)}"


def _shortened(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[: _VALUE_CHARACTERS_MAX - 1] + "…"


def _retry(home: Home, *, as_json: bool) -> None:
    from cloud.server.resolvers import retry

    done = retry(home.plane, home.store, home.fleet.fleet, home.use_resolvers())
    if as_json:
        show_json({"decided": done.decided, "left": [{"number": number, "reason": why} for number, why in done.left]})
        return
    click.echo(f"Decided by their resolvers: {len(done.decided)}; left open: {len(done.left)}")
    for number, why in done.left:
        click.echo(f"  {number}: {why}")


def _show(row: Conflict, *, as_json: bool) -> None:
    if as_json:
        show_json(_as_dict(row))
        return
    click.echo(f"conflict {row.number}: {row.collection}/{row.key} {row.field or _BY_DELETE}")
    click.echo(f"  {row.state} by rule {row.rule}, found {when(row.at_ms)} at position {row.position}")
    for name, claim in _sides(row):
        verdict = {row.winner: "won "}.get(name, "lost") if row.winner in ("held", "came") else name
        value = "deleted" if claim.delete else json.dumps(claim.value, ensure_ascii=False, default=_hex)
        writer = claim.device or device_of(claim.replica).hex()
        click.echo(f"  {verdict}  {writer} at {when(wall_ms_of(claim.ts))}: {value}")
    if row.winner == "resolved":
        click.echo(f"  another value was given, at position {row.resolution}")
    if row.note:
        click.echo(f"  note: {row.note}")


def _as_dict(row: Conflict) -> dict[str, object]:
    """``held`` was there first, ``came`` later; ``winner`` says which of them, and ``won`` and ``lost`` are these two
    once more, by the outcome: null if another value was given (``winner`` is "resolved").
    """
    (_, won), (_, lost) = _sides(row)
    decided = row.winner in ("held", "came")
    return {
        **row._asdict(),
        "held": row.held._asdict(),
        "came": row.came._asdict(),
        "won": won._asdict() if decided else None,
        "lost": lost._asdict() if decided else None,
    }


def _hex(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
