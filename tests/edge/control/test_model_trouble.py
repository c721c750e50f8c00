"""ModelStore where the disk fails, or another version comes, at the wrong moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgpack
import pytest

from edge import Edge
from edge.control.model_care import Care
from edge.control.model_filling import Filling
from edge.control.model_slots import Documents, Slots
from edge.control.trust import TrustStore
from edge.storage.control_tables import Document
from edge.storage.model_tables import ModelTables
from sync.activation import COMMITTED, FETCHING, SOAKING
from sync.errors import CorruptStore, DiskFull, NotFound, QuotaExceeded, StorageError
from sync.models import Soak
from tests.edge.control.care_world import FILES, World
from tests.edge.control.model_world import assign, contents, release, settle


@pytest.fixture
def world(cared: World) -> World:
    return cared


def test_one_that_is_tried_again_on_demand_is_not_told_as_refused(world: World) -> None:
    told: list[tuple[int, str]] = []
    world.verdicts[1] = "bad"
    world.install(1, Soak())
    world.again()
    world.models.tell_outcomes(lambda _name, number, _digest, how, _why: told.append((number, how)))
    world.give(1, Soak())  # as what was assigned is told at each start
    world.verdicts.clear()
    told.clear()
    world.models.retry("embed")
    settle(world.models)
    assert world.state == COMMITTED
    assert told == [(1, "committed")]
    assert world.models.status()[0].refused == []


def test_a_soak_is_counted_though_the_disk_was_full_at_the_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install(1)
    world.models.close()

    def full(*_: object, **__: object) -> None:
        raise DiskFull("no space")

    with monkeypatch.context() as disk:
        disk.setattr(ModelTables, "commit", full)
        world.models = world.begin()
    assert world.state == SOAKING
    world.keep()


def test_damage_that_was_found_in_what_is_not_in_use_any_more_takes_nothing_out_of_use(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install(1)
    world.keep()
    world.install(2)
    right = Slots.problems

    def while_another_comes(slots: Slots, slot: str, documents: Documents, *, hashed: bool = True) -> list[str]:
        if documents.manifest.number == 2:
            monkeypatch.setattr(Slots, "problems", right)
            world.give(3)  # its slot is that of 2, which is not in use from now on
        return right(slots, slot, documents, hashed=hashed)

    monkeypatch.setattr(Slots, "problems", while_another_comes)
    assert world.models.verify() == []
    assert (world.state, world.using()) == (FETCHING, 1)


def test_what_cannot_be_emptied_keeps_nobody_from_hearing_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.install(1)
    world.keep()
    woken: list[int] = []

    def stuck(*_: object) -> None:
        raise StorageError("the disk")

    with monkeypatch.context() as disk:
        disk.setattr(Slots, "empty", stuck)
        world.models.wake = lambda: woken.append(1)
        world.give(2)
    assert (world.state, woken) == (FETCHING, [1])
    settle(world.models)
    assert world.using() == 2


def test_a_name_that_is_assigned_again_while_it_is_removed_is_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install(1)
    let_go = world.models._happened

    def and_assigned(name: str, event: object) -> None:
        let_go(name, event)  # type: ignore[arg-type]
        monkeypatch.undo()
        world.give(1)

    monkeypatch.setattr(world.models, "_happened", and_assigned)
    world.models.remove("embed")
    assert world.state == FETCHING
    settle(world.models)
    assert world.using() == 1


def test_a_fetch_for_which_there_is_no_room_is_tried_again_after_a_while(world: World) -> None:
    """Making room is noted of the other models, which is no reason to try again at once."""
    tried: list[int] = []

    def room(size: int) -> None:
        tried.append(size)
        raise QuotaExceeded("no room")

    world.install(1)
    world.keep()
    world.models._room = room  # type: ignore[assignment]
    care = Care(world.models)
    world.models.wake, world.models.ended = care.poke, care.join
    assign(world.models, 3, world.shelf.publish(3, FILES[3], name="other"), "other")
    time.sleep(0.8)
    world.models.close()
    assert 1 <= len(tried) <= 4


def test_room_is_kept_free_until_the_files_take_it_themselves(world: World) -> None:
    """They have their whole size once progress is told: counted twice, they would drive out what agents have."""
    reserved: list[int] = []

    @contextmanager
    def room(size: int) -> Iterator[None]:
        reserved.append(size)
        yield
        reserved.clear()

    def fill(filling: Filling) -> None:
        assert reserved == [sum(map(len, FILES[1].values()))]
        filling.progress(0, 1)
        assert reserved == []
        world.shelf.fill(filling)

    world.models._room = room
    world.models.connect(fill)
    world.install(1)
    assert world.using() == 1


def test_nothing_is_committed_for_what_does_not_change_the_note(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.give(1)
    commits: list[str] = []
    right = ModelTables.commit

    def counted(tables: ModelTables, name: str, *rest: object) -> None:
        commits.append(name)
        right(tables, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelTables, "commit", counted)
    world.again()
    assert (world.state, commits) == (FETCHING, [])
    settle(world.models)
    assert commits != []


def test_a_new_candidate_has_nothing_of_its_predecessors(world: World) -> None:
    world.install(1)
    world.keep()
    status = world.models.status()[0]
    assert (status.measured, status.problem) == ({"loads": {"headers": 1}}, "")

    def half(filling: Filling) -> None:
        filling.progress(1, 2)
        raise QuotaExceeded("no room")

    world.models.connect(half)
    world.give(2)
    world.models.fetch()
    status = world.models.status()[0]
    assert (status.fetched, status.problem, status.measured) == ({"bytes": 1, "of": 2}, "no room", {})
    world.give(3)
    status = world.models.status()[0]
    assert (status.next, status.fetched, status.problem) == (3, {}, "")

    def overtaken(filling: Filling) -> None:
        filling.progress(1, 4)
        world.give(4)
        filling.progress(2, 4)

    world.models.connect(overtaken)
    world.models.fetch()
    status = world.models.status()[0]
    assert (status.next, status.fetched, status.problem) == (4, {}, ""), "also if it ends afterwards"
    world.models.connect(half)
    world.models.fetch()
    world.give(1)
    status = world.models.status()[0]
    assert (status.number, status.next, status.fetched, status.problem) == (1, 0, {}, "")


@pytest.mark.parametrize(
    ("noted", "why", "what_to_do"),
    [
        ([1, "committed", 5, None, None, None, None, 0, 0, 0, 0, ""], "a model's note that is none", "models remove"),
        ([9, "committed"], "a model's note of version 9", "install a newer agentdb-edge"),
    ],
)
def test_a_note_that_is_not_understood_keeps_no_other_model_from_being_used(
    world: World, noted: list[object], why: str, what_to_do: str
) -> None:
    world.install(1)
    world.keep()
    assign(world.models, 1, world.shelf.publish(1, FILES[1], name="other"), "other")
    settle(world.models)
    world.models.close()
    with world.edge.log.writer.lock, world.edge.log.transact() as db:
        db.execute("UPDATE models SET note = ? WHERE name = 'embed'", (msgpack.packb(noted),))
    world.models = world.begin()
    assert contents(world.models.path("other")) == FILES[1]
    with Edge.open(world.store, read_only=True) as reader:
        assert contents(reader.models.path("other")) == FILES[1]
        for models in (world.models, reader.models):
            embed, other = models.status()
            assert (embed.name, embed.number, other.number, other.problem) == ("embed", 0, 1, "")
            assert why in embed.problem
            assert what_to_do in embed.problem
            assert models.status("embed") == [embed]
            with pytest.raises(CorruptStore, match=why):
                models.path("embed")
    world.give(2)  # as what was assigned is told at each start
    settle(world.models)
    assert world.models.status("embed")[0].next == 0, "whoever understands it later may still use it"
    world.models.remove("embed")
    assert [status.name for status in world.models.status()] == ["other"]
    world.give(2)
    settle(world.models)
    assert world.using() == 2
    world.again()
    assert world.using() == 2


def test_a_manifest_of_newer_software_is_not_called_damaged_and_stays_in_use(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install(1)
    world.keep()
    world.install(2)
    assert world.state == SOAKING
    with monkeypatch.context() as older:
        older.setattr("sync.models.SCHEMA", 0)
        world.again(clean=False)
        world.models.advance()
        assert (world.using(), world.state) == (2, SOAKING)
        (status,) = world.models.status()
        assert (status.number, status.previous) == (2, 1)
        assert "is not understood here: a manifest of schema '1': it stays as it is; update" in status.problem
        found = world.models.verify()
        assert [sentence.partition(":")[0] for sentence in found] == [
            "model embed 2 cannot be checked",
            "model embed 1 cannot be checked",
        ]
        assert world.using() == 2
        assert world.models.fetch() == 0
        world.again()
    world.again()
    assert world.models.verify() == []
    assert world.models.status()[0].problem == ""
    assert world.shelf.filled == [1, 2], "nothing was fetched again"
    world.keep()


def test_what_newer_software_has_agreed_keeps_no_model_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, _ = release(1, FILES[1], name="a")
    known, _ = release(1, FILES[1], name="b")
    newer = newer.replace(b'"schema":1', b'"schema":9')
    documents = [
        Document(f"models/{name}", f"models/{name}/1.json", 1, sha256(data).digest(), "", 0, data)
        for name, data in (("a", newer), ("b", known))
    ]
    monkeypatch.setattr(TrustStore, "sound", lambda *_: documents)
    with Edge.open(tmp_path / "newer") as edge:
        assert [(status.name, status.next) for status in edge.models.status()] == [("b", 1)]


def damaged_while_a_bad_one_comes(world: World) -> None:
    world.install(1)
    world.keep()
    world.verdicts[2] = "slow"
    world.give(2)
    world.models.fetch()
    (world.models.path("embed") / "model.safetensors").write_bytes(b"x")
    assert len(world.models.verify()) == 1


def test_what_was_damaged_while_another_was_on_its_way_is_used_again_if_that_is_bad(world: World) -> None:
    damaged_while_a_bad_one_comes(world)
    with pytest.raises(NotFound):
        world.models.path("embed")
    world.again()
    world.models.advance()
    assert world.tried == [1, 2]
    settle(world.models)
    assert (world.using(), world.models.status()[0].returned) == (1, 2)
    assert world.models.status()[0].refused[0]["reason"] == "slow"


def test_that_it_was_bad_is_told_also_if_what_was_damaged_is_on_its_way_again(world: World) -> None:
    told: list[tuple[int, str, str]] = []
    damaged_while_a_bad_one_comes(world)
    world.models.tell_outcomes(lambda _name, number, _digest, how, why: told.append((number, how, why)))
    world.models.advance()
    assert told == [(2, "returned", "slow")]
