"""The archive's ordinary life: run after run, snapshots, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.storage.archive import batches, snapshots, writer
from cloud.storage.archive.restore import restore_fleet
from cloud.storage.archive.restore_file import restore_file
from cloud.storage.objects import open_objects
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import InvalidValue, NotFound
from sync.operations import Kind
from tests.cloud.archive_world import PATCH, PUT, ArchiveWorld, Change, digest_of, living, put, rows_in


@pytest.fixture
def world(tmp_path: Path) -> ArchiveWorld:
    return ArchiveWorld(tmp_path)


def test_everything_comes_back(world: ArchiveWorld) -> None:
    world.push_random(1, rows=20)
    world.conflict()
    world.refuse(1)
    gone = world.replicas[2][:12]
    world.enrollment.revoke(world.fleet, gone, reason="lost")
    world.archive.run_once()
    store, restored = world.restore()
    assert restored.compared
    assert restored.position == len(world.history)
    assert rows_in(store, world.fleet) == world.expected() == rows_in(world.store, world.fleet)
    assert restored.digest == digest_of(world.expected())
    assert store.verify() == []
    with world.store.reading() as old, store.reading() as new:
        fleet = world.fleet
        for read in (
            "fleet",
            "devices",
            "tokens",
            "epochs",
            "audit",
            "replicas",
            "conflicts",
            "dead_letters",
            "counts",
        ):
            assert getattr(new, read)(fleet) == getattr(old, read)(fleet), read
        for row in old.devices(fleet):
            assert new.nonce(row.device) == old.nonce(row.device)
        for replica in world.replicas:
            assert new.revocation(fleet, replica) == old.revocation(fleet, replica)
        was, now = old.head(fleet), new.head(fleet)
        assert now.incarnation == restored.incarnation != was.incarnation
        assert now == was._replace(
            incarnation=now.incarnation,
            generation=was.generation + 1,
            restored_head=was.position,
            previous=was.incarnation,
        )


def test_the_names_are_as_documented(world: ArchiveWorld) -> None:
    world.push([put("a")])
    world.archive.snapshot()
    kinds = {name.removeprefix(world.reader.names.root).split("/")[0] for name in world.names()}
    assert kinds == {"seg", "snap", "meta", "manifest"}
    root = world.reader.names.root
    assert root.startswith("v1/")
    assert root.endswith(f"/{world.fleet.hex()}/")
    assert f"{root}manifest/{1:020d}" in world.names()
    assert any(name.startswith(f"{root}seg/l0/{1:020d}-{1:020d}.00000001.") for name in world.names())


def test_a_run_without_news_writes_nothing(world: ArchiveWorld) -> None:
    first = world.archive.run_once()
    assert (first.manifests, first.operations) == (1, 0)  # the roster alone is worth keeping
    world.push([put("a"), put("b")])
    assert world.archive.run_once().operations == 2
    before = world.names()
    with world.store.writing() as tx:
        tx.advance_nonce(world.replicas[0][:12], 99)
    assert world.archive.run_once() == (0, 0, 0, 0, 2, 2)
    assert world.archive_of(world.store).run_once().manifests == 0  # nor does one that has just started
    assert world.names() == before
    world.joined("another")
    assert world.archive.run_once().manifests == 1


@pytest.mark.parametrize("bound", ["rows", "bytes"])
def test_settled_pieces_of_side_tables_are_not_written_again(
    world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    if bound == "rows":
        monkeypatch.setattr("cloud.storage.archive.side.PIECE_ROWS_MAX", 3)
    else:
        monkeypatch.setattr("cloud.storage.archive.side.PIECE_BYTES_MAX", 600)
        monkeypatch.setattr("cloud.storage.archive.side._ROWS_PER_READ", 2)
    monkeypatch.setattr("cloud.storage.archive.writer.INLINE_BYTES_MAX", 0)
    for number in range(10):
        world.push([put(f"k{number}")])
        world.conflict("open" if number == 4 else "resolved")
        world.refuse()
    world.archive.run_once()
    before = set(world.names("meta/"))
    world.push([put("z")])
    world.conflict()
    world.archive.run_once()
    assert len(set(world.names("meta/")) - before) == 2, "the replicas, and the last piece of the conflicts"
    store, _ = world.restore()
    with world.store.reading() as old, store.reading() as new:
        assert new.conflicts(world.fleet) == old.conflicts(world.fleet)
        assert new.dead_letters(world.fleet) == old.dead_letters(world.fleet)
        assert len(new.conflicts(world.fleet)) == 11


def test_large_rows_pass_through_and_small_ones_are_joined(
    world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "PASS_BYTES_MIN", 2000)
    world.push([put("a")], 0)
    world.push([put("b")], 1)
    large = [put(f"large-{n}", world.random.token(40).hex()) for n in range(100)]
    world.push(large, 2)
    world.push([put("c")], 1)
    world.archive.run_once()
    assert len(world.names("seg/")) == 3
    store, _ = world.restore()
    with world.store.reading() as old, store.reading() as new:
        was, now = old.feed(world.fleet, 0), new.feed(world.fleet, 0)
        assert new.head(world.fleet).trimmed == 0
    assert [(row.first, row.last) for row in now] == [(1, 2), (3, 102), (103, 103)]
    assert now[1:] == was[2:]
    assert now[0].replica not in world.replicas, "nobody owns a row of several, so everybody gets it"


def test_a_backlog_takes_several_manifests(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_ROWS_MAX", 3)
    world.push_random(2, rows=10)
    seen: list[tuple[int, int]] = []
    run = world.archive.run_once(lambda done, total: seen.append((done, total)))
    assert run.manifests == 4
    assert run.operations == len(world.history)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(world.history), len(world.history))
    assert world.verify().problems == []
    store, restored = world.restore()
    assert restored.digest == digest_of(world.expected())
    with world.store.reading() as old, store.reading() as new:
        assert new.replicas(world.fleet) == old.replicas(world.fleet)


def test_from_a_snapshot_and_what_follows(world: ArchiveWorld) -> None:
    world.push_random(3, rows=12)
    counted: list[tuple[int, int]] = []
    world.archive.snapshot(lambda done, total: counted.append((done, total)))
    assert counted
    assert counted[-1][0] == counted[-1][1] == living(world.expected())
    at = len(world.history)
    assert world.archive.state.snapshot == at
    assert world.archive.snapshot().manifests == 0, "nothing new to take a snapshot of"
    world.push_random(4, rows=12)
    world.archive.run_once()
    world.objects.delete(world.names("seg/")[0])  # what came before the snapshot is not needed
    progress: list[tuple[int, int]] = []
    store, restored = world.restore(progress=lambda done, total: progress.append((done, total)))
    assert progress[-1][0] == progress[-1][1]
    assert restored.operations == len(world.history) - at
    assert rows_in(store, world.fleet) == world.expected()
    assert store.verify() == []
    with store.reading() as view:
        assert view.head(world.fleet).trimmed == at
        assert view.feed(world.fleet, 0)[0].first == at + 1


def test_a_snapshot_in_many_parts(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PART_BYTES", 3000)
    monkeypatch.setattr(snapshots, "_SEGMENT_RECORDS_MAX", 7)
    world.push([put(f"ключ-{n}", world.random.token(30).hex()) for n in range(100)])
    world.push([Change(PATCH, f"ключ-{n}", ("new",)) for n in range(0, 100, 3)])
    world.archive.snapshot()
    assert len(world.names("snap/")) > 3
    store, _ = world.restore()
    assert rows_in(store, world.fleet) == world.expected()
    assert world.verify().problems == []


def test_a_snapshot_is_of_one_moment(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices push while its parts are put."""
    monkeypatch.setattr(snapshots, "PART_BYTES", 3000)
    monkeypatch.setattr(snapshots, "_SEGMENT_RECORDS_MAX", 7)
    world.push([put(f"k{n:03}", world.random.token(30).hex()) for n in range(100)])
    before = world.expected()
    pushed: list[int] = []

    def meanwhile(_done: int, _of: int) -> None:
        if not pushed:
            pushed.append(world.push([put(f"k{n:03}", "pushed while the snapshot was made") for n in range(100)]))

    run = world.archive.snapshot(meanwhile)
    assert pushed
    store, _ = world.restore(position=run.position)
    assert rows_in(store, world.fleet) == before
    assert world.verify().problems == []


