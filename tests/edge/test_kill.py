"""What was acknowledged survives SIGKILL at any moment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.kill_loop import KEYS, expect, turn_of

ROOT = Path(__file__).parent.parent.parent
KILLS = 240


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_acknowledged_writes_survive_sigkill(tmp_path: Path, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.edge.kill_loop", str(tmp_path / "store"), str(KILLS), str(seed)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(r"(\d+) kills, (\d+) writes, (\d+) before the first one\n", done.stdout)
    assert found is not None
    assert int(found[1]) == KILLS
    assert int(found[2]) > KILLS, "the writers were killed before they wrote anything"


def test_the_model_knows_every_kind_of_turn() -> None:
    model: dict[str, dict[str, object]] = {}
    for turn in range(500):
        expect(model, 0, turn)
    assert len({turn_of(0, turn)[0] for turn in range(500)}) == 5
    assert len(model) > KEYS // 2
