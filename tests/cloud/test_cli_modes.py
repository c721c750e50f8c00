"""What a control plane writes is its owner's alone, whatever the directory and the umask allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.server.home import Home
from tests.cloud.test_cli import ok


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def _modes(directory: Path) -> dict[str, int]:
    with Home.open(directory) as home, home.store.writing():
        return {path.name: path.stat().st_mode & 0o777 for path in directory.glob("cloud.*")}


def test_in_an_open_directory_files_are_the_owners_alone(tmp_path: Path) -> None:
    fleet, again, reh = tmp_path / "fleet", tmp_path / "again", tmp_path / "reh"
    for directory in (fleet, again, reh):
        directory.mkdir(mode=0o755)
    private = {"cloud.db": 0o600, "cloud.db-shm": 0o600, "cloud.db-wal": 0o600, "cloud.toml": 0o600}
    ok("init", fleet)
    assert _modes(fleet) == private
    ok("archive", "snapshot", fleet)
    source = ["--archive", fleet / "archive", "--keys", fleet / "keys"]
    ok("restore", reh, *source, "--rehearse")
    assert _modes(reh) == private
    ok("restore", again, *source)
    ok("archive", "move", again, tmp_path / "moved")
    assert _modes(again) == private