def test_a_record_larger_than_any_operation_is_kept(world: ArchiveWorld) -> None:
    for name in ("aa", "bb", "cc"):
        shape = PUT._replace(kind=Kind.PATCH, names=(name,), rules="l")
        world.push([put("before"), Change(shape, "large", (world.random.token(75_000).hex(),)), put("later")])
    assert len(world.expected()["notes", "large"].image) > 400_000
    world.archive.snapshot()
    store, _ = world.restore()
    assert rows_in(store, world.fleet) == world.expected()


def test_segments_that_would_be_too_large_are_cut(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.segment.SEGMENT_SEALED_BYTES_MAX", 6_000)
    world.push([put(f"k{n}", world.random.token(100).hex()) for n in range(100)])
    world.push([put("after")], 1)
    world.archive.snapshot()
    assert len(world.names("seg/")) > 2
    store, restored = world.restore()
    assert restored.digest == digest_of(world.expected())
    at, _ = world.restore("early.db", position=55)
    assert rows_in(at, world.fleet) == world.expected(55)
    with store.reading() as view, world.store.reading() as old:
        assert view.replicas(world.fleet) == old.replicas(world.fleet)


def test_keys_of_later_epochs_are_used(world: ArchiveWorld) -> None:
    world.push([put("a")])
    world.archive.run_once()
    world.enrollment.rotate(world.fleet, "test")
    world.push([put("b")])
    world.archive.run_once()
    assert {name.split(".")[-2] for name in world.names("seg/")} == {"00000001", "00000002"}
    _, restored = world.restore()
    assert restored.digest == digest_of(world.expected())


# -- earlier positions and times -----------------------------------------------------------------------------


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32), runs=st.lists(st.sampled_from(["run", "snapshot", "push"]), max_size=6))
def test_every_position_can_be_restored(tmp_path_factory: pytest.TempPathFactory, seed: int, runs: list[str]) -> None:
    world = ArchiveWorld(tmp_path_factory.mktemp("archive"))
    for number, action in enumerate([*runs, "run"]):
        world.push_random(seed + number, rows=2)
        if action != "push":
            (world.archive.snapshot if action == "snapshot" else world.archive.run_once)()
    assert world.verify().problems == []
    with world.store.reading() as view:
        held = {row.replica: row for row in view.replicas(world.fleet)}
    for position in range(len(world.history) + 1):
        store, restored = world.restore(position=position)
        expected = world.expected(position)
        assert rows_in(store, world.fleet) == expected
        assert restored.digest == digest_of(expected)
        assert restored.records == living(expected)
        assert store.verify() == []
        with store.reading() as view:
            for row in view.replicas(world.fleet):
                seqs = [op.seq for op in world.history[:position] if op.replica == row.replica]
                assert row.last_seq == max(seqs, default=0)
                if row.last_seq == held[row.replica].last_seq:
                    assert row == held[row.replica]._replace(cursor=row.cursor)
        store.close()
    world.store.close()


