"""The commands of docs/FLEET.md, "Trust", do what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloud.cli import main
from cloud.fleet.trust_files import TrustFiles
from tests.cloud.test_trust_cli import Device


def test_the_commands_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/FLEET.md, "Trust": its commands one after another, between them what it says to do by hand."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "FLEET.md").read_text(encoding="utf-8")
    section = text.partition("## Trust\n")[2].partition("\n## ")[0]
    commands = [line for block in section.split("```console\n")[1:] for line in block.partition("```")[0].splitlines()]
    assert len(commands) == 7
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "configs" / "policies" / "kiosk.toml", "kiosk.toml")
    for command in commands:
        name, *args = command.split()
        assert name == "agentdb-cloud"
        if args[:2] == ["trust", "renew"]:
            for number in (1, 2, 3):
                shutil.move(f"TRUST/keys/root-{number}.pem", f"root-{number}.pem")
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, (command, result.output)
    assert Device(tmp_path / "TRUST").take().target("policies/kiosk/1.json").number == 1
    assert TrustFiles(tmp_path / "TRUST").signing()[0].version == 2
