"""ModelStore: what ``path`` gives, while versions come, soak, are kept, returned, damaged and removed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge import Edge
from edge.control.model_filling import Filling
from edge.control.model_store import COUNTED_EVERY_MS, ModelStore
from edge.storage.model_tables import ModelTables
from sync.activation import COMMITTED, FETCHING, RETURNED, SOAKING, STAGED, STEADY_MS
from sync.errors import (
    DiskFull,
    InvalidValue,
    Malformed,
    NotFound,
    QuotaExceeded,
    StorageError,
    StoreLocked,
    Unreachable,
)
from sync.models import Errors, Needs, Soak
from tests.edge.control.care_world import FILES, SOAK, World
from tests.edge.control.model_world import assign, contents, settle


@pytest.fixture
def world(cared: World) -> World:
    return cared


def test_a_model_comes_is_tried_soaks_and_is_kept(world: World) -> None:
    with pytest.raises(NotFound, match="there is no model"):
        world.models.path("embed")
    world.give(1)
    with pytest.raises(NotFound, match="in use yet: it is fetching"):
        world.models.path("embed")
    settle(world.models)
    assert (world.state, world.using(), world.tried) == (SOAKING, 1, [1])
    world.models.report_use("embed", ok=True, ms=7.5)
    (status,) = world.models.status()
    assert (status.state, status.number, status.version, status.bytes) == (
        SOAKING,
        1,
        "1.1",
        sum(map(len, FILES[1].values())),
    )
    assert status.soak["p95_ms"] == 7.5
    assert status.runner.startswith("none: [models.runners] has no 'toy'")
    world.keep()
    world.install(2)
    assert (world.state, world.using(), world.tried) == (SOAKING, 2, [1, 2])
    assert contents(world.store / "models" / "embed" / "a") == FILES[1], "what it may return to is whole"
    world.keep()
    slots = [path.name for path in sorted((world.store / "models" / "embed").iterdir())]
    assert slots[-4:] == ["a", "a.lock", "b", "b.lock"] or {"a", "b", "a.lock", "b.lock"} <= set(slots)
    assert len(slots) == 8, "two slots, two locks, two manifests, two chunk lists"
    world.install(3)
    assert contents(world.store / "models" / "embed" / "a") == FILES[3]
    for path in (world.store / "models").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or not path.is_file() or path.suffix in (".json", ".chunks"), path


def test_what_probes_find_bad_is_returned_from_and_not_tried_again(world: World) -> None:
    world.install(1)
    world.keep()
    world.verdicts[2] = "golden: output[0] is 1 instead of 2"
    world.install(2)
    assert (world.state, world.using()) == (RETURNED, 1)
    (status,) = world.models.status()
    assert (status.returned, status.why) == (2, "golden: output[0] is 1 instead of 2")
    world.install(2)
    world.again()
    world.install(2)
    assert (world.tried, world.using(), world.shelf.filled) == ([1, 2], 1, [1, 2])
    (status,) = world.models.status("embed")
    assert [(one["number"], one["reason"]) for one in status.refused] == [(2, status.why)]
    world.verdicts.clear()
    world.models.retry("embed")
    settle(world.models)
    assert (world.state, world.using(), world.shelf.filled) == (SOAKING, 2, [1, 2]), "its files were still there"
    with pytest.raises(NotFound, match="no version"):
        world.models.retry("other")


def test_errors_in_a_soak_bring_the_previous_version_back_at_once(world: World) -> None:
    world.install(1)
    world.keep()
    world.install(2, Soak(uptime_s=3600), probes=[Errors(share_max=0.5, of_at_least=4)])
    before = world.models.path("embed")
    for ok in (True, False, False):
        world.models.report_use("embed", ok)
    assert world.using() == 2
    world.models.report_use("embed", ok=False)
    assert (world.state, world.using()) == (RETURNED, 1)
    assert world.models.note("embed").why == "3 of 4 uses failed, 50.0% may"
    assert contents(before) == FILES[2], "whoever still has it"


def test_a_soak_counts_over_restarts(world: World) -> None:
    world.install(1, Soak(uptime_s=600))
    for _ in range(5):
        world.pass_time(COUNTED_EVERY_MS)
    world.clock.now_ms += 30_000
    world.again()
    world.clock.now_ms += 10**9  # nobody was there
    world.again(clean=False)
    assert world.models.note("embed").uptime_ms >= 330_000
    for _ in range(4):
        world.pass_time(COUNTED_EVERY_MS)
    assert world.state == SOAKING
    world.pass_time(COUNTED_EVERY_MS)
    assert world.state == COMMITTED


def test_three_starts_that_do_not_live_end_a_soak(world: World) -> None:
    world.install(1)
    world.keep()
    world.install(2)
    for _ in range(3):
        assert world.using() == 2
        world.again(clean=False)
    assert (world.state, world.using()) == (RETURNED, 1)
    world.install(3)
    for _ in range(5):
        world.pass_time(STEADY_MS)
        world.again(clean=False)
    assert world.using() == 3, "a process that lived for a minute was not brought down"


def test_a_slot_that_somebody_holds_waits(world: World) -> None:
    world.install(1)
    world.keep()
    with world.models.use("embed") as held:
        world.install(2)
        world.keep()
        world.install(3)
        assert (world.state, world.using()) == (FETCHING, 2)
        assert contents(held) == FILES[1]
        assert "in use by this process" in world.models.status()[0].problem
    settle(world.models)
    assert (world.state, world.using()) == (SOAKING, 3)


def test_damage_goes_back_and_is_mended_from_there(world: World) -> None:
    world.install(1)
    world.keep()
    world.install(2)
    world.keep()
    target = world.models.path("embed") / "model.safetensors"
    target.write_bytes(bytes(len(FILES[2]["model.safetensors"])))
    assert world.models.verify() == ["model embed 2: model.safetensors has been altered"]
    assert (world.state, world.using()) == (FETCHING, 1)
    world.models.path("embed")
    settle(world.models)
    assert (world.state, world.using(), world.models.verify()) == (SOAKING, 2, [])


@pytest.mark.parametrize("clean", [True, False])
def test_files_are_hashed_after_an_unclean_end(world: World, clean: bool) -> None:
    world.install(1)
    world.keep()
    target = world.models.path("embed") / "model.safetensors"
    target.write_bytes(bytes(len(FILES[1]["model.safetensors"])))
    world.again(clean=clean)
    world.models.connect(None)
    world.models.advance()
    assert (world.models.note("embed").active is None) == (not clean)


def test_files_that_are_missing_are_noticed_at_the_start(world: World) -> None:
    """Such as in a copy of a store, which is made without models."""
    world.install(1)
    world.keep()
    documents = world.shelf.publish(1, FILES[1], soak=SOAK)
    with Edge.open(world.store, read_only=True) as reader:
        reader.snapshot(world.store.parent / "copy")
    with Edge.open(world.store.parent / "copy") as copy:
        models = ModelStore(copy.log, copy.path, world.clock, runners={}, probe=world.probe)
        models.connect(world.shelf.fill)
        with pytest.raises(NotFound):
            models.path("embed")
        settle(models)
        assert "missing" in models.status()[0].problem
        assign(models, 1, documents)
        settle(models)
        assert contents(models.path("embed")) == FILES[1]
        models.close()


def test_what_is_wrong_with_a_fetch_is_said_and_tried_again(world: World) -> None:
    def unreachable(_: Filling) -> None:
        raise Unreachable("no answer from the cloud")

    def wrong(filling: Filling) -> None:
        world.shelf.fill(filling)
        (filling.folder / "model.safetensors").write_bytes(bytes(len(FILES[1]["model.safetensors"])))

    world.give(1)
    world.models.connect(None)
    assert (world.models.fetch(), world.models.status()[0].problem) == (0, "waits for a connection to its fleet")
    world.models.connect(unreachable)
    assert (world.models.fetch(), world.models.status()[0].problem) == (0, "no answer from the cloud")
    world.models.connect(wrong)
    assert world.models.fetch() == 0
    assert world.models.status()[0].problem.endswith("model.safetensors has been altered")
    assert world.state == FETCHING
    world.models.connect(world.shelf.fill)
    assert (world.models.fetch(), world.models.status()[0].problem, world.state) == (1, "", STAGED)


def test_another_version_while_one_is_fetched(world: World) -> None:
    def overtaken(filling: Filling) -> None:
        if filling.documents.manifest.number == 1:
            world.give(2)
            assert filling.stopped()
        world.shelf.fill(filling)

    world.models.connect(overtaken)
    world.give(1)
    settle(world.models)
    settle(world.models)
    assert (world.using(), world.tried) == (2, [2])


def test_only_what_was_signed_for_this_name_and_number(world: World) -> None:
    manifest, chunks = world.shelf.publish(1, FILES[1])
    with pytest.raises(Malformed, match="as that of"):
        world.models.assigned("embed", 2, manifest, chunks)
    with pytest.raises(Malformed, match="as that of"):
        world.models.assigned("other", 1, manifest, chunks)
    with pytest.raises(Malformed, match="another chunk list"):
        world.models.assigned("embed", 1, manifest, chunks[:-42])
    assert world.models.status() == []
    assert not (world.store / "models").exists()


def test_a_model_that_runs_code_needs_the_owner_of_the_device_to_allow_it(world: World) -> None:
    world.install(1, runs_code=True)
    (status,) = world.models.status()
    assert (status.state, status.refused[0]["number"]) == ("absent", 1)
    assert "allow_code" in status.refused[0]["reason"]
    world.models.close()
    world.models = world.begin(code_runs=True)
    world.install(1, runs_code=True)
    assert (world.using(), world.models.status()[0].refused) == (1, [])


def test_a_model_that_needs_more_memory_than_there_is(world: World) -> None:
    told: list[tuple[object, ...]] = []
    world.models.tell_outcomes(lambda *outcome: told.append(outcome))
    world.give(1, needs=Needs(memory_bytes=1 << 52))
    assert world.models.status()[0].refused[0]["reason"].startswith("it needs 4,503,599,627,370,496 bytes of memory")
    assert [(name, number, how) for name, number, _, how, _ in told] == [("embed", 1, "refused")]
    world.install(2, Soak())
    world.verdicts[3] = "bad"
    world.install(3)
    assert [one[3] for one in told[1:]] == ["committed", "returned"]
    assert told[-1][4] == "bad"
    told.clear()
    world.again()
    world.models.tell_outcomes(lambda *outcome: told.append(outcome))
    assert [(one[1], one[3]) for one in told] == [(3, "returned")], "it may not have been noted before a crash"


def test_room_is_made_by_the_spare_slots_of_others(world: World) -> None:
    from contextlib import contextmanager

    for number in (1, 2):
        world.install(number)
        world.keep()
    spare = world.store / "models" / "embed" / "a"
    assert contents(spare) == FILES[1]

    @contextmanager
    def room(size: int) -> Iterator[None]:
        assert size == sum(map(len, FILES[3].values()))
        if spare.exists() or refusing:
            raise QuotaExceeded("no room")
        yield

    refusing = False
    world.models._room = room
    assign(world.models, 3, world.shelf.publish(3, FILES[3], name="other"), "other")
    assert world.models.fetch() == 1
    assert not spare.exists()
    assert world.using() == 2
    refusing = True
    assign(world.models, 3, world.shelf.publish(3, FILES[3], name="third"), "third")
    assert world.models.fetch() == 0
    with Edge.open(world.store, read_only=True) as reader:
        for models in (world.models, reader.models):
            assert models.status("third")[0].problem == "no room"
        refusing = False
        assert world.models.fetch() == 1
        assert [one.problem for one in reader.models.status()] == ["", "", ""]
    assert world.models.note("third").state == STAGED
    assert (world.using(), world.models.note("other").state) == (2, STAGED), "what is in use, or on its way, stays"


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    class Full:
        f_bavail, f_frsize = 1, 512

    world.give(1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: Full)
        assert world.models.fetch() == 0
    assert "of the disk, which has" in world.models.status()[0].problem
    settle(world.models)
    assert world.using() == 1


def test_a_full_disk_at_the_start_keeps_nobody_from_the_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install(1)
    world.models.close()

    def full(*_: object, **__: object) -> None:
        raise DiskFull("no space")

    monkeypatch.setattr(ModelTables, "commit", full)
    world.models = world.begin()
    assert world.using() == 1
    assert world.models.status()[0].problem == "no space"


def test_a_model_is_removed_when_nobody_uses_it(world: World) -> None:
    world.install(1)
    world.models.path("embed")
    with world.models.use("embed"), pytest.raises(StoreLocked, match="still in use by this process"):
        world.models.remove("embed")
    world.models.remove("embed")
    with pytest.raises(NotFound):
        world.models.path("embed")
    assert world.models.status() == []
    assert not (world.store / "models" / "embed").exists()
    with pytest.raises(NotFound):
        world.models.remove("embed")
    world.install(1)
    assert world.using() == 1


def test_a_store_without_models_has_nothing_of_them(world: World) -> None:
    assert world.models.status() == []
    assert world.models.advance() == world.models.fetch() == 0
    assert world.models.due_ms() is None
    assert world.edge.log.reader.one("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'model%'") == 0
    assert not (world.store / "models").exists()


def test_what_is_wrong_to_ask(world: World) -> None:
    world.install(1)
    with pytest.raises(InvalidValue):
        world.models.report_use("embed", 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue):
        world.models.report_use("embed", True, -1.0)
    with pytest.raises(InvalidValue):
        world.models.path(7)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        world.models.report_use("none")
    with pytest.raises(NotFound):
        world.models.status("none")
    world.models.close()
    with pytest.raises(StorageError, match="closed"):
        world.models.path("embed")
