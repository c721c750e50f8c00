"""The scenario ``rollout``: small runs hold, are the same each time, and it would see it if they did not."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.fleet import exposing, rollouts
from cloud.twin_rows import RolloutRow
from simulations.fleet.violation import Violation
from simulations.rolling import device as devices
from simulations.rolling.run import Rolling, lines, report
from sync import activation


def roll(seed: int = 1, *, bad: bool, hours: float = 5.0) -> dict[str, Any]:
    rolling = Rolling(seed, 100, bad=bad)
    try:
        return rolling.run(hours)
    finally:
        rolling.close()


def test_a_bad_model_is_halted_in_its_first_stage_and_a_good_one_reaches_everybody() -> None:
    told = report(3, 100)
    assert told["violation"] == ""
    bad, good = told["runs"]
    assert (bad["state"], bad["stage_at_halt"], bad["run_new"]) == ("reverted", 1, 0)
    assert "rev2" in bad["why"]
    assert bad["exposed"] < 20
    assert (good["state"], good["run_new"]) == ("done", good["reached"])
    text = "\n".join(lines(told))
    assert "everything held" in text
    assert "bytes sent" in text


def test_a_seed_is_a_run() -> None:
    assert roll(bad=True, hours=2.0) == roll(bad=True, hours=2.0)


def test_exposures_after_a_halt_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: who asks is exposed, whatever state the rollout is in."""
    hits = exposing._hits

    def careless(view: Any, device: Any) -> Any:
        yield from hits(view, device)
        row = view.rollout(device.fleet, "r1")
        if row is not None and row.state == "reverted":
            yield exposing._Hit(row, view.exposure(device.fleet, "r1", device.device), "")

    monkeypatch.setattr(exposing, "_hits", careless)
    with pytest.raises(Violation, match="halted"):
        roll(bad=True)


def test_a_gate_that_counts_silence_as_success_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the stage is passed before anybody has reported."""
    step = rollouts.step

    def hasty(row: RolloutRow, tally: rollouts.Tally, now_ms: int) -> list[rollouts.Action]:
        silent = tally.total.exposed - tally.total.reporting
        total = tally.total._replace(committed=tally.total.committed + silent)
        if row.state == "running" and total.exposed > 3 and total.failed == 0:
            return [rollouts.Advance(row.stage + 1)] if row.stage < 2 else []
        return step(row, tally, now_ms)

    monkeypatch.setattr(rollouts, "step", hasty)
    with pytest.raises(Violation, match="halted"):
        roll(bad=True)


def test_a_device_that_does_not_verify_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what the server says is taken as it comes."""
    import msgspec

    from sync.assignments import Assignment

    def trusting(signed: Any, *_: Any) -> Any:
        document = msgspec.json.decode(signed.data)
        document.pop("v")
        return msgspec.convert(document, Assignment)

    monkeypatch.setattr(devices, "open_assignment", trusting)
    with pytest.raises(Violation, match=r"signed|rolled-back"):
        roll(bad=False)


def test_a_slot_that_is_used_again_before_the_trial_is_over_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the candidate is written where the active one is."""
    fetching = activation._fetching

    def same_slot(note: Any, version: Any) -> Any:
        after, actions = fetching(note, version)
        if note.active is None:
            return after, actions
        return after, [activation.Empty(note.active.slot), *actions]

    monkeypatch.setattr(activation, "_fetching", same_slot)
    with pytest.raises(Violation, match="one-good-model"):
        roll(bad=True)
