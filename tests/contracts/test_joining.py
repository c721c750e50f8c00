"""Joining again: what a device is called here is what its fleet calls it; and what a revoked device is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.cli import main
from edge.node import Edge
from sync.errors import InputError, InvalidValue
from tests.contracts.test_link import Served, served

__all__ = ["served"]


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def names(served: Served, store: Path) -> set[str]:
    """What the store and the roster call the device."""
    with Edge.open(store) as edge:
        (row,) = [row for row in served.cloud.plane.devices(served.cloud.fleet) if row.device == edge.device]
        return {edge.status()["fleet"]["name"], row.name}


def test_a_device_keeps_the_name_that_its_fleet_has(served: Served, tmp_path: Path) -> None:
    store = tmp_path / "anna"
    served.device(store).close()
    result = call("init", str(store), "--join", served.token(), "--name", "other")
    assert (result.exit_code, "knows this device as 'anna'" in result.stderr) == (2, True), result.output
    for more in ([], ["--name", "anna"]):
        result = call("init", str(store), "--join", served.token(), *more)
        assert result.exit_code == 0, result.output
        assert names(served, store) == {"anna"}


def test_keys_alone_come_back_under_their_name(served: Served, tmp_path: Path) -> None:
    store = tmp_path / "bert"
    served.device(store).close()
    shutil.copytree(store / "keys", tmp_path / "again" / "keys")
    result = call("init", str(tmp_path / "again"), "--join", served.token(), "--name", "other")
    assert (result.exit_code, "knows this device as 'bert'" in result.stderr) == (2, True), result.output
    assert call("init", str(tmp_path / "again"), "--join", served.token()).exit_code == 0
    assert names(served, tmp_path / "again") == {"bert"}
    (tmp_path / "again" / "keys" / "fleet.name").write_bytes(b"\xff")
    assert call("init", str(tmp_path / "again"), "--join", served.token()).exit_code == 0
    assert names(served, tmp_path / "again") == {"bert"}


def test_a_token_that_is_none_is_the_callers_mistake(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "store") as edge:
        for token in ("x", "agentdb1.x", None):
            with pytest.raises(InvalidValue, match="token") as caught:
                edge.join(token)  # type: ignore[arg-type]
            assert isinstance(caught.value, InputError)
            assert caught.value.hint


def test_a_revoked_device_is_told_what_that_means_and_run_ends(served: Served, tmp_path: Path) -> None:
    store = str(tmp_path / "carl")
    with served.device(tmp_path / "carl") as edge:
        edge.sync(timeout_s=20)
        edge.collection("notes").put("a", {"x": 1})
        served.cloud.plane.enrollment.revoke(served.cloud.fleet, edge.device)
    result = call("sync", store)
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli", "run", store], capture_output=True, text=True, timeout=60, check=False
    )
    for code, errors in ((result.exit_code, result.stderr), (done.returncode, done.stderr)):
        assert code == 1
        assert "this device was revoked" in errors
        assert "2 operations wait here and will not get there" in errors
    assert "nothing is lost" not in done.stdout
