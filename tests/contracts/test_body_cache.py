"""What stays on a device and what may go: only what the cloud is known to have, the least recently read first, as the
quota asks for; and it comes back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from edge import (
    Attachments,
    BodyNotHere,
    Edge,
    QuotaExceeded,
    Unreachable,
)
from sync.limits import BODY_PART_BYTES
from tests.contracts.body_world import PATIENCE_S, BodyWorld, attachments, body_world, some_bytes, sync

PHOTO = some_bytes(2 * BODY_PART_BYTES + 12_345)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[BodyWorld]:
    with body_world(tmp_path) as world:
        yield world


def body_file(edge: Edge, data: bytes) -> Path:
    return edge.cache.bodies.path(sha256(data).digest())


def _away() -> bytes:
    raise Unreachable("the object store is away")


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
    world.objects.on_put = lambda _name, _data: _away()
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
