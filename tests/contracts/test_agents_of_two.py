"""Agents on two devices: what both wrote is there, what one collects the other never needs, and what one retracts is
retracted everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import CallableEmbedder, InvalidValue, NotFound, SchemaMismatch, Splitter, Thread
from edge.agent.embedders import vector_field, vector_fields
from tests.contracts.fleet_world import Cloud, Device


class Two:
    def __init__(self, directory: Path) -> None:
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", 1)
        self.a, self.b = (Device(directory / name, self.cloud, name, seed) for name, seed in (("a", 11), ("b", 12)))

    def settle(self) -> None:
        for part in (self.cloud, self.a, self.b):
            part.clock.now_ms += 1000
        for device in (self.a, self.b, self.a):
            assert device.sync(steps=200), device.edge.status()
        assert {self.a.edge.digest(), self.b.edge.digest()} == {self.cloud.digest()}
        assert [len(device.edge.log.dead_letters()) for device in (self.a, self.b)] == [0, 0]

    def threads(self) -> tuple[Thread, Thread]:
        return self.a.edge.agent("guide").thread(), self.b.edge.agent("guide").thread()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    two = Two(tmp_path)
    yield two
    for device in (two.a, two.b):
        device.edge.close()
    two.cloud.store.close()


def test_what_two_write_offline_are_two_branches(two: Two) -> None:
    a, b = two.threads()
    first = a.put("shared")
    two.settle()
    assert b.get() == "shared"
    ours, theirs = a.put("a's"), b.put("b's")
    assert ours.parent == theirs.parent == first.id
    two.settle()
    assert [one.id for one in a.heads()] == [one.id for one in b.heads()] == sorted((ours.id, theirs.id))[::-1]
    assert a.get() == b.get()
    assert {a.get(ours.id), a.get(theirs.id)} == {b.get(ours.id), b.get(theirs.id)} == {"a's", "b's"}
    with pytest.raises(NotFound):
        a.put("both", merges=["0" * 16 + "-" + "0" * 12])
    for wrong in (ours.id, ours, [7], 7):
        with pytest.raises(InvalidValue, match=r"merges is a list|not the id"):
            a.put("both", merges=wrong)  # type: ignore[arg-type]
    ends = [one.id for one in a.heads()]
    joined = a.put("both", expected=max(ours.id, theirs.id), merges=ends)
    assert joined.metadata == {"merged": ends}
    two.settle()
    assert b.head() == joined
    assert a.heads() == b.heads() == [joined]


def test_two_models_are_never_in_one_ranking(two: Two) -> None:
    """Each begins with its own model while they are apart; the later declaration stands, and says so to the other."""
    first = CallableEmbedder(lambda texts: [[1.0, float(len(text))] for text in texts], model="m1", dimensions=2)
    other = CallableEmbedder(lambda texts: [[float(len(text)), 1.0, 0.0] for text in texts], model="m2", dimensions=3)
    a = two.a.edge.agent("guide").memory(embedder=first)
    a.add("robot a")
    two.b.clock.now_ms += 1_000
    b = two.b.edge.agent("guide").memory(embedder=other)
    b.add("robot b, which is longer")
    two.settle()
    assert {one.text for one in a.all()} == {one.text for one in b.all()} == {"robot a", "robot b, which is longer"}
    with pytest.raises(SchemaMismatch, match="m2"):
        a.search("robot", mode="vector")
    with pytest.raises(SchemaMismatch, match="m2"):
        a.add("more")
    assert len(two.a.edge.agent("guide").memory().search("robot")) == 2, "by its words everything is found"
    assert [one.text for one in b.search("robot", mode="vector")] == ["robot b, which is longer"]
    assert b.reembed() == 1
    two.settle()
    a = two.a.edge.agent("guide").memory(embedder=other)
    assert {one.text for one in a.search("robot", mode="vector")} == {"robot a", "robot b, which is longer"}
    assert a.reembed(first) == 2, "and back again, on every device"
    two.settle()
    with pytest.raises(SchemaMismatch, match="m1"):
        b.search("robot")
    b = two.b.edge.agent("guide").memory(embedder=first)
    assert {one.text for one in b.search("robot", mode="vector")} == {"robot a", "robot b, which is longer"}
    fields = [fields for _, fields in two.b.edge.collection("agent.memories").scan()]
    assert all(vector_fields(each) == [vector_field(first)] for each in fields)


def test_what_a_device_wrote_while_another_went_over_is_taken_and_found_by_its_words(two: Two) -> None:
    first = CallableEmbedder(lambda texts: [[1.0, float(len(text))] for text in texts], model="m1", dimensions=2)
    other = CallableEmbedder(lambda texts: [[float(len(text)), 1.0, 0.0] for text in texts], model="m2", dimensions=3)
    a = two.a.edge.agent("guide").memory(embedder=first)
    a.add("before")
    two.settle()
    b = two.b.edge.agent("guide").memory(embedder=first)
    b.add("written by b, offline")
    a.reembed(other)
    two.settle()  # and nothing of b's is refused
    a.add("after")
    assert {one.text for one in a.search("x", mode="vector")} == {"before", "after"}
    assert len(a.search("written offline", mode="text")) == 1
    assert a.reembed() == 1
    assert {one.text for one in a.search("x", mode="vector")} == {"before", "after", "written by b, offline"}
    two.settle()


def test_a_large_state_is_read_elsewhere_and_goes_on_there(two: Two) -> None:
    a, b = two.threads()
    value = bytearray(random.Random(1).randbytes(400_000))
    made = []
    for number in range(6):
        value[number * 500] ^= 1
        made.append((a.put(bytes(value)).id, bytes(value)))
    two.settle()
    assert [b.get(one) for one, _ in made] == [held for _, held in made]
    value[7] ^= 1
    after = b.put(bytes(value))
    a.prune(keep_latest=1)
    two.settle()
    assert a.get() == b.get() == bytes(value)
    assert a.get(after.id) == bytes(value)


def test_who_prunes_what_another_wrote_takes_nothing_that_the_other_needs(two: Two) -> None:
    a, b = two.threads()
    value = bytearray(random.Random(1).randbytes(200_000))
    old = a.put(bytes(value))
    two.settle()
    b.put("small")
    assert b.prune(keep_latest=1) == 1
    value[9] ^= 1
    patched = a.put(bytes(value))  # a patch of what b has just pruned
    two.settle()
    assert a.get(patched.id) == b.get(patched.id) == bytes(value)
    with pytest.raises(NotFound):
        a.get(old.id)
    a.prune(keep_latest=1)
    two.settle()
    assert a.get() == b.get()


def test_a_fork_of_anothers_checkpoint_outlives_it(two: Two) -> None:
    a, b = two.threads()
    value = random.Random(1).randbytes(200_000)
    a.put(value)
    two.settle()
    fork = b.fork("mine")
    a.put("small")
    a.prune(keep_latest=1)
    assert two.a.edge.log.count("_values") == 0
    two.settle()
    assert fork.get() == value
    assert two.a.edge.agent("guide").thread("mine").get() == value


def test_what_one_supersedes_the_other_cannot_bring_back_by_editing(two: Two) -> None:
    ours, theirs = (device.edge.agent("guide").memory("visitors") for device in (two.a, two.b))
    old = ours.add("Ada takes the stairs", "semantic").id
    two.settle()
    ours.supersede(old, "Ada takes the lift")
    theirs.update(old, text="Ada always takes the stairs")
    two.settle()
    for memory in (ours, theirs):
        assert [one.text for one in memory.all()] == ["Ada takes the lift"]
        assert [recall.text for recall in memory.search("Ada takes")] == ["Ada takes the lift"]
    assert ours.history(old) == theirs.history(old)
    (conflict,) = two.cloud.plane.conflicts(two.cloud.fleet)
    assert (conflict.collection, conflict.key, conflict.field) == ("agent.memories", old, "text")


def test_the_same_fact_on_two_devices_is_one_and_accesses_add_up(two: Two) -> None:
    ours, theirs = (device.edge.agent("guide").memory("visitors") for device in (two.a, two.b))
    assert ours.add("Ada likes tea").id == theirs.add("Ada likes tea").id
    two.settle()
    (one,) = ours.all()
    for _ in range(3):
        ours.touch(one.id)
        theirs.touch(one.id)
    for memory in (ours, theirs):
        memory.shelf.recalls.flush()
    two.settle()
    assert [memory.shelf.recalls.of([one.id])[one.id][0] for memory in (ours, theirs)] == [6, 6]


def test_two_versions_of_a_document_are_whole_once_one_is_added_again(two: Two) -> None:
    cut = Splitter(size=12, overlap=0)
    a, b = (device.edge.agent("guide").documents() for device in (two.a, two.b))
    a.add("one.\n\n2 is long.\n\n3 is long.", id="d", chunker=cut)
    two.settle()
    a.add("one.\n\n2 is A's.\n\n3 is long.", id="d", chunker=cut)
    two.b.clock.now_ms += 10
    later = "one.\n\n2 is long.\n\n3 is B's."
    b.add(later, id="d", chunker=cut)
    two.settle()
    assert a.text("d") == b.text("d")
    assert a.text("d").split() == ["one.", "3", "is", "B's."], "the second part is gone, as the guide says"
    done = a.add(later, id="d", chunker=cut)
    assert done.written == 1
    two.settle()
    assert a.text("d").split() == b.text("d").split() == later.split()
    assert "2 is long." in [hit.text for hit in b.search("long")]
