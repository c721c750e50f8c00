"""Attachments through the real commands: a server process, two devices at the shell, and an archive that moves."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from click.testing import CliRunner, Result

from edge.cli import main as edge_main
from sync.limits import BODY_PART_BYTES
from tests.cloud.test_cli import ok, run, served

PHOTO = b"\x89PNG\r\n\x1a\n" + Random(1).randbytes(BODY_PART_BYTES + 77)


def device(*args: object) -> Result:
    return CliRunner().invoke(edge_main, [str(arg) for arg in args])


def told(*args: object) -> Any:
    result = device(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def joined(fleet: Path, store: Path, url: str) -> Path:
    assert (
        device("init", store, "--join", ok("token", fleet, "--url", url)["token"], "--name", store.name).exit_code == 0
    )
    return store


def use(store: Path, url: str) -> None:
    """The server has another port each time."""
    (store / "edge.toml").write_text(f'[sync]\nurl = "{url}"\n')


def unconfirmed(store: Path) -> int:
    return int(told("cache", "status", store)["unconfirmed"]["count"])


def test_attachments_from_shell_to_shell_and_through_a_move(tmp_path: Path) -> None:
    fleet = tmp_path / "cloud"
    ok("init", fleet)
    photo = tmp_path / "pump.png"
    photo.write_bytes(PHOTO)
    with served(fleet) as (_, url):
        a, b = (joined(fleet, tmp_path / name, url) for name in ("a", "b"))
        (added,) = told("attachments", "add", a, "guide", photo, "--text", "the pump")
        for store in (a, b):
            assert device("sync", store).exit_code == 0
        assert [one["here"] for one in told("attachments", "list", b, "guide")] == [False]
        assert device("attachments", "get", b, "guide", added["id"], tmp_path / "got.png").exit_code == 0
        assert (tmp_path / "got.png").read_bytes() == PHOTO
        assert told("cache", "evict", a, "--to-bytes", "0")["bodies"] == 1
    away = device("attachments", "get", a, "guide", added["id"], tmp_path / "x.png")
    assert away.exit_code == 1
    assert "is not on this device" in away.stderr
    assert "hint: read it again when the network is back" in away.stderr
    assert ok("archive", "verify", fleet)["unreferenced"] == 0

    ok("archive", "move", fleet, tmp_path / "elsewhere")
    with served(fleet) as (_, url):
        use(a, url)
        assert device("attachments", "get", a, "guide", added["id"], tmp_path / "again.png").exit_code == 0
        assert (tmp_path / "again.png").read_bytes() == PHOTO
        assert unconfirmed(a) == 0, "the same place, elsewhere"

    assert run("archive", "move", fleet, tmp_path / "new", "--fresh").exit_code == 0
    with served(fleet) as (_, url):
        for store in (a, b):
            use(store, url)
        assert device("sync", b).exit_code == 0
        assert unconfirmed(b) == 0, "it has brought there what it has"
        for store in (a, b):
            assert told("cache", "evict", store, "--to-bytes", "0")["bodies"] == 1
        assert device("attachments", "get", a, "guide", added["id"], tmp_path / "third.png").exit_code == 0
        assert (tmp_path / "third.png").read_bytes() == PHOTO
