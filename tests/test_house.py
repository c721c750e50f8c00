"""The house rules no linter knows: the top level, file length, no traces of one machine, the lock.

The rules are about what is committed, so they ask git; in an unpacked archive without git those that
cannot be asked otherwise are skipped. Layers and drivers are import-linter's (see pyproject.toml).
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / ".ci" / "requirements.lock"

HOUSE = {
    *("pyproject.toml", "edge", "cloud", "sync", "tests", "simulations", "configs", "docs"),
    *("README.md", "Makefile", "LICENSE", ".gitignore", ".ci"),
}
LINES_MAX = 400
# Shapes rather than names, so that this file passes its own test.
TRACES = re.compile(
    rb"""
      pypi \. (?: org | python )            # package index hosts; a lock or a page that names one
    | pythonhosted \. org                   # sends every reader there, mirror or not
    | (?<![\w.~$}-]) / work /               # one machine's checkouts and scratch directories
    | / tmp / [\w.-]* _jobs
    | / opt / (?: pypi | wheels )
    | (?: -- (?: extra- )? index-url | -- find-links )
    """,
    re.VERBOSE,
)


def _tracked() -> list[str]:
    """Paths of the files in git's index that are also in the working tree, or skip."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is committed cannot be asked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [path for path in listed.stdout.decode().split("\0") if path and (ROOT / path).is_file()]


def _python_files() -> list[Path]:
    folders = ("edge", "cloud", "sync", "simulations", "tests")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _pins() -> dict[str, list[tuple[Requirement, int]]]:
    """Each locked name with its pins (one per environment) and the number of hashes of each."""
    pins: dict[str, list[tuple[Requirement, int]]] = {}
    text = re.sub(r"^\s*#.*\n", "", LOCK.read_text(), flags=re.MULTILINE)
    for entry in text.replace("\\\n", " ").splitlines():
        line, *hashes = re.split(r"\s+--hash=sha256:", entry)
        pin = Requirement(line)
        sound = [digest for digest in hashes if re.fullmatch(r"[0-9a-f]{64}\s*", digest)]
        assert len(sound) == len(hashes), f"{line}: not a SHA-256"
        pins.setdefault(canonicalize_name(pin.name), []).append((pin, len(hashes)))
    return pins


def test_top_level_is_the_house_and_nothing_else() -> None:
    assert {path.split("/", 1)[0] for path in _tracked()} == HOUSE


def test_long_files_say_why() -> None:
    too_long = []
    for path in _python_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        reasoned = any(re.search(r"Long file: *\w", line) for line in lines[:15])
        if len(lines) > LINES_MAX and not reasoned:
            too_long.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
    assert not too_long, "split it, or say why within its first 15 lines with 'Long file: <reason>'"


def test_no_file_names_an_index_or_one_machine() -> None:
    traces = [
        f"{path}: {found.group().decode()}"
        for path in _tracked()
        for found in TRACES.finditer((ROOT / path).read_bytes())
    ]
    assert not traces


@pytest.mark.parametrize(
    "trace",
    [
        "https://py" + "pi.org/simple",
        "files.python" + "hosted.org",
        "cd /wor" + "k/main",
        "/tmp/bash" + "_jobs.0/1",
        "--find" + "-links x",
        "--extra-index" + "-url y",
    ],
)
def test_the_search_for_traces_finds(trace: str) -> None:
    assert TRACES.search(trace.encode())


def test_every_pin_is_exact_and_hashed() -> None:
    for name, pins in _pins().items():
        for pin, hashes in pins:
            assert [clause.operator for clause in pin.specifier] == ["=="], f"{name} is not pinned"
            assert hashes >= 1, f"{name} has no hash"


def test_lock_is_names_versions_and_hashes_only() -> None:
    allowed = re.compile(
        r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[^\s/]+( ; [^/]+)? \\"  # a pin, perhaps for some environments only
        r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
        r"|    #[^/]*"  # who asked for it
    )
    strange = [line for line in LOCK.read_text().splitlines() if not allowed.fullmatch(line)]
    assert not strange


def test_lock_pins_everything_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    pins = _pins()
    for requirement in map(Requirement, asked):
        found = pins.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not locked: make lock"
        for pin, _ in found:
            version = next(iter(pin.specifier)).version
            assert version in requirement.specifier, f"{pin} does not satisfy {requirement}: make lock"


def test_the_package_itself_builds_from_the_lock() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    pins = _pins()
    assert all(canonicalize_name(Requirement(need).name) in pins for need in build["requires"])
