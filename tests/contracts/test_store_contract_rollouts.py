"""The store's contract about rollouts and exposures: see ``test_store_contract``."""

from __future__ import annotations

import pytest

from cloud.ports import Store
from cloud.twin_rows import ExposureCount, ExposureRow, RolloutRow
from sync.errors import NotFound
from tests.contracts.test_store_contract import FLEET, OTHER, four_at_once, store

__all__ = ["store"]


def _rollout(name: str, number: int, **changes: object) -> RolloutRow:
    row = RolloutRow(name, number, "models/embed", b'{"what":"x"}', "ab" * 32, "running", 1, 20, 30, "because", 10)
    return row._replace(**changes)  # type: ignore[arg-type]


def _exposure(rollout: str, device: int, kind: str = "rev1", **changes: object) -> ExposureRow:
    row = ExposureRow(rollout, bytes([device]) * 12, 0, kind, "ab" * 32, 50)
    return row._replace(**changes)  # type: ignore[arg-type]


def test_rollouts_come_back_in_order_of_number(store: Store) -> None:
    with store.writing() as tx:
        tx.put_rollouts(FLEET, [_rollout("b", 1), _rollout("a", 2, state="paused"), _rollout("c", 3)])
        tx.put_rollouts(FLEET, [_rollout("b", 1, state="done", stage=2)])
    with store.reading() as view:
        assert [row.id for row in view.rollouts(FLEET)] == ["b", "a", "c"]
        assert [row.id for row in view.rollouts(FLEET, ["running", "paused"])] == ["a", "c"]
        assert view.rollout(FLEET, "b") == _rollout("b", 1, state="done", stage=2)
        assert view.rollout(FLEET, "d") is None
        assert view.rollouts(OTHER) == []
        assert view.rollout(OTHER, "b") is None


def test_exposures_are_counted_by_kind_and_outcome(store: Store) -> None:
    failed = {"outcome": "returned", "reason": "slow", "outcome_ms": 60}
    with store.writing() as tx:
        tx.put_exposures(FLEET, [_exposure("a", 3), _exposure("a", 1), _exposure("a", 2, "rev2", **failed)])
        tx.put_exposures(FLEET, [_exposure("b", 1), _exposure("a", 3, outcome="committed", outcome_ms=70)])
        assert tx.count_exposures(FLEET, "a") == [
            ExposureCount("rev1", "", 1),
            ExposureCount("rev1", "committed", 1),
            ExposureCount("rev2", "returned", 1),
        ]
    with store.reading() as view:
        assert view.exposures(FLEET, "a", limit=2) == [_exposure("a", 1), _exposure("a", 2, "rev2", **failed)]
        last = _exposure("a", 3, outcome="committed", outcome_ms=70)
        assert view.exposures(FLEET, "a", bytes([2]) * 12) == [last]
        assert view.exposure(FLEET, "a", bytes([3]) * 12) == last
        assert view.exposure(FLEET, "a", bytes([4]) * 12) is None
        assert view.exposed_to(FLEET, bytes([1]) * 12) == [_exposure("a", 1), _exposure("b", 1)]
        assert [view.exposed_of_kind(FLEET, "a", "rev1", most) for most in (1, 2, 3)] == [1, 2, 2]
        assert view.exposed_of_kind(OTHER, "a", "rev1", 3) == 0
        assert view.count_exposures(OTHER, "a") == []
        assert view.exposures(OTHER, "a") == []
        assert view.exposed_to(OTHER, bytes([1]) * 12) == []


def test_exposures_of_rollouts_in_some_states_and_they_go_with_their_rollout(store: Store) -> None:
    device = bytes([1]) * 12
    with store.writing() as tx:
        for fleet in (FLEET, OTHER):
            tx.put_rollouts(fleet, [_rollout("a", 1, state="past"), _rollout("b", 2), _rollout("c", 3, state="done")])
            tx.put_exposures(fleet, [_exposure(name, 1) for name in "abc"] + [_exposure("a", 2)])
        tx.put_rollouts(OTHER, [_rollout("b", 2, state="past")])
        assert tx.exposed_to(FLEET, device, ("running", "done")) == [_exposure("b", 1), _exposure("c", 1)]
        assert tx.exposed_to(OTHER, device, ("running", "done")) == [_exposure("c", 1)]
        tx.drop_exposures(FLEET, "a")
        tx.drop_exposures(FLEET, "none")
    with store.reading() as view:
        assert view.exposures(FLEET, "a") == []
        assert view.count_exposures(FLEET, "a") == []
        assert [row.rollout for row in view.exposed_to(FLEET, device)] == ["b", "c"]
        assert len(view.exposures(OTHER, "a")) == 2


def test_the_lock_of_a_row_keeps_other_writers_away(store: Store) -> None:
    """Whoever exposes reads the row under it: four that count to ten at once count to forty."""
    with store.writing() as tx:
        tx.put_rollouts(FLEET, [_rollout("a", 1, stage=0)])

    def count() -> None:
        for _ in range(10):
            with store.writing(durable=False) as tx:
                row = tx.lock_rollout(FLEET, "a")
                tx.put_rollouts(FLEET, [row._replace(stage=row.stage + 1)])

    four_at_once(count)
    with store.reading() as view:
        row = view.rollout(FLEET, "a")
    assert row is not None
    assert row.stage == 40


def test_a_rollout_that_is_not_there_cannot_be_locked(store: Store) -> None:
    with store.writing() as tx:
        tx.put_rollouts(OTHER, [_rollout("a", 1)])
        with pytest.raises(NotFound):
            tx.lock_rollout(FLEET, "a")
