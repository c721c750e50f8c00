"""A short part of each kind of crash; ``make soak`` runs all of them in full."""

from __future__ import annotations

import pytest

from simulations.crash import faults, flips, kills, power
from tests.crash.traced import command, needs_strace, results

pytestmark = pytest.mark.slow


@needs_strace
def test_what_was_acknowledged_survives_a_kill_at_any_call() -> None:
    found = results("kills")
    assert [line["store"] for line in found] == ["device", "cloud"]
    for line in found:
        assert line["possible"] > 500
        assert line["outcomes"].get("as acknowledged", 0) > kills.QUICK * 0.7, line


@needs_strace
def test_what_was_acknowledged_survives_a_power_cut() -> None:
    found = results("power")
    assert [line["store"] for line in found] == [store.name for store in power.STORES]
    assert all(line["outcomes"] == {"as acknowledged": power.QUICK} for line in found)


@needs_strace
def test_a_disk_that_fails_is_a_typed_error_and_loses_nothing() -> None:
    found = results("faults")
    assert len(found) == 8
    assert sum(line["outcomes"].get("typed error", 0) for line in found) >= 4 * faults.QUICK


def test_a_flipped_bit_is_found_healed_or_harmless() -> None:
    found = results("flips")
    assert [line["what"] for line in found] == [kind.name for kind in flips.KINDS]
    by_kind = {(line["store"], line["what"]): line["outcomes"] for line in found}
    assert by_kind["device", "LanceDB tables"].get("healed", 0) > flips.QUICK * 0.8
    assert by_kind["cloud", "cloud.db"].get("typed error", 0) > flips.QUICK * 0.8


def test_without_strace_the_command_says_so_in_a_line() -> None:
    done = command("kills", path="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "crash tests need strace: strace is not installed\n"
