"""The documents say what is there: names, links and commands in them exist."""

from __future__ import annotations

import ast
import importlib
import re
import sqlite3
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = sorted(
    set(re.findall(r"`((?:sync|edge|cloud)(?:\.\w+)+):([\w.]+)`", (ROOT / "docs/ARCHITECTURE.md").read_text()))
)
LEDGER = (ROOT / "docs/BUGS_FOUND.md").read_text()
REGRESSIONS = re.findall(r"^\* \*Test\*:\s+`([\w./]+)::(\w+)`$", LEDGER, re.MULTILINE)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_stop_of_the_life_of_a_write_exists(module: str, name: str) -> None:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)


def test_the_life_of_a_write_has_stops() -> None:
    assert len(NAMES) > 25


def test_the_tables_of_a_device_s_log_are_described_as_they_are() -> None:
    db = sqlite3.connect(":memory:")
    for path in sorted((ROOT / "edge/storage").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and str(node.value).strip().startswith("CREATE TABLE"):
                db.executescript(str(node.value))
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")} - {"first"}
    page = (ROOT / "docs/FORMAT.md").read_text().partition("## The device's log")[2].partition("\n## ")[0]
    described = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE)}
    assert described.keys() == names
    for name in sorted(names - {"meta"}):
        for _, column, *_ in db.execute(f"PRAGMA table_info({name})"):
            assert re.search(rf"\b{column}\b", described[name]), f"{name}.{column}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_and_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", text):
        linked = path.parent / target if target else path
        assert linked.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in _anchors(linked), f"{path.name} links to {target}#{anchor}"
    for name in re.findall(r"`((?:sync|edge|cloud|tests|simulations|configs)/[\w./]*\w/?)`", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def _anchors(path: Path) -> set[str]:
    """Of its headings, as they are shown on the web."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


@pytest.mark.parametrize(("path", "name"), REGRESSIONS, ids=lambda part: part.rpartition("/")[2])
def test_every_regression_test_of_the_ledger_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_every_bug_of_the_ledger_is_whole() -> None:
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. \S", LEDGER, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(REGRESSIONS) == len(numbers) > 40
    for part in ("Found by", "Symptom", "Cause", "Fix"):
        assert len(re.findall(rf"^\* \*{part}\*: \S", LEDGER, re.MULTILINE)) == len(numbers), part
    assert len(re.findall(r"Commit\s+“[^”]+”", LEDGER)) == len(numbers)