def test_a_time_is_the_last_position_accepted_by_then(world: ArchiveWorld) -> None:
    times = []
    for number in range(6):
        world.push([put(f"k{number}"), put(f"m{number}")])
        times.append(world.clock.now_ms)
        if number % 2:
            world.archive.run_once()
    for number, at_ms in enumerate(times):
        for late in (0, 999):
            _, restored = world.restore(at_ms=at_ms + late)
            assert restored.position == 2 * (number + 1)
    with pytest.raises(NotFound):
        world.restore(at_ms=times[0] - 1)
    with pytest.raises(NotFound):
        world.restore(position=13)
    with pytest.raises(InvalidValue):
        world.restore(position=1, at_ms=times[0])


def test_going_back_takes_back_data_and_no_decisions(world: ArchiveWorld) -> None:
    world.push([put("a")], 0)
    world.conflict("resolved", resolution=2)
    world.archive.run_once()
    world.push([put("b")], 0)
    world.push([put("c")], 1)
    world.conflict()
    world.refuse(1)
    world.enrollment.revoke(world.fleet, world.replicas[2][:12], reason="stolen")
    world.archive.run_once()
    store, _ = world.restore(position=1)
    with store.reading() as view:
        assert view.device(world.replicas[2][:12]).revoked_ms > 0  # type: ignore[union-attr]
        assert [row.replica for row in view.replicas(world.fleet)] == [world.replicas[0]]
        (conflict,) = view.conflicts(world.fleet)
        assert (conflict.state, conflict.resolution) == ("open", 0), "its resolution was taken back"
        assert "restored" in conflict.note
        assert view.dead_letters(world.fleet) == []
        assert view.audit(world.fleet)[-1].action.endswith("revoke") or view.audit(world.fleet)


