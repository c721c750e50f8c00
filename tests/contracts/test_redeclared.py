"""Fields that were written before they were declared, and answers of the cloud's that are out of the ordinary: no
device's push and nobody's pull may ever stop because of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cloud.storage.archive.anchor import MemoryAnchor
from cloud.storage.archive.writer import Archive
from cloud.storage.objects import open_objects
from sync import columns, strict_msgpack
from sync.effects import SessionLimits
from sync.errors import InvalidValue, SchemaMismatch
from sync.limits import SEGMENT_CONTAINERS_MAX
from tests.contracts import fleet_world
from tests.contracts.fleet_world import Cloud, Device


class World:
    def __init__(self, directory: Path) -> None:
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", 1)
        self.objects, self.anchor = open_objects("memory://"), MemoryAnchor()
        self.a, self.b = (Device(directory / name, self.cloud, name, seed) for name, seed in (("a", 11), ("b", 12)))

    def later(self) -> None:
        for part in (self.cloud, self.a, self.b):
            part.clock.now_ms += 1000

    def settle(self) -> None:
        """All come to rest without a refused operation, and agree; the whole feed can be read."""
        for device in (self.a, self.b, self.a, self.b):
            assert device.sync(steps=100), device.edge.status()
        assert {self.a.edge.digest(), self.b.edge.digest()} == {self.cloud.digest()}
        assert [len(device.edge.log.dead_letters()) for device in (self.a, self.b)] == [0, 0]
        self.archive()

    def archive(self) -> None:
        """Reads the whole feed as every new device does."""
        cloud = self.cloud
        Archive(cloud.store, self.objects, cloud.keys, cloud.fleet, clock=cloud.clock, anchor=self.anchor).run_once()

    def open_conflicts(self) -> list[str]:
        return [conflict.note for conflict in self.cloud.plane.conflicts(self.cloud.fleet) if conflict.state == "open"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for device in (world.a, world.b):
        device.edge.close()
    world.cloud.store.close()


@pytest.fixture
def large_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_world, "LIMITS", SessionLimits())


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("set", "abc"), ("set", ["q", "p"]), ("set", 7), ("max", "abc"), ("max", [1]), ("min", True), ("counter", 5),
        ("counter", "abc"), ("counter", [1]), ("keep-all", 1.5), ("keep-all", "hello"), ("keep-all", [1, 2]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("conflict", ["latest", "priority"])
def test_a_value_from_before_the_declaration_comes_back_as_it_was(
    world: World, conflict: str, rule: str, value: Any
) -> None:
    a, b = world.a, world.b
    a.edge.collection("p", conflict=conflict).put("u", {"f": value, "y": 1})
    a.sync()
    a.edge.collection("p", conflict=conflict, fields={"f": rule})
    a.sync()
    b.sync()
    b.edge.collection("p").delete("u")
    b.sync()
    world.later()
    a.edge.collection("p").patch("u", {"y": 2})
    world.settle()
    assert b.edge.collection("p").get("u") == {"f": value, "y": 2}


@pytest.mark.parametrize("take", ["winner", "loser"])
def test_a_person_brings_back_a_value_from_before_the_declaration(world: World, take: str) -> None:
    a, b, cloud = world.a, world.b, world.cloud
    a.edge.collection("p", conflict="manual").put("u", {"f": "abc", "g": [1], "y": 1})
    a.sync()
    a.edge.collection("p", conflict="manual", fields={"f": "set", "g": "keep-all"})
    a.sync()
    b.sync()
    a.edge.collection("p").patch("u", {"y": 2})
    world.later()
    b.edge.collection("p").delete("u")
    a.sync()
    b.sync()
    (found,) = cloud.plane.conflicts(cloud.fleet)
    cloud.plane.resolve(cloud.fleet, found.number, take=take)
    world.settle()
    expected = {"f": "abc", "g": [1], "y": 2} if take == "loser" else None
    assert a.edge.collection("p").get("u") == expected


@pytest.mark.parametrize("rule", ["counter", "max", "min", "set", "keep-all"])
def test_a_put_clears_what_was_there_before_the_declaration(world: World, rule: str) -> None:
    a = world.a
    a.edge.collection("p").put("x", {"k": "old", "n": 1})
    a.sync()
    a.edge.collection("p", fields={"k": rule}).put("x", {"n": 2})
    world.settle()
    assert world.b.edge.collection("p").get("x") == {"n": 2}


def test_a_put_clears_what_was_there_before_the_schema_became_strict(world: World) -> None:
    a = world.a
    a.edge.collection("p").put("x", {"k": "old", "n": 1})
    a.sync()
    a.edge.collection("p", fields={"n": "int"}, strict=True).put("x", {"n": 2})
    world.settle()
    assert world.b.edge.collection("p").get("x") == {"n": 2}


def test_vectors_stay_declared_and_older_values_stay_readable(world: World) -> None:
    edge = world.a.edge
    edge.collection("p").put("text", {"v": "no vector"})
    edge.collection("p").put("bytes", {"v": b"1234567"})
    p = edge.collection("p", vector=("v", 2))
    p.put("vector", {"v": [1, 2]})
    assert {key: fields["v"] for key, fields in p.scan() if key != "vector"} == {
        "text": "no vector",
        "bytes": b"1234567",
    }
    assert [hit.key for hit in p.search(vector=[1, 2])] == ["vector"]
    with pytest.raises(SchemaMismatch, match="holds vectors and must stay declared"):
        edge.collection("p", fields={})


@pytest.mark.usefixtures("large_messages")
def test_answers_larger_than_a_segment_are_cut(world: World) -> None:
    """60 records of 180 KB come back from their delete with one push: more than the 8 MiB of a segment."""
    a, b = world.a, world.b
    source = random.Random(1)
    for n in range(60):
        a.notes.put(f"k{n}", {"body": source.randbytes(90_000).hex(), "state": "ok"})
    a.sync()
    b.sync()
    world.later()
    with b.edge.batch():
        for n in range(60):
            b.notes.delete(f"k{n}")
    world.later()
    with a.edge.batch():
        for n in range(60):
            a.notes.patch(f"k{n}", {"state": "loud"})
    b.sync()
    world.settle()
    assert all(len(fields["body"]) == 180_000 and fields["state"] == "loud" for _, fields in b.notes.scan())


def test_an_answer_that_cannot_be_written_leaves_the_conflict_open(world: World) -> None:
    """A counter whose sum leaves 64 bits cannot come back: no single contribution makes up for it."""
    a, b = world.a, world.b
    most = 2**63 - 1
    a.notes.put("k", {"text": "x", "visits": -most})
    a.sync()
    b.sync()
    b.notes.increment("k", "visits", most)
    b.sync()
    b.edge.log.new_incarnation()
    for by in (most, most):
        b.notes.increment("k", "visits", by)
        b.sync()
        b.edge.log.new_incarnation()
    a.sync()
    world.later()
    b.notes.delete("k")
    b.sync()
    world.later()
    a.notes.increment("k", "visits", 1)
    a.sync(steps=60)
    assert any("cannot be written" in note for note in world.open_conflicts())
    a.notes.put("later", {"text": "arrives"})
    world.settle()
    assert b.notes.get("later") == {"text": "arrives"}


@pytest.mark.usefixtures("large_messages")
@pytest.mark.parametrize("value", [[[1, n % 100] for n in range(6_000)], [[]] * 6_000], ids=["points", "empty lists"])
def test_small_pushes_that_are_too_much_together(
    world: World, value: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is well inside every bound; joined in one page, or archived segment, they must be cut again, twice. The
    bound of lists and maps is a tenth of the real one: a million of them take a quarter of a minute.
    """
    for module in (columns, strict_msgpack):
        monkeypatch.setattr(module, "SEGMENT_CONTAINERS_MAX", SEGMENT_CONTAINERS_MAX // 10)
    a, b = world.a, world.b
    p = a.edge.collection("p")
    a.sync()
    b.sync()
    for n in range(19):
        p.put(f"k{n}", {"trace": value})
        assert a.sync()
    for n in range(24):
        p.put(f"note{n}", {"x": n})
        assert a.sync()
    world.settle()
    assert b.edge.collection("p").count() == 43


@pytest.mark.parametrize("ahead_ms", [-50, 0, 50])
def test_a_refused_declaration_gives_way_to_the_fleets(world: World, ahead_ms: int) -> None:
    """Two devices declare one collection differently before they meet; whoever comes later goes by the fleet's."""
    a, b = world.a, world.b
    b.clock.now_ms += ahead_ms
    a.edge.collection("p", fields={"n": "counter"})
    b.edge.collection("p", fields={"n": "set"})
    for device in (a, b, a, b):
        assert device.sync()
    assert [letter.code for letter in b.edge.log.dead_letters()] == ["schema-mismatch"]
    assert b.edge.collection("p").schema == a.edge.collection("p").schema
    b.edge.collection("p", fields={"n": "counter"}).put("k", {"n": 3})
    a.edge.collection("p").put("k", {"n": 2})
    for device in (a, b, a, b):
        assert device.sync()
    assert a.edge.collection("p").get("k") == b.edge.collection("p").get("k") == {"n": 5}
    assert {a.edge.digest(), b.edge.digest()} == {world.cloud.digest()}


@pytest.mark.parametrize(
    ("rule", "value", "error"),
    [("max", "abc", SchemaMismatch), ("counter", "abc", SchemaMismatch), ("max", None, InvalidValue),
     ("keep-all", None, InvalidValue), ("set", ["q", "p"], None), ("keep-all", "abc", None)],
)  # fmt: skip
@pytest.mark.parametrize("by", ["itself", "the fleet"])
def test_a_batch_is_checked_by_the_schema_of_its_commit(
    world: World, by: str, rule: str, value: Any, error: type[Exception] | None
) -> None:
    """The collection is declared anew while the batch is open: what was fine before is not sent as what it is not."""
    a, b = world.a, world.b
    a.edge.collection("p").put("there", {"y": 1})
    world.settle()
    with pytest.raises(error) if error else nullcontext(), a.edge.batch():
        a.edge.collection("p").put("new", {"f": value})
        if by == "itself":
            a.edge.collection("p", fields={"f": rule})
        else:
            b.edge.collection("p", fields={"f": rule})
            assert b.sync()
            assert a.sync()
    a.edge.collection("p").put("later", {"y": 2})
    world.settle()
    assert ("new" in b.edge.collection("p")) is (error is None)
    assert "later" in b.edge.collection("p")


def test_a_record_that_outgrew_an_operation_stops_no_repair(world: World) -> None:
    """Two patches, each within the bounds, are too much together: the cloud refuses the later one, the device that made
    it has both. When it has to push its whole state, that record costs a refusal and nothing else.
    """
    a, b = world.a, world.b
    a.notes.put("r", {"x": 1})
    world.settle()
    a.notes.patch("r", {"a": "a" * 150_000})
    b.notes.patch("r", {"b": "b" * 150_000})
    assert a.sync()
    assert b.sync()
    assert [letter.code for letter in b.edge.log.dead_letters()] == ["too-large"]
    b.edge.log.new_incarnation()  # as if it had been restored from a copy: it repairs by state
    b.notes.put("later", {"x": 2})
    for device in (b, a, b):
        assert device.sync(steps=100)
    assert "later" in a.notes


def test_a_declaration_that_came_too_early_is_made_again(world: World) -> None:
    """A clock that jumped an hour ahead in the middle of a connection: what the cloud refused is written again by
    itself, the declaration before what it declares.
    """
    a, b = world.a, world.b

    def jump() -> None:
        a.clock.now_ms += 3_600_000
        a.edge.collection("sensors").put("s0", {"x": 0})

    a.notes.put("something", {"text": "to push, so that the link is up when the clock jumps"})
    a.before = {"Push": jump}
    assert a.sync()
    assert {letter.code for letter in a.edge.log.dead_letters()} == {"future-stamp"}
    a.edge.collection("sensors").put("s1", {"x": 1})
    assert a.sync()
    a.edge.collection("sensors").put("s2", {"x": 2})
    assert a.sync()
    assert b.sync()
    assert b.edge.collection("sensors").get("s2") == {"x": 2}
    assert b.edge.collection("sensors").get("s0") == {"x": 0}
