"""Rollouts: ``step`` against what the ADR says of gates, and who is drawn."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.fleet import rollouts
from cloud.fleet.rollouts import Action, Advance, ClassTally, Finish, Halt, Met, Pause, Spec, Stage, Tally, step
from cloud.twin_rows import ExposureCount, RolloutRow
from sync.errors import InvalidFilter, InvalidValue

GATE = {"reporting_min": 5, "reporting_share": 0.5, "failed_share_max": 0.1, "failed_max": 3, "soak_s": 60}
STAGES: list[dict[str, Any]] = [{"percent": 1, "ring": "lab"}, {"percent": 10}, {"percent": 100}]


def spec(**changes: Any) -> Spec:
    document = {"what": "models/embed/13.json", "stages": STAGES, "gate": GATE, **changes}
    return rollouts.parse_spec(msgspec.json.encode(document))


def row(stage: int = 0, *, met_ms: int = 0, state: str = "running", **changes: Any) -> RolloutRow:
    packed = rollouts.pack_spec(spec(**changes))
    return RolloutRow("r1", 1, "models/embed", packed, "ab" * 32, state, stage, 1_000, met_ms, "", 1_000)


def tally(exposed: int, committed: int, failed: int = 0, **classes: tuple[int, int, int]) -> Tally:
    return Tally(ClassTally(exposed, committed, failed), {name: ClassTally(*part) for name, part in classes.items()})


@pytest.mark.parametrize(
    ("row", "tally", "now_ms", "expected"),
    [
        (row(), tally(20, 4), 9_000, []),
        (row(), tally(20, 9), 9_000, []),  # less than half of the exposed
        (row(), tally(20, 10), 9_000, [Met(9_000)]),
        (row(met_ms=9_000), tally(20, 10), 68_999, []),
        (row(met_ms=9_000), tally(20, 10), 69_000, [Advance(1)]),
        (row(2, met_ms=9_000), tally(20, 10), 69_000, [Finish()]),
        (row(met_ms=9_000), tally(30, 10), 69_000, [Met(0)]),  # more were exposed meanwhile, and are silent
        (row(gate=GATE | {"soak_s": 0}), tally(20, 10), 9_000, [Advance(1)]),
        (row(), tally(20, 0, 2), 9_000, []),  # two of two, but failed_max is three
        (row(), tally(20, 0, 3), 9_000, [Halt("3 of 3 that report failed")]),
        (row(), tally(90, 57, 3), 9_000, [Met(9_000)]),  # 5%
        (row(met_ms=1), tally(20, 8, 2), 90_000, [Halt("2 of 10 that report failed")]),  # the gate is due
        (row(spread="reported.hardware"), tally(20, 10, 2, rev1=(18, 10, 0), rev2=(2, 0, 2)), 9_000,
         [Halt("2 of 2 that report failed of rev2")]),
        (row(spread="reported.hardware"), tally(20, 10, 0, rev1=(18, 10, 0), rev2=(2, 0, 0)), 9_000, []),
        (row(spread="reported.hardware"), tally(20, 12, 0, rev1=(18, 10, 0), rev2=(2, 2, 0)), 9_000, [Met(9_000)]),
        (row(spread="reported.hardware"), tally(20, 12, 0, rev1=(19, 11, 0), rev2=(1, 1, 0)), 9_000, [Met(9_000)]),
        (row(state="paused", met_ms=1), tally(20, 20), 90_000, []),
        (row(state="reverted"), tally(20, 0, 20), 90_000, []),
        (row(gate=GATE | {"stalled_after_s": 10}), tally(20, 4), 10_999, []),
        (row(gate=GATE | {"stalled_after_s": 10}), tally(20, 4), 11_000, [Pause("stalled: 4 of 5 devices report")]),
        (row(), tally(0, 0), 99_000, []),
    ],
)  # fmt: skip
def test_steps(row: RolloutRow, tally: Tally, now_ms: int, expected: list[Action]) -> None:
    assert step(row, tally, now_ms) == expected


COUNTS = st.integers(0, 50)


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 2), st.integers(0, 200_000))
def test_silent_devices_neither_pass_nor_halt(silent: int, committed: int, failed: int, stage: int, now: int) -> None:
    """More silence never moves a rollout on, and never halts one that would not be halted without it."""
    quiet = step(row(stage, met_ms=1), tally(committed + failed, committed, failed), now)
    loud = step(row(stage, met_ms=1), tally(silent + committed + failed, committed, failed), now)
    halted = any(isinstance(action, Halt) for action in quiet)
    assert any(isinstance(action, Halt) for action in loud) <= halted
    moved = any(isinstance(action, Advance | Finish) for action in quiet)
    assert any(isinstance(action, Advance | Finish) for action in loud) <= moved


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 200_000))
def test_no_stage_is_passed_with_more_failures_than_the_gate_lets_through(
    silent: int, committed: int, failed: int, now: int
) -> None:
    done = step(row(met_ms=1), tally(silent + committed + failed, committed, failed), now)
    if any(isinstance(action, Advance) for action in done):
        assert failed <= 0.1 * (committed + failed)
        assert committed + failed >= max(5, 0.5 * (silent + committed + failed))


def devices(count: int) -> list[bytes]:
    return [number.to_bytes(12) for number in range(count)]


def test_stages_only_grow_and_are_as_large_as_they_say() -> None:
    before: set[bytes] = set()
    for stage, low, high in ((0, 5, 45), (1, 150, 250), (2, 2_000, 2_000)):
        held = row(stage)
        drawn = {device for device in devices(2_000) if rollouts.draws(held, device, {"labels": {}, "reported": {}})}
        assert before <= drawn
        assert low <= len(drawn) <= high
        before = drawn


def test_each_rollout_draws_anew() -> None:
    nothing: Any = {"labels": {}, "reported": {}}
    one, two = row(1), row(1)._replace(id="r2")
    drawn = [{device for device in devices(2_000) if rollouts.draws(held, device, nothing)} for held in (one, two)]
    assert len(drawn[0] & drawn[1]) < 60


def test_a_ring_is_in_from_its_stage_on() -> None:
    lab: Any = {"labels": {"ring": "lab"}, "reported": {}}
    assert all(rollouts.draws(row(stage), device, lab) for stage in (0, 1) for device in devices(50))
    late = [{"percent": 0}, {"percent": 0, "ring": "lab"}]
    assert not rollouts.draws(row(0, stages=late), devices(1)[0], lab)
    assert rollouts.draws(row(1, stages=late), devices(1)[0], lab)


def test_a_tally_adds_up() -> None:
    counts = [
        ExposureCount("rev1", "", 3),
        ExposureCount("rev1", "committed", 5),
        ExposureCount("rev2", "returned", 2),
        ExposureCount("rev2", "refused", 1),
    ]
    assert rollouts.tally_of(counts, "reported.hardware") == tally(11, 5, 3, rev1=(8, 5, 0), rev2=(3, 0, 3))
    assert rollouts.tally_of(counts, "") == tally(11, 5, 3)
    assert rollouts.tally_of([], "x") == tally(0, 0)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ([("rev2", 4)], "all 4 failures: rev2"),
        ([("rev1", 1), ("rev2", 3)], "3 of 4 failures: rev2"),
        ([("rev2", 1)], "the only failure: rev2"),
        ([("", 2)], "all 2 failures: no class reported"),
        ([("rev1", 0)], ""),
    ],
)
def test_blame(failures: list[tuple[str, int]], said: str) -> None:
    assert rollouts.blame(failures) == said


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"stages": []}, InvalidValue),
        ({"stages": [{"percent": 101}]}, InvalidValue),
        ({"stages": [{"percent": 10}, {"percent": 5}]}, InvalidValue),
        ({"stage": 1}, InvalidValue),
        ({"gate": {"failed_max": 0}}, InvalidValue),
        ({"gate": {"faild_max": 1}}, InvalidValue),
        ({"on_halt": "panic"}, InvalidValue),
        ({"what": {"policy": 1}}, InvalidValue),
        ({"what": ""}, InvalidValue),
        ({"what": {"desired": {"agentdb": {}}}}, InvalidValue),
        ({"what": {"desired": {"a": 1 << 53}}}, InvalidValue),
        ({"group": "labels.site is north"}, InvalidFilter),
        ({"spread": "hardware"}, InvalidFilter),
    ],
)
def test_what_is_no_rollout(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        spec(**changes)


def test_a_rollout_of_configuration() -> None:
    found = spec(what={"desired": {"level": "debug"}})
    assert (found.path, found.patch) == ("", {"level": "debug"})
    assert spec().stages[0] == Stage(1, "lab")
