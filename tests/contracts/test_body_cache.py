"""What stays on a device and what may go: only what the cloud is known to have, the least recently read first, as the
quota asks for; and it comes back.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from edge import (
    Attachments,
    BodyNotHere,
    Edge,
    QuotaExceeded,
    Unreachable,
)
from sync.bodies import sealed_length
from tests.contracts.body_world import (
    PATIENCE_S,
    PHOTO,
    BodyWorld,
    attachments,
    away,
    body_file,
    some_bytes,
    sync,
    world,
)

__all__ = ["world"]


def test_an_evicted_body_comes_back_and_offline_says_so(world: BodyWorld) -> None:
    a = world.device("a")
    added = attachments(a).add(PHOTO, id="photo")
    sync(a)
    assert a.cache.evict(0).bodies == 1
    assert not body_file(a, PHOTO).exists()
    assert attachments(a).read("photo") == PHOTO
    assert body_file(a, PHOTO).exists()
    a.cache.evict(0)
    world.server.stop()
    with pytest.raises(BodyNotHere, match=r"'photo', added by a, is not on this device: .*cannot be asked") as failure:
        attachments(a).read("photo")
    assert failure.value.retryable
    assert "network" in failure.value.hint
    assert attachments(a).get("photo") == added._replace(here=False), "what is known of it needs no network"


def test_only_what_the_cloud_has_goes_and_nothing_pinned(world: BodyWorld) -> None:
    a = world.device("a")
    held = attachments(a)
    for name in ("sent", "pinned"):
        held.add(some_bytes(1000, len(name)), id=name)
    sync(a)
    held.add(some_bytes(1000, 99), id="new")
    held.pin("pinned")
    assert (a.cache.status().evictable.count, a.cache.status().unconfirmed.count) == (1, 1)
    assert a.cache.evict(0)[:2] == (1, 1000)
    assert {one.id: one.here for one in held.all()} == {"sent": False, "pinned": True, "new": True}
    held.unpin("pinned")
    sync(a)
    assert a.cache.evict(0).bodies == 2
    assert held.read("new") == some_bytes(1000, 99)


def test_the_least_recently_read_goes_first(world: BodyWorld) -> None:
    a = world.device("a")
    held = attachments(a)
    for number in range(4):
        held.add(some_bytes(10_000, number), id=str(number))
        time.sleep(0.005)
    sync(a)
    held.read("0")
    used = a.cache.status().bytes
    assert a.cache.evict(used - 15_000).bodies == 2
    assert {one.id for one in held.all() if one.here} == {"0", "3"}


def fill(held: Attachments, size: int) -> None:
    for number in range(6):
        held.add(some_bytes(size, number), id=str(number))


def test_a_quota_makes_room_by_what_the_cloud_has(world: BodyWorld) -> None:
    size = 400_000
    a = world.device("a", quota_bytes=2_000_000)
    held = attachments(a)
    with pytest.raises(QuotaExceeded, match=r"quota of 2,000,000.*bodies .* are not in the cloud yet") as failure:
        fill(held, size)
    assert "sync" in failure.value.hint
    added = len(list(held.all()))
    assert 2 < added < 6
    assert held.get(str(added)) is None, "what had no room has no record"
    sync(a)
    for number in range(added, 6):
        held.add(some_bytes(size, number), id=str(number))
        assert a.cache.status().bytes <= 2_000_000
        sync(a)
    assert [held.read(str(number)) for number in range(6)] == [some_bytes(size, number) for number in range(6)]
    assert a.cache.status().bytes <= 2_000_000


def test_where_bodies_were_moved_to_they_are_looked_for_again(world: BodyWorld) -> None:
    a = world.device("a")
    attachments(a).add(PHOTO, id="photo")
    attachments(a).add(b"small", id="small")
    sync(a)
    world.move()
    for path in sorted(world.bucket.rglob("body/*/0002")):
        path.unlink()  # the photo's last part was lost
    world.objects.on_put = away
    with pytest.raises(Unreachable):
        a.sync(timeout_s=1)
    assert a.cache.evict(0).bodies == 1, "the one that the cloud still has, whole"
    world.objects.on_put = lambda _, data: data
    sync(a)
    assert [name[-4:] for name in world.objects.puts[4:]] == ["0002"]
    assert a.cache.evict(0).bodies == 1
    assert attachments(a).read("photo") == PHOTO


def test_a_live_link_keeps_the_quota(world: BodyWorld) -> None:
    quota = 1_500_000
    a = world.device("a", quota_bytes=quota)
    a.start_sync()
    held = attachments(a)
    for number in range(8):
        held.add(some_bytes(300_000, number), id=str(number))
        a.sync(timeout_s=PATIENCE_S)
    assert a.cache.status().bytes <= quota
    assert {one.here for one in held.all()} == {True, False}
    assert [held.read(str(number)) for number in range(8)] == [some_bytes(300_000, number) for number in range(8)]
    a.stop_sync()


def test_a_snapshot_has_the_bodies_that_only_this_device_has(world: BodyWorld, tmp_path: Path) -> None:
    a = world.device("a")
    attachments(a).add(PHOTO, id="photo")
    a.snapshot(tmp_path / "copy")
    with Edge.open(tmp_path / "copy") as copy:
        assert attachments(copy).read("photo") == PHOTO
        assert copy.verify() == []


class Histories:
    """Two devices that do anything, against a dict, with a quota that a few attachments fill."""

    def __init__(self, world: BodyWorld, seed: int) -> None:
        self.world, self.seed = world, seed
        self.dice = Random(seed)
        self.edges = {name: self._open(name) for name in ("a", "b")}
        self.model: dict[str, bytes] = {}
        self.pinned: dict[str, list[str]] = {"a": [], "b": []}
        self.failing = False
        world.objects.on_put = world.objects.on_get = self._sometimes

    def _open(self, name: str) -> Edge:
        return self.world.device(name, quota_bytes=600_000)

    def _sometimes(self, _: str, data: bytes) -> bytes:
        if self.failing and self.dice.random() < 0.5:
            raise Unreachable("the object store is away")
        return data

    def step(self, number: int) -> None:
        name = self.dice.choice(sorted(self.edges))
        what = self.dice.choice(["add", "add", "read", "read", "delete", "evict", "pin", "unpin", "sync", "reopen"])
        self.failing = self.dice.random() < 0.3
        known = sorted(one.id for one in attachments(self.edges[name]).all() if one.id in self.model)
        with suppress(QuotaExceeded, BodyNotHere, Unreachable):
            if what == "add":
                data = some_bytes(self.dice.randrange(1, 60_000), self.seed * 1000 + number)
                attachments(self.edges[name]).add(data, id=f"{number}")
                self.model[f"{number}"] = data
            elif what == "sync":
                self.edges[name].sync(timeout_s=2)
            elif what == "evict":
                self.edges[name].cache.evict(self.dice.choice([None, 0, 200_000]))
            elif what == "reopen":
                self.edges[name].close()
                self.edges[name] = self._open(name)
            elif what == "unpin" and self.pinned[name]:
                attachments(self.edges[name]).unpin(self.pinned[name].pop())
            elif known:
                self._use(name, what, self.dice.choice(known))

    def _use(self, name: str, what: str, one: str) -> None:
        held = attachments(self.edges[name])
        if what == "read":
            assert held.read(one) == self.model[one]
        elif what == "delete" and one not in self.pinned["a"] + self.pinned["b"]:
            held.delete(one)
            self.model.pop(one)
        elif what == "pin" and len(self.pinned[name]) < 3:
            held.pin(one)
            held.read(one)
            self.pinned[name].append(one)

    def check(self) -> None:
        in_cloud = {path.stat().st_size for path in self.world.bucket.rglob("body/*/0000")}
        for name, data in self.model.items():
            here = [edge for edge in self.edges.values() if body_file(edge, data).exists()]
            assert here or sealed_length(len(data)) in in_cloud, f"{name} is nowhere"
        for which, names in self.pinned.items():
            assert all(body_file(self.edges[which], self.model[name]).exists() for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_there_is_a_copy_and_the_pinned_is_here(world: BodyWorld, seed: int) -> None:
    both = Histories(world, seed)
    for number in range(80):
        both.step(number)
        both.check()
    both.failing = False
    for edge in (*both.edges.values(), *both.edges.values()):
        with suppress(QuotaExceeded):
            sync(edge)
    assert {one.id for one in attachments(both.edges["a"]).all()} == set(both.model)
    assert [edge.cache.status().unconfirmed.count for edge in both.edges.values()] == [0, 0]


def test_a_cloud_that_moves_during_an_upload_is_not_taken_to_have_it(world: BodyWorld) -> None:
    a = world.device("a")
    attachments(a).add(PHOTO, id="photo")

    def moved(name: str, data: bytes) -> bytes:
        if name.endswith("/0001"):
            (first,) = world.bucket.rglob("*/0000")
            first.unlink()
            world.move()
            with suppress(BodyNotHere):  # another thread reads something, and learns of the new place
                a._link.fetch_body(bytes(32), 1)
        return data

    world.objects.on_put = moved
    sync(a)
    world.objects.on_put = lambda _, data: data
    assert len(list(world.bucket.rglob("*/000?"))) == 3, "it was looked for in the new place, and what lacked sent"
    assert a.cache.evict(0).bodies == 1
    assert attachments(a).read("photo") == PHOTO


def test_what_is_pinned_while_something_is_evicted_stays(world: BodyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    a = world.device("a")
    for name in "xyz":
        attachments(a).add(name.encode() * 1_000, id=name)
    sync(a)
    done, remove = threading.Event(), a.cache.bodies.remove
    stayed: list[bool] = []

    def pin() -> None:
        for name in "xyz":
            attachments(a).pin(name)
        done.set()

    def during(digest: bytes) -> bool:
        threading.Thread(target=pin).start()
        stayed.append(done.wait(0.2))
        return remove(digest)

    with monkeypatch.context() as patched:
        patched.setattr(a.cache.bodies, "remove", during)
        assert a.cache.evict(a.cache.used_bytes() - 1).bodies == 1
    assert stayed == [False], "a pin that has returned is never passed over"
    assert done.wait(30)
    assert a.cache.evict(0).bodies == 0


def test_many_are_read_at_once_beside_a_sync(world: BodyWorld) -> None:
    a = world.device("a")
    for number in range(12):
        attachments(a).add(bytes([number]) * 1_000, id=str(number))
    sync(a)
    assert a.cache.evict(0).bodies == 12
    begun = threading.Event()

    def slow(_: str, data: bytes) -> bytes:
        begun.set()
        time.sleep(0.2)
        return data

    world.objects.on_get = slow
    with ThreadPoolExecutor(12) as readers:
        reads = [readers.submit(attachments(a).read, str(number)) for number in range(12)]
        assert begun.wait(30)
        a.collection("notes").put("n", {"body": "meanwhile"})
        a.sync(timeout_s=0.5)  # too short for a second attempt
        assert [read.result() for read in reads] == [bytes([number]) * 1_000 for number in range(12)]


def test_what_is_here_is_read_while_others_are_fetched(world: BodyWorld) -> None:
    a = world.device("a")
    for number in range(40):  # so many that they wait for each other
        attachments(a).add(bytes([number]), id=str(number))
    sync(a)
    body_file(a, bytes([0])).unlink()
    begun, go = threading.Event(), threading.Event()

    def slow(_: str, data: bytes) -> bytes:
        begun.set()
        assert go.wait(30)
        return data

    world.objects.on_get = slow
    with ThreadPoolExecutor(2) as readers:
        fetched = readers.submit(attachments(a).read, "0")
        assert begun.wait(30)
        here = readers.submit(lambda: [attachments(a).read(str(number)) for number in range(1, 40)])
        try:
            assert here.result(20) == [bytes([number]) for number in range(1, 40)]
        finally:
            go.set()
        assert fetched.result() == bytes([0])