# -- after a restore ------------------------------------------------------------------------------------------


def test_the_restored_store_goes_on_in_a_branch(world: ArchiveWorld) -> None:
    world.push_random(5, rows=6)
    world.archive.run_once()
    cut = len(world.history) - 3
    world.push_random(6, rows=3)
    world.archive.run_once()
    abandoned = list(world.history)
    store, _ = world.restore("second.db", position=cut)
    world.history = world.history[:cut]
    world.store, stale = store, world.store
    archive = world.archive_of(store)
    assert archive.run_once().manifests == 1
    world.push_random(7, rows=4)
    archive.run_once()
    assert world.verify().problems == []
    for position in range(len(world.history) + 1):
        restored, _ = world.restore("third.db", position=position)
        assert rows_in(restored, world.fleet) == world.expected(position)
        restored.close()
    # And the abandoned end is still there for whoever asks for it in words.
    branch = archive.state.number - 2
    old, report = world.restore("old.db", manifest=branch)
    world.history = abandoned
    assert rows_in(old, world.fleet) == world.expected()
    assert report.manifest == branch
    stale.close()


def test_restores_of_restores(world: ArchiveWorld) -> None:
    store = world.store
    for generation in range(2, 6):
        world.push_random(generation, rows=3)
        (world.archive.snapshot if generation == 3 else world.archive.run_once)()
        world.push_random(generation + 100, rows=2)
        world.archive.run_once()
        cut = len(world.history) - generation % 3
        store, _ = world.restore(f"{generation}.db", position=cut)
        world.history = world.history[:cut]
        world.store, world.archive = store, world.archive_of(store)
        with store.reading() as view:
            assert view.head(world.fleet).generation == generation
    world.archive.run_once()
    assert world.verify().problems == []
    final, _ = world.restore()
    assert rows_in(final, world.fleet) == world.expected()


# -- files -----------------------------------------------------------------------------------------------------


def test_into_a_new_file(tmp_path: Path) -> None:
    world = ArchiveWorld(tmp_path, open_objects(str(tmp_path / "archive")))
    world.push_random(8, rows=10)
    world.archive.snapshot()
    world.push_random(9, rows=3)
    world.archive.run_once()
    path = tmp_path / "new.db"
    (restored,) = restore_file(world.objects, world.keys, path, random=world.random)
    assert restored.digest == digest_of(world.expected())
    assert sorted(item.name for item in tmp_path.glob("new*")) == ["new.db"]
    store = SqliteStore.open(path)
    assert rows_in(store, world.fleet) == world.expected()
    store.close()
    with pytest.raises(InvalidValue, match="exists already"):
        restore_file(world.objects, world.keys, path, random=world.random)
    with pytest.raises(InvalidValue, match="already"):
        restore_fleet(world.objects, world.keys, world.store, world.fleet, random=world.random)


def test_a_failed_restore_leaves_no_file(tmp_path: Path) -> None:
    world = ArchiveWorld(tmp_path)
    world.push_random(8, rows=10)
    world.archive.run_once()
    with pytest.raises(NotFound):
        restore_file(world.objects, world.keys, tmp_path / "new.db", random=world.random, position=10_000)
    world.objects.delete(world.names("seg/")[0])
    with pytest.raises(Exception, match="seg/"):
        restore_file(world.objects, world.keys, tmp_path / "new.db", random=world.random)
    with pytest.raises(NotFound):
        restore_file(open_objects("memory://"), world.keys, tmp_path / "new.db", random=world.random)
    assert list(tmp_path.glob("new*")) == []
