"""Twins and rollouts in the archive and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.storage.archive import side
from cloud.twin_rows import ExposureRow, RolloutRow, TwinRow
from tests.cloud.archive_world import ArchiveWorld, put

TWIN = TwinRow(b"d" * 12, b'{"site":"north"}', b'{"a":1}', b'{"a":1,"b":2}', 3, b'{"c":1}', 9, 3, 77)
ROLLOUT = RolloutRow("r1", 1, "models/embed", b"{}", "ab" * 32, "running", 1, 20, 30, "", 10)
EXPOSURE = ExposureRow("r1", b"d" * 12, 0, "rev2", "ab" * 32, 15, "returned", "slow", 16)


@pytest.fixture
def world(tmp_path: Path) -> ArchiveWorld:
    world = ArchiveWorld(tmp_path)
    world.push([put("a")])
    with world.store.writing() as tx:
        tx.put_twins(world.fleet, [TWIN, TwinRow(b"e" * 12, reported=b'{"c":1}', reported_version=1)])
        tx.put_rollouts(world.fleet, [ROLLOUT, ROLLOUT._replace(id="r2", number=2, state="reverted", why="halted")])
        tx.put_exposures(world.fleet, [EXPOSURE, EXPOSURE._replace(rollout="r2")])
    world.archive.run_once()
    return world


def test_what_devices_are_told_comes_back_and_what_they_reported_they_report_again(world: ArchiveWorld) -> None:
    store, _ = world.restore()
    with store.reading() as view:
        told = TWIN._replace(reported=b"{}", reported_version=0, acked=0, at_ms=0)
        assert view.twins(world.fleet) == [told]


def test_rollouts_come_back_paused(world: ArchiveWorld) -> None:
    store, _ = world.restore()
    with store.reading() as view:
        first, second = view.rollouts(world.fleet)
        assert first.state == "paused"
        assert "restored" in first.why
        assert first._replace(state="running", why="") == ROLLOUT
        assert (second.state, second.why) == ("reverted", "halted")
        assert view.exposures(world.fleet, "r1") == [EXPOSURE]
        assert view.exposures(world.fleet, "r2") == [EXPOSURE._replace(rollout="r2")]


def test_a_report_alone_is_not_worth_a_manifest(world: ArchiveWorld) -> None:
    with world.store.writing() as tx:
        tx.put_twins(world.fleet, [TWIN._replace(reported=b'{"c":2}', reported_version=10, at_ms=99)])
    assert world.archive.run_once().manifests == 0
    with world.store.writing() as tx:
        tx.put_rollouts(world.fleet, [ROLLOUT._replace(state="paused")])
    assert world.archive.run_once().manifests == 1


def test_pieces_of_twins_are_cut_by_their_bytes(world: ArchiveWorld) -> None:
    large = b'{"a":"%s"}' % (b"x" * 60_000)
    with world.store.writing() as tx:
        tx.put_twins(world.fleet, [TwinRow(n.to_bytes(12), own=large, desired=large) for n in range(1, 101)])
    with world.store.reading() as view:
        pieces = list(side.collect(view, world.fleet, [side.TOLD], []))
    assert len(pieces) == 2
    assert all(isinstance(piece, side.Piece) and len(piece.plain) <= side.PIECE_BYTES_MAX for piece in pieces)
    world.archive.run_once()
    store, _ = world.restore()
    with store.reading() as view:
        assert len(view.twins(world.fleet, limit=200)) == 101
