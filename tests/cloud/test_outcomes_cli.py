"""``agentdb-cloud outcomes``: who runs what, by what devices say, whatever they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cloud.test_cli import join, ok, run
from tests.cloud.test_rollouts_cli import fleet, refused, report

__all__ = ["fleet"]  # a fixture

GOOD, BAD = "models/embed/13.json", "models/embed/14.json"


def said(**places: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "agentdb": {
            "outcomes": {
                place.replace("_", "/"): {"path": path, "sha256": "00", "outcome": outcome, "reason": reason}
                for place, (path, outcome, reason) in places.items()
            }
        }
    }


@pytest.fixture
def devices(fleet: Path) -> dict[str, bytes]:
    names = ("bus", "car", "kiosk", "van")
    made = {name: join(fleet, name, number).device_id for number, name in enumerate(names, 1)}
    ok("labels", fleet, "van", "site=north")
    for name, of_it in {
        "bus": said(models_embed=(GOOD, "committed", ""), policy=("policies/base/1.json", "committed", "")),
        "car": said(models_embed=(BAD, "returned", "loads: no memory")),
        "van": said(models_embed=(BAD, "returned", "loads: no memory")),
    }.items():
        report(fleet, made[name], 1, of_it)
    return made


def test_devices_are_counted_by_what_they_say(fleet: Path, devices: dict[str, bytes]) -> None:
    assert ok("outcomes", fleet, "models/embed") == [
        {"place": "models/embed", "path": "", "outcome": "", "devices": 1, "reasons": {}},
        {"place": "models/embed", "path": GOOD, "outcome": "committed", "devices": 1, "reasons": {}},
        {
            "place": "models/embed",
            "path": BAD,
            "outcome": "returned",
            "devices": 2,
            "reasons": {"loads: no memory": 2},
        },
    ]
    every = {(one["place"], one["outcome"]): one["devices"] for one in ok("outcomes", fleet)}
    assert every == {
        ("models/embed", ""): 1,
        ("models/embed", "committed"): 1,
        ("models/embed", "returned"): 2,
        ("policy", ""): 3,
        ("policy", "committed"): 1,
    }
    text = run("outcomes", fleet).output
    assert "nothing said" in text
    assert "loads: no memory (2)" in text


def test_each_device_has_a_line(fleet: Path, devices: dict[str, bytes]) -> None:
    lines = {one["name"]: one for one in ok("outcomes", fleet, "models/embed", "--devices")}
    assert lines.keys() == devices.keys()
    assert (lines["van"]["path"], lines["van"]["outcome"], lines["van"]["device"]) == (
        BAD,
        "returned",
        devices["van"].hex(),
    )
    assert lines["van"]["at_ms"] > 0
    assert (lines["kiosk"]["outcome"], lines["kiosk"]["at_ms"]) == ("", 0)
    (north,) = ok("outcomes", fleet, "models/embed", "--devices", "--group", 'labels.site = "north"')
    assert north["name"] == "van"
    assert "loads: no memory" in run("outcomes", fleet, "--devices").output
    ok("devices", fleet, "--revoke", "van")
    assert "van" not in {one["name"] for one in ok("outcomes", fleet, "--devices")}


def test_a_place_that_nobody_names_and_a_query_that_is_none(fleet: Path) -> None:
    assert ok("outcomes", fleet) == []
    assert "No device has said anything yet." in run("outcomes", fleet).output
    join(fleet, "van", 1)
    assert [(one["outcome"], one["devices"]) for one in ok("outcomes", fleet, "policy")] == [("", 1)]
    assert "No device is named by that." in run("outcomes", fleet, "policy", "--group", 'labels.a = "b"').output
    assert "the query at" in refused("outcomes", fleet, "--group", "labels.site = north")


def test_what_is_none_of_an_outcome_counts_as_nothing_said(fleet: Path) -> None:
    for number, odd in enumerate(
        (
            "text",
            {"outcomes": 7},
            {"outcomes": {"policy": 7}},
            {"outcomes": {"policy": {"path": 7, "outcome": "committed"}}},
            {"outcomes": {"policy": {"path": GOOD, "outcome": "praised"}}},
            {"outcomes": {"policy": {"path": GOOD, "outcome": "committed", "reason": {"deep": ["\x1b[2J"] * 90}}}},
        ),
        1,
    ):
        report(fleet, join(fleet, f"odd{number}", number).device_id, 1, {"agentdb": odd})
    found = ok("outcomes", fleet)
    assert [(one["outcome"], one["devices"]) for one in found] == [("", 5), ("committed", 1)]
    assert "\x1b" not in run("outcomes", fleet, "--devices").output
    assert max(len(reason) for reason in found[1]["reasons"]) == 200
