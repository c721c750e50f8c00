"""The documents say what is there: names, links and commands in them exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = sorted(
    set(re.findall(r"`((?:sync|edge|cloud)(?:\.\w+)+):([\w.]+)`", (ROOT / "docs/ARCHITECTURE.md").read_text()))
)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_stop_of_the_life_of_a_write_exists(module: str, name: str) -> None:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)


def test_the_life_of_a_write_has_stops() -> None:
    assert len(NAMES) > 25


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_and_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for name in re.findall(r"`((?:sync|edge|cloud|tests|simulations|configs)/[\w./]*\w/?)`", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 25
    exec(compile(example, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "'visits': 2" in said
    assert said.count("pump-3") == 2
