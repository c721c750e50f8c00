"""``outcomes``: who runs what, by what devices say."""

from __future__ import annotations

from pathlib import Path

import click

from cloud.cli.output import directory_argument, group_option, json_option, show_json, show_table, when

_SILENT = "nothing said"
_REASONS_SHOWN = 3


@click.command()
@directory_argument
@click.argument("place", default="")
@group_option
@click.option("--devices", "each", is_flag=True, help="A line for each device, with the reason in full.")
@json_option
def outcomes(directory: Path, place: str, query: str, each: bool, as_json: bool) -> None:
    """What became of what devices were given: how many committed, returned or refused each policy and model, and why.

    By what they last reported. PLACE is "policy" or "models/NAME"; all, if it is left out. A device that returned a
    model runs the one before.
    """
    from cloud.fleet.outcomes import outcomes as outcomes_of
    from cloud.fleet.outcomes import tally
    from cloud.server.home import Home

    with Home.open(directory) as home:
        found = outcomes_of(home.plane.twins.members(home.fleet.fleet, query), place)
    empty = "No device is named by that." if query and place else "No device has said anything yet."
    if each:
        if as_json:
            show_json([one._asdict() for one in found])
            return
        show_table(
            ("PLACE", "PATH", "OUTCOME", "DEVICE", "NAME", "REPORTED", "REASON"),
            [
                (one.place, one.path, one.outcome or _SILENT, one.device.hex(), one.name, when(one.at_ms), one.reason)
                for one in found
            ],
            empty,
        )
        return
    tallies = tally(found)
    if as_json:
        show_json([one._asdict() for one in tallies])
        return
    show_table(
        ("PLACE", "PATH", "OUTCOME", "DEVICES", "REASONS"),
        [(one.place, one.path, one.outcome or _SILENT, one.devices, _brief(one.reasons)) for one in tallies],
        empty,
    )


def _brief(reasons: dict[str, int]) -> str:
    shown = [f"{reason} ({number})" for reason, number in list(reasons.items())[:_REASONS_SHOWN]]
    return "; ".join([*shown, *(["…"] if len(reasons) > len(shown) else [])])
