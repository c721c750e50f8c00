"""Many writes to few records: what is left is bounded by what lives, with the care that the runtime does by itself."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from simulations import growth


@pytest.mark.slow
def test_ten_thousand_writes_leave_less_than_three_times_the_live_data(tmp_path: Path) -> None:
    result = growth.run(10_000, 500, output=tmp_path, say=lambda _: None)
    assert result["met"], result
    assert result["ratio"] <= growth.RATIO_MAX
    for name, device in result["devices"].items():
        assert device["peak_bytes"] > 3 * device["after_bytes"], (name, device)
    assert result["devices"]["returning"]["unsent_bytes"] <= growth.RATIO_MAX * result["live_bytes"]
    written = json.loads((tmp_path / "growth.json").read_text())
    assert len(written["samples"]["linked"]) > 50
    shown = "".join(ET.parse(tmp_path / "growth.svg").getroot().itertext())
    assert "linked: lance" in shown
    assert "3 x live data" in shown


def test_the_parts_of_a_directory_add_up(tmp_path: Path) -> None:
    for name, size in (("log.db", 5), ("log.db-wal", 7), ("lance/a.lance/x", 11), ("exact/m/k", 13), ("keys/k", 17)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    assert growth.parts(tmp_path) == {"log": 5, "wal": 7, "lance": 11, "exact": 13, "other": 17}
