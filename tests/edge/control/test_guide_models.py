"""What the guide says of models, run: its runner probes a model, its agent uses it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from edge import Edge
from simulations.processes import ROOT
from sync.models import Golden, Latency, Loads, Memory, Soak
from tests.edge.control.model_world import Shelf, assign, model

GUIDE = (ROOT / "docs" / "GUIDE.md").read_text()
PROBES = [Loads(), Golden([2.0, 1.0], [4.0, 3.0], 1e-6), Latency(p95_ms=1_000), Memory(peak_bytes=1 << 30)]


def test_the_models_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use, runner = re.findall(r"```python models\n(.*?)```", GUIDE, re.DOTALL)
    (config,) = [text for text in re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL) if "[models.runners]" in text]
    (tmp_path / "myapp").mkdir()
    (tmp_path / "myapp" / "models.py").write_text(runner)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Edge.open("robot-9").close()
    Path("robot-9", "edge.toml").write_text(config.replace("embed =", "toy ="))
    session: dict[str, Any] = {}
    exec(runner, session)
    published = Shelf(tmp_path / "shelf").publish(
        1, model([[1.5, 1.0], [1.0, 1.0]]), probes=PROBES, soak=Soak(uptime_s=600, uses=10)
    )
    with Edge.open("robot-9") as edge:
        edge.models.connect(Shelf(tmp_path / "shelf").fill)
        assign(edge.models, 1, published)
        next(edge.models.watch("embed"))
    exec(compile(use, "GUIDE.md", "exec"), session)
    assert session["vector"] == [4.0, 3.0]
    assert "myapp.models" not in sys.modules, "what runs a model is not imported into the agent by its probes"
